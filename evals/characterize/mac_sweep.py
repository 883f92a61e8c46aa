"""Charge columns beside the standard one: faster slots, other weights, waking up."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evals.characterize import mac
from evals.characterize.mac_noise import column_noise
from physnn.export import columns
from physnn.export.columns import FEEDBACK_UNITS, UNITS, Sizing
from physnn.pdk import Models
from physnn.process import Process, load_process

# A token in which a column has one slot and waits for the rest of it.
TOKEN_S = 1e-6
LEVELS = np.array([-0.9, 0.0, 0.9])
_UNIT_A = columns.STANDARD.reference_A
# Slots and the sizes that settle in them, found by hand. 38 ns is a 26th of a token.
SIZINGS = (
    (mac.SLOT_S, columns.STANDARD),
    (100e-9, Sizing(1, 24, 2.7 * _UNIT_A)),
    (50e-9, Sizing(2, 24, 6.5 * _UNIT_A)),
    (40e-9, Sizing(2, 24, 8.5 * _UNIT_A)),
    (38e-9, Sizing(2, 24, 9.3 * _UNIT_A)),
)
# Weights of columns from light to heavy, all over the same feedback.
WEIGHTS = (
    (1, -1) * 4,
    (3, -3, 3, -2, 3, -2, 2, -2),
    UNITS,
    (7, -7) * 4,
    UNITS * 2,
    UNITS * 3,
)
# Outputs of a heavy column are tried where no input exceeds full scale.
COLUMN_LEVELS = np.array([-0.7, 0.0, 0.7])
WAKING = 8


def characterize(models: Models, known: Mapping[str, Any]) -> dict[str, Any]:
    """The table of what moves with slot and column: rows of both, and how it wakes.

    Columns are drawn for the amplifier that `known` has, or else that columns which
    count on an ideal one give away.
    """
    process = load_process("sky130")
    if "mac_sweep" in known:
        drawn_for = columns.OpenLoop.of(known)
    else:
        blind = [of_column(models, process, units, columns.IDEAL) for units in WEIGHTS]
        drawn_for = columns.OpenLoop(*amplifier_of(blind))
    rows = [of_column(models, process, units, drawn_for) for units in WEIGHTS]
    open_gain, gate_units = amplifier_of(rows)
    return {
        "token_s": TOKEN_S,
        "swing_V": mac.SWING_V,
        "wake_tokens": wake_tokens(models, drawn_for),
        "slots": [slot(models, process, *row, drawn_for) for row in SIZINGS],
        "open_gain": open_gain,
        "gate_units": gate_units,
        "columns": rows,
    }


# Clocks of a transfer that lasts a slot longer.
LONGER = {
    **mac.WINDOWS,
    "phi2": (mac.WINDOWS["phi2"][0], mac.WINDOWS["phi2"][1] + 1),
    "on": (mac.WINDOWS["on"][0], mac.WINDOWS["on"][1] + 1),
}


def slot(
    models: Models,
    process: Process,
    slot_s: float,
    sizing: Sizing,
    open_loop: columns.OpenLoop,
) -> dict[str, Any]:
    """A row: charge over the ideal amplifiers', gain and settling in slots of `slot_s`.

    `excess`: slot after slot. `excess_waiting`: one slot in each `TOKEN_S`.
    `left_to_settle` [full scale]: against a transfer that lasts a slot longer; the
    price assumes 2⁻⁹.
    """
    netlist = columns.standard(open_loop=open_loop, sizing=sizing)
    cell, xs = mac.column_cell(netlist, sizing), mac.tokens(LEVELS)
    run = lambda token_s, windows=mac.WINDOWS: mac.measure(
        cell,
        xs,
        models,
        swing_V=mac.SWING_V,
        slot_s=slot_s,
        token_s=token_s,
        windows=windows,
        warm=mac.CYCLE,
    )
    found, waiting = run(slot_s), run(TOKEN_S)
    short, long = run(3 * slot_s), run(3 * slot_s, LONGER)
    gain, _, inl = mac.line(LEVELS, found.y)
    ideal = mac.ideal_C(process)
    return {
        "slot_s": slot_s,
        "width": sizing.width,
        "coupling_units": sizing.coupling_units,
        "reference_A": sizing.reference_A,
        "excess": found.charge_C["amplifiers"] / ideal,
        "excess_waiting": waiting.charge_C["amplifiers"] / ideal,
        "gain": gain,
        "inl_LSB": inl / mac.lsb(),
        "left_to_settle": float(np.abs(short.y - long.y).max()),
    }


def of_column(
    models: Models,
    process: Process,
    units: Sequence[int],
    open_loop: columns.OpenLoop,
) -> dict[str, Any]:
    """A row: gain, input-referred noise and charge of a column of other weights.

    The amplifier is the standard one, the slot as much longer as the load is larger.
    `noise_kT_per_C` is in the unit of a process card's `thermal_noise`, which counts
    the halves of a signal as one.
    """
    weights, total = np.array(units), int(np.abs(units).sum())
    netlist = columns.standard(units, open_loop=open_loop)
    cell = mac.column_cell(netlist)
    full = COLUMN_LEVELS[:, None] * np.sign(weights) * FEEDBACK_UNITS / total
    xs = np.clip(full, -1.0, 1.0)
    said = xs @ weights / FEEDBACK_UNITS
    load = (2 * total + FEEDBACK_UNITS) * process.capacitor_min_F
    own = (2 * sum(map(abs, UNITS)) + FEEDBACK_UNITS) * process.capacitor_min_F
    slot_s = mac.SLOT_S * max(1.0, load / own)
    found = mac.measure(
        cell, xs, models, swing_V=mac.SWING_V, slot_s=slot_s, warm=mac.CYCLE
    )
    gain = float(np.polyfit(said, found.y, 1)[0])
    noise = column_noise(
        cell, process, models, swing_V=mac.SWING_V, gain=gain, units=units
    )
    return {
        "weights": len(units),
        "ratio": total / FEEDBACK_UNITS,
        "slot_s": slot_s,
        "feedback_drawn": columns.drawn_feedback(units, FEEDBACK_UNITS, open_loop),
        "gain": gain,
        "noise_kT_per_C": (noise["rms"] / noise["sampling"] / gain) ** 2 / 2,
        "excess": found.charge_C["amplifiers"]
        / (2 * float(process.settling_charge_C(load))),
    }


def units_of(ratio: float, open_loop: columns.OpenLoop) -> tuple[int, ...]:
    """Weights of seven units, signs in turn, that make Σ|C|/C_f of `ratio` together.

    To the nearest unit over `FEEDBACK_UNITS`. Raises `ValueError` for a column that
    must be split.
    """
    total = round(ratio * FEEDBACK_UNITS)
    columns.drawn_feedback((total,), FEEDBACK_UNITS, open_loop)
    found = [7] * (total // 7) + [total % 7] * (total % 7 > 0)
    return tuple(count * (-1) ** i for i, count in enumerate(found))


def amplifier_of(rows: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """(A, C_g in units) of the law of `columns.OpenLoop` that fits the rows."""
    feedback = np.array([row["feedback_drawn"] for row in rows])
    total = np.array([FEEDBACK_UNITS * row["ratio"] for row in rows])
    missing = FEEDBACK_UNITS / np.array([row["gain"] for row in rows]) - feedback
    slope, at_zero = np.polyfit(total + feedback, missing, 1)
    return float(1 / slope), float(at_zero / slope)


def wake_tokens(models: Models, open_loop: columns.OpenLoop) -> int:
    """Tokens after which a column whose bias was without current is within 2⁻⁹."""
    xs = np.repeat(mac.tokens(LEVELS[-1:]), WAKING, axis=0)
    cell = mac.column_cell(columns.standard(open_loop=open_loop))
    found = mac.measure(cell, xs, models, swing_V=mac.SWING_V, warm=0)
    far = np.flatnonzero(np.abs(found.y - found.y[-1]) > 2.0**-9)
    return int(far[-1]) + 1 if far.size else 0
