"""bill: what a design spends per step, from its events, its plan and a price list."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.energy.events import EVENTS, Event
from physnn.energy.facts import CONFIDENCE
from physnn.energy.floor_plan import site_of, wiring
from physnn.energy.joules import Modeled
from physnn.energy.ledger import Ledger, Row, summed
from physnn.energy.prices import (
    AMPLIFIERS,
    EXCESS,
    LINES,
    OVERHEAD,
    Price,
    Prices,
    Width,
)
from physnn.process import Process

# How often each event happens: by name, part, active share and bits.
_Counts = dict[tuple[str, str, float, float | None], float]


def bill(
    design: Any, prices: Prices, *, process: Process, period_s: float | None = None
) -> Ledger:
    """The bill of one step of anything that has `events(process, *, period_s)`.

    `period_s` is the time a step takes; without it that of the design
    (`design.period_s` or `design.config.period_s`). Works on trees of
    `jax.ShapeDtypeStruct`, so a design is billed without being built. A list with a
    floor plan adds the wires of the design and its links between chips.

    Raises `ValueError` for an event without a price, a line without a row or a reason,
    a count that is negative or not finite, and a period that is missing or not
    positive.
    """
    period_s = _period_s(design, period_s)
    found: _Counts = {}
    events, plan = _events(design, process, period_s), None
    for event in events:
        bits = None if event.bits is None else float(event.bits)
        key = (event.name, event.part, event.active, bits)
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
        if bits is not None and not 0 < bits < math.inf:
            raise ValueError(
                f"The bits of event `{event.name}` of part `{event.part}` must be"
                f" positive and finite, but are {bits}."
            )
        found[key] = found.get(key, 0.0) + count
    if prices.geometry is not None:
        site = site_of(design, process)
        plan, more = wiring(events, site, prices.geometry, period_s=period_s)
        for event in more:
            found[event.name, event.part, event.active, None] = float(event.count)
    priced = {row.event for row in prices.rows}
    for name, part, *_ in found:
        if name not in priced and name not in prices.zero_events:
            raise ValueError(
                f"Price list `{prices.name}` must price event `{name}` (made by part"
                f" `{part}`), but does not: add a price or a zero with a reason."
            )
    rows: list[Row] = []
    for floor in (False, True):
        spent = summed(row.energy for row in rows)
        for price in prices.rows:
            if price.floor is floor:
                rows += _rows_of(price, found, process, prices, spent)
    rows.sort(key=lambda row: LINES.index(row.line))
    rows += _overhead(prices, summed(row.energy for row in rows))
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
        plan=plan,
        overrides=prices.overrides,
    )


def supply_energy_J(
    design: Any, process: Process, *, period_s: float | None = None
) -> Float[Array, ""]:
    """What a step draws from the analog supply [J], differentiable in trained sizes.

    The charge of all `supply_charge_C` events, and of `amplifier_charge_C` times the
    nominal excess of the process, times the supply voltage: the part of the bill that
    can stand in a loss. Digital events do not depend on trained values.
    """
    period_s = _period_s(design, period_s)
    times = {"supply_charge_C": 1.0, AMPLIFIERS: process.amplifier_excess.nominal}
    charges = [
        event.count * times[event.name]
        for event in _events(design, process, period_s)
        if event.name in times
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
    for (name, part, active, bits), count in found.items():
        if name != price.event or of_size == 0:
            continue
        times = prices.serving.times(name, part, active, per_batch=price.per_batch)
        each = Modeled(*price.joules(process, bits)).scaled(of_size * times)
        energy = each.scaled(count)
        if price.floor:
            energy = Modeled(
                max(0.0, energy.low - spent.low),
                max(0.0, energy.nominal - spent.nominal),
                max(0.0, energy.high - spent.high),
            )
        note = [price.note] if price.note else []
        confidence = price.confidence
        if price.width is not None and bits not in (None, price.width.bits):
            note.append(_of_width(price.width, bits))
            confidence = max(confidence, price.width.confidence, key=CONFIDENCE.index)
        if price.per_batch:
            note.append(f"shared by a batch of {prices.batch:g}")
        if active < 1:
            note.append(f"a token touches {active:.3g} of them")
        if price.at is not None:
            note.append(f"{of_size:.0%} of the price at {price.at:.3g} parameters")
        if name == AMPLIFIERS:
            low, nominal, high = map(float, process.amplifier_excess)
            note.append(
                f"{EXCESS} of {process.name}: {nominal:.3g} ({low:.3g} to {high:.3g})"
                f" ideal stages; {process.sources.get(EXCESS, 'no source')}"
            )
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
                confidence=confidence,
                note="; ".join(note),
            )
        )
    return rows


def _of_width(width: Width, bits: float) -> str:
    low, nominal, high = width.factors(bits)
    return (
        f"x {nominal:.3g} ({low:.3g} to {high:.3g}) at {bits:.3g} bits, of which the"
        f" price is {width.bits:g} [{width.confidence}] {width.fact}: {width.source}"
    )


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
