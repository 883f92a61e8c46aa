"""Card: the file of what the cells of a process measured, one table per cell."""

import importlib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.doctor import find_tool
from physnn.configs import config_folder, find_config
from physnn.export.laws import number
from physnn.export.transconductor_benches import SUPPLY_V
from physnn.pdk import Models, find_models

# Each is a module of this package with `characterize(models, tables) -> dict`. What
# needs the table of another cell stands behind it.
CELLS = (
    "ota",
    "state",
    "token",
    "settling",
    "ring",
    "mac_sweep",
    "mac_fast",
    "mac",
    "sar",
    "mismatch",
)
# They draw chips, and need models of mismatch.
WITH_CHIPS = ("ring", "mac_fast", "mac", "sar", "mismatch")
# Their decks hold the supply for which they are drawn.
AT_FIXED_SUPPLY = ("ota", "state", "token", "settling")
# A cell that draws this many times more, or less, than the price says is a finding.
FINDING = 1.5


@dataclass(frozen=True)
class Characterized:
    """What a run measured: the file it wrote, and what somebody should look at."""

    path: Path
    tables: Mapping[str, dict[str, Any]]
    findings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.path}: {', '.join(self.tables)}"]
        for name, table in self.tables.items():
            lines += [f"  {line}" for line in _figures(name, table)]
        return "\n".join([*lines, *(f"FINDING: {text}" for text in self.findings)])


def characterize(
    pdk: str | Path | None, *, cell: str = "all", out: Path | None = None
) -> Characterized:
    """Measure a cell of `CELLS`, or all, and write their tables into `out`.

    Tables of other cells in `out` stay as they are. Raises `ValueError` for an unknown
    cell or PDK, and where a simulation fails; then nothing is written.
    """
    if cell != "all" and cell not in CELLS:
        raise ValueError(
            f"A cell must be `all` or one of {list(CELLS)}, but is {cell!r}."
        )
    models = find_models(pdk)
    out = out or config_folder() / "cells" / f"{models.pdk.name}.toml"
    names = CELLS if cell == "all" else (cell,)
    chips = [name for name in names if name in WITH_CHIPS]
    if chips and models.pdk.mismatch_suffix is None:
        others = [name for name in CELLS if name not in WITH_CHIPS]
        raise ValueError(
            f"PDK {models.pdk.name} must have a `mismatch_suffix` and sections of that"
            f" name, since {chips} draw chips with mismatch, but has none: describe it,"
            f" or measure {others} one by one."
        )
    known = _tables(out)
    tables = {}
    for name in names:
        module = importlib.import_module(f"evals.characterize.{name}")
        tables[name] = module.characterize(models, known | tables)
    head = {
        "description": f"Cells of {models.pdk.name}, measured in ngspice.",
        "command": f"physnn characterize --pdk {models.pdk.name} --cell all",
        "pdk": models.pdk.name,
        "models": models.pdk.source,
        "simulator": f"ngspice {find_tool('ngspice').version}",
    }
    # Read again: somebody may have measured another cell meanwhile.
    cells = _tables(out) | tables
    order = [name for name in CELLS if name in cells]
    text = to_toml({**head, **{name: cells[name] for name in order}})
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    part.write_text(text)
    os.replace(part, out)
    told = (*findings(tables), *supplies(models, names))
    return Characterized(out, tables, told)


def supplies(models: Models, names: Sequence[str]) -> Iterator[str]:
    """A sentence where cells were measured at another supply than the kit's own."""
    fixed = [name for name in names if name in AT_FIXED_SUPPLY]
    if fixed and models.pdk.supply_V != SUPPLY_V:
        yield (
            f"cells {', '.join(fixed)} are drawn for {SUPPLY_V} V and were measured at"
            f" it, while {models.pdk.name} has {models.pdk.supply_V} V: size them for"
            " that supply before their figures are used."
        )


def _tables(path: Path) -> dict[str, Any]:
    """The tables of a card that is there, or none."""
    old = tomllib.loads(path.read_text()) if path.is_file() else {}
    return {name: table for name, table in old.items() if isinstance(table, dict)}


def needed(tables: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The table of a cell that another builds on. Raises `ValueError` if missing."""
    if name not in tables:
        raise ValueError(
            f"The card must hold cell `{name}`, which this one is built from, but has"
            f" only {sorted(tables)}: characterize {name} first, or all."
        )
    return tables[name]


def load_card(name_or_path: str | Path) -> dict[str, Any]:
    """A card by the name of its PDK in `configs/cells`, or from a TOML file.

    Raises `ValueError` for a card that does not exist or is damaged.
    """
    try:
        path = find_config("cells", name_or_path)
        card = tomllib.loads(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise ValueError(
            f"A card must be one that `physnn characterize` wrote, but: {error}"
        ) from error
    return card


def findings(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each cell whose analytic price is off by more than `FINDING`.

    A table may have a list `supply` of tables with `what`, `measured_C`, `analytic_C`.
    """
    for name, table in tables.items():
        for line in table.get("supply", ()):
            ratio = line["measured_C"] / line["analytic_C"]
            if not 1 / FINDING <= ratio <= FINDING:
                yield (
                    f"cell {name}, {line['what']}: measured supply charge is"
                    f" {ratio:.2g} times the analytic price of our process card."
                )


def _figures(name: str, table: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _figures(f"{name}.{key}", value, depth + 1)
        elif key == "supply":
            for line in value:
                ratio = line["measured_C"] / line["analytic_C"]
                yield f"{name}: {line['what']}, measured over analytic {ratio:.3g}"
        elif isinstance(value, float | int | str) and not isinstance(value, bool):
            text = value if isinstance(value, str) else f"{value:.4g}"
            yield f"{name}.{key} = {text}"


def to_toml(tables: Mapping[str, Any]) -> str:
    """Nested tables of numbers, strings and lists as TOML, in their order.

    Numbers have 6 digits: simulators and fits repeat to that. Raises `ValueError` for a
    value that TOML cannot hold.
    """
    return "\n".join(_lines(tables, ())).lstrip("\n") + "\n"


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    inner = {k: v for k, v in table.items() if isinstance(v, Mapping)}
    arrays = {k: v for k, v in table.items() if _is_tables(v)}
    if path and len(table) > len(inner) + len(arrays):
        yield f"\n[{'.'.join(path)}]"
    for key, value in table.items():
        if key not in inner and key not in arrays:
            yield f"{_key(key)} = {_value(value)}"
    for key, rows in arrays.items():
        for row in rows:
            yield f"\n[[{'.'.join((*path, _key(key)))}]]"
            for name, value in row.items():
                yield f"{_key(name)} = {_value(value)}"
    for key, value in inner.items():
        yield from _lines(value, (*path, _key(key)))


def _is_tables(value) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and bool(value)
        and all(isinstance(row, Mapping) for row in value or ())
    )


def _key(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"A key of a card must be a plain name, but is {name!r}.")
    return name


def _value(value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"A number of a card must be finite, but is {value}.")
        return number(float(f"{value:.6g}"))
    if isinstance(value, str) and "\n" not in value and "\\" not in value:
        return '"' + value.replace('"', "'") + '"'
    if isinstance(value, Mapping):
        pairs = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items())
        return f"{{ {pairs} }}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    raise ValueError(f"A card must hold numbers and names, but has {value!r}.")
