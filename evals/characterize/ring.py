"""Ring: the card of a ring oscillator, its pulls, its spread, its datasheet."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuits.oscillator_parts import GATE_F_PER_M2
from circuits.oscillator_ring import MeasuredRing
from evals.characterize import corner
from evals.characterize.cell import Cell
from evals.characterize.ring_benches import (
    NODE,
    Oscillation,
    free_run,
    frequencies,
    phase_response,
    tuning,
)
from physnn.export import rings
from physnn.export.netlist import Netlist
from physnn.pdk import Conditions, Models, Pdk
from physnn.process import load_process

N_STAGES = 5
COUPLING_OHM = 50e3
INJECTION_A = 80e-6
# How far the tuning capacitance is tried, and how many rings of a die are compared.
TUNE_F = 0.8e-15
N_MISMATCHED, N_DECKS = 20, 2


def netlist_for(pdk: Pdk, n_stages: int = N_STAGES) -> Netlist:
    """A ring of the smallest length of another process, 1 and 2 µm wide at least."""
    n, p = pdk.devices["nmos"], pdk.devices["pmos"]
    stage = rings.inverter(
        n_width_m=max(rings.N_WIDTH_M, n.width_min_m),
        p_width_m=max(rings.P_WIDTH_M, p.width_min_m),
        length_m=max(n.length_min_m, p.length_min_m),
    )
    return rings.ring(f"ring{n_stages}", n_stages, stage=stage)


def measured_ring(table: Mapping[str, Any]) -> MeasuredRing:
    """The model of a card's ring."""
    return MeasuredRing(
        table["frequency_Hz"],
        table["charge_C"],
        np.asarray(table["response_per_C"]),
        np.asarray(table["waveform_V"]),
        np.asarray(table["tuning"]),
    )


def oscillation(table: Mapping[str, Any]) -> Oscillation:
    """The free ring of a card."""
    waveform = np.asarray(table["waveform_V"])
    return Oscillation(table["frequency_Hz"], table["charge_C"], waveform)


def measure(cell: Cell, models: Models) -> dict[str, Any]:
    """Frequency, charge, phase response, tuning: what a model of the ring needs."""
    free = free_run(cell, models)
    return {
        "supply_V": models.pdk.supply_V,
        "frequency_Hz": free.frequency_Hz,
        "charge_C": free.charge_C,
        "cycle_J": free.charge_C * models.pdk.supply_V,
        "response_per_C": phase_response(cell, models, free).tolist(),
        "waveform_V": free.waveform_V.tolist(),
        "tuning": tuning(cell, models, free, TUNE_F).tolist(),
    }


def specs(
    cell: Cell, models: Models, *, supply: float, conditions: Conditions, guess_s: float
) -> dict[str, float]:
    """What a datasheet promises of a ring, at one corner."""
    supply_V = supply * models.pdk.supply_V
    free = free_run(
        cell, models, guess_s=guess_s, supply_V=supply_V, conditions=conditions
    )
    return {
        "frequency_Hz": free.frequency_Hz,
        "cycle_J": free.charge_C * supply_V,
    }


def characterize(models: Models, known: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the ring. Raises `ValueError` where a simulation fails."""
    del known  # measures all it needs
    drawn = rings.standard()
    cell = Cell.of(drawn)
    table = measure(cell, models)
    model, free = measured_ring(table), oscillation(table)
    arguments = model.arguments(
        period_s=1.0, resistance_ohm=COUPLING_OHM, supply_V=models.pdk.supply_V
    )
    spread = np.concatenate(
        [
            frequencies(
                cell,
                models,
                free,
                n=N_MISMATCHED,
                conditions=Conditions(mismatch_seed=k),
            )
            for k in range(1, N_DECKS + 1)
        ]
    )
    area_m2 = rings.gate_area_m2(drawn)
    sheet = corner.datasheet(
        corner.matrix(
            lambda point: specs(
                cell,
                models,
                supply=point.supply,
                conditions=point.conditions,
                guess_s=free.period_s,
            )
        )
    )
    three = free_run(Cell.of(rings.standard(3)), models)
    process = load_process("sky130")
    return {
        "stages": N_STAGES,
        "n_width_m": rings.N_WIDTH_M,
        "p_width_m": rings.P_WIDTH_M,
        "length_m": rings.LENGTH_M,
        "node_F": rings.NODE_F,
        "gate_area_m2": area_m2,
        **table,
        "coupling": {
            "resistance_ohm": COUPLING_OHM,
            "node": NODE,
            "lock_range_Hz": float(model.lock_range_Hz(COUPLING_OHM)),
            "rate_rad_per_s": arguments["coupling_rate"],
            "shape": [list(pair) for pair in arguments["shape"]],
            "ring_F": arguments["ring_F"],
        },
        "injection": {
            "current_A": INJECTION_A,
            "range_Hz": float(model.injection_range_Hz(INJECTION_A)),
        },
        "three_stages": {
            "frequency_Hz": three.frequency_Hz,
            "cycle_J": three.charge_C * models.pdk.supply_V,
        },
        "mismatch": {
            "n": len(spread),
            "sigma": float(spread.std(ddof=1) / spread.mean()),
            # After a trim of 5 bits over ±3 sigma, which our law includes.
            "trimmed_sigma": float(spread.std(ddof=1) / spread.mean() * TRIM),
            "law_sigma": process.spread("ring_frequency", area_m2),
        },
        "datasheet": sheet,
        "supply": [
            {
                "what": "a cycle, priced by its gate area",
                "measured_C": free.charge_C,
                "analytic_C": GATE_F_PER_M2 * area_m2 * models.pdk.supply_V,
            }
        ],
    }


# What a trim of 5 bits over ±3 sigma leaves of a spread: a step of 6/32 sigma, evenly.
TRIM = 6 / 32 / 12**0.5
