"""The bill as a readable table."""

import re
from dataclasses import replace
from typing import Any

from physnn.energy.events import EVENTS
from physnn.energy.floor_plan import Plan
from physnn.energy.joules import Modeled
from physnn.energy.prices import OVERHEAD
from physnn.units import readable


def bill_table(ledger) -> str:
    """A `Ledger` as text, ending with what is zero and why, and the sources."""
    total = ledger.total
    merged: dict[tuple, Any] = {}
    for row in ledger.rows:
        # Blocks of one kind are one row: mixer0.cell and mixer1.cell are mixer*.cell.
        part = re.sub(r"\d+(?=\.|$)", "*", row.part)
        key = (row.line, part, row.event, row.fact, row.source)
        if key in merged:
            seen = merged[key]
            row = replace(
                row, count=seen.count + row.count, energy=seen.energy + row.energy
            )
        merged[key] = replace(row, part=part)
    header = ("line", "part", "event", "count", "J each", "J", "low", "high", "%")
    cells: list[tuple[str, ...]] = [header]
    for row in merged.values():
        share = row.energy.nominal / total.nominal if total.nominal else 0.0
        cells.append(
            (
                row.line,
                row.part,
                row.event,
                readable(row.count, row.unit),
                "" if row.event == OVERHEAD else readable(row.price.nominal, "J"),
                *(readable(e, "J") for e in _order(row.energy)),
                f"{100 * share:.1f}",
            )
        )
    cells.append(
        ("total", "", "", "", "", *(readable(e, "J") for e in _order(total)), "100")
    )
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    zeros: dict[str, list[str]] = {}
    for line, reason in ledger.zero_lines.items():
        zeros.setdefault(reason, []).append(line)
    for event, (count, reason) in ledger.zero_events.items():
        counted = f"{readable(count, EVENTS[event][0])} of {event}"
        zeros.setdefault(reason, []).append(counted)
    notes: dict[str, dict[str, None]] = {}
    for row in ledger.rows:
        if row.note:
            name = row.line if row.event == OVERHEAD else row.event
            notes.setdefault(row.note, {})[name] = None
    lines = [
        f"Modeled energy of one step, price list `{ledger.prices}`, process"
        f" `{ledger.process}`, {readable(ledger.period_s, 's')} per step, batch"
        f" {ledger.batch:g}, busy {ledger.serving.utilization:.3g} of the time",
        *ledger.overrides,
        *(_aligned(row, widths) for row in cells),
        "",
        *([_plan(ledger.plan)] if ledger.plan else []),
        ledger.largest(),
        *(["Of these prices:"] if notes else []),
        *(f"  {', '.join(names)}: {note}" for note, names in notes.items()),
        "Zero, and why:",
        *(f"  {', '.join(names)}: {reason}" for reason, names in zeros.items()),
        "Sources relied on:",
        *(
            f"  {100 * s['share']:5.1f} %  [{s['confidence']}]"
            f" {s['fact'] or 'own list'}: {s['source']}"
            for s in ledger.sources()
        ),
    ]
    if caution := ledger.caution():
        lines.append(f"Caution: {caution}")
    return "\n".join(lines)


def _plan(plan: Plan) -> str:
    chips = "one chip" if plan.chips <= 1 else f"{plan.chips} chips"
    return f"Floor plan: {plan.area_m2 * 1e6:.3g} mm² on {chips}."


def _order(energy: Modeled) -> tuple[float, float, float]:
    return energy.nominal, energy.low, energy.high


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    cells = [
        cell.ljust(width) if i < 3 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()
