"""Facts: sourced numbers about energy, and their units made comparable."""

import csv
import re
from pathlib import Path
from typing import NamedTuple

from physnn.configs import config_folder

CONFIDENCE = ("high", "medium", "low", "unverified")

_PREFIXES = {
    "f": 1e-15,
    "p": 1e-12,
    "n": 1e-9,
    "u": 1e-6,
    "µ": 1e-6,
    "m": 1e-3,
    "": 1.0,
}
# what one counts: (unit of the event, how many of it)
_PER: dict[str, tuple[str, float]] = {
    "op": ("op", 1),
    "MAC": ("op", 1),
    "decision": ("op", 1),
    "eval": ("op", 1),
    "param": ("op", 1),
    "param/token": ("op", 1),
    "weight": ("op", 1),
    "byte": ("byte", 1),
    "bit": ("bit", 1),
    "64b": ("bit", 64),
    "bit/mm": ("bit·m", 1e-3),
    "sample": ("sample", 1),
    "drive": ("sample", 1),
    "cycle": ("cycle", 1),
    "token": ("token", 1),
    "s": ("s", 1.0),
}


class Fact(NamedTuple):
    """One row of `energy_facts.csv`: a quantity with its corners and its source.

    `low`, `nominal`, `high` are corners, not standard deviations. `confidence` is one
    of `CONFIDENCE`; a fact nobody has seen in a source is `unverified`.
    """

    id: str
    quantity: str
    low: float
    nominal: float
    high: float
    unit: str
    node_nm: str
    conditions: str
    source: str
    confidence: str


def load_facts(path: Path | None = None) -> dict[str, Fact]:
    """All facts by id, from `configs/hardware/energy_facts.csv` or another such table.

    Raises `ValueError` for a row that is incomplete, given twice or out of order.
    """
    path = path or config_folder() / "hardware" / "energy_facts.csv"
    facts: dict[str, Fact] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            where = f"{path}, fact `{row.get('id')}`"
            if set(row) != set(Fact._fields) or None in row.values():
                raise ValueError(
                    f"{where} must have exactly the columns {list(Fact._fields)}, but"
                    f" has {row}."
                )
            if row["id"] in facts:
                raise ValueError(f"{where} must be given once, but is there twice.")
            confidence = row["confidence"]
            if row["source"].startswith("unverified"):
                confidence = "unverified"
            low, nominal, high = check_corners(
                where, row["low"], row["nominal"], row["high"]
            )
            facts[row["id"]] = Fact(
                **{
                    **row,
                    "low": low,
                    "nominal": nominal,
                    "high": high,
                    "confidence": confidence,
                }
            )
    return facts


def check_corners(where: str, low, nominal, high) -> tuple[float, float, float]:
    """The three as floats; `ValueError` unless finite and low <= nominal <= high."""
    try:
        low, nominal, high = float(low), float(nominal), float(high)
    except (TypeError, ValueError):
        raise ValueError(
            f"{where} must have the numbers `low`, `nominal` and `high`, but they are"
            f" {low!r}, {nominal!r} and {high!r}."
        ) from None
    if not float("-inf") < low <= nominal <= high < float("inf"):
        raise ValueError(
            f"{where} must have low <= nominal <= high, but they are {low:g},"
            f" {nominal:g} and {high:g}."
        )
    return low, nominal, high


def joules_per(unit: str) -> tuple[float, str] | None:
    """`(J, event unit)` of one `unit`, such as `"pJ/64b"`; None if it is no energy.

    `joules_per("pJ/op")` is `(1e-12, "op")`, `joules_per("fJ/bit/mm")` is
    `(1e-12, "bit·m")`, `joules_per("mW/Mib")` is `(1e-3 / 2**20, "bit·s")`.
    """
    if match := re.fullmatch(r"([fpnuµm]?)J/(.+)", unit):
        prefix, per = match.groups()
        if per not in _PER:
            return None
        counted, amount = _PER[per]
        return _PREFIXES[prefix] / amount, counted
    if match := re.fullmatch(r"([fpnuµm]?)W/Mib", unit):
        return _PREFIXES[match[1]] / 2**20, "bit·s"
    return None
