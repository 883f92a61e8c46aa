"""Settling: where a network of drawn OTAs comes to rest, and where its model does."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from evals.characterize.benches import run_bench
from evals.characterize.card import needed
from evals.characterize.ota import supply_rows
from physnn.export.transconductor import (
    N_SETTLING,
    OtaCard,
    mirror,
    ota,
    settled,
    settling,
)
from physnn.export.transconductor_benches import REF_V, settle_deck
from physnn.pdk import Models


def characterize(models: Models, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the network. Raises `ValueError` where a simulation fails."""
    table = needed(tables, "ota")
    found = run_bench(settle_deck(), (settling(ota()), mirror()), models).results
    rest = np.asarray([found[f"v{i}"] for i in range(N_SETTLING)])
    error = {name: rest_of(table, name) - rest for name in ("table", "twin")}
    return {
        "nodes": N_SETTLING,
        "largest_V": float(np.abs(rest).max()),
        "table_error_max_V": float(np.abs(error["table"]).max()),
        "twin_error_max_V": float(np.abs(error["twin"]).max()),
        "supply": supply_rows(
            models,
            [("activations at rest", found["supply_a"], N_SETTLING * table["gm_S"])],
        ),
    }


def rest_of(table: Mapping[str, Any], how: str) -> np.ndarray:
    """The fixed point [V around ref] with activations of an OTA's table.

    `how`: `table` interpolates its measured curve, `twin` takes its tanh.
    """
    return settled(_activation(table, how))


def _activation(table: Mapping[str, Any], how: str) -> Callable:
    card = OtaCard.of(table)
    if how == "twin":
        return lambda v, a: card.current(v, REF_V + a)
    curve = table["curve"]
    v_in, i_out = np.asarray(curve["v_in_V"]), np.asarray(curve["i_out_A"])
    return lambda v, a: np.interp(v, v_in, i_out) - card.output_S * a
