"""Compare trained runs: score them alike, bill both sides, read the ratio off."""

import os
import platform
import shlex
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr

from circuits.event_gate import measure_activity
from evals.energy import Scored, compare, ratio_table
from evals.evaluate import active, over_seeds, sources_of
from evals.projection import project
from evals.quality import score
from train.baseline import FlaxModel
from train.counts import CountedModel
from train.experiment import Experiment
from train.loop import TrainedRun, load_finished
from train.metrics import read_metrics
from train.run_folder import git_commit, read_run_folder


class ComparisonError(ValueError):
    """The runs cannot be compared; the message says why."""


def compare_runs(
    folders: Iterable[str | Path],
    *,
    n_chips: int,
    windows: int = 0,
    split: str = "test",
    prices: str = "analog28",
    seed: int = 0,
) -> dict[str, Any]:
    """Everything the report shows, for physical systems and a ladder of transformers.

    Runs of one experiment that differ by seed form one system. Runs of counted tables
    are rows beside them. All are scored on the same `windows` of `split` (0: every byte
    of it). What event gates kept silent on the first of them is not billed. Raises
    `ComparisonError` when there is no physical run or no transformer, a run is given
    twice, or they saw different text or different amounts of it.
    """
    runs = [load_finished(folder) for folder in folders]
    groups = _systems(runs)
    kinds = [_kind(group[0]) for group in groups.values()]
    if "physical" not in kinds or "transformer" not in kinds:
        raise ComparisonError(
            "A comparison must have at least one physical run and one transformer, but"
            f" has {kinds.count('physical')} and {kinds.count('transformer')}."
        )
    _same_text(runs)
    task = runs[0].experiment.task.build()
    scored: dict[str, Scored] = {}
    for name, group in groups.items():
        kind, experiment = _kind(group[0]), group[0].experiment
        batches = [*task.windows(split, batch=experiment.batch, limit=windows)]
        qualities = [
            score(
                run.model,
                batches,
                process=run.process,
                n_chips=n_chips if kind == "physical" else 1,
                key=jr.key(seed),
            )
            for run in group
        ]
        seen = jnp.asarray(batches[0].tokens[:, :-1], jnp.int32)
        models = [
            measure_activity(run.model, seen, process=run.process, key=jr.key(seed))
            for run in group
        ]
        scored[name] = Scored(
            name,
            kind,
            tuple(models),
            _tokens(group[0]),
            over_seeds(qualities, "bits/byte"),
            tuple(qualities),
            group[0].process,
            group[0].model,
        )
    of = lambda kind: [each for each in scored.values() if each.kind == kind]
    ours, rivals, counted = of("physical"), of("transformer"), of("counts")
    results = compare(
        ours,
        rivals,
        counted=counted,
        prices=prices,
        bytes_per_token=task.bytes_per_token(split),
    )
    results["notes"] += [_about_counts(each) for each in counted]
    for each in ours:
        sources = sources_of(groups[each.name][0])
        results["notes"].append(f"{each.name} was scored with {active(sources)}.")
    for system in results["systems"]:
        group = groups[system["name"]]
        system |= _history(group[0])
        system["run_seeds"] = [run.experiment.seed for run in group]
    names = " and ".join(each.name for each in ours)
    results["projection"] = project(ours, rivals, results["systems"])
    return {
        "title": f"{names} against {_many(len(rivals), 'transformer')}",
        "provenance": _provenance(runs),
        "data": {
            "name": task.source,
            "split": split,
            "windows": windows,
            **{f"{part}_bytes": task.n_bytes(part) for part in _SPLITS},
        },
        **results,
    }


def _many(n: int, what: str) -> str:
    return f"{n} {what}" + ("s" if n != 1 else "")


def _systems(runs: Sequence[TrainedRun]) -> dict[str, list[TrainedRun]]:
    """Runs by system: those of one experiment, whatever their seed and name."""
    groups: dict[Experiment, list[TrainedRun]] = {}
    for run in runs:
        alike = groups.setdefault(run.experiment.anonymous(), [])
        if any(run.experiment.seed == other.experiment.seed for other in alike):
            raise ComparisonError(
                f"The runs of a system must differ in their seeds, but {run.folder} and"
                f" {alike[0].folder} both have seed {run.experiment.seed}: leave out"
                " one of them."
            )
        alike.append(run)
    # Experiments of one name, with different settings, go by their folders.
    names = [group[0].experiment.name for group in groups.values()]
    tails = _tails([group[0].folder for group in groups.values()])
    names = [
        f"{name} ({tail})" if names.count(name) > 1 else name
        for name, tail in zip(names, tails, strict=True)
    ]
    return dict(zip(names, groups.values(), strict=True))


