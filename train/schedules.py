"""Schedules: amounts that change in the course of training, traced."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

# What a schedule may change besides an environment, and where it stands.
TRAINING_AMOUNTS = {
    "weight_decay": "optimizer.weight_decay",
    "sharpness": "optimizer.sharpness",
    "energy_weight": "noise.energy_weight",
    "distillation": "distillation.weight",
}


@dataclass(frozen=True)
class Schedule:
    """An amount that changes in the course of training, as a multiple of itself.

    The multiple is `first` until the part `start` of the steps, `last` from the part
    `end` on, and in between goes from one to the other: `linear`, `cosine` (half a
    period) or `exponential` (equal ratios; both ends positive). It is traced, so that
    nothing is compiled again. `amount` is one of `TRAINING_AMOUNTS`, an amount of
    `noise.environment` (`thermal`, `mismatch`, `dead`), or `severity`: the whole
    environment, as `Environment.scaled` grows it.
    """

    amount: str = "severity"
    shape: Literal["linear", "cosine", "exponential"] = "linear"
    first: float = 0.0
    last: float = 1.0
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self):
        least = 0.0 if self.shape != "exponential" else math.ulp(0.0)
        for name in ("first", "last"):
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"Argument `{name}` of a schedule must be finite and"
                    f" {'positive' if least else 'not negative'}, but is"
                    f" {getattr(self, name)}."
                )
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                "Arguments `start` and `end` of a schedule must be parts of the steps,"
                f" one after the other, but are {self.start} and {self.end}."
            )

    def build(self, steps: int) -> optax.Schedule:
        """The multiple by step, as optax counts steps: from 0."""
        begin = round(self.start * steps)
        length = max(1, round(self.end * steps) - begin)
        if self.shape == "linear":
            return optax.linear_schedule(self.first, self.last, length, begin)
        if self.shape == "exponential":
            return optax.exponential_decay(
                self.first,
                length,
                self.last / self.first,
                transition_begin=begin,
                end_value=self.last,
            )
        fall = optax.cosine_decay_schedule(1.0, length)

        def half_a_period(count):
            way = fall(jnp.maximum(jnp.asarray(count) - begin, 0))
            return self.last + (self.first - self.last) * way

        return half_a_period


def schedule_of(
    schedules: Sequence[Schedule], amount: str, *, steps: int
) -> optax.Schedule | None:
    """The multiple of `amount` by step; None if it does not change."""
    found = [each for each in schedules if each.amount == amount]
    return found[0].build(steps) if found else None
