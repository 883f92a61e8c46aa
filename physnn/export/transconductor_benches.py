"""Benches of the drawn transconductor cells: decks that any ngspice with a PDK runs.

Each prints `RESULT name value` lines for a person and writes its curves with `wrdata`.
Voltages are those of the standard cell: 1.8 V, everything around 0.9 V.
"""

import math
from collections.abc import Sequence

from physnn.export.laws import number
from physnn.export.netlist import Netlist
from physnn.export.spice import PDK
from physnn.export.transconductor import (
    BIAS_A,
    N_SETTLING,
    STATE_F,
    ota,
    settling,
    state,
)
from physnn.units import thermal_energy_J

SUPPLY_V, REF_V = 1.8, 0.9
# The sweep of the static curve, and of the output around `ref` [V].
RANGE_V, STEP_V, OUT_V = 0.4, 0.01, 0.3
# A small and a large step of the follower [V], when it comes and how long it is seen
# [s].
STEPS_V = (0.04, 0.4)
START_s, STOP_s, GRID_s = 0.2e-6, 1.7e-6, 2e-9
# The band of the noise figures [Hz].
BAND_HZ = (10.0, 1e9)
SETTLE_s = 1e-6
# Subthreshold currents drown in the default gmin, and pass through the default abstol.
_OPTIONS = ".option gmin=1e-18 reltol=1e-6 abstol=1e-16 vntol=1e-9"


def _deck(
    name: str,
    cell: Netlist,
    sources: Sequence[str],
    commands: Sequence[str],
    *,
    bias_A: float = BIAS_A,
) -> str:
    """A deck with supplies, `ref` and bias, the cell as `x_dut`, and `commands`."""
    includes = [part.name for part in cell.cells()] + ["mirror"]
    lines = [f"* bench {name} of cell {cell.name}", f".include {PDK}"]
    lines += [f".include ../cells/{part}.spice" for part in includes]
    lines += [
        _OPTIONS,
        f"v_vdd vdd 0 {number(SUPPLY_V)}",
        f"v_ref ref 0 {number(REF_V)}",
    ]
    # From ground, not from vdd: i(v_vdd) is what the cell itself draws.
    lines += [f"i_bias 0 bias {number(bias_A)}", "x_mirror bias 0 mirror"]
    ports = " ".join("0" if port == "vss" else port for port in cell.ports)
    lines += [*sources, f"x_dut {ports} {cell.name}"]
    lines += [".control", "set numdgt=12", *commands, "quit 0", ".endc", ".end"]
    return "\n".join(lines) + "\n"


def _result(name: str, measured: str) -> list[str]:
    return [f"meas {measured}", f'echo "RESULT {name} $&{name}"']


def curve_deck(bias_A: float = BIAS_A) -> str:
    """i_out and the supply current over the differential input, output at `ref`.

    `ota_curve.data`: v_in, i_out, supply. Results gm_s, high_a, low_a, supply_a.
    """
    top = number(RANGE_V)
    commands = [
        f"dc v_in -{top} {top} {number(STEP_V)}",
        "let i_out = i(v_out)",
        "let supply = -i(v_vdd)",
        "let gate = v(bias)",
        "let gm = deriv(i_out)",
        "wrdata ota_curve.data i_out supply",
        *_result("gm_s", "dc gm_s find gm at=0"),
        *_result("high_a", "dc high_a max i_out"),
        *_result("low_a", "dc low_a min i_out"),
        *_result("supply_a", "dc supply_a find supply at=0"),
        *_result("bias_v", "dc bias_v find gate at=0"),
    ]
    sources = ["v_in d 0 0", "e_p inp ref d 0 0.5", "e_n inn ref d 0 -0.5"]
    sources.append(f"v_out out 0 {number(REF_V)}")
    return _deck("ota_curve", ota(), sources, commands, bias_A=bias_A)


def output_deck() -> str:
    """i_out over the output voltage at v_in = 0; `ota_output.data`: v_out, i_out.

    The result output_s is the output conductance at `ref`.
    """
    low, high = number(REF_V - OUT_V), number(REF_V + OUT_V)
    commands = [
        f"dc v_out {low} {high} {number(STEP_V)}",
        "let i_out = i(v_out)",
        "let slope = -deriv(i_out)",
        "wrdata ota_output.data i_out",
        *_result("output_s", f"dc output_s find slope at={number(REF_V)}"),
    ]
    sources = ["v_in inp ref 0", "v_out out 0 0", "v_inn inn ref 0"]
    return _deck("ota_output", ota(), sources, commands)


