"""Images: circuits against a ladder of conventional networks at equal accuracy."""

import csv
import json
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jax.random as jr

from circuits.event_gate import measure_activity
from evals.compare import ComparisonError
from evals.energy import MACHINES, OTHER_BATCHES
from evals.evaluate import n_parameters, over_seeds
from evals.frontier import blend, read
from evals.quality import quality_of, scored_hits
from physnn.energy import Modeled, bill, load_prices
from train.loop import TrainedRun, load_finished
from train.run_folder import git_commit, read_run_folder
from train.tasks.images import Images, ImagesConfig

BEST_BATCH = "G, best batch"


def are_images(folders: Iterable[str | Path]) -> bool:
    """Whether the first of some runs is of images."""
    first = next(iter(folders), None)
    return first is not None and isinstance(
        read_run_folder(Path(first))[0].task, ImagesConfig
    )


def compare_images(
    folders: Sequence[str | Path],
    *,
    n_chips: int,
    windows: int = 0,
    split: str = "test",
    prices: str = "analog28",
    seed: int = 0,
) -> dict[str, Any]:
    """Joules per image at equal accuracy: `systems` with their bills and ratios.

    Runs of one experiment that differ by seed are one system; noise and mismatch are on
    for circuits. A ratio is the Joules that the ladder would spend at a circuit's
    accuracy over its own, read from the frontier in errors as
    `evals.frontier.equal_quality` does in bits: log J linear between rungs, a bound
    past the ends. Digital machines are billed at the period of the first circuit.

    Raises `ComparisonError` for runs of text, of different images, and unless there is
    a circuit and a conventional network among them.
    """
    runs = [load_finished(folder) for folder in folders]
    task = runs[0].experiment.task.build()
    digests = {read_run_folder(run.folder)[1]["data_digest"] for run in runs}
    if not isinstance(task, Images) or len(digests) > 1:
        raise ComparisonError(
            "Runs must be trained on the same images to be compared as such, but these"
            f" saw {len(digests)} data sets, the first of kind"
            f" `{runs[0].experiment.task.kind}`."
        )
    groups: dict[Any, list[TrainedRun]] = {}
    for run in runs:
        groups.setdefault(run.experiment.anonymous(), []).append(run)
    kinds = {key: key.is_physical for key in groups}
    if len(set(kinds.values())) < 2:
        raise ComparisonError(
            "A comparison of images must have a circuit and a conventional network, but"
            f" has {sum(kinds.values())} circuits among {len(kinds)} systems."
        )
    period_s = next(key.model.period_s for key, physical in kinds.items() if physical)
    ask = {"n_chips": n_chips, "seed": seed, "prices": prices, "period_s": period_s}
    systems = []
    for group in groups.values():
        batch = group[0].experiment.batch
        batches = [*task.windows(split, batch=batch, limit=windows)]
        systems.append(_system(group, batches, **ask))
    rungs = [each for each in systems if each["kind"] == "digital"]
    for each in systems:
        if each["kind"] == "physical":
            each["ratios"] = {
                machine: _ratio(each, rungs, machine, prices)
                for machine in (*MACHINES, BEST_BATCH)
            }
    return {
        "command": shlex.join(["physnn", *sys.argv[1:]]),
        "commit": git_commit(),
        "data": {"name": task.source, "split": split, "windows": windows},
        "systems": systems,
    }


def _system(
    group: Sequence[TrainedRun],
    batches: Sequence[Any],
    *,
    n_chips: int,
    seed: int,
    prices: str,
    period_s: float,
) -> dict[str, Any]:
    first = group[0]
    physical = first.experiment.is_physical
    qualities = [
        quality_of(
            scored_hits(
                run.model,
                batches,
                process=run.process,
                n_chips=n_chips if physical else 1,
                key=jr.key(seed),
            ),
            unit="accuracy",
        )
        for run in group
    ]
    seen = jnp.asarray(batches[0].tokens[:, :-1], jnp.int32)
    counted = measure_activity(
        first.model, seen, process=first.process, key=jr.key(seed)
    )
    if physical:
        lists = {prices: load_prices(prices)}
    else:
        lists = {name: load_prices(file) for name, file in MACHINES.items()}
        lists[BEST_BATCH] = lists["G"].at_batch(OTHER_BATCHES["best batch"])
    bills = {
        name: bill(counted, each, process=first.process, period_s=period_s)
        for name, each in lists.items()
    }
    return {
        "name": first.experiment.name,
        "kind": "physical" if physical else "digital",
        "seeds": [run.experiment.seed for run in group],
        "parameters": n_parameters(first),
        "images": first.step * first.experiment.batch,
        "accuracy": over_seeds(qualities, "accuracy").to_json(),
        "J_per_image": {name: b.total.to_json() for name, b in bills.items()},
        "bills": {name: b.to_json() for name, b in bills.items()},
    }


