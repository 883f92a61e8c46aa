"""evaluate: one row of a table of results, from one run or several seeds of it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from circuits.event_gate import measure_activity
from circuits.lookup import has_tables, softened
from circuits.memory import HashedMemory
from evals.energy import MACHINES
from evals.quality import Quality, median_interval, quality_of, score, scored_hits
from evals.wind_tunnel import simulation_energy
from physnn.deploy import Source, active_sources
from physnn.diagnose import diagnose, judged, limits_of
from physnn.dynamics import Integrated, SolverConfig, integrated
from physnn.energy import Modeled, bill, load_prices
from physnn.environment import Environment
from physnn.export.selection import circuits_of
from train.counts import CountedModel
from train.loop import TrainedRun, load_finished
from train.metrics import read_metrics
from train.objective import Model
from train.tasks.images import ImagesConfig

# Windows of the solver transfer: Diffrax is slow, and the difference is small or not.
TRANSFER_WINDOWS = 16
TRANSFER_IMAGES = 1000


@dataclass(frozen=True)
class Evaluation:
    """What a row of a table of results says about one experiment."""

    name: str
    seeds: tuple[int, ...]
    parameters: int
    in_memories: int  # of them, in tables of which a token reads a few rows
    tokens: int  # seen in training; images of an image task
    tokens_per_s: float | None
    bits: Quality  # per byte, or per image; over seeds and chips
    accuracy: Quality | None  # of images
    energy_J: dict[str, Modeled]  # per token by price list
    wind_tunnel: Modeled | None
    soft: float | None  # quality with lookup tables evaluated soft; images: accuracy
    other_solver: tuple[float, float] | None  # quality by fast path, by Diffrax
    figures: dict[str, dict[str, float]]  # of the first seed
    limits: dict[str, tuple[float, float]]  # where they should be
    bytes_per_token: float = 1.0  # of the scored split; J/byte is J/token over it
    sources: tuple[Source, ...] = ()  # of noise and mismatch, as it was scored
    overrides: tuple[str, ...] = ()  # prices that are not those of physnn

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "energy_J": {k: v.to_json() for k, v in self.energy_J.items()},
            "J_per_byte": {
                k: v.scaled(1 / self.bytes_per_token).to_json()
                for k, v in self.energy_J.items()
            },
            "wind_tunnel": self.wind_tunnel and self.wind_tunnel.to_json(),
        }

    def __str__(self):
        tables = f" ({self.in_memories:,} in memories)" if self.in_memories else ""
        each = "image" if self.accuracy else "token"
        seeds = "1 seed" if len(self.seeds) == 1 else f"{len(self.seeds)} seeds"
        lines = [
            f"{self.name}: {seeds}, {self.parameters:,} parameters{tables}, trained on"
            f" {self.tokens:,} {each}s",
            f"  quality      {_interval(self.bits)}",
        ]
        if self.accuracy:
            lines.append(f"  accuracy     {_interval(self.accuracy)}")
        if self.sources:
            lines.append(f"  scored with  {active(self.sources)}")
        for name, energy in self.energy_J.items():
            rate, byte = self.bytes_per_token, ""
            if rate != 1:
                byte = f", {energy.scaled(1 / rate)} per byte"
                byte += f" ({rate:.3f} bytes per token)"
            lines.append(f"  energy       {energy} per {each}{byte} on {name}")
        lines += [f"  {said}" for said in self.overrides]
        if self.wind_tunnel:
            w = self.wind_tunnel
            lines.append(
                f"  wind tunnel  {w.nominal:.3g}x ({w.low:.2g} to {w.high:.2g}):"
                " simulate digitally over run"
            )
        if self.tokens_per_s:
            lines.append(f"  training     {self.tokens_per_s:,.0f} {each}s/s")
        if self.soft is not None:
            hard = self.accuracy or self.bits
            gap = self.soft / hard.median - 1
            lines.append(f"  soft tables  {self.soft:.4f} {hard.unit} ({gap:+.2%})")
        if self.other_solver:
            ours, theirs = self.other_solver
            lines.append(f"  solver       {ours:.4f} fast path, {theirs:.4f} Diffrax")
        for path, row in self.figures.items():
            lines.append(f"  {path}")
            lines += [f"    {line}" for line in judged(row, self.limits).split("\n")]
        return "\n".join(lines)


def evaluate(
    folders: Sequence[str | Path],
    *,
    split: str = "test",
    n_chips: int = 8,
    windows: int = 0,
    seed: int = 0,
    prices: str = "analog28",
) -> Evaluation:
    """One row: the runs in `folders` are one experiment with different seeds.

    The quality is that of all chips of all seeds: the median of the seeds' medians, and
    the interval over seeds (chips, for one seed). Raises `ValueError` for runs of
    different experiments, and what `load_finished` raises.
    """
    runs = [load_finished(folder) for folder in folders]
    _one_experiment(runs)
    first = runs[0]
    task = first.experiment.task.build()
    batch = first.experiment.batch
    batches = [*task.windows(split, batch=batch, limit=windows)]
    images = isinstance(first.experiment.task, ImagesConfig)
    bits, hits, soft = [], [], []
    chips = n_chips if first.experiment.chips else 1
    for run in runs:
        asked = {"process": run.process, "n_chips": chips, "key": jr.key(seed)}
        bits.append(score(run.model, batches, **asked))
        if images:
            shares = scored_hits(run.model, batches, **asked)
            hits.append(quality_of(shares, unit="accuracy"))
        if has_tables(run.model):
            smooth = softened(run.model)
            if images:
                shares = scored_hits(smooth, batches, **asked)
                soft.append(quality_of(shares, unit="accuracy").median)
            else:
                soft.append(score(smooth, batches, **asked).median)
    seen = jnp.asarray(batches[0].tokens[:, :-1], jnp.int32)
    # What was silent is not billed: event gates are counted on what they see.
    counted = measure_activity(
        first.model, seen, process=first.process, key=jr.key(seed)
    )
    return Evaluation(
        first.experiment.name,
        tuple(run.experiment.seed for run in runs),
        n_parameters(first),
        sum(
            circuit.table.size
            for _, circuit in circuits_of(first.model)
            if isinstance(circuit, HashedMemory)
        ),
        first.step * first.experiment.tokens_per_step,
        training_rate(first.folder),
        over_seeds(bits, "bits/image" if images else "bits/byte"),
        over_seeds(hits, "accuracy") if images else None,
        dict(_energies(first, counted, prices)),
        _wind_tunnel(first, counted, prices),
        median(soft) if soft else None,
        _transfer(first, task, split, seed),
        _figures(first, batches[0].tokens),
        limits_of(first.model),
        task.bytes_per_token(split),
        sources_of(first),
        load_prices(prices).overrides if _is_circuit(first) else (),
    )


def sources_of(run: TrainedRun) -> tuple[Source, ...]:
    """What `score` leaves on, by the parts that it moves; nothing of a digital run."""
    if not run.experiment.chips:
        return ()
    return active_sources(run.model, run.process, Environment(), strict=False)


def active(sources: Sequence[Source]) -> str:
    """Sources in one line: amount, and of how many parts it moves how many."""
    return "; ".join(f"{source} parts" for source in sources)


def over_seeds(each: Sequence[Quality], unit: str) -> Quality:
    """The median of seeds, and its interval; of one seed, of its chips."""
    if len(each) == 1:
        return replace(each[0], unit=unit)
    values = [quality.median for quality in each]
    low, high, coverage = median_interval(values)
    return Quality(
        median(values), low, high, coverage, each[0].n_chips, each[0].n_bytes,
        tuple(values), unit,
    )  # fmt: skip


def n_parameters(run: TrainedRun) -> int:
    """Trained numbers of a model."""
    leaves = jax.tree.leaves(eqx.filter(run.model, eqx.is_inexact_array))
    return sum(leaf.size for leaf in leaves)


def training_rate(folder: Path) -> float | None:
    """Median tokens per second of the updates of a run; its first one compiles."""
    lines = read_metrics(folder / "metrics.jsonl")
    updates = [line for line in lines if "bits_per_byte" in line]
    if len(updates) < 3:
        return None
    seconds = np.diff([line["seconds"] for line in updates])
    tokens = np.diff([line["tokens"] for line in updates])
    return float(np.median(tokens[1:]) / max(float(np.median(seconds[1:])), 1e-9))


def _is_circuit(run: TrainedRun) -> bool:
    # Counted tables are billed as mask ROM, which is where they would be.
    return run.experiment.chips > 0 or isinstance(run.model, CountedModel)


def _energies(run: TrainedRun, model: Model, prices: str):
    period_s = getattr(getattr(run.model, "config", None), "period_s", 1e-6)
    for name, file in ({prices: prices} if _is_circuit(run) else MACHINES).items():
        spent = bill(model, load_prices(file), process=run.process, period_s=period_s)
        yield name, spent.total


def _wind_tunnel(run: TrainedRun, model: Model, prices: str) -> Modeled | None:
    if not run.experiment.chips:
        return None
    period_s = run.model.config.period_s
    own = bill(model, load_prices(prices), process=run.process).total
    other = simulation_energy(run.model, run.process, period_s=period_s)
    return Modeled(
        other.low / own.high, other.nominal / own.nominal, other.high / own.low
    )


def _transfer(run: TrainedRun, task, split: str, seed: int):
    """Noiseless bits per byte by the fast path and by an adaptive solver of Diffrax.

    Of images it is the accuracy.
    """
    theirs = integrated(run.model, SolverConfig())
    if not any(isinstance(circuit, Integrated) for _, circuit in circuits_of(theirs)):
        return None
    images = isinstance(run.experiment.task, ImagesConfig)
    batch = run.experiment.batch if images else min(run.experiment.batch, 8)
    limit = TRANSFER_IMAGES if images else TRANSFER_WINDOWS
    batches = [*task.windows(split, batch=batch, limit=limit)]
    asked = {"process": run.process.noiseless(), "n_chips": 1, "key": jr.key(seed)}

    def quality(model) -> float:
        if images:
            return quality_of(scored_hits(model, batches, **asked)).median
        return score(model, batches, **asked).median

    return quality(run.model), quality(theirs)


def _figures(run: TrainedRun, tokens: np.ndarray) -> dict[str, dict[str, float]]:
    if not run.experiment.chips:
        return {}
    inputs = jnp.asarray(tokens[:, :-1], jnp.int32)
    key = jr.key(0)
    ask = lambda model: model.logits(inputs, process=run.process, key=key)
    return diagnose(run.model, ask, process=run.process, key=key)


def _one_experiment(runs: Sequence[TrainedRun]) -> None:
    alike = {run.experiment.anonymous() for run in runs}
    seeds = [run.experiment.seed for run in runs]
    if not runs or len(alike) > 1 or len(set(seeds)) < len(seeds):
        raise ValueError(
            "The runs of one row must be one experiment with different seeds, but these"
            f" are {len(alike)} experiments with seeds {seeds}."
        )


def _interval(quality: Quality) -> str:
    low, high = quality.low, quality.high
    return f"{quality.median:.4f} {quality.unit} ({low:.4f} to {high:.4f})"
