"""Price lists: TOML files of `configs/hardware/`, read and checked."""

import math
import tomllib
from pathlib import Path

from physnn.configs import config_folder, find_config
from physnn.energy.events import EVENTS
from physnn.energy.facts import CONFIDENCE, Fact, check_corners, joules_per, load_facts
from physnn.energy.floor_plan import Geometry
from physnn.energy.prices import (
    LINES,
    SUPPLY,
    Device,
    Multiplier,
    Price,
    Prices,
    Width,
)
from physnn.energy.serving import Serving

_KEYS = ("description", "batch", "device", "floor_plan", "price", "multiplier")
_ROW_KEYS = {
    "line",
    "event",
    "fact",
    "times",
    "times_why",
    "low",
    "nominal",
    "high",
    "unit",
    "source",
    "confidence",
    "per",
    "floor",
    "at",
    "bits",
    "width",
    "zero",
    "reason",
}
_MULTIPLIER_KEYS = {
    "line",
    "fact",
    "low",
    "nominal",
    "high",
    "unit",
    "source",
    "confidence",
}


def load_prices(name_or_path: str | Path) -> Prices:
    """Read a price list from `configs/hardware/` by name, or from a TOML file.

    Raises `FileNotFoundError` for an unknown name, `ValueError` that names file and row
    for anything unknown, unsourced or impossible in it.
    """
    path = find_config("hardware", name_or_path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be a TOML file, but is not: {error}.") from None
    for key in table:
        if key not in _KEYS:
            raise ValueError(
                f"{path} must hold only `description`, `batch`, [device],"
                f" [floor_plan], [[price]] and [[multiplier]], but also has `{key}`."
            )
    if not isinstance(table.get("description"), str) or not table["description"]:
        raise ValueError(f"{path} must begin with a `description`, but has none.")
    batch = table.get("batch", 1.0)
    if not _is_number(batch) or not 1 <= batch < math.inf:
        raise ValueError(
            f"{path}: `batch` must be at least 1 and finite, but is {batch!r}."
        )
    facts, shipped = load_facts(), config_folder() / "hardware"
    rows: list[Price] = []
    zero_events: dict[str, str] = {}
    zero_lines: dict[str, str] = {}
    for i, row in enumerate(_tables(path, table, "price"), 1):
        event = row.get("event", row.get("line"))
        where = f"{path}, price {i} (`{event}`)"
        _check_keys(where, row, _ROW_KEYS)
        if row.get("zero"):
            _read_zero(where, row, zero_events, zero_lines)
        else:
            rows.append(_read_price(where, row, facts))
    for event in sorted({row.event for row in rows} & set(zero_events)):
        raise ValueError(
            f"{path}: event `{event}` must be either priced or zero, but is both."
        )
    multipliers = tuple(
        _read_multiplier(f"{path}, multiplier {i} (`{row.get('line')}`)", row, facts)
        for i, row in enumerate(_tables(path, table, "multiplier"), 1)
    )
    return Prices(
        name=path.stem,
        description=table["description"],
        rows=tuple(rows),
        multipliers=multipliers,
        zero_events=zero_events,
        zero_lines=zero_lines,
        serving=Serving(batch=float(batch)),
        device=_read_device(path, table.get("device"), facts),
        geometry=_read_geometry(path, table.get("floor_plan"), facts),
        file=None if path.resolve().parent == shipped.resolve() else str(path),
    )


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _read_device(path: Path, row, facts: dict[str, Fact]) -> Device | None:
    if row is None:
        return None
    units = {"memory": ("GB", 1e9), "bandwidth": ("TB/s", 1e12)}
    row = dict(row) if isinstance(row, dict) else {"device": row}
    for key, (unit, scale) in {
        "layer": ("us/layer", 1e-6),
        "pass": ("ns", 1e-9),
    }.items():
        if set(row) == {key}:
            units = {key: (unit, scale)}
    flags = {key: row.pop(key, False) for key in ("in_place", "weights_alone")}
    if set(row) != set(units) or not all(isinstance(v, bool) for v in flags.values()):
        raise ValueError(
            f"{path}: [device] must hold `memory` and `bandwidth`, ids in"
            " energy_facts.csv, and perhaps `in_place` and `weights_alone` (true or"
            f" false), or `layer` or `pass` alone, but is {row | flags!r}."
        )
    found = []
    for key, (unit, scale) in units.items():
        fact = facts.get(row[key])
        if fact is None or fact.unit != unit:
            raise ValueError(
                f"{path}: `{key}` of [device] must be an id in energy_facts.csv in"
                f" {unit}, but is {row[key]!r}."
            )
        found.append(fact.nominal * scale)
    source = ", ".join(row[key] for key in units)
    if "layer" in units:
        return Device(math.inf, math.inf, source=source, layer_s=found[0])
    if "pass" in units:
        # All that it holds in one pass, however much that is.
        return Device(1.0, 1 / found[0], source=source, in_place=True)
    return Device(*found, source=source, **flags)


def _read_geometry(path: Path, row, facts: dict[str, Fact]) -> Geometry | None:
    if row is None:
        return None
    units = {"bit": "um2/bit", "weight": "um2/weight", "chip": "mm2"}
    memories = ("in place", "edge", "analog")
    if (
        not isinstance(row, dict)
        or not {"memory", "bit", "chip"} <= set(row) <= {"memory", *units}
        or row["memory"] not in memories
    ):
        raise ValueError(
            f"{path}: [floor_plan] must hold `memory` (one of {list(memories)}), `bit`,"
            f" `chip` and perhaps `weight`, ids in energy_facts.csv, but is {row!r}."
        )
    found = {}
    for key in set(row) & set(units):
        fact = facts.get(row[key])
        if fact is None or fact.unit != units[key]:
            raise ValueError(
                f"{path}: `{key}` of [floor_plan] must be an id in energy_facts.csv in"
                f" {units[key]}, but is {row[key]!r}."
            )
        found[key] = fact.nominal * (1e-6 if key == "chip" else 1e-12)
    return Geometry(
        memory=row["memory"],
        bit_m2=found["bit"],
        weight_m2=found.get("weight"),
        chip_m2=found["chip"],
        sources=tuple(row[key] for key in units if key in row),
    )


def _tables(path: Path, table: dict, key: str) -> list[dict]:
    rows = table.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path}: `{key}` must be written as [[{key}]], but is not.")
    return rows