def step_deck(step_V: float, name: str) -> str:
    """The follower after a step of its input around `ref`; `<name>.data`: time, v.

    The result end_v is where it is at the end.
    """
    low, high = number(REF_V - step_V / 2), number(REF_V + step_V / 2)
    start, edge = number(START_s), number(START_s + 1e-10)
    commands = [
        f"tran {number(GRID_s)} {number(STOP_s)} 0 {number(GRID_s)}",
        "linearize v(v)",
        f"wrdata {name}.data v(v)",
        *_result("end_v", f"tran end_v find v(v) at={number(STOP_s - GRID_s)}"),
    ]
    source = f"v_u u 0 pwl(0 {low} {start} {low} {edge} {high})"
    return _deck(name, state(ota()), [source], commands)


def noise_deck() -> str:
    """Noise at the output of the follower; `state_noise.data`: frequency, V/√Hz.

    The result noise_v is the rms over `BAND_HZ`.
    """
    low, high = map(number, BAND_HZ)
    commands = [
        f"noise v(v) v_u dec 20 {low} {high}",
        "setplot noise1",
        "wrdata state_noise.data onoise_spectrum",
        "setplot noise2",
        "let noise_v = onoise_total",
        'echo "RESULT noise_v $&noise_v"',
    ]
    source = f"v_u u 0 {number(REF_V)} ac 1"
    return _deck("state_noise", state(ota()), [source], commands)


# Of `charge_noise_deck`: resistors, how often their noise is drawn, how long, how many.
# ngspice draws straight lines between values: at 100 draws per time constant that takes
# 0.2 % off the rms. It cannot be told a seed.
NOISE_OHM, NOISE_STEP_s, NOISE_STOP_s, N_NOISES = 200e3, 2e-9, 100e-6, 32


def charge_noise_deck() -> str:
    """kT/C in time: noise of resistors, drawn by `trnoise`, on capacitors of a state.

    The result noise_v is the rms over all of them, √(kT/C) at 27 C. Transistors make no
    noise in a transient of ngspice, so there are none.
    """
    step, stop = number(NOISE_STEP_s), number(NOISE_STOP_s)
    # White up to 1/(2 step): a density 4kTR is an rms of √(2kTR/step) per draw.
    rms = math.sqrt(2 * thermal_energy_J(300.15) * NOISE_OHM / NOISE_STEP_s)
    lines = ["* bench charge_noise of cell state"]
    for i in range(N_NOISES):
        lines += [
            f"v_n{i} a{i} 0 dc 0 trnoise({number(rms)} {step} 0 0)",
            f"r_a{i} a{i} v{i} {number(NOISE_OHM)}",
            f"c_v{i} v{i} 0 {number(STATE_F)}",
        ]
    lines += [".control", "set numdgt=12", f"tran {step} {stop} 0 {step}"]
    for i in range(N_NOISES):
        lines.append(f"meas tran n{i} rms v(v{i}) from=2e-06 to={stop}")
    power = "+".join(f"n{i}*n{i}" for i in range(N_NOISES))
    lines += [
        f"let noise_v = sqrt(({power})/{N_NOISES})",
        'echo "RESULT noise_v $&noise_v"',
        "quit 0",
        ".endc",
        ".end",
    ]
    return "\n".join(lines) + "\n"


def settle_deck() -> str:
    """Where a settling network comes to rest; RESULT v<i> [V around ref] per node."""
    commands = [f"tran {number(SETTLE_s / 500)} {number(SETTLE_s)} 0"]
    for i in range(N_SETTLING):
        commands.append(f"let n{i} = v(v{i})-v(ref)")
        commands += _result(
            f"v{i}", f"tran v{i} find n{i} at={number(0.999 * SETTLE_s)}"
        )
    commands.append("let supply = -i(v_vdd)")
    commands += _result(
        "supply_a", f"tran supply_a find supply at={number(0.999 * SETTLE_s)}"
    )
    return _deck("settling_rest", settling(ota()), [], commands)
