"""Sensitivity: the prices that move a ratio most, each moved alone (a tornado)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from evals.frontier import equal_quality
from physnn.energy import Modeled, Prices
from physnn.energy.prices import AMPLIFIERS, EXCESS, Multiplier, Price, Width
from physnn.process import Process

N_SHOWN = 10

Corner = Literal["low", "nominal", "high"]
Bill = Callable[[Prices], Modeled]


@dataclass(frozen=True)
class Side:
    """One side of a ratio: its price list, and its bill on any other.

    In `prices` the amplifiers have the corners of the process (`with_excess`).
    """

    prices: Prices
    bills: tuple[Bill, ...]  # of the physical model, or of every rung


def tornado(
    bits_per_byte: float,
    ours: Side,
    ladder: Side,
    scores: Sequence[float],
    *,
    n_shown: int = N_SHOWN,
) -> list[dict[str, Any]]:
    """The `n_shown` prices that move the ratio most, the largest swing first.

    Each price goes from its low to its high corner while all others stay nominal, on
    both sides where both use it; the frontier is found again each time. The exponent by
    which prices follow a width moves as a price of its own, and so does the excess of
    amplifiers. Corners are no standard deviations, so swings are not added. Facts that
    share an origin (a machine derived from a component) still move one by one.

        [{price, lines, sides "physical" | "opponent" | "both", confidence, source,
          low, high: the price over its nominal at the corners (None for a nominal 0),
          ratio_low, ratio_high: the ratio there {relation, nominal},
          swing: larger over smaller of the two}]

    A ratio below the ladder has no nominal and its price no swing: it comes first,
    because it decides whether there is a ratio at all.
    """
    asked: dict[str, list[tuple[str, str, Price | Multiplier | Width]]] = {}
    for name, side in (("physical", ours), ("opponent", ladder)):
        for row in (*side.prices.rows, *side.prices.multipliers):
            uses = asked.setdefault(price_id(row, side.prices), [])
            uses.append((name, row.line, row))
            if isinstance(row, Price) and row.width is not None:
                uses = asked.setdefault(row.width.fact, [])
                uses.append((name, row.line, row.width))
    usual = {name: _bills(side, side.prices) for name, side in _sides(ours, ladder)}
    found = []
    for identity, uses in asked.items():
        rows = [row for *_, row in uses]
        if all(row.low == row.nominal == row.high for row in rows):
            continue
        names = {name for name, *_ in uses}
        ratios, moved_J = [], False
        for corner in ("low", "high"):
            bills = dict(usual)
            for name, side in _sides(ours, ladder):
                if name in names:
                    bills[name] = _bills(side, at_corner(side.prices, identity, corner))
            moved_J = moved_J or bills != usual
            (own,) = bills["physical"]
            rungs = list(zip(scores, bills["opponent"], strict=True))
            ratios.append(equal_quality(bits_per_byte, own, rungs))
        if not moved_J:
            continue
        values = [each.nominal for each in ratios]
        first = rows[0]
        found.append(
            {
                "price": identity,
                "lines": sorted({line for _, line, _ in uses}),
                "sides": "both" if len(names) > 1 else names.pop(),
                "confidence": first.confidence,
                "source": first.source,
                "low": first.low / first.nominal if first.nominal else None,
                "high": first.high / first.nominal if first.nominal else None,
                "ratio_low": {"relation": ratios[0].relation, "nominal": values[0]},
                "ratio_high": {"relation": ratios[1].relation, "nominal": values[1]},
                "swing": None if None in values else max(values) / min(values),
            }
        )
    found.sort(key=lambda row: -(row["swing"] or math.inf))
    return found[:n_shown]


def with_excess(prices: Prices, process: Process) -> Prices:
    """The list with the corners of the process's amplifiers as those of their price.

    A bill multiplies a price by the excess of its corner, so here they are shares of
    the nominal one: at a corner the nominal bill has the excess of that corner.
    """
    low, nominal, high = map(float, process.amplifier_excess)
    return replace(
        prices,
        rows=tuple(
            replace(
                row,
                low=row.nominal * low / nominal,
                high=row.nominal * high / nominal,
                fact=f"{EXCESS} of {process.name}",
                source=process.sources.get(EXCESS, "no source"),
            )
            if row.event == AMPLIFIERS
            else row
            for row in prices.rows
        ),
    )


def price_id(row: Price | Multiplier, prices: Prices) -> str:
    """The fact a price rests on; for a number of a list's own, the list and its use."""
    own = row.event if isinstance(row, Price) else row.line
    return row.fact or f"{prices.name}: {own}"


def at_corner(prices: Prices, identity: str, corner: Corner) -> Prices:
    """The list with one price, or one exponent of widths, at a corner.

    Its three values then all are what it is there.
    """

    def pinned(row):
        value = getattr(row, corner)
        return replace(row, low=value, nominal=value, high=value)

    def moved(row):
        if price_id(row, prices) == identity:
            row = pinned(row)
        if isinstance(row, Price) and row.width and row.width.fact == identity:
            row = replace(row, width=pinned(row.width))
        return row

    return replace(
        prices,
        rows=tuple(moved(row) for row in prices.rows),
        multipliers=tuple(moved(row) for row in prices.multipliers),
    )


def _sides(ours: Side, ladder: Side) -> tuple[tuple[str, Side], ...]:
    return ("physical", ours), ("opponent", ladder)


def _bills(side: Side, prices: Prices) -> tuple[Modeled, ...]:
    return tuple(each(prices) for each in side.bills)