def _check_keys(where: str, row: dict, known: set[str]):
    for key in row:
        if key not in known:
            raise ValueError(
                f"{where} must hold only {sorted(known)}, but also has `{key}`."
            )


def _check_names(where: str, key: str, value, known) -> list[str]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in known:
            raise ValueError(
                f"{where}: `{key}` must be one of {list(known)}, but is {name!r}."
            )
    return names


def _read_zero(where: str, row: dict, zero_events: dict, zero_lines: dict):
    reason = row.get("reason")
    if not isinstance(reason, str) or not reason.strip():
        raise ValueError(f"{where} is zero and must have a `reason`, but has none.")
    if extra := sorted(set(row) - {"zero", "reason", "event", "line"}):
        raise ValueError(
            f"{where} is zero and must have no price, but has `{extra[0]}`."
        )
    if "event" not in row and "line" not in row:
        raise ValueError(f"{where} must name an `event` or a `line`, but has neither.")
    for key, known, zeros in (
        ("event", EVENTS, zero_events),
        ("line", LINES, zero_lines),
    ):
        if key in row:
            for name in _check_names(where, key, row[key], known):
                zeros[name] = reason


def _read_price(where: str, row: dict, facts: dict[str, Fact]) -> Price:
    for key, known in (("line", LINES), ("event", EVENTS)):
        if not isinstance(row.get(key), str):
            raise ValueError(
                f"{where} must have one `{key}`, but has {row.get(key)!r}."
            )
        _check_names(where, key, row[key], known)
    if row.get("per", "batch") != "batch":
        raise ValueError(f'{where}: `per` must be "batch", but is {row["per"]!r}.')
    for key in ("floor", "zero"):
        if not isinstance(row.get(key, False), bool):
            raise ValueError(
                f"{where}: `{key}` must be true or false, but is {row[key]!r}."
            )
    fact = _number(where, row, facts)
    times, why = row.get("times", 1), row.get("times_why", "")
    if not _is_number(times) or times <= 0:
        raise ValueError(f"{where}: `times` must be positive, but is {times!r}.")
    if "times" in row and not why:
        raise ValueError(
            f"{where} has `times` and must have `times_why`, but has none."
        )
    at = row.get("at")
    if at is not None and not (_is_number(at) and 0 < at < math.inf):
        raise ValueError(
            f"{where}: `at` must be a positive number of parameters, but is {at!r}."
        )
    counted = EVENTS[row["event"]][0]
    of_supply = fact.unit in (SUPPLY, f"x {SUPPLY}")
    if of_supply:
        joules, unit = 1.0, "C"
    elif (parsed := joules_per(fact.unit)) is not None:
        joules, unit = parsed
    else:
        raise ValueError(
            f"{where}: `unit` must be an energy per {counted}, such as `pJ/{counted}`,"
            f" but is `{fact.unit}`."
        )
    if unit != counted and "times" not in row:
        raise ValueError(
            f"{where} must be an energy per {counted}, but is `{fact.unit}`: say with"
            " `times` and `times_why` how many of them one event takes."
        )
    if fact.low < 0:
        raise ValueError(f"{where} must not be negative, but is {fact.low:g}.")
    return Price(
        line=row["line"],
        event=row["event"],
        low=fact.low * joules * times,
        nominal=fact.nominal * joules * times,
        high=fact.high * joules * times,
        source=fact.source,
        confidence=fact.confidence,
        fact=fact.id or None,
        note=f"times {times:g}: {why}" if why else "",
        per_batch="per" in row,
        floor=row.get("floor", False),
        of_supply=of_supply,
        at=at,
        width=_read_width(where, row, facts),
    )


