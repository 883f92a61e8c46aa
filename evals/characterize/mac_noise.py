"""Noise of a charge column of transistors: sampled by its capacitors, and its own."""

import math
from collections.abc import Sequence

from evals.characterize.cell import Cell, inlined
from evals.simulate import simulate
from physnn.export import columns
from physnn.export.columns import CLOCKS, FEEDBACK_UNITS, UNITS
from physnn.export.laws import number
from physnn.pdk import Conditions, Models
from physnn.process import Process
from physnn.units import thermal_energy_J

# Gives floating nodes an operating point; its own noise is below the band.
LEAK_OHM = 1e11
BAND_Hz = (1e5, 1e11)
_COUPLED_Hz = 1e8
_TRANSFER, _BIASING = {"phi2", "on"}, {"phi1", "phi1e", "az", "on"}


def column_noise(
    cell: Cell,
    process: Process,
    models: Models,
    *,
    swing_V: float,
    gain: float,
    units: Sequence[int] = UNITS,
    feedback_units: int = FEEDBACK_UNITS,
    conditions: Conditions = Conditions(),
) -> dict[str, float]:
    """rms noise of the output of a column by cause [full scale], and their sum.

    - `sampling`: kT/C of what the switches of phi1 leave on all plates, both halves:
      2kT·(C_Σ + C_f) / C_f².
    - `biasing`: what `az` leaves on the couplings of both amplifiers, as a voltage of
      the summing node: Σ gm·v_gate / (Σ gm·κ) − v_s, where gates see the share κ of it;
      times the gain from there to the output.
    - `transfer`: of amplifiers and switches while phi2 is high, by `.noise`.

    Every transistor has thermal and flicker noise from its cards. Leaves out noise of
    the clocks and of `ref`.
    """
    unit_F = process.capacitor_min_F
    feedback_F = feedback_units * unit_F
    sum_F = sum(abs(u) for u in units) * unit_F + feedback_F
    kT = thermal_energy_J(273.15 + conditions.temperature_C)
    deck = lambda high, lines: _deck(cell, models, high, feedback_F, lines)
    run = lambda text: (
        simulate(
            text, models=models, conditions=conditions, files=_files(cell, models)
        ).results
    )
    held = run(deck(_BIASING, _BIAS))["bias"]
    # Gates keep their charge by hand: `bias` is cut off then, and would drift.
    kept = [*_LEAKS, f"v_bias x_dut.bias 0 {number(held)}"]
    point = run(deck(_TRANSFER, [*kept, "i_s 0 x_dut.sp ac 1", *_point(models)]))
    share = point["gm_n"] / (point["gm_n"] + point["gm_p"])
    by = {"n": share / point["coupling"], "p": (1 - share) / point["coupling"]}
    seen = [
        line
        for h in "pn"
        for line in (
            f"e_{h}n off{h} mid{h} x_dut.x_amplifier_{h}.gate_n 0 {number(by['n'])}",
            f"e_{h}p mid{h} low{h} x_dut.x_amplifier_{h}.gate_p 0 {number(by['p'])}",
            f"e_{h}s low{h} 0 0 x_dut.s{h} 1",
        )
    ]
    gates = run(deck(_BIASING, [*seen, *_noise("offp", "offn")]))["noise"]
    volts = {
        "sampling": math.sqrt(2 * kT * sum_F) / feedback_F,
        "biasing": gates * gain * sum_F / feedback_F,
        "transfer": run(deck(_TRANSFER, [*kept, *_noise("yp", "yn")]))["noise"],
    }
    found = {cause: v / (2 * swing_V) for cause, v in volts.items()}
    return found | {"rms": math.sqrt(sum(v**2 for v in found.values()))}


_LEAKS = tuple(
    f"r_{half}{k} {a} {b} {number(LEAK_OHM)}"
    for half in "pn"
    for k, (a, b) in enumerate(
        (
            (f"x_dut.s{half}", "ref"),
            (f"x_dut.x_amplifier_{half}.gate_n", f"x_dut.out{half}"),
            (f"x_dut.x_amplifier_{half}.gate_p", "x_dut.bias"),
        )
    )
)
_BIAS = (".control", "op", "let v = v(x_dut.bias)", 'echo "RESULT bias $&v"', ".endc")


def _files(cell: Cell, models: Models) -> dict[str, str]:
    return {name: inlined(text, models.pdk) for name, text in cell.files.items()}


def _deck(cell: Cell, models: Models, high, load_F: float, lines) -> str:
    """The column at rest with the clocks in `high` high, all inputs at `ref`."""
    supply_V = models.pdk.supply_V
    nets = {port: "ref" if port.startswith("x") else port for port in cell.ports}
    text = ["* noise of a column", ".include pdk.spice", ".option gmin=1e-18"]
    text += [f".include {name}" for name in cell.files]
    text.append(f"x_chip nbias vdda 0 {columns.reference().name}")
    for net, volts in (("vdd", supply_V), ("vdda", supply_V), ("ref", supply_V / 2)):
        text.append(f"v_{net} {net} 0 {number(volts)}" + " ac 0" * (net == "vdd"))
    for clock in CLOCKS:
        other = clock.removesuffix("n")
        up = (clock in high) if clock in (other, "on") else (other not in high)
        text.append(f"v_{clock} {clock} 0 {number(supply_V if up else 0.0)}")
    text += [f"c_load_{half} y{half} 0 {number(load_F)}" for half in "pn"]
    nets.pop("vss")
    text.append(cell.call("dut", nets))
    return "\n".join([*text, *lines, ".end"]) + "\n"


def _point(models: Models) -> list[str]:
    """Transconductances of one amplifier, and the share of `s` that a gate sees."""
    name = lambda part, kind: (
        f"@m.x_dut.x_amplifier_p.xm_{part}.m{models.pdk.devices[kind].name}[gm]"
    )
    return [
        ".control",
        "set numdgt=12",
        "op",
        *(
            f'let {part} = {name(part, kind)}\necho "RESULT gm_{part} $&{part}"'
            for part, kind in (("n", "nmos"), ("p", "pmos"))
        ),
        f"ac lin 1 {number(_COUPLED_Hz)} {number(_COUPLED_Hz)}",
        "let coupling = mag(v(x_dut.x_amplifier_p.gate_n)) / mag(v(x_dut.sp))",
        'echo "RESULT coupling $&coupling"',
        ".endc",
    ]


def _noise(plus: str, minus: str) -> list[str]:
    low, high = BAND_Hz
    return [
        ".control",
        "set numdgt=12",
        f"noise v({plus},{minus}) v_vdd dec 20 {number(low)} {number(high)}",
        "setplot noise2",
        'echo "RESULT noise $&onoise_total"',
        ".endc",
    ]
