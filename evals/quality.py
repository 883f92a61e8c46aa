"""Quality: bits per byte of held-out text, noise on, over several fabricated chips."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float32, Key
from scipy.stats import binom

from evals.chip_mesh import chip_keys, each_chip, everywhere, full_group
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.materialized import compiled
from physnn.process import Process
from train.corpus.files import SPLITS
from train.loop import load_run
from train.objective import Model, bits, targets_of
from train.tasks.base import Windows


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


def _bits(chip, windows: Windows, process: Process, key: Key[Array, ""]):
    """Bits per byte of every target of a batch of windows."""
    tokens = jnp.asarray(windows.tokens, jnp.int32)
    logits = chip.logits(tokens[:, :-1], process=process, key=key)
    return bits(logits, targets_of(tokens, logits)) / windows.bytes_per_token


@compiled
def _fabricate(model, process: Process, keys: Key[Array, " chips"]):
    """The arrays of every chip."""

    def one(key, model, process):
        return eqx.filter(fabricate(model, process, key=key), eqx.is_array)

    return each_chip(one, keys, model, process, together=1)


@compiled
def _measured(measure, model, arrays, windows: Windows, process: Process, keys, index):
    """`measure` of every chip of `model` on one batch."""
    rest = eqx.filter(model, eqx.is_array, inverse=True)

    def one(chip, windows, process, index):
        arrays, key = chip
        noise_key = jr.fold_in(stream(key, "noise"), index)
        return measure(eqx.combine(arrays, rest), windows, process, noise_key)

    return each_chip(one, (arrays, keys), windows, process, index, together=1)


def score(
    model: Model,
    windows: Iterable[Windows],
    *,
    process: Process,
    n_chips: int,
    key: Key[Array, ""],
) -> Quality:
    """Bits per byte of `model` on `windows`, with temporal noise and mismatch on.

    Every chip is fabricated from its own stream and reads all windows, as many chips at
    once as the machine has devices. A digital model has no banks, so all its chips are
    alike and `n_chips` may be one.

    Raises `ValueError` when there is nothing to score.
    """
    batches = list(windows)
    n_bytes = round(sum(b.scored.sum() * b.bytes_per_token for b in batches))
    if not n_bytes or n_chips < 1:
        raise ValueError(
            "There must be text and at least one chip to score, but there are"
            f" {n_bytes} bytes and {n_chips} chips."
        )
    found = scored_bits(model, batches, process=process, n_chips=n_chips, key=key)
    return replace(quality_of(found), n_bytes=n_bytes)


def scored_bits(
    model: Model,
    batches: Sequence[Windows],
    *,
    process: Process,
    n_chips: int,
    key: Key[Array, ""],
) -> Iterator[Float32[np.ndarray, " scored"]]:
    """Bits of every scored target, chip by chip: what `score` averages.

    Of tokens that are not bytes they are over the bytes of a token, measured on the
    split, so that the mean is bits per byte whatever the vocabulary.
    """
    return _each(_bits, model, batches, process, n_chips, key)


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
    root, group = stream(key, "chip"), full_group(1) if n_chips > 1 else 1
    model, process = everywhere((model, process), group)
    for start in range(0, n_chips, group):
        keys = chip_keys(root, start, group)
        arrays = _fabricate(model, process, keys)
        found = []
        for i, batch in enumerate(batches):
            shown = batch._replace(tokens=jnp.asarray(batch.tokens))
            windows, index = everywhere((shown, jnp.uint32(i)), group)
            each = _measured(measure, model, arrays, windows, process, keys, index)
            found.append(np.asarray(each)[:, batch.scored])
        for chip in range(min(group, n_chips - start)):
            yield np.concatenate([each[chip] for each in found])


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