def _ratio(
    ours: dict[str, Any], rungs: Sequence[dict[str, Any]], machine: str, prices: str
) -> dict[str, Any]:
    errors = [1 - rung["accuracy"]["median"] for rung in rungs]
    spent = [Modeled(**rung["J_per_image"][machine]) for rung in rungs]
    own = Modeled(**ours["J_per_image"][prices])
    relation, weights = read(
        1 - ours["accuracy"]["median"], errors, [each.nominal for each in spent]
    )
    if relation == "below ladder":
        return {"relation": relation, "low": None, "nominal": None, "high": None}
    theirs = blend(spent, weights)
    return {
        "relation": relation,
        "low": theirs.low / own.high,
        "nominal": theirs.nominal / own.nominal,
        "high": theirs.high / own.low,
    }


def image_table(results: dict[str, Any]) -> str:
    """The comparison as text."""
    lines = []
    for system in results["systems"]:
        accuracy = system["accuracy"]
        lines.append(
            f"{system['name']}: {accuracy['median']:.2%} ({accuracy['low']:.2%} to"
            f" {accuracy['high']:.2%}), {system['parameters']:,} parameters,"
            f" seeds {len(system['seeds'])}"
        )
        for machine, energy in system["J_per_image"].items():
            lines.append(f"  {Modeled(**energy)} per image on {machine}")
        for machine, ratio in system.get("ratios", {}).items():
            said = "every rung is better"
            if ratio["nominal"] is not None:
                sign = ">= " if ratio["relation"] == ">=" else ""
                said = (
                    f"{sign}{ratio['nominal']:.3g}x ({ratio['low']:.3g} to"
                    f" {ratio['high']:.3g} over all prices) at equal accuracy"
                )
            lines.append(f"  against {machine}: {said}")
        lines += [f"  {said}" for said in _overrides(system)]
    return "\n".join(lines)


def _overrides(system: dict[str, Any]) -> list[str]:
    return [said for each in system["bills"].values() for said in each["overrides"]]


def write_images(results: dict[str, Any], out: Path) -> Path:
    """`images.json` with everything and `images.csv` with a row for each bill."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("images.json", "images.csv"):
        beside = out / f".{name}.tmp"
        with beside.open("w", newline="") as file:
            if name.endswith(".json"):
                json.dump(results, file, indent=1)
            else:
                _write_rows(csv.writer(file), results)
        beside.replace(out / name)
    return out / "images.csv"


def _write_rows(writer, results: dict[str, Any]) -> None:
    head = ["system", "kind", "parameters", "seeds", "accuracy", "low", "high"]
    writer.writerow(
        [*head, "machine", "J_low", "J_nominal", "J_high", "ratio", "overrides"]
    )
    for system in results["systems"]:
        accuracy, theirs = system["accuracy"], " ".join(_overrides(system))
        own = [system["name"], system["kind"], system["parameters"]]
        own += [len(system["seeds"]), *(accuracy[k] for k in ("median", "low", "high"))]
        for machine, energy in system["J_per_image"].items():
            writer.writerow([*own, machine, *energy.values(), "", theirs])
        for machine, ratio in system.get("ratios", {}).items():
            said = ratio["nominal"]
            if ratio["relation"] != "=":
                said = f"{ratio['relation']} {said or ''}".strip()
            writer.writerow([*own, f"against {machine}", "", "", "", said, theirs])
