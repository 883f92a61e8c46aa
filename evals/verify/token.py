"""Gate T11: a token of the drawn state-space block, and each part of its error."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from evals.characterize import token
from evals.characterize.cell import Cell
from evals.verify.check import Check, Trace, compared
from evals.verify.drawn_cells import has, job
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.export.gated_state import SteeredCard
from physnn.pdk import Models

CELL = "gated_state"
# rms over the tokens [full scale]. Twice what was measured of sky130, at least 0.002;
# where nothing but the exact solution is left, what the sampling of inputs may cost.
TOTAL, SETTLING = 0.025, 0.001
PARTS = {
    "switch leak": 0.002,
    "switch charge": 0.005,
    "steering lag": 0.012,
    "curve": 0.005,
    "output": 0.012,
    "offset": 0.002,
    "range": 0.02,
}


def jobs(package: Package, options: Options) -> list[Job]:
    """One job, where the package holds the drawn cell."""
    del options
    if not has(package, CELL):
        return []
    name = "token step"
    return [job("T11", name, step, cell=CELL, table="token", slow=True, cost_s=15)]


def step(cell: Cell, table: Mapping[str, Any], models: Models) -> list[Check]:
    """T11: the step against that of the model, then part after part replaced."""
    card = SteeredCard.of(table)
    tried = token.tokens()
    parts = token.budget(cell, card, models, tried)
    said = token.model_step(card, tried)
    trace = Trace(
        tuple(map(float, range(len(said)))),
        "token",
        (
            ("model", tuple(said.tolist())),
            ("ngspice", tuple((said + parts["total"]).tolist())),
        ),
        "state after it [full scale]",
    )
    limits = {"total": TOTAL, **PARTS, "settling": SETTLING}
    return [
        compared(
            "T11",
            f"token step: {name}",
            float(np.sqrt(np.mean(parts[name] ** 2))),
            0.0,
            limit,
            "full scale",
            trace=trace if name == "total" else None,
        )
        for name, limit in limits.items()
    ]
