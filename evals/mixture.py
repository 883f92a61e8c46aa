"""Counted tables under a network: one number mixes their probabilities."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.optimize import minimize_scalar

from evals.energy import MACHINES
from evals.quality import Quality, quality_of, scored_bits
from physnn.energy import Ledger, bill, load_prices
from physnn.energy.events import Event
from physnn.process import Process
from train.baseline import FlaxModel
from train.corpus.files import SPLITS
from train.counts import CountedModel, CountsConfig
from train.loop import TrainedRun, load_run
from train.tasks.text import Text

# Windows of the validation split that choose the share.
FITTING_WINDOWS = 256


@dataclass(frozen=True)
class Mixture:
    """A network and counted tables side by side, as one design to be billed.

        p = (1 − λ)·p_network + λ·p_counts

    A token is drawn by choosing one of the two with one random number and then from
    that one alone, so the mixture itself multiplies nothing. Both are billed as if they
    formed their distribution for every token: an upper bound.
    """

    network: Any
    counts: CountedModel
    digital: bool  # where the tables are: see `CountedModel.table_events`

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What both make happen, one sampler, and the choice between the two."""
        tables = self.counts.table_events(
            process, period_s=period_s, digital=self.digital
        )
        return (
            *self.network.events(process, period_s=period_s),
            *(event.under("counts") for event in tables),
            Event("compare", 1, "mixture"),
            Event("random_bit", 32, "mixture"),
        )


@dataclass(frozen=True)
class MixtureScore:
    """A network with and without counted tables under it, on the same chips."""

    order: int
    share: float  # λ, fitted on the validation split
    network: Quality
    counts: Quality
    mixed: Quality
    bills: dict[str, tuple[Ledger, Ledger]]  # list: (the network alone, with tables)

    def to_json(self) -> dict[str, Any]:
        return {
            "order": self.order,
            "share": self.share,
            **{name: asdict(getattr(self, name)) for name in _ROWS},
            "bills": {
                name: {"network": alone.to_json(), "mixed": both.to_json()}
                for name, (alone, both) in self.bills.items()
            },
        }

    def __str__(self):
        names = {
            "network": "network alone",
            "counts": f"counts alone, contexts of 0 to {self.order} bytes",
            "mixed": f"mixed, share of the counts {self.share:.3f}",
        }
        lines = [f"{names[row]}: {getattr(self, row)}" for row in _ROWS]
        lines += [
            f"{name}: {both.total} per token, {alone.total} without the counts"
            for name, (alone, both) in self.bills.items()
        ]
        return "\n".join(lines)


_ROWS = ("network", "counts", "mixed")


def mixed_bits(
    network: Float[np.ndarray, " scored"],
    counts: Float[np.ndarray, " scored"],
    share: float,
) -> Float[np.ndarray, " scored"]:
    """Bits of every target under the mixture, from the bits under either part."""
    with np.errstate(divide="ignore"):  # a share of 0 or 1 is the other part alone
        parts = np.log2(1 - share) - network, np.log2(share) - counts
    return -np.logaddexp2(*parts)


def fit_share(
    network: Float[np.ndarray, " scored"], counts: Float[np.ndarray, " scored"]
) -> float:
    """The share λ in [0, 1] of fewest bits; they are convex in it, so there is one."""
    mean_bits = lambda share: float(np.mean(mixed_bits(network, counts, share)))
    found = minimize_scalar(
        mean_bits, bounds=(0.0, 1.0), method="bounded", options={"xatol": 1e-4}
    )
    return min((0.0, 1.0, float(found.x)), key=mean_bits)


def score_with_counts(
    folder: str | Path,
    *,
    order: int,
    split: str,
    n_chips: int,
    windows: int,
    seed: int,
) -> MixtureScore:
    """Score a run as `score_run` does, alone and with counted tables under it.

    The tables count the training split of the run's own text; the share is fitted on
    the validation split, on the same chips. A physical network is billed with its
    tables in a ROM beside it, a transformer with tables where each machine keeps its
    weights.

    Raises what `load_run` raises, and `ValueError` for a split that there is not, an
    order outside 0..7 and a run that is not a network of text.
    """
    run = load_run(folder)
    if split not in SPLITS:
        raise ValueError(f"Argument `split` must be one of {SPLITS}, but is {split!r}.")
    task = run.experiment.task.build()
    # Bits of a symbol and of a byte must be one thing, for two of them to be mixed.
    if (
        isinstance(run.model, CountedModel)
        or not isinstance(task, Text)
        or task.symbols.file is not None
    ):
        raise ValueError(
            f"The run in {folder} must be a network of text, in bytes, to put counts"
            f" under it, but its model is of kind {run.experiment.model.kind!r}, its"
            f" task of kind {run.experiment.task.kind!r} ({task.vocabulary} symbols)."
        )
    digital = isinstance(run.model, FlaxModel)
    counts = CountsConfig(order=order).count(task.tokens("train"))

    def bits(split: str, limit: int, key: Key[Array, ""]):
        batches = [*task.windows(split, batch=run.experiment.batch, limit=limit)]
        of = lambda model, chips: scored_bits(
            model, batches, process=run.process, n_chips=chips, key=key
        )
        (table,) = of(counts, 1)
        return [*of(run.model, 1 if digital else n_chips)], table

    key = jr.key(seed)
    # The chips of `score_run`; what they do on other text is other noise.
    fitted, table = bits("validation", windows or FITTING_WINDOWS, key)
    share = fit_share(np.concatenate(fitted), np.tile(table, len(fitted)))
    networks, table = bits(split, windows, key)
    return MixtureScore(
        order,
        share,
        quality_of(networks),
        quality_of([table]),
        quality_of(mixed_bits(each, table, share) for each in networks),
        _bills(run, counts),
    )


def _bills(run: TrainedRun, counts: CountedModel):
    digital = isinstance(run.model, FlaxModel)
    # A digital model has no period of its own: it is as busy as a physical one.
    period_s = (counts if digital else run.model).config.period_s
    found = {}
    for name, file in (MACHINES if digital else {"analog28": "analog28"}).items():
        prices = load_prices(file)
        alone, both = (
            bill(design, prices, process=run.process, period_s=period_s)
            for design in (run.model, Mixture(run.model, counts, digital))
        )
        found[name] = (alone, both)
    return found
