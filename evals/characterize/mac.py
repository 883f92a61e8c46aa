"""Charge columns of transistors: gain, linearity, mismatch, supply charge."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from circuits.mac import ChargeMac
from evals.characterize import corner
from evals.characterize.card import load_card, needed
from evals.characterize.cell import Cell, Waves, transient
from evals.characterize.mac_noise import column_noise
from physnn.export import cells, columns
from physnn.export.columns import FEEDBACK_UNITS, UNITS
from physnn.export.laws import number
from physnn.export.netlist import Netlist
from physnn.pdk import Conditions, Models
from physnn.process import Process, load_process
from physnn.variation.matching import device_sigma

BITS = 4
# A token; its clocks are those of the behavioral cells, and a reset that ends before.
SLOT_S = 240e-9
# Full scale of each half: up to here the amplifier, whose gain is 1, is linear.
SWING_V = load_process("sky130").swing_V
EDGE_S = 0.5e-9
RESET = (cells.PHI1[0], cells.PHI1[1] - 0.02)
# The amplifier is on from before it is biased to the end of the transfer. It forgets
# the last token while it is biased: in half the time offsets spread twice as far.
AZ, ON = (0.30, 0.42), (0.29, cells.PHI2[1])
WINDOWS = {"phi1": cells.PHI1, "phi1e": RESET, "phi2": cells.PHI2, "az": AZ, "on": ON}
N_CHIPS = 30
# The reference of the chip; its file stands beside those of the column.
REFERENCE = Cell.of(columns.reference())
# Tokens after which a column whose bias was without current gives what it will, and
# after which it also draws what it will.
WARM, CYCLE = 4, 10
# What each output drives: as much as its feedback.
LOAD_F = FEEDBACK_UNITS * load_process("sky130").capacitor_min_F
POINTS = 80  # steps per token, at least
RELTOL = 1e-4
# Outputs at which gain and linearity are taken [full scale].
LEVELS = np.array([-0.9, -0.7, -0.45, -0.2, 0.0, 0.2, 0.45, 0.7, 0.9])


@dataclass(frozen=True)
class Transfer:
    """What a column made of its inputs, a row per token, both halves read at the end.

    `charge_C`: supply charge of a token by cause, mean over the tokens.
    """

    y: np.ndarray
    charge_C: dict[str, float]
    waves: Waves


def open_loop(card: Mapping[str, Any] | None = None) -> columns.OpenLoop:
    """The amplifier that columns are drawn for: that of a card, of sky130's if None."""
    return columns.OpenLoop.of(load_card("sky130") if card is None else card)


def column_cell(netlist: Netlist | None = None, sizing=columns.STANDARD) -> Cell:
    """A column, the standard one, with the reference that its bench needs."""
    if netlist is None:
        netlist = columns.standard(open_loop=open_loop(), sizing=sizing)
    cell = Cell.of(netlist)
    return dataclasses.replace(
        cell, files={**Cell.of(columns.reference(sizing)).files, **cell.files}
    )


def model(process: Process) -> ChargeMac:
    """The circuit of our own that the column is: the same weights, coded alike."""
    mac = ChargeMac(len(UNITS), 1, bits=BITS, process=process, key=jr.key(0))
    values = jnp.asarray(UNITS, jnp.float32)[:, None] / FEEDBACK_UNITS
    return eqx.tree_at(lambda mac: mac.weight.value, mac, values)


def tokens(levels: np.ndarray = LEVELS) -> np.ndarray:
    """Inputs `(tokens, n)` at which all weights together give `levels`."""
    signs = np.sign(UNITS)
    return levels[:, None] * signs * FEEDBACK_UNITS / np.sum(np.abs(UNITS))


