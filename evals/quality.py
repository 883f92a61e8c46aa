"""Quality: bits per byte of held-out text, noise on, over several fabricated chips."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key
from scipy.stats import binom

from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.process import Process
from train.loop import load_run
from train.objective import Model, bits
from train.tasks.base import Windows
from train.tasks.prepare import SPLITS


@dataclass(frozen=True)
class Quality:
    """Bits per byte over chips: the median and its distribution-free interval."""

    median: float
    low: float
    high: float
    coverage: float  # confidence that the interval holds the median of all chips
    n_chips: int
    n_bytes: int
    values: tuple[float, ...]

    def to_json(self) -> dict:
        return asdict(self)

    def __str__(self):
        chips = (
            f" ({self.low:.4f} to {self.high:.4f} with {self.coverage:.1%} confidence,"
            f" {self.n_chips} chips)"
            if self.n_chips > 1
            else ""
        )
        return f"{self.median:.4f} bits/byte{chips} on {self.n_bytes:,} bytes"


def median_interval(values: Iterable[float]) -> tuple[float, float, float]:
    """(low, high, coverage): order statistics that hold the median with >= 95 %.

    With the k-th smallest and k-th largest of n values the coverage is
    1 − 2·P(Binomial(n, 1/2) < k) (Conover 1999, Practical Nonparametric Statistics,
    3.2). Fewer than six values cannot reach 95 %: then their full range is given, with
    the coverage it has.
    """
    ordered = sorted(values)
    n = len(ordered)
    k = max(
        (k for k in range(1, n // 2 + 1) if 1 - 2 * binom.cdf(k - 1, n, 0.5) >= 0.95),
        default=1,
    )
    coverage = 1 - 2 * binom.cdf(k - 1, n, 0.5) if n > 1 else 0.0
    return ordered[k - 1], ordered[-k], float(coverage)


@eqx.filter_jit
def _bits(chip, windows: Windows, process: Process, key: Key[Array, ""]):
    """Bits of all scored targets of a batch of windows."""
    tokens = jnp.asarray(windows.tokens, jnp.int32)
    logits = chip.logits(tokens[:, :-1], process=process, key=key)
    return jnp.sum(jnp.where(windows.scored, bits(logits, tokens[:, 1:]), 0.0))


@eqx.filter_jit
def _fabricate(model, process: Process, key: Key[Array, ""]):
    return fabricate(model, process, key=key)


def score(
    model: Model,
    windows: Iterable[Windows],
    *,
    process: Process,
    n_chips: int,
    key: Key[Array, ""],
) -> Quality:
    """Bits per byte of `model` on `windows`, with temporal noise and mismatch on.

    Every chip is fabricated from its own stream and reads all windows. A digital model
    has no banks, so all its chips are alike and `n_chips` may be one.

    Raises `ValueError` when there is nothing to score.
    """
    batches = list(windows)
    n_bytes = int(sum(batch.scored.sum() for batch in batches))
    if not n_bytes or n_chips < 1:
        raise ValueError(
            "There must be text and at least one chip to score, but there are"
            f" {n_bytes} bytes and {n_chips} chips."
        )
    values = []
    for index in range(n_chips):
        chip_key = jr.fold_in(stream(key, "chip"), index)
        chip = _fabricate(model, process, chip_key)
        total = 0.0
        for i, batch in enumerate(batches):
            noise_key = jr.fold_in(stream(chip_key, "noise"), i)
            total += float(_bits(chip, batch, process, noise_key))
        values.append(total / n_bytes)
    low, high, coverage = median_interval(values)
    return Quality(median(values), low, high, coverage, n_chips, n_bytes, tuple(values))


def score_run(
    folder: str | Path, *, split: str, n_chips: int, windows: int, seed: int
) -> Quality:
    """Score a run folder; a digital model has one chip. `windows` 0 scores every byte.

    Raises what `load_run` raises, and `ValueError` for a split that there is not.
    """
    run = load_run(folder)
    if split not in SPLITS:
        raise ValueError(f"Argument `split` must be one of {SPLITS}, but is {split!r}.")
    task = run.experiment.task.build()
    batches = task.windows(split, batch=run.experiment.batch, limit=windows)
    chips = n_chips if run.experiment.chips else 1
    return score(
        run.model, batches, process=run.process, n_chips=chips, key=jr.key(seed)
    )
