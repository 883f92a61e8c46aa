"""Joules in the loss: the modeled bill of a design, differentiable in its sizes."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from physnn.bank import Bank
from physnn.energy import Prices
from physnn.process import Process

# How far a size can go while sizes are trained, in e-folds of units: from 31 to one is
# 3.4. Independent of the weights' rate and of the length of a training, so that a short
# one does not end before its sizes have moved.
REACH = 3.0


def billed_J(
    design: Any, prices: Prices, *, process: Process, period_s: float | None = None
) -> Float[Array, ""]:
    """Joules of one step at nominal prices, differentiable in trained sizes.

    The total of `physnn.energy.bill`: charge of the analog parts, leakage of the stored
    codes, converters, what feeds the chip. What no size changes is in it, too. Without
    `period_s` that of the design's config counts.

    Raises `ValueError` for a price list that is no fixed sum of events times prices,
    and for an event that it does not price.
    """
    if any(row.floor or row.at is not None for row in prices.rows):
        raise ValueError(
            "A price list in the loss must price each event by itself, but"
            f" `{prices.name}` has floors or prices that depend on the size of the"
            " design: give that of a physical machine."
        )
    if period_s is None:
        period_s = float(design.config.period_s)
    each: dict[str, float] = dict.fromkeys(prices.zero_events, 0.0)
    for row in prices.rows:
        each[row.event] = each.get(row.event, 0.0) + row.joules(process)[1]
    total = jnp.zeros(())
    for event in design.events(process, period_s=period_s):
        if event.name not in each:
            raise ValueError(
                f"Price list `{prices.name}` must price event `{event.name}` (made by"
                f" part `{event.part}`), but does not: add a price or a zero with a"
                " reason."
            )
        # The smallest first: a count of bit·s times a price stays within float32.
        total = total + event.count * each[event.name]
    return total * math.prod(multiplier.nominal for multiplier in prices.multipliers)


def unit_sizes(model: Any) -> list:
    """The `size` leaves of all banks that have one: log areas of their devices."""
    banks = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Bank))
    return [b.size for b in banks if isinstance(b, Bank) and b.size is not None]


def size_pace(
    step: Int[Array, ""], *, steps: int, first: float, last: float
) -> Float[Array, ""]:
    """How far a size goes at most in a step [e-folds]: `REACH` between two parts of the
    steps, `first` and `last`; falling linearly to nothing, and nothing outside.
    """
    begin, end = round(first * steps), round(last * steps)
    length = max(1, end - begin)
    left = jnp.clip((end - step) / length, 0.0, 1.0)
    return jnp.where(step < begin, 0.0, 2 * REACH / length * left)


def at_pace(changes: PyTree, pace: ArrayLike, rate: ArrayLike) -> PyTree:
    """The changes of an update made at learning rate `rate`, of sizes at `pace`."""
    if not unit_sizes(changes):
        return changes
    # The first step of a warm-up has a rate of zero, and changes nothing.
    times = jnp.asarray(pace) / jnp.maximum(rate, 1e-12)
    return eqx.tree_at(unit_sizes, changes, replace_fn=lambda step: times * step)
