"""Drawn cells of a package: their text, and the card of what they measured."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from evals.characterize.cell import Cell
from evals.verify.check import Check
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from evals.verify.transistors import models_for
from physnn.export.drawn import CARD, CELLS
from physnn.export.spice import forbidden, statements
from physnn.pdk import Models

# Cells that stand beside a cell in its bench.
BESIDE = {"mac_column": ("mac_reference",)}
_HEAD = re.compile(r"\.subckt (\S+) ([a-z0-9_ ]+?)(?: \S+=.*)?$")


def tables(package: Package) -> Mapping[str, Any]:
    """The card of the package's drawn cells; empty where it has none."""
    return package.json(CARD) if CARD in package.files else {}


def has(package: Package, *names: str) -> bool:
    """Whether the package holds all these drawn cells."""
    return all(f"{CELLS}/{name}.spice" in package.files for name in names)


def read_cell(package: Package, name: str) -> Cell:
    """A drawn cell of the package with all that it calls, and what stands beside it.

    Raises `ValueError` for a cell that is not there and for text that is no plain
    circuit: it will be run.
    """
    files: dict[str, str] = {}
    for other in BESIDE.get(name, ()):
        _read(package, other, files)
    ports = _read(package, name, files)
    return Cell(name, ports, files)


# (cell, table of the card, models) ↦ checks
Gate = Callable[[Cell, Mapping[str, Any], Models], list[Check]]


def job(
    gate: str,
    name: str,
    check: Gate,
    *,
    cell: str,
    table: str,
    slow: bool = False,
    also: tuple[str, ...] = (),
    cost_s: float | int = 1,
) -> Job:
    """A gate of a drawn cell against a table of the card; skipped without models."""

    def run(package: Package, work: Path, options: Options) -> list[Check]:
        del work
        card = tables(package)
        models, problem = models_for(card, options)
        if models is None:
            return [Check(gate, name, "skipped", detail=problem)]
        if table not in card:
            raise ValueError(
                f"{CARD} must hold the table `{table}`, but has only {sorted(card)}:"
                " export the run again."
            )
        return check(read_cell(package, cell), card[table], models)

    return Job(gate, name, run, slow=slow, also=also, cost_s=cost_s)


def _read(package: Package, name: str, files: dict[str, str]) -> tuple[str, ...]:
    path = f"{CELLS}/{name}.spice"
    text = package.text(path)
    statement = forbidden(text)
    if statement is not None:
        raise ValueError(
            f"{path} must hold only circuit elements, but holds {statement[:80]!r}:"
            " export the run again."
        )
    ports: tuple[str, ...] = ()
    for line in statements(text):
        head = _HEAD.fullmatch(line)
        if head is not None and head[1] == name:
            ports = tuple(head[2].split())
        if line.startswith("x_"):
            called = next(w for w in reversed(line.split()) if "=" not in w)
            if f"{called}.spice" not in files:
                _read(package, called, files)
    if not ports:
        raise ValueError(
            f"{path} must hold the subcircuit {name}, but has none: export again."
        )
    # What is used stands before its user.
    files[PurePosixPath(path).name] = text
    return ports