def _read_width(where: str, row: dict, facts: dict[str, Fact]) -> Width | None:
    if "width" not in row and "bits" not in row:
        return None
    fact = facts.get(str(row.get("width")))
    if fact is None or fact.unit != "exponent" or fact.low < 0:
        raise ValueError(
            f"{where}: `width` must be an id in energy_facts.csv of an exponent that is"
            f" not negative, but is {row.get('width')!r}."
        )
    bits = row.get("bits", 0)
    if not _is_number(bits) or not 0 < bits < math.inf:
        raise ValueError(
            f"{where}: `bits` must be the positive width that the price is of, but is"
            f" {bits!r}."
        )
    return Width(
        float(bits),
        fact.low,
        fact.nominal,
        fact.high,
        fact.id,
        fact.source,
        fact.confidence,
    )


def _read_multiplier(where: str, row: dict, facts: dict[str, Fact]) -> Multiplier:
    _check_keys(where, row, _MULTIPLIER_KEYS)
    _check_names(where, "line", row.get("line"), LINES)
    fact = _number(where, row, facts)
    low, nominal, high = fact.low, fact.nominal, fact.high
    if fact.unit == "fraction":
        if not 0 < fact.low <= fact.high <= 1:
            raise ValueError(
                f"{where}: an efficiency must be above 0 and at most 1, but is"
                f" {fact.low:g} to {fact.high:g}."
            )
        # The best efficiency is the lowest multiplier.
        low, nominal, high = 1 / high, 1 / nominal, 1 / low
    elif fact.unit != "x":
        raise ValueError(
            f"{where}: `unit` must be `x` (a factor) or `fraction` (an efficiency), but"
            f" is `{fact.unit}`."
        )
    if low < 1:
        raise ValueError(f"{where} must be at least 1, but is {low:g}.")
    return Multiplier(
        row["line"], low, nominal, high, fact.source, fact.confidence, fact.id or None
    )


def _number(where: str, row: dict, facts: dict[str, Fact]) -> Fact:
    """The fact a row names, or its own sourced numbers in the shape of one."""
    own = ("low", "nominal", "high", "unit", "source", "confidence")
    if "fact" in row:
        if row["fact"] not in facts:
            raise ValueError(
                f"{where}: `fact` must be an id in energy_facts.csv, but is"
                f" {row['fact']!r}."
            )
        if extra := [key for key in own if key in row]:
            raise ValueError(
                f"{where} must have either a `fact` or its own numbers, but has"
                f" `{extra[0]}` beside the fact."
            )
        return facts[row["fact"]]
    if not isinstance(row.get("source"), str) or not row["source"].strip():
        raise ValueError(f"{where} must have a `fact` or a `source`, but has neither.")
    if row.get("confidence") not in CONFIDENCE:
        raise ValueError(
            f"{where}: `confidence` must be one of {list(CONFIDENCE)}, but is"
            f" {row.get('confidence')!r}."
        )
    if not isinstance(row.get("unit"), str):
        raise ValueError(f"{where} must have a `unit`, but has {row.get('unit')!r}.")
    low, nominal, high = check_corners(
        where, row.get("low"), row.get("nominal"), row.get("high")
    )
    return Fact(
        id="",
        quantity=row.get("event", row["line"]),
        low=low,
        nominal=nominal,
        high=high,
        unit=row["unit"],
        node_nm="",
        conditions="",
        source=row["source"],
        confidence=row["confidence"],
    )
