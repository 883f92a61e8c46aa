"""Measured: a file of measured values, read and checked row by row."""

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from physnn.export.calibration_schema import COLUMNS
from physnn.export.laws import number

# `weight[3,0]`, or a sum that one measurement sees: `weight[:,0] + offset[0]`. In a
# list of banks its place comes before the index: `couplings[0][3,0]`.
_TERM = re.compile(
    r"([a-z][a-z0-9_]*(?:\[\d+\])*?)(?:\[((?:\d+|:)(?:,(?:\d+|:))*)\])?\Z"
)


@dataclass(frozen=True)
class Term:
    """`sign` times a symbol at an index; None in the index is all along that axis."""

    sign: int
    symbol: str
    index: tuple[int | None, ...]

    def __str__(self) -> str:
        place = ",".join(":" if i is None else str(i) for i in self.index)
        return f"{self.symbol}[{place}]" if place else self.symbol


@dataclass(frozen=True)
class Measurement:
    """One row: the sum of `terms` of a circuit was found to be `value` ± `sigma`."""

    instance: str
    symbol: str
    terms: tuple[Term, ...]
    value: float
    sigma: float
    unit: str
    line: int

    @property
    def name(self) -> str:
        return f"{self.instance}.{self.symbol}" if self.instance else self.symbol


@dataclass(frozen=True)
class Measured:
    """What was measured of one die at one operating point."""

    die: str
    temperature_K: float
    supply_V: float
    rows: tuple[Measurement, ...]
    sha256: str


def read_measured(path: str | Path, *, die: str | None = None) -> Measured:
    """The rows of one die of a CSV with the columns of `calib/schema.json`.

    Rows whose `value` and `sigma` are both left empty were not measured. `die` may be
    left out where the file has one die.

    Raises `ValueError` for a file that is no such table, a die that is not in it, a
    value that is not finite, a sigma that is not positive, a symbol that is none, a
    value that is given twice, rows at different operating points, and nothing measured.
    """
    try:
        content = Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} must be a readable CSV of measured values, but is not ({error})."
        ) from error
    return parse_measured(text, where=str(path), die=die, content=content)


def parse_measured(
    text: str, *, where: str, die: str | None = None, content: bytes | None = None
) -> Measured:
    """`read_measured` of a text; `where` is what errors call it."""
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise ValueError(
            f"{where} must begin with the columns {','.join(COLUMNS)}, but begins with"
            f" {','.join(reader.fieldnames or ())!r}: fill in"
            " calib/measured_template.csv of the package."
        )
    rows: dict[str, list[dict[str, str]]] = {}
    lines: dict[str, list[int]] = {}
    for row in reader:
        if None in row or None in row.values():
            raise ValueError(
                f"{where}, line {reader.line_num}, must have {len(COLUMNS)} columns,"
                " but has another number: quote a symbol with a comma in it."
            )
        if row["value"].strip() == row["sigma"].strip() == "":
            continue
        rows.setdefault(row["die"], []).append(row)
        lines.setdefault(row["die"], []).append(reader.line_num)
    if not rows:
        raise ValueError(f"{where} must hold measured values, but has none.")
    if die is None and len(rows) > 1:
        raise ValueError(
            f"{where} must hold one die, or --die must choose one, but it holds"
            f" {sorted(rows)[:8]}."
        )
    die = next(iter(rows)) if die is None else die
    if die not in rows:
        raise ValueError(
            f"{where} must hold the die {die!r} that was asked for, but holds"
            f" {sorted(rows)[:8]}."
        )
    found, points, seen = [], set(), {}
    for line, row in zip(lines[die], rows[die], strict=True):
        at = f"{where}, line {line}"
        points.add((_positive(at, row, "temperature"), _positive(at, row, "vdd")))
        terms = _terms(at, row["symbol"])
        name = (row["instance"], frozenset(terms))
        if name in seen:
            raise ValueError(
                f"{at} must be another value than line {seen[name]}, but both are"
                f" `{row['symbol']}` of `{row['instance']}`: combine them into one."
            )
        seen[name] = line
        found.append(
            Measurement(
                row["instance"],
                row["symbol"],
                terms,
                _finite(at, row, "value"),
                _positive(at, row, "sigma"),
                row["unit"],
                line,
            )
        )
    if len(points) > 1:
        raise ValueError(
            f"{where} must hold a die at one temperature and supply, but holds die"
            f" {die!r} at {sorted(points)[:3]}: give a file for each."
        )
    digest = hashlib.sha256(content if content is not None else text.encode())
    kelvin, volts = points.pop()
    return Measured(die, kelvin, volts, tuple(found), digest.hexdigest())


def write_measured(
    rows: Iterable[Mapping[str, str | float]],
    *,
    die: str,
    temperature_K: float,
    supply_V: float,
) -> str:
    """The text of such a file; each row has instance, symbol, value, sigma and unit."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    point = {"die": die, "temperature": temperature_K, "vdd": supply_V}
    for row in rows:
        whole = {**point, **row}
        cells = (whole[name] for name in COLUMNS)
        writer.writerow([number(c) if isinstance(c, float) else c for c in cells])
    return text.getvalue()


def _terms(at: str, symbol: str) -> tuple[Term, ...]:
    pieces = re.split(r"\s*([+-])\s*", symbol.strip())
    pieces = pieces[1:] if pieces[0] == "" else ["+", *pieces]
    found = []
    for sign, piece in zip(pieces[::2], pieces[1::2], strict=True):
        match = _TERM.match(piece)
        if match is None:
            raise ValueError(
                f"{at}: a symbol must be as weight[3,0], or a sum as weight[:,0] +"
                f" offset[0], but is {symbol!r}."
            )
        place = match[2].split(",") if match[2] else ()
        index = tuple(None if i == ":" else int(i) for i in place)
        found.append(Term(-1 if sign == "-" else 1, match[1], index))
    return tuple(found)


def _finite(at: str, row: Mapping[str, str], column: str) -> float:
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(
            f"{at}: the {column} of `{row['symbol']}` must be a finite number in"
            f" {row['unit']!r}, without a suffix, but is {row[column]!r}."
        )
    return value


def _positive(at: str, row: Mapping[str, str], column: str) -> float:
    value = _finite(at, row, column)
    if not value > 0:
        raise ValueError(
            f"{at}: the {column} of `{row['symbol']}` must be positive, but is {value}."
        )
    return value