def measure(
    cell: Cell,
    xs: np.ndarray,
    models: Models,
    *,
    swing_V: float,
    supply_V: float | None = None,
    slot_s: float = SLOT_S,
    token_s: float | None = None,
    windows: Mapping[str, tuple[float, float]] = MappingProxyType(WINDOWS),
    load_F: float = LOAD_F,
    warm: int = WARM,
    conditions: Conditions = Conditions(),
) -> Transfer:
    """Outputs of a column for inputs `xs` `(tokens, n)` [full scale].

    Each half drives `load_F`, as much as the feedback, which the price counts too. The
    column works in the first `slot_s` of every `token_s` (all of it), with its clocks
    high in `windows` of a slot, and is read just before phi2 ends. `warm` tokens
    before the first, of the same inputs, bring it into its cycle: without current its
    bias is anywhere. Charge is that of the column, without the reference of the chip.
    """
    xs = np.asarray(xs, float)
    xs = np.concatenate([np.repeat(xs[:1], warm, axis=0), xs])
    supply_V = models.pdk.supply_V if supply_V is None else supply_V
    middle, token_s = supply_V / 2, slot_s if token_s is None else token_s
    lines = [
        f"v_reference vddr 0 {number(supply_V)}",
        REFERENCE.call("chip", {"nbias": "nbias", "vdd": "vddr"}),
        f"v_vdd vdd 0 {number(supply_V)}",
        f"v_vdda vdda 0 {number(supply_V)}",
        f"v_ref ref 0 {number(middle)}",
    ]
    sources = {"switches": [], "inputs": ["v_ref"], "amplifiers": ["v_vdda"]}
    for clock, window in windows.items():
        for net, low, high in ((clock, 0.0, supply_V), (f"{clock}n", supply_V, 0.0)):
            lines.append(
                f"v_{net} {net} 0 {_clock(window, low, high, slot_s, token_s)}"
            )
            sources["switches"].append(f"v_{net}")
    for i, x in enumerate(xs.T):
        for half, sign in (("p", 1), ("n", -1)):
            volts = middle + sign * swing_V * x
            lines.append(f"v_x{i}{half} x{i}{half} 0 pwl({_steps(volts, token_s)})")
            sources["inputs"].append(f"v_x{i}{half}")
    lines += [f"c_load_{half} y{half} 0 {number(load_F)}" for half in "pn"]
    lines.append(cell.call("dut", {port: port for port in cell.ports if port != "vss"}))
    currents = [f"i({name})" for names in sources.values() for name in names]
    waves = transient(
        f"{len(xs) - warm} tokens of {cell.name}",
        lines,
        files=cell.files,
        vectors=["v(yp)", "v(yn)", "v(nbias)", *currents],
        stop_s=len(xs) * token_s,
        step_s=slot_s / POINTS,
        models=models,
        conditions=conditions,
        reltol=RELTOL,
    )
    start = warm * token_s
    kept = waves.time >= start
    waves = Waves(
        waves.time[kept] - start, {k: v[kept] for k, v in waves.columns.items()}
    )
    at = np.arange(len(xs) - warm) * token_s + (windows["phi2"][1] - 0.01) * slot_s
    y = (waves.at("v(yp)", at) - waves.at("v(yn)", at)) / (2 * swing_V)
    drawn = {
        cause: sum(_drawn(waves, f"i({name})") for name in names) / (len(xs) - warm)
        for cause, names in sources.items()
    }
    return Transfer(y, drawn, waves)


def _drawn(waves: Waves, name: str) -> float:
    """Charge that a source gave [C]; what flows back into it is lost."""
    given = np.maximum(-waves[name], 0.0)
    return float(np.sum(np.diff(waves.time) * (given[1:] + given[:-1]) / 2))


def _clock(window, low: float, high: float, slot_s: float, token_s: float) -> str:
    edge_s = min(EDGE_S, slot_s / 200)
    width_s = (window[1] - window[0]) * slot_s - edge_s
    times = (window[0] * slot_s, edge_s, edge_s, width_s, token_s)
    return f"pulse({number(low)} {number(high)} {' '.join(map(number, times))})"


def _steps(volts: np.ndarray, slot_s: float) -> str:
    points = [(0.0, volts[0])]
    for k in range(1, len(volts)):
        points += [(k * slot_s, volts[k - 1]), (k * slot_s + EDGE_S, volts[k])]
    return " ".join(f"{number(t)} {number(float(v))}" for t, v in points)


