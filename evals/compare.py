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
import jax.random as jr

from evals.energy import Scored, compare, ratio_table
from evals.quality import score
from train.baseline import FlaxModel
from train.counts import CountedModel
from train.loop import TrainedRun, load_run
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
    """Everything the report shows, for one physical run and a ladder of transformers.

    Runs of counted tables are rows beside them. All are scored on the same `windows` of
    `split` (0: every byte of it). Raises `ComparisonError` when there is not one
    physical run and at least one transformer, or they saw different text or different
    amounts of it.
    """
    runs = [load_run(folder) for folder in folders]
    counted = [run for run in runs if isinstance(run.model, CountedModel)]
    ladder = [run for run in runs if isinstance(run.model, FlaxModel)]
    physical = [run for run in runs if run not in counted and run not in ladder]
    if len(physical) != 1 or not ladder:
        raise ComparisonError(
            "A comparison must have one physical run and at least one transformer, but"
            f" has {len(physical)} and {len(ladder)}."
        )
    _same_text(runs)
    task = runs[0].experiment.task.build()
    scored = {}
    for run in (*physical, *ladder, *counted):
        chips = n_chips if run in physical else 1
        batches = task.windows(split, batch=run.experiment.batch, limit=windows)
        quality = score(
            run.model,
            batches,
            process=run.process,
            n_chips=chips,
            key=jr.key(seed),
        )
        name = run.experiment.name
        scored[name] = Scored(name, _kind(run), run.model, _tokens(run), quality)
    of = lambda kind: [each for each in scored.values() if each.kind == kind]
    (ours,), rivals = of("physical"), of("transformer")
    results = compare(
        ours,
        rivals,
        counted=of("counts"),
        process=physical[0].process,
        prices=prices,
    )
    results["notes"] += [_about_counts(run) for run in counted]
    of_name = {run.experiment.name: run for run in runs}
    for system in results["systems"]:
        system |= _history(of_name[system["name"]])
    return {
        "title": f"{ours.name} against {len(rivals)} transformers",
        "provenance": _provenance(runs),
        "data": {
            "name": task.source,
            "split": split,
            "windows": windows,
            **{f"{part}_bytes": task.n_bytes(part) for part in _SPLITS},
        },
        **results,
    }


_SPLITS = ("train", "validation", "test")


def summary(results: dict[str, Any]) -> str:
    """The table of a comparison as text."""
    table = [("system", "parameters", "bits/byte", "interval", "chips")]
    for system in results["systems"]:
        quality = system["quality"]
        interval = f"{quality['low']:.3f}-{quality['high']:.3f}"
        table.append(
            (
                system["name"],
                f"{system['parameters']:,}",
                f"{quality['median']:.3f}",
                interval if quality["n_chips"] > 1 else "-",
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
            "Runs must be trained on the same text to be compared, but these saw"
            f" {len(digests)} different ones: train them again on one."
        )
    # A count reads the whole text once, whatever the others had time for.
    trained = [run for run in runs if not isinstance(run.model, CountedModel)]
    tokens = {run.experiment.name: _tokens(run) for run in trained}
    if len(set(tokens.values())) > 1:
        raise ComparisonError(
            f"Runs must have seen equally many tokens to be compared, but saw {tokens}:"
            " finish them, or give them the same `steps`, `batch` and `context`."
        )


def _kind(run: TrainedRun) -> Literal["physical", "transformer", "counts"]:
    if isinstance(run.model, CountedModel):
        return "counts"
    return "transformer" if isinstance(run.model, FlaxModel) else "physical"


def _about_counts(run: TrainedRun) -> str:
    tables = run.model.tables
    megabytes = sum(tables.stored_bits()) / 8e6
    return (
        f"{run.experiment.name}: nothing is learned; {sum(tables.entries()):,} counts"
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
