"""Gates C1, C3 and P1: the datasheet over corners, mismatch, and another process."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evals.characterize import corner, mac, mismatch, ring, sar
from evals.characterize.cell import Cell
from evals.characterize.ring_benches import free_run
from evals.verify.check import Check, compared
from evals.verify.columns import COLUMN, COMPARATOR
from evals.verify.drawn_cells import Gate, has, job, tables
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from evals.verify.rings import RING
from physnn.pdk import Models, find_models, load_pdk, pdk_names
from physnn.process import load_process

# The spread of 300 devices is known to 4 %.
SIGMA, STANDARD_ERRORS = 0.15, 3.0
SEED = 101
# A whole library of cards takes this long to read on a busy machine.
PORTABLE_s = 400.0

Specs = Callable[[Cell, Models, corner.Point, Mapping[str, Any]], dict[str, float]]


def _ring(cell: Cell, models: Models, point: corner.Point, table) -> dict[str, float]:
    return ring.specs(
        cell,
        models,
        supply=point.supply,
        conditions=point.conditions,
        guess_s=1 / table["frequency_Hz"],
    )


def _column(cell: Cell, models: Models, point: corner.Point, table) -> dict[str, float]:
    return mac.specs(
        cell,
        models,
        swing_V=table["swing_V"],
        supply=point.supply,
        conditions=point.conditions,
    )


def _comparator(cell: Cell, models: Models, point: corner.Point, table):
    del table
    return sar.specs(cell, models, supply=point.supply, conditions=point.conditions)


# Cell, table of the card, what is measured, whether at all 45 points or at 25, and
# what that takes [s].
CELLS: tuple[tuple[str, str, Specs, bool, float], ...] = (
    (RING, "ring", _ring, True, 10),
    (COLUMN, "mac", _column, False, 40),
    (COMPARATOR, "sar", _comparator, True, 15),
)


def jobs(package: Package, options: Options) -> list[Job]:
    """The gates of the drawn cells that the package holds."""
    del options
    found = [
        job(
            "C1",
            f"{name}: corners",
            _corners(name, specs, full),
            cell=name,
            table=key,
            slow=True,
            cost_s=cost_s,
        )
        for name, key, specs, full, cost_s in CELLS
        if has(package, name)
    ]
    cell = next((name for name, *_ in CELLS if has(package, name)), None)
    if cell is not None:
        found.append(
            job("C3", "mismatch", spreads, cell=cell, table="mismatch", slow=True)
        )
    if has(package, RING):
        found.append(Job("P1", "ring in another process", portable, slow=True))
    return found


def _corners(name: str, specs: Specs, full: bool) -> Gate:
    def check(cell: Cell, table: Mapping[str, Any], models: Models) -> list[Check]:
        measure = lambda point: specs(cell, models, point, table)
        rows = corner.matrix(measure, full=full)
        wrong = corner.outside(rows, table["datasheet"])
        found = []
        for spec, share in corner.margin(rows, table["datasheet"]).items():
            bad = [text for text in wrong if text.startswith(f"{spec} ")]
            found.append(
                Check(
                    "C1",
                    f"{name}: {spec} at {len(rows)} points",
                    "fail" if bad else "pass",
                    share,
                    1.0,
                    "of limit",
                    detail="; ".join(bad[:3]),
                )
            )
        return found

    return check


def spreads(cell: Cell, table: Mapping[str, Any], models: Models) -> list[Check]:
    """C3: many devices in one deck against what the model samples, size by size.

    Our process card has one constant for n and p transistors, that of n: a p transistor
    is held to the card of the cells, which keeps a spread per size.
    """
    del cell  # its devices are measured alone
    process = load_process("sky130")
    found = []
    for known in table["devices"]:
        device = tuple(
            known[k] for k in ("what", "kind", "width_m", "length_m", "current_A")
        )
        seen = mismatch.row(models, process, device, n=known["n"], seed=SEED)
        by_law = not known["kind"].startswith("pmos")
        sample = mismatch.of_model(process, known)
        wanted = float(sample.std(ddof=1)) if by_law else known["sigma"]
        errors = abs(seen["mean"]) / (seen["sigma"] / known["n"] ** 0.5)
        share = abs(seen["sigma"] / wanted - 1)
        against = "our samples" if by_law else "the card"
        found += [
            Check(
                "C3",
                f"{known['what']}: spread over {against}",
                "pass" if share <= SIGMA else "fail",
                share,
                SIGMA,
                detail=f"{seen['sigma'] / seen['law_sigma']:.3g} times the area law",
            ),
            compared(
                "C3",
                f"{known['what']}: mean in standard errors",
                errors,
                0.0,
                STANDARD_ERRORS,
                "",
            ),
        ]
    return found


def portable(package: Package, work: Path, options: Options) -> list[Check]:
    """P1: the ring in every other set of cards whose models are here.

    It must run; on another set of cards of the same process inside the datasheet.
    """
    del work, options
    card, found, missing = tables(package), [], []
    table, extra = card["ring"], load_pdk(card["pdk"]).extra
    for name in pdk_names():
        if name == card["pdk"]:
            continue
        try:
            models = find_models(name)
        except ValueError as error:
            missing.append(str(error))
            continue
        free = free_run(
            Cell.of(ring.netlist_for(models.pdk)),
            models,
            guess_s=1 / table["frequency_Hz"],
            timeout_s=PORTABLE_s,
        )
        seen = {
            "frequency_Hz": free.frequency_Hz,
            "cycle_J": free.charge_C * models.pdk.supply_V,
        }
        told = f"{seen['frequency_Hz']:.4g} Hz, {seen['cycle_J']:.4g} J per cycle"
        rows = [(corner.Point("tt", 27.0, 1.0), seen)]
        same = models.pdk.extra is not None and models.pdk.extra == extra
        wrong = corner.outside(rows, table["datasheet"]) if same else []
        share = max(corner.margin(rows, table["datasheet"]).values()) if same else None
        found.append(
            Check(
                "P1",
                f"ring on {name}",
                "fail" if wrong else "pass",
                share,
                1.0 if same else None,
                "of limit" if same else "",
                detail="; ".join([told, *wrong]),
            )
        )
    if not found:
        detail = " ".join(missing)
        return [Check("P1", "ring in another process", "skipped", detail=detail)]
    return found