def line(levels: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """(gain, offset, INL) of a transfer: INL is the largest distance from the line."""
    gain, offset = np.polyfit(levels, y, 1)
    return float(gain), float(offset), float(np.abs(y - gain * levels - offset).max())


def lsb() -> float:
    """A step of the code of a weight at full-scale input, over full scale of y."""
    return 1 / FEEDBACK_UNITS


def sigmas(process: Process) -> tuple[np.ndarray, float]:
    """Our law's spread of each weight and of the offset [full scale]."""
    mac = model(process)
    weights = np.asarray(device_sigma(mac.weight, process), float)[:, 0]
    return weights, float(np.asarray(device_sigma(mac.offset, process))[0])


def drawn_sigmas(process: Process) -> np.ndarray:
    """The spread of each weight where both halves and the feedback err for themselves.

    σ_i² = σ_unit²·w_i²·(1/k_i + 1/k_f)/2, with k units of a weight and of the feedback.
    """
    mac = model(process)
    unit = process.spread("capacitor", mac.weight.area_m2)
    k = np.abs(np.asarray(UNITS, float))
    return unit * k / FEEDBACK_UNITS * np.sqrt((1 / k + 1 / FEEDBACK_UNITS) / 2)


def chips(
    cell: Cell, models: Models, *, n: int, swing_V: float, first_seed: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Errors of each weight `(n, weights)` and offsets `(n,)` of `n` mismatched chips.

    Each weight is tried alone, at full scale, in one token; one token has no input.
    Errors are [full scale], relative to the same column without mismatch.
    """
    xs = np.concatenate([np.zeros((1, len(UNITS))), np.eye(len(UNITS))])
    nominal = measure(cell, xs, models, swing_V=swing_V).y
    rows = []
    for seed in range(first_seed, first_seed + n):
        conditions = Conditions(mismatch_seed=seed)
        found = measure(cell, xs, models, swing_V=swing_V, conditions=conditions)
        rows.append(found.y)
    moved = np.stack(rows) - nominal
    return moved[:, 1:] - moved[:, :1], moved[:, 0]


def prices(process: Process) -> dict[str, float]:
    """Supply charge of a token by our law, wires left out: the cell has none drawn."""
    drawn = dataclasses.replace(process, wire_F_per_m=0.0)
    charges = model(process).charge_C(drawn)
    charges = {name: float(np.asarray(value)) for name, value in charges.items()}
    return {
        "inputs": charges["input lines"],
        "switches": charges["switches"],
        "amplifiers": charges["amplifiers"] * process.amplifier_excess.nominal,
    }


def ideal_C(process: Process) -> float:
    """Charge of the amplifiers of a token were they ideal."""
    return prices(process)["amplifiers"] / float(process.amplifier_excess.nominal)


def specs(
    cell: Cell, models: Models, *, swing_V: float, supply: float, conditions: Conditions
) -> dict[str, float]:
    """What a datasheet promises of a column, at one corner."""
    levels = LEVELS[::2]
    supply_V = supply * models.pdk.supply_V
    found = measure(
        cell,
        tokens(levels),
        models,
        swing_V=swing_V,
        supply_V=supply_V,
        warm=CYCLE,
        conditions=conditions,
    )
    gain, offset, inl = line(levels, found.y)
    return {
        "gain": gain,
        "offset": offset,
        "inl_LSB": inl / lsb(),
        "amplifier_excess": found.charge_C["amplifiers"]
        / ideal_C(load_process("sky130")),
    }


def settled_s(found: Transfer, k: int, share: float = 2.0**-9) -> float:
    """How long after the start of phi2 the output of token `k` is within `share`."""
    waves = found.waves
    start = (k + cells.PHI2[0]) * SLOT_S
    inside = (waves.time >= start) & (waves.time <= (k + cells.SAMPLE) * SLOT_S)
    apart = (waves["v(yp)"] - waves["v(yn)"])[inside]
    far = np.abs(apart / apart[-1] - 1) > share
    last = int(np.flatnonzero(far)[-1]) if far.any() else 0
    return float(waves.time[inside][last] - start)


def characterize(models: Models, known: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the column. Raises `ValueError` where a simulation fails."""
    process = load_process("sky130")
    # Its devices do not depend on the amplifier, but its feedback does.
    for netlist in (columns.standard(open_loop=columns.IDEAL), columns.reference()):
        models.pdk.check(netlist)
    needed(known, "mac_sweep")
    column = columns.standard(open_loop=open_loop(known))
    cell, swing_V = column_cell(column), SWING_V
    found = measure(cell, tokens(), models, swing_V=swing_V, warm=CYCLE)
    slower = measure(cell, tokens(), models, swing_V=swing_V, slot_s=2 * SLOT_S)
    gain, offset, inl = line(LEVELS, found.y)
    # Every input at full scale, as the price assumes; together they make one unit.
    ones = np.ones((2, len(UNITS)))
    full = measure(cell, ones, models, swing_V=swing_V, warm=CYCLE)
    settling = settled_s(found, len(LEVELS) - 1)
    noise = column_noise(cell, process, models, swing_V=swing_V, gain=gain)
    errors, offsets = chips(cell, models, n=N_CHIPS, swing_V=swing_V)
    law, law_offset = sigmas(process)
    prices_C, measured_C = prices(process), full.charge_C
    ideal = ideal_C(process)
    law_noise = float(np.asarray(model(process).noise_variance(process))[0])
    rms = lambda values: float(np.sqrt(np.mean(np.square(values))))
    sheet = corner.datasheet(
        corner.matrix(
            lambda point: specs(
                cell,
                models,
                swing_V=swing_V,
                supply=point.supply,
                conditions=point.conditions,
            ),
            full=False,
        )
    )
    return {
        "units": list(UNITS),
        "feedback_units": FEEDBACK_UNITS,
        "swing_V": swing_V,
        "slot_s": SLOT_S,
        "reference_V": found.waves.mean("v(nbias)", 0.0, SLOT_S),
        "gain": gain,
        "offset": offset,
        "inl": inl,
        "inl_LSB": inl / lsb(),
        "lsb": lsb(),
        "settling_s": settling,
        "settling_error": float(np.abs(found.y - slower.y).max()),
        # All charge of a token over that of ideal stages which draw while they settle.
        "amplifier_excess": measured_C["amplifiers"] / ideal,
        "amplifier_excess_of_signal": found.charge_C["amplifiers"] / ideal,
        "levels": LEVELS.tolist(),
        "outputs": found.y.tolist(),
        "noise": {**noise, "law_rms": float(np.sqrt(law_noise))},
        "mismatch": {
            "n": N_CHIPS,
            "weight_sigma": rms(errors.std(axis=0, ddof=1)),
            "weight_law_sigma": rms(law),
            "weight_drawn_sigma": rms(drawn_sigmas(process)),
            "offset_sigma": float(offsets.std(ddof=1)),
            "offset_law_sigma": law_offset,
        },
        "datasheet": sheet,
        "supply": [
            {
                "what": cause,
                "measured_C": measured_C[cause],
                "analytic_C": prices_C[cause],
            }
            for cause in prices_C
        ],
    }
