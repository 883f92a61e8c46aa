"""sweep: an experiment at several values of a setting, quality against Joules."""

import csv
import json
import shlex
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jax.random as jr

from circuits.event_gate import measure_activity
from evals.evaluate import over_seeds
from evals.frontier import blend, frontier, read
from evals.quality import Quality, score
from evals.sweep_plot import sweep_svg
from physnn.energy import Modeled, bill, load_prices
from physnn.units import readable
from train.energy_term import unit_sizes
from train.experiment import (
    ConfigError,
    Experiment,
    from_table,
    load_experiment,
    to_table,
)
from train.loop import train
from train.run_folder import git_commit


@dataclass(frozen=True)
class Setting:
    """A field of an experiment and the values that it takes, one run each."""

    key: str  # path of the field, as `noise.energy_weight`
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Point:
    """One value: the quality over its seeds and chips, and the bill."""

    setting: str
    value: Any
    quality: Quality
    energy: Modeled  # per token, median over the seeds
    largest: str  # what now limits the gain
    sizes: tuple[float, ...]  # of the first seed's devices over where they start
    on_frontier: bool = False  # no point of its setting is better and cheaper

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "value": self.value,
            "quality": self.quality.to_json(),
            "energy_J": self.energy.to_json(),
            "largest": self.largest,
            "sizes": list(self.sizes),
            "on_frontier": self.on_frontier,
        }


def parse_setting(text: str) -> Setting:
    """`KEY=VALUE,VALUE,...`: values as in TOML; what is no TOML is a string.

    Raises `ValueError` for a text without a key or without values.
    """
    key, equals, values = text.partition("=")
    found = tuple(_value(each) for each in values.split(",") if each.strip())
    if not (key.strip() and equals and found):
        raise ValueError(
            f"A setting must be KEY=VALUE,VALUE,..., but is {text!r}: for example"
            " noise.energy_weight=0.01,0.1."
        )
    return Setting(key.strip(), found)


def with_value(experiment: Experiment, key: str, value: Any) -> Experiment:
    """The experiment with one field changed, named by its path.

    Raises `ConfigError` for a field that there is not and a value that it cannot have.
    """
    table = to_table(experiment)
    *parents, last = key.replace("-", "_").split(".")
    inner: Any = table
    for name in parents:
        inner = inner.get(name) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        raise ConfigError(
            f"A setting must name a field of the experiment, but there is no {key!r}."
        )
    inner[last] = value
    return from_table(table)


def sweep(
    config: str | Path,
    settings: Sequence[str],
    *,
    fixed: Sequence[str] = (),
    out: str | Path,
    seeds: int = 1,
    n_chips: int = 8,
    windows: int = 0,
    split: str = "test",
    prices: str | None = None,
) -> dict[str, Any]:
    """Train `config` at every value of every setting, score and bill; write the curves.

    Each of `settings` is one curve (`parse_setting`), varied alone; `fixed` are
    settings of one value for all. Runs lie in `out`, one folder for each value and
    seed, so that an interrupted sweep continues. Of seeds the median counts, as in
    `evaluate`; without `prices` those of the experiment's energy term bill.

    Beside `sweep.json` with everything it writes `sweep.csv` and `sweep.svg`. With two
    settings or more, each point is read against the frontier of the last one, the
    control: Joules at equal bits per byte, log J linear between its points.

    Raises `ValueError` for settings that are wrong or repeated and for a model that is
    no circuit of text, and what `train` raises.
    """
    varied = [parse_setting(each) for each in settings]
    keys = [each.key for each in varied]
    if not varied or len(set(keys)) < len(keys) or seeds < 1:
        raise ValueError(
            "A sweep must have at least one setting, each once, and at least one seed,"
            f" but has {keys} and {seeds} seeds."
        )
    base = load_experiment(config)
    for each in map(parse_setting, fixed):
        if len(each.values) != 1:
            raise ValueError(
                f"A fixed setting must have one value, but {each.key} has"
                f" {len(each.values)}."
            )
        base = with_value(base, each.key, each.values[0])
    if not base.is_physical or base.task.kind != "text":
        raise ValueError(
            "A sweep must be of a physical model of text, whose Joules follow from its"
            f" sizes, but the model is of kind `{base.model.kind}` and the task of kind"
            f" `{base.task.kind}`."
        )
    # All are checked before the first is trained.
    wanted = [
        (each, value, with_value(base, each.key, value))
        for each in varied
        for value in each.values
    ]
    out, listed = Path(out), prices or base.noise.energy_prices
    asked = {"n_chips": n_chips, "windows": windows, "split": split}
    points = [
        _point(each.key, value, experiment, out, seeds=seeds, prices=listed, **asked)
        for each, value, experiment in wanted
    ]
    points = [point for key in keys for point in _judged(points, key)]
    results = {
        "command": shlex.join(["physnn", *sys.argv[1:]]),
        "commit": git_commit(),
        "name": base.name,
        "prices": listed,
        "overrides": list(load_prices(listed).overrides),
        "split": split,
        "settings": keys,
        "points": [point.to_json() for point in points],
        "against": _against(points, keys),
    }
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1) + "\n"
    _write(out / "sweep.json", text)
    _write(out / "sweep.svg", sweep_svg(results))
    _write_csv(out / "sweep.csv", results)
    return json.loads(text)


