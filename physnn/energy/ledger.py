"""The ledger: what a design spends per step, line by line, with every source."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from physnn.energy.events import EVENTS
from physnn.energy.floor_plan import Plan
from physnn.energy.joules import Modeled
from physnn.energy.prices import OVERHEAD
from physnn.energy.serving import Serving
from physnn.energy.table import bill_table

_STRONG = ("high", "medium")
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
    - `plan`: where its parts stand; None: the list prices whole machines.
    - `overrides`: sentences about prices that are not those of physnn.
    """

    prices: str
    description: str
    process: str
    period_s: float
    serving: Serving
    rows: tuple[Row, ...]
    zero_events: dict[str, tuple[float, str]]
    zero_lines: dict[str, str]
    plan: Plan | None = None
    overrides: tuple[str, ...] = ()

    @property
    def batch(self) -> float:
        """Sequences that share what is priced per batch."""
        return self.serving.batch

    @property
    def total(self) -> Modeled:
        """Energy of one step [J]."""
        return summed(row.energy for row in self.rows)

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
            "floor_plan": self.plan
            and {"area_m2": self.plan.area_m2, "chips": self.plan.chips},
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
            "overrides": list(self.overrides),
        }

    def __str__(self):
        return bill_table(self)


def summed(energies: Iterable[Modeled]) -> Modeled:
    """The sum of modeled energies; of none, 0."""
    total = Modeled(0.0, 0.0, 0.0)
    for energy in energies:
        total = total + energy
    return total


def _plain_row(row: Row) -> dict[str, Any]:
    plain = asdict(row)
    plain["price_J"], plain["energy_J"] = plain.pop("price"), plain.pop("energy")
    return plain
