"""Quality: bits per byte of held-out text, noise on, over several fabricated chips."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float32, Key
from scipy.stats import binom

from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.process import Process
from train.loop import load_run
from train.objective import Model, bits, targets_of
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
    unit: str = "bits/byte"

    def to_json(self) -> dict:
        return asdict(self)

    def __str__(self):
        chips = (
            f" ({self.low:.4f} to {self.high:.4f} with {self.coverage:.1%} confidence,"
            f" {self.n_chips} chips)"
            if self.n_chips > 1
            else ""
        )
        seen = "bytes" if self.unit == "bits/byte" else "images"
        return f"{self.median:.4f} {self.unit}{chips} on {self.n_bytes:,} {seen}"


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
    """Bits of every target of a batch of windows."""
    tokens = jnp.asarray(windows.tokens, jnp.int32)
    logits = chip.logits(tokens[:, :-1], process=process, key=key)
    return bits(logits, targets_of(tokens, logits))


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
    return quality_of(
        scored_bits(model, batches, process=process, n_chips=n_chips, key=key)
    )


def scored_bits(
    model: Model,
    batches: Sequence[Windows],
    *,
    process: Process,
    n_chips: int,
    key: Key[Array, ""],
) -> Iterator[Float32[np.ndarray, " scored"]]:
    """Bits of every scored target, chip by chip: what `score` averages."""
    return _each(_bits, model, batches, process, n_chips, key)


@eqx.filter_jit
def _hits(chip, windows: Windows, process: Process, key: Key[Array, ""]):
    tokens = jnp.asarray(windows.tokens, jnp.int32)
    logits = chip.logits(tokens[:, :-1], process=process, key=key)
    return jnp.argmax(logits, axis=-1) == targets_of(tokens, logits)


def scored_hits(
    model: Model,
    batches: Sequence[Windows],
    *,
    process: Process,
    n_chips: int,
    key: Key[Array, ""],
) -> Iterator[Bool[np.ndarray, " scored"]]:
    """Whether the likeliest target was the right one, chip by chip."""
    return _each(_hits, model, batches, process, n_chips, key)


def _each(measure, model, batches, process, n_chips, key):
    for index in range(n_chips):
        chip_key = jr.fold_in(stream(key, "chip"), index)
        chip = _fabricate(model, process, chip_key)
        found = []
        for i, batch in enumerate(batches):
            noise_key = jr.fold_in(stream(chip_key, "noise"), i)
            each = np.asarray(measure(chip, batch, process, noise_key))
            found.append(each[batch.scored])
        yield np.concatenate(found)


def quality_of(chips: Iterable[np.ndarray], *, unit: str = "bits/byte") -> Quality:
    """The quality of one array of bits per chip, each over the same bytes."""
    values, n_bytes = [], 0
    for each in chips:
        values.append(float(np.mean(each, dtype=np.float64)))
        n_bytes = len(each)
    low, high, coverage = median_interval(values)
    n_chips = len(values)
    return Quality(
        median(values), low, high, coverage, n_chips, n_bytes, tuple(values), unit
    )


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
