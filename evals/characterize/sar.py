"""SAR: cells of a converter, their offset, noise, speed, energy and linearity."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.converters import COMPARATOR_F, COMPARATOR_PAIR_M2, SarConverter
from evals.characterize import corner
from evals.characterize.cell import Cell
from evals.characterize.sar_benches import (
    all_codes,
    decide,
    linearity,
    offsets,
    settle,
    weights,
)
from evals.characterize.sar_noise import comparator_noise
from physnn.export.sar import ARRAY_BITS, comparator, standard_array
from physnn.pdk import Conditions, Models
from physnn.process import Process, load_process

BITS = ARRAY_BITS + 1
# The input at which energy and delay are stated.
INPUT_V = 10e-3


def specs(
    cell: Cell, models: Models, *, supply: float, conditions: Conditions
) -> dict[str, float]:
    """What a datasheet promises of a comparator, at one corner."""
    supply_V = supply * models.pdk.supply_V
    found = decide(
        cell, np.array([INPUT_V]), models, supply_V=supply_V, conditions=conditions
    )
    return {"decision_J": found.charge_C * supply_V, "delay_s": float(found.delay_s[0])}


def conversion_C(cell: Cell, models: Models, bits: int) -> float:
    """Supply charge of one half of an array that sets all its bits, one by one [C]."""
    steps = np.concatenate([np.zeros((1, bits)), np.tri(bits)])
    return settle(cell, steps, models).charge_C


def characterize(models: Models, known: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the cells. Raises `ValueError` where a simulation fails."""
    del known  # measures all it needs
    for netlist in (comparator(), standard_array()):
        models.pdk.check(netlist)
    process = load_process("sky130")
    adc = SarConverter(1, bits=BITS, process=process)
    cell, plates = Cell.of(comparator()), Cell.of(standard_array())
    found = decide(cell, np.array([INPUT_V, INPUT_V / 10]), models)
    spread = np.concatenate([offsets(cell, models, n=20, seed=k) for k in (1, 2)])
    inl, dnl = linearity(settle(plates, all_codes(BITS - 1), models).top_V[:, 0])
    sheet = corner.datasheet(
        corner.matrix(
            lambda point: specs(
                cell, models, supply=point.supply, conditions=point.conditions
            )
        )
    )
    noise = comparator_noise(cell, models)
    typical = decide(cell, np.array([INPUT_V]), models).charge_C
    total_F = adc.unit_F * 2 ** (BITS - 1)
    errors = array_errors(plates, models)
    rms = lambda values: float(np.sqrt(np.mean(np.square(values))))
    return {
        "bits": BITS,
        "input_V": INPUT_V,
        "decision_C": typical,
        "delay_s": float(found.delay_s[0]),
        # Each e-fold of a smaller input takes this much longer.
        "regeneration_s": float(found.delay_s[1] - found.delay_s[0]) / math.log(10),
        "noise_V": noise.total_V,
        "noise_model_V": math.sqrt(process.thermal_variance(COMPARATOR_F))
        * process.swing_V,
        "noise_parts_V": noise.parts_V,
        "inl_LSB": inl,
        "dnl_LSB": dnl,
        "mismatch": {
            "n": len(spread),
            "offset_sigma_V": float(spread.std(ddof=1)),
            "offset_law_sigma_V": process.spread("threshold", COMPARATOR_PAIR_M2),
            "weight_sigma": rms(errors.std(axis=1, ddof=1)),
            "weight_law_sigma": rms(law_sigmas(process)),
            "n_arrays": errors.shape[1],
        },
        "datasheet": sheet,
        "supply": [
            {
                "what": "a decision of the comparator",
                "measured_C": typical,
                "analytic_C": 2 * COMPARATOR_F * models.pdk.supply_V,
            },
            {
                "what": "the array in a conversion, drivers included",
                "measured_C": conversion_C(plates, models, BITS - 1),
                "analytic_C": total_F * models.pdk.supply_V,
            },
        ],
    }


def array_errors(cell: Cell, models: Models, *, n_decks: int = 6) -> np.ndarray:
    """Errors of the weights of many arrays `(bits, arrays)`, as shares of the whole."""
    nominal = weights(cell, models, BITS - 1)
    found = [
        weights(cell, models, BITS - 1, n=5, conditions=Conditions(mismatch_seed=k))
        for k in range(1, n_decks + 1)
    ]
    return np.concatenate(found, axis=1) - nominal


def law_sigmas(process: Process) -> np.ndarray:
    """Our law for the weights of one half: σ_unit·√((w − w²)/units), w = C_k/ΣC."""
    bank = SarConverter(1, bits=BITS, process=process).capacitor
    # The bank of a converter has the area of both halves; this is one of them.
    unit = process.spread("capacitor", bank.area_m2 / 2)
    units = 2.0 ** np.arange(BITS - 2, -1, -1)
    share = units / units.sum()
    return unit * np.sqrt((share - share**2) / units.sum())