def _tails(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell all of them apart."""
    paths = [folder.absolute() for folder in folders]
    n = 1
    while len({path.parts[-n:] for path in paths}) < len(paths):
        n += 1
    return [str(Path(*path.parts[-n:])) for path in paths]


_SPLITS = ("train", "validation", "test")


def summary(results: dict[str, Any]) -> str:
    """The table of a comparison as text."""
    table = [("system", "parameters", "bits/byte", "interval", "seeds", "chips")]
    for system in results["systems"]:
        quality = system["quality"]
        interval = f"{quality['low']:.3f}-{quality['high']:.3f}"
        table.append(
            (
                system["name"],
                f"{system['parameters']:,}",
                f"{quality['median']:.3f}",
                interval if len(quality["values"]) > 1 else "-",
                str(len(system["seeds"])),
                str(quality["n_chips"]),
            )
        )
    widths = [max(len(cell) for cell in column) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in table
    ]
    return "\n".join([*lines, "", ratio_table(results), "", *results["notes"]])


def _same_text(runs: Sequence[TrainedRun]) -> None:
    digests = {read_run_folder(run.folder)[1]["data_digest"] for run in runs}
    if len(digests) > 1:
        raise ComparisonError(
            "Runs must be trained on the same tokens of the same text to be compared,"
            f" but these saw {len(digests)} different ones: train them again on one, or"
            " read bits and Joules per byte of each with `physnn evaluate`."
        )
    # A count reads the whole text once, whatever the others had time for.
    trained = [run for run in runs if not isinstance(run.model, CountedModel)]
    tokens = {str(run.folder): _tokens(run) for run in trained}
    if len(set(tokens.values())) > 1:
        raise ComparisonError(
            f"Runs must have seen equally many tokens to be compared, but saw {tokens}:"
            " finish them, or give them the same `steps`, `batch` and `context`."
        )


def _kind(run: TrainedRun) -> Literal["physical", "transformer", "counts"]:
    if isinstance(run.model, CountedModel):
        return "counts"
    return "transformer" if isinstance(run.model, FlaxModel) else "physical"


def _about_counts(scored: Scored) -> str:
    tables = scored.models[0].tables
    megabytes = sum(tables.stored_bits()) / 8e6
    return (
        f"{scored.name}: nothing is learned; {sum(tables.entries()):,} counts"
        f" of {tables.n_tokens:,} bytes of the training split, {megabytes:.3g} MB of"
        " tables, billed as a mask ROM."
    )


def _tokens(run: TrainedRun) -> int:
    if isinstance(run.model, CountedModel):
        return run.model.tables.n_tokens
    return run.step * run.experiment.tokens_per_step


def _history(run: TrainedRun) -> dict[str, Any]:
    """Learning curves and rates of a run, from its metrics."""
    lines = read_metrics(run.folder / "metrics.jsonl")
    updates = [line for line in lines if "bits_per_byte" in line]
    seconds = updates[-1]["seconds"] if updates else 0.0
    # The first step compiles: rates are those of the rest.
    rate = None
    if len(updates) > 1:
        first, last = updates[0], updates[-1]
        rate = (last["tokens"] - first["tokens"]) / max(
            last["seconds"] - first["seconds"], 1e-9
        )
    return {
        "curve": [
            {key: line[key] for key in ("tokens", "bits_per_byte")} for line in updates
        ],
        "validation": [
            {
                "tokens": line["tokens"],
                "bits_per_byte": line["validation_bits_per_byte"],
            }
            for line in lines
            if "validation_bits_per_byte" in line
        ],
        "seconds": seconds,
        "tokens_per_s": rate,
        "learning_rate": run.experiment.optimizer.peak_rate,
    }


def _provenance(runs: Sequence[TrainedRun]) -> dict[str, Any]:
    return {
        "command": shlex.join(["physnn", *sys.argv[1:]]),
        "commit": git_commit(),
        "version": version("physnn"),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, "
        f"{platform.system()}, Python {platform.python_version()}, "
        f"JAX {jax.__version__} on {jax.default_backend()}",
        "seeds": sorted({run.experiment.seed for run in runs}),
        "wall_s": None,
    }
