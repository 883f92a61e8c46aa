"""bill: what a design spends per step, line by line, with the source of every Joule."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.energy.events import EVENTS, Event
from physnn.energy.joules import Modeled
from physnn.energy.prices import LINES, OVERHEAD, Price, Prices
from physnn.energy.serving import Serving
from physnn.energy.table import bill_table
from physnn.process import Process

_STRONG = ("high", "medium")
# How often each event happens: by name, part and active share.
_Counts = dict[tuple[str, str, float], float]
# Above this share the bill says that it rests on weak sources.
WEAK_SHARE = 0.1


@dataclass(frozen=True)
class Row:
    """One row of a bill: `count` times `event`, made by `part`, at a price."""

    part: str
    line: str
    event: str
    count: float
    unit: str
    price: Modeled
    energy: Modeled
    fact: str | None
    source: str
    confidence: str
    note: str = ""


@dataclass(frozen=True)
class Ledger:
    """The bill of one step (one token) of a design.

    - `rows`: everything that costs, in the order of `LINES`.
    - `zero_events`: events that happen but cost nothing here: (count, reason).
    - `zero_lines`: the lines without a row, each with the reason.
    """

    prices: str
    description: str
    process: str
    period_s: float
    serving: Serving
    rows: tuple[Row, ...]
    zero_events: dict[str, tuple[float, str]]
    zero_lines: dict[str, str]

    @property
    def batch(self) -> float:
        """Sequences that share what is priced per batch."""
        return self.serving.batch

    @property
    def total(self) -> Modeled:
        """Energy of one step [J]."""
        return _sum(row.energy for row in self.rows)

    def by_line(self) -> dict[str, Modeled]:
        """Energy of every line that has one [J]."""
        return self._grouped("line")

    def by_event(self) -> dict[str, Modeled]:
        """Energy of every event [J]; what multiplies the rest is `overhead`."""
        return self._grouped("event")

    def by_fact(self) -> dict[str | None, Modeled]:
        """Energy that rests on each fact [J]; None: numbers of the user's own list."""
        return self._grouped("fact")

    def _grouped(self, field: str) -> dict:
        groups: dict[Any, Modeled] = {}
        for row in self.rows:
            key = getattr(row, field)
            groups[key] = groups.get(key, Modeled(0.0, 0.0, 0.0)) + row.energy
        return groups

    def amdahl(self) -> list[dict[str, Any]]:
        """What limits the gain: all lines, the largest first, at nominal prices.

        `share` of the total; `gain_if_free` is how many times less the whole would
        cost if the line vanished and took its part of the multipliers with it (None
        where nothing would be left).
        """
        lines = self.by_line()
        multipliers = {row.line for row in self.rows if row.event == OVERHEAD}
        base = sum(e.nominal for line, e in lines.items() if line not in multipliers)
        total = self.total.nominal
        overall = total / base if base else 1.0
        found = []
        for line, energy in lines.items():
            saved = energy.nominal * (1.0 if line in multipliers else overall)
            left = total - saved
            found.append(
                {
                    "line": line,
                    "energy_J": energy.to_json(),
                    "share": energy.nominal / total if total else 0.0,
                    "gain_if_free": total / left if left > 1e-9 * total else None,
                }
            )
        return sorted(found, key=lambda row: -row["share"])

    def largest(self) -> str:
        """One sentence that names the line which now limits the gain."""
        rows = self.amdahl()
        if not rows or self.total.nominal == 0:
            return "Nothing is spent, so nothing limits the gain."
        row = rows[0]
        gain = row["gain_if_free"]
        rest = "leave nothing" if gain is None else f"gain {gain:.3g}x"
        return (
            f"The largest line is {row['line']} with {row['share']:.0%} of the total:"
            f" without it one would {rest}."
        )

    def sources(self) -> list[dict[str, Any]]:
        """The sources relied on, with the share of the total that rests on each."""
        total = self.total.nominal
        found: dict[tuple, dict[str, Any]] = {}
        for row in self.rows:
            key = (row.fact, row.source)
            entry = found.setdefault(
                key,
                {
                    "fact": row.fact,
                    "source": row.source,
                    "confidence": row.confidence,
                    "share": 0.0,
                },
            )
            entry["share"] += row.energy.nominal / total if total else 0.0
        return sorted(found.values(), key=lambda entry: -entry["share"])

    def weak_share(self) -> float:
        """Share of the nominal total that rests on low-confidence or unseen sources."""
        weak = (entry for entry in self.sources() if entry["confidence"] not in _STRONG)
        return sum((entry["share"] for entry in weak), 0.0)

    def caution(self) -> str:
        """A sentence if much of the total rests on weak sources, otherwise empty."""
        weak = self.weak_share()
        if weak <= WEAK_SHARE:
            return ""
        return (
            f"{weak:.0%} of the total rests on sources of low confidence or on numbers"
            " nobody has verified."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; energies in J."""
        return {
            "prices": self.prices,
            "description": self.description,
            "process": self.process,
            "period_s": self.period_s,
            "batch": self.batch,
            "serving": asdict(self.serving),
            "total_J": self.total.to_json(),
            "rows": [_plain_row(row) for row in self.rows],
            "by_line": {k: e.to_json() for k, e in self.by_line().items()},
            "zeros": [
                {"line": line, "reason": reason}
                for line, reason in self.zero_lines.items()
            ],
            "zero_events": [
                {
                    "event": event,
                    "count": count,
                    "unit": EVENTS[event][0],
                    "reason": reason,
                }
                for event, (count, reason) in self.zero_events.items()
            ],
            "amdahl": self.amdahl(),
            "largest": self.largest(),
            "sources": self.sources(),
            "weak_share": self.weak_share(),
            "caution": self.caution(),
        }

    def __str__(self):
        return bill_table(self)


def bill(
    design: Any, prices: Prices, *, process: Process, period_s: float | None = None
) -> Ledger:
    """The bill of one step of anything that has `events(process, *, period_s)`.

    `period_s` is the time a step takes; without it that of the design
    (`design.period_s` or `design.config.period_s`). Works on trees of
    `jax.ShapeDtypeStruct`, so a design is billed without being built.

    Raises `ValueError` for an event without a price, a line without a row or a reason,
    a count that is negative or not finite, and a period that is missing or not
    positive.
    """
    period_s = _period_s(design, period_s)
    found: _Counts = {}
    for event in _events(design, process, period_s):
        key = (event.name, event.part, event.active)
        count = float(event.count)
        if not (math.isfinite(count) and count >= 0):
            raise ValueError(
                f"The count of event `{event.name}` of part `{event.part}` must be"
                f" finite and not negative, but is {count}."
            )
        if not 0 < event.active <= 1:
            raise ValueError(
                f"The active share of event `{event.name}` of part `{event.part}` must"
                f" be above 0 and at most 1, but is {event.active}."
            )
        found[key] = found.get(key, 0.0) + count
    priced = {row.event for row in prices.rows}
    for name, part, _ in found:
        if name not in priced and name not in prices.zero_events:
            raise ValueError(
                f"Price list `{prices.name}` must price event `{name}` (made by part"
                f" `{part}`), but does not: add a price or a zero with a reason."
            )
    rows: list[Row] = []
    for floor in (False, True):
        spent = _sum(row.energy for row in rows)
        for price in prices.rows:
            if price.floor is floor:
                rows += _rows_of(price, found, process, prices, spent)
    rows.sort(key=lambda row: LINES.index(row.line))
    rows += _overhead(prices, _sum(row.energy for row in rows))
    missing = [line for line in LINES if line not in {row.line for row in rows}]
    for line in missing:
        if line not in prices.zero_lines:
            raise ValueError(
                f"The bill must have the line `{line}`, but price list `{prices.name}`"
                " gives neither a price for any event there nor a zero with a reason."
            )
    return Ledger(
        prices=prices.name,
        description=prices.description,
        process=process.name,
        period_s=period_s,
        serving=prices.serving,
        rows=tuple(rows),
        zero_events={
            name: (sum(n for key, n in found.items() if key[0] == name), reason)
            for name, reason in prices.zero_events.items()
            if any(key[0] == name for key in found)
        },
        zero_lines={line: prices.zero_lines[line] for line in missing},
    )


def supply_energy_J(
    design: Any, process: Process, *, period_s: float | None = None
) -> Float[Array, ""]:
    """What a step draws from the analog supply [J], differentiable in trained sizes.

    The charge of all `supply_charge_C` events times the supply voltage: the part of the
    bill that can stand in a loss. Digital events do not depend on trained values.
    """
    period_s = _period_s(design, period_s)
    charges = [
        event.count
        for event in _events(design, process, period_s)
        if event.name == "supply_charge_C"
    ]
    return jnp.asarray(sum(charges, 0.0)) * process.supply_V


def _period_s(design: Any, period_s: float | None) -> float:
    if period_s is None:
        config = getattr(design, "config", None)
        period_s = getattr(design, "period_s", getattr(config, "period_s", None))
    if period_s is None or not period_s > 0:
        raise ValueError(
            "Argument `period_s` must be the positive time a step takes (the design"
            f" states none of its own), but is {period_s}."
        )
    return float(period_s)


def _events(design: Any, process: Process, period_s: float) -> tuple[Event, ...]:
    events = tuple(design.events(process, period_s=period_s))
    for event in events:
        if event.name not in EVENTS:
            raise ValueError(
                f"Event `{event.name}` of part `{event.part}` must be in the vocabulary"
                " of physnn/energy/events.py, but is not."
            )
    return events


def _rows_of(
    price: Price,
    found: _Counts,
    process: Process,
    prices: Prices,
    spent: Modeled,
) -> list[Row]:
    macs = (count for (name, *_), count in found.items() if name == "mac")
    size = sum(macs, 0.0)
    of_size = prices.share_of(price, size)
    rows = []
    for (name, part, active), count in found.items():
        if name != price.event or of_size == 0:
            continue
        times = prices.serving.times(name, part, active, per_batch=price.per_batch)
        each = Modeled(*price.joules(process)).scaled(of_size * times)
        energy = each.scaled(count)
        if price.floor:
            energy = Modeled(
                max(0.0, energy.low - spent.low),
                max(0.0, energy.nominal - spent.nominal),
                max(0.0, energy.high - spent.high),
            )
        note = [price.note] if price.note else []
        if price.per_batch:
            note.append(f"shared by a batch of {prices.batch:g}")
        if active < 1:
            note.append(f"a token touches {active:.3g} of them")
        if price.at is not None:
            note.append(f"{of_size:.0%} of the price at {price.at:.3g} parameters")
        if price.floor:
            note.append("a floor: what the other lines lack to it")
        rows.append(
            Row(
                part=part,
                line=price.line_of(part),
                event=name,
                count=count,
                unit=EVENTS[name][0],
                price=each,
                energy=energy,
                fact=price.fact,
                source=price.source,
                confidence=price.confidence,
                note="; ".join(note),
            )
        )
    return rows


def _overhead(prices: Prices, running: Modeled) -> list[Row]:
    rows = []
    for each in prices.multipliers:
        price = Modeled(each.low - 1, each.nominal - 1, each.high - 1)
        energy = Modeled(
            running.low * price.low,
            running.nominal * price.nominal,
            running.high * price.high,
        )
        rows.append(
            Row(
                part="",
                line=each.line,
                event=OVERHEAD,
                count=running.nominal,
                unit="J",
                price=price,
                energy=energy,
                fact=each.fact,
                source=each.source,
                confidence=each.confidence,
                note=f"x {each.nominal:.3g} of everything above",
            )
        )
        running = running + energy
    return rows


def _sum(energies) -> Modeled:
    total = Modeled(0.0, 0.0, 0.0)
    for energy in energies:
        total = total + energy
    return total


def _plain_row(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    plain["price_J"], plain["energy_J"] = plain.pop("price"), plain.pop("energy")
    return plain