def sweep_table(results: dict[str, Any]) -> str:
    """The points of a sweep as text, and what they are to the control."""
    against = {(each["setting"], each["value"]): each for each in results["against"]}
    head = "setting value bits/byte interval J/token size frontier"
    rows: list[tuple[str, ...]] = [tuple(head.split())]
    for point in results["points"]:
        quality, sizes = point["quality"], point["sizes"]
        rows.append(
            (
                point["setting"],
                str(point["value"]),
                f"{quality['median']:.4f}",
                f"{quality['low']:.4f}-{quality['high']:.4f}",
                readable(point["energy_J"]["nominal"], "J"),
                f"{min(sizes):.2f}-{max(sizes):.2f}" if sizes else "-",
                "yes" if point["on_frontier"] else "no",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += results["overrides"]
    control = results["settings"][-1]
    for each in against.values():
        lines.append(
            f"{each['setting']}={each['value']}: {_said(each)} (control: {control})"
        )
    return "\n".join(lines)


def _said(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return "worse than every point of the control"
    sign = ">= " if row["relation"] == ">=" else ""
    return f"the control spends {sign}{row['ratio']:.3f}x at equal bits per byte"


def _point(
    key: str,
    value: Any,
    experiment: Experiment,
    out: Path,
    *,
    seeds: int,
    prices: str,
    n_chips: int,
    windows: int,
    split: str,
) -> Point:
    task = experiment.task.build()
    batches = [*task.windows(split, batch=experiment.batch, limit=windows)]
    seen = jnp.asarray(batches[0].tokens[:, :-1], jnp.int32)
    qualities, ledgers, sizes = [], [], ()
    for i in range(seeds):
        each = replace(experiment, seed=experiment.seed + i)
        run = train(each, out / f"{key}={value}_s{each.seed}", progress=True)
        qualities.append(
            score(
                run.model, batches, process=run.process, n_chips=n_chips, key=jr.key(0)
            )
        )
        counted = measure_activity(run.model, seen, process=run.process, key=jr.key(0))
        ledgers.append(bill(counted, load_prices(prices), process=run.process))
        if i == 0:
            sizes = tuple(float(jnp.exp(size)) for size in unit_sizes(run.model))
    ledgers.sort(key=lambda ledger: ledger.total.nominal)
    middle = ledgers[(len(ledgers) - 1) // 2]
    quality = over_seeds(qualities, "bits/byte")
    return Point(key, value, quality, middle.total, middle.largest(), sizes)


def _judged(points: Sequence[Point], key: str) -> list[Point]:
    own = [point for point in points if point.setting == key]
    scores = [point.quality.median for point in own]
    kept = frontier(scores, [point.energy.nominal for point in own])
    return [replace(p, on_frontier=i in kept) for i, p in enumerate(own)]


def _against(points: Sequence[Point], keys: Sequence[str]) -> list[dict[str, Any]]:
    """What the control, the last setting, would spend at the quality of each point."""
    control = [point for point in points if point.setting == keys[-1]]
    scores = [point.quality.median for point in control]
    spent = [point.energy for point in control]
    found = []
    for point in points:
        if point.setting == keys[-1]:
            continue
        relation, weights = read(
            point.quality.median, scores, [each.nominal for each in spent]
        )
        ratio = None
        if relation != "below ladder":
            ratio = blend(spent, weights).nominal / point.energy.nominal
        found.append(
            {
                "setting": point.setting,
                "value": point.value,
                "relation": relation,
                "ratio": ratio,
            }
        )
    return found


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, "utf-8")
    beside.replace(path)


def _write_csv(path: Path, results: dict[str, Any]) -> None:
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["setting", "value", "bits_per_byte", "low", "high", "J_low", "J_nominal",
             "J_high", "on_frontier", "overrides"]
        )  # fmt: skip
        own = " ".join(results["overrides"])
        for point in results["points"]:
            quality, energy = point["quality"], point["energy_J"]
            writer.writerow(
                [point["setting"], point["value"], quality["median"], quality["low"],
                 quality["high"], *energy.values(), point["on_frontier"], own]
            )  # fmt: skip
    beside.replace(path)
