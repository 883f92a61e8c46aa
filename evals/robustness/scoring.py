"""Scoring of chips by the batch: one compilation for all points of a suite."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from evals.chip_mesh import chip_keys, each_chip, everywhere, full_group, group_of
from physnn.deploy import deploy
from physnn.disturbance import TEMPORAL
from physnn.environment import Environment
from physnn.keys import stream
from physnn.materialized import compiled
from physnn.process import Process
from train.objective import bits, targets_of
from train.tasks.base import Windows

# What is done to each chip after it is fabricated: (chip, process, key) -> chip.
Adjust = Callable[[Any, Process, Key[Array, ""]], Any]


class Seen(NamedTuple):
    """The windows that every chip reads, and which of their targets count."""

    tokens: Int[Array, "batch time_and_one"]
    scored: Bool[Array, "batch targets"]
    bytes_per_token: Float[Array, ""] | float = 1.0  # of their split

    @classmethod
    def of(cls, windows: Iterable[Windows]) -> "Seen":
        """All windows as one batch. Raises `ValueError` where nothing is scored."""
        rows = list(windows)
        if not rows or not sum(int(each.scored.sum()) for each in rows):
            raise ValueError(
                "There must be text or images to score, but there are none: take a"
                " larger split."
            )
        tokens = np.concatenate([each.tokens for each in rows])
        scored = np.concatenate([each.scored for each in rows])
        kept = scored.any(axis=1)  # the last batch is padded
        rate = jnp.asarray(rows[0].bytes_per_token, jnp.float32)
        return cls(
            jnp.asarray(tokens[kept], jnp.int32), jnp.asarray(scored[kept]), rate
        )

    def group(self, n: int, together: int | None, design: Any) -> int:
        """How many of `n` chips read this at a time: `together`, or a `group_of`."""
        windows, time_and_one = self.tokens.shape
        if together is not None:
            return full_group(together)
        return group_of(n, windows * (time_and_one - 1), design) if n > 1 else 1


class Means(NamedTuple):
    """Mean bits of a byte, and share of likeliest targets that are right, by chip."""

    bits: Float[Array, "..."]
    accuracy: Float[Array, "..."]


def means_of(logits: Float[Array, "batch targets vocabulary"], seen: Seen) -> Means:
    """Means over the targets that count."""
    targets, n = targets_of(seen.tokens, logits), jnp.sum(seen.scored)
    hits = jnp.argmax(logits, axis=-1) == targets
    mean = lambda each: jnp.sum(jnp.where(seen.scored, each, 0.0)) / n
    per_byte = mean(bits(logits, targets)) / seen.bytes_per_token
    return Means(per_byte, mean(hits.astype(jnp.float32)))


@dataclass(frozen=True)
class Chips:
    """Scores `model` on chips over all local devices.

    `together` of them at a time; without it `Seen.group` chooses. Chip i has its own
    key, the same in every environment: points of a study differ by their amounts alone.
    Amounts called `traced` are arguments of the compiled program, those that act in
    time only where one of them is not none: there are two programs.
    """

    model: Any
    process: Process
    seen: Seen
    key: Key[Array, ""]
    period_s: float
    together: int | None = None
    traced: tuple[str, ...] = ()

    def score(
        self, environment: Environment, n: int, *, adjust: Adjust | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bits and accuracy of chips 0 to n."""
        point = self._as_arrays(environment)
        shared = (self.model, self.process, point, self.seen, adjust)
        # A group is always full, so that all are one compilation.
        group = self.seen.group(n, self.together, self.model)
        program = partial(_score, *everywhere(shared, group))
        found, root = [], stream(self.key, "chip")
        for start in range(0, n, group):
            found.append(program(chip_keys(root, start, group), self.period_s))
        bits = np.concatenate([np.asarray(means.bits) for means in found])
        hits = np.concatenate([np.asarray(means.accuracy) for means in found])
        return bits[:n], hits[:n]

    def _as_arrays(self, environment: Environment) -> Environment:
        if not self.traced:
            return environment
        temperature = environment.temperature_K
        if temperature is None:
            environment = environment.replace(temperature_K=self.process.temperature_K)
        moves = any(not environment.is_none(name) for name in TEMPORAL)
        names = [n for n in self.traced if moves or n not in TEMPORAL]
        return environment.traced(*names, "nmos", "pmos")


@compiled
def _score(model, process, environment, seen, adjust, keys, period_s):
    def one(key, model, process, environment, seen, adjust):
        # What no part honors was left out, or refused, when the suite was set.
        chip, there = deploy(
            model, process, environment, key=key, period_s=period_s, strict=False
        )
        if adjust is not None:
            chip = adjust(chip, there, stream(key, "adjust"))
        inputs = seen.tokens[:, :-1]
        logits = chip.logits(inputs, process=there, key=stream(key, "noise"))
        return means_of(logits, seen)

    return each_chip(one, keys, model, process, environment, seen, adjust)
