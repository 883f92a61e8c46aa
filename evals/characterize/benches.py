"""Benches: run a deck on drawn cells, laid out as a package lays them out."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from evals.simulate import Simulation, TIMEOUT_s, run_deck
from physnn.export.netlist import Netlist
from physnn.export.spice import write_cell
from physnn.export.transconductor_benches import SUPPLY_V
from physnn.pdk import Conditions, Models


def run_bench(
    deck: str,
    cells: Iterable[Netlist],
    models: Models,
    *,
    conditions: Conditions = Conditions(),
    timeout_s: float = TIMEOUT_s,
) -> Simulation:
    """Run `deck` as spice/tb/bench.sp beside spice/cells/<cell>.spice of all `cells`.

    Raises `ValueError` for a transistor that the PDK cannot draw, a supply under that
    of these decks, and where a simulation fails.
    """
    if models.pdk.supply_max_V < SUPPLY_V:
        raise ValueError(
            f"PDK {models.pdk.name} must stand the {SUPPLY_V} V that the decks of this"
            f" cell hold, but allows {models.pdk.supply_max_V} V: draw the cell for it"
            " (physnn/export/transconductor_benches.py)."
        )
    with tempfile.TemporaryDirectory(prefix="physnn-bench-") as work:
        folder = Path(work) / "spice"
        for name in ("tb", "cells"):
            (folder / name).mkdir(parents=True)
        for cell in cells:
            models.pdk.check(cell)
            for part in cell.cells():
                (folder / "cells" / f"{part.name}.spice").write_text(write_cell(part))
        path = folder / "tb" / "bench.sp"
        path.write_text(deck)
        return run_deck(path, models=models, conditions=conditions, timeout_s=timeout_s)
