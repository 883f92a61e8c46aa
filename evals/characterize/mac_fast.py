"""The charge column in slots of 38 ns: over corners, and on mismatched chips."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from evals.characterize import mac
from evals.characterize.card import needed
from evals.characterize.mac_sweep import LEVELS, LONGER, SIZINGS
from physnn.export import columns
from physnn.pdk import Conditions, Models
from physnn.process import load_process

# The shortest slot of the sweep, and the sizes that settle in it.
SLOT_S, SIZING = SIZINGS[-1]
CORNERS, TEMPERATURES_C = ("tt", "ss", "ff"), (-40.0, 27.0, 125.0)
N_CHIPS = 10


def characterize(models: Models, known: Mapping[str, Any]) -> dict[str, Any]:
    """The table: a row per corner and temperature, and the spread of `N_CHIPS` chips.

    Drawn for the amplifier of table `mac_sweep`, at the nominal supply.
    """
    needed(known, "mac_sweep")
    netlist = columns.standard(open_loop=mac.open_loop(known), sizing=SIZING)
    cell = mac.column_cell(netlist, SIZING)
    run = lambda **conditions: specs(cell, models, Conditions(**conditions))
    corners = [
        {"corner": corner, "temperature_C": celsius}
        | run(corner=corner, temperature_C=celsius)
        for corner in CORNERS
        for celsius in TEMPERATURES_C
    ]
    chips = [run(mismatch_seed=seed) for seed in range(1, N_CHIPS + 1)]
    of = lambda key: np.array([chip[key] for chip in chips])
    return {
        "slot_s": SLOT_S,
        "swing_V": mac.SWING_V,
        "corners": corners,
        "chips": {
            "n": N_CHIPS,
            "gain_sigma": float(of("gain").std(ddof=1)),
            "offset_sigma": float(of("offset").std(ddof=1)),
            "inl_LSB_max": float(of("inl_LSB").max()),
            "left_to_settle_median": float(np.median(of("left_to_settle"))),
            "left_to_settle_max": float(of("left_to_settle").max()),
            "excess_max": float(of("excess").max()),
        },
    }


def specs(cell, models: Models, conditions: Conditions) -> dict[str, float]:
    """Gain, offset and linearity of a column, and how far from settled it is read.

    One slot in three is used. `left_to_settle` [full scale] is the largest difference
    to a transfer that lasts a slot longer; `excess` the charge of the amplifiers over
    the ideal ones'.
    """
    run = lambda windows: mac.measure(
        cell,
        mac.tokens(LEVELS),
        models,
        swing_V=mac.SWING_V,
        slot_s=SLOT_S,
        token_s=3 * SLOT_S,
        warm=mac.CYCLE,
        windows=windows,
        conditions=conditions,
    )
    found, long = run(mac.WINDOWS), run(LONGER)
    gain, offset, inl = mac.line(LEVELS, found.y)
    left = float(np.abs(found.y - long.y).max())
    ideal_C = mac.ideal_C(load_process("sky130"))
    if not math.isfinite(gain + left):
        raise ValueError(
            f"A column must give finite outputs, but at {conditions} gave {found.y}:"
            " look at its bias."
        )
    return {
        "gain": gain,
        "offset": offset,
        "inl_LSB": inl / mac.lsb(),
        "left_to_settle": left,
        "excess": found.charge_C["amplifiers"] / ideal_C,
    }
