"""robustness(run, suite): read it top to bottom."""

import dataclasses
import json
import os
import shlex
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax.random as jr

from evals.report import plain
from evals.robustness.page import write_page
from evals.robustness.progress import SuiteProgress
from evals.robustness.ranking import ranked
from evals.robustness.scoring import Chips, Seen
from evals.robustness.store import Store, fingerprint
from evals.robustness.studies import Point, asked_of, points_of, row_of
from evals.robustness.suite import (
    Converters,
    Ranking,
    Suite,
    WorstCase,
    Yield,
    load_suite,
)
from evals.robustness.worst_case import worst_case
from evals.robustness.yields import Bar, Calibrated, yield_of
from physnn.deploy import Source, active_sources, honored
from physnn.disturbance import TEMPORAL
from physnn.environment import AMOUNTS, Environment, load_environment
from physnn.keys import stream
from physnn.process import default_environment
from train.experiment import to_table
from train.loop import TrainedRun, load_run
from train.run_folder import git_commit, read_run_folder
from train.tasks.images import ImagesConfig

RESULTS, PAGE, STORE = "robustness.json", "robustness.html", "robustness.jsonl"


@dataclass(frozen=True)
class Setting:
    """What all studies share: the run, its windows, its environment and what acts."""

    run: TrainedRun
    suite: Suite
    chips: Chips
    environment: Environment  # of the suite, without what no part honors
    left_out: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def acting(self) -> set[str]:
        """Amounts that some part of the model honors."""
        return {each.name for each in self.sources if each.acts_on}


def robustness(
    folder: str | Path,
    suite: str | Path | Suite = "robustness",
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Attack the run in `folder` with a suite; write `robustness.json` and a page.

    What is measured is kept in `robustness.jsonl` at once: an interrupted suite
    continues, and one that is complete writes its page again. Other settings, weights
    or another commit begin anew.

    Raises `ValueError` for a run that has no physical devices, a suite that is wrong
    and a bar that cannot be reached, and what `load_run` raises.
    """
    folder = Path(folder)
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    experiment, _ = read_run_folder(folder)
    if not experiment.chips:
        raise ValueError(
            f"The run in {folder} must be of a physical model, but is of kind"
            f" `{experiment.model.kind}`, which has no devices that vary: attack"
            " its numbers with `evals.robustness.attack` (docs/robustness.md)."
        )
    run = load_run(folder)
    setting = setting_of(run, suite, seed=seed)
    facts = {
        "suite": dataclasses.asdict(suite),
        "seed": seed,
        "commit": git_commit(),
        "step": run.step,
        "experiment": to_table(run.experiment),
        "process": str(run.process),
        "environment": str(setting.environment),
    }
    store = Store(folder / STORE, fingerprint(facts, run.model))
    began = time.monotonic()
    steps = 1 + sum(getattr(suite, name) is not None for name in LATER)
    points = points_of(suite, setting.environment, setting.acting)
    show = SuiteProgress(
        f"robustness of {folder.name}",
        steps=len(points) + steps - 1,
        enabled=progress,
    )
    with show:
        rows = [_measured(setting, point, store, show) for point in points]
        design = rows[0]
        results: dict[str, Any] = {
            "title": f"Robustness of {run.experiment.name}",
            "run": str(folder),
            "command": shlex.join(["physnn", *sys.argv[1:]]),
            "commit": facts["commit"],
            "seed": seed,
            "step": run.step,
            "unit": unit_of(run),
            "process": run.process.name,
            "split": suite.split,
            "windows": len(setting.chips.seen.tokens),
            "scored": int(setting.chips.seen.scored.sum()),
            "suite": plain(dataclasses.asdict(suite)),
            "left_out": list(setting.left_out),
            "sources": [dataclasses.asdict(each) for each in setting.sources],
            "design": design,
            "studies": rows[1:],
        }
        for name, measure in LATER.items():
            if getattr(suite, name) is not None:
                show.begins(name.replace("_", " "))
                results[name] = measure(setting, getattr(suite, name), design, store)
                show.ends()
    results["wall_s"] = round(time.monotonic() - began, 1)
    write_results(results, folder)
    return results


def setting_of(run: TrainedRun, suite: Suite, *, seed: int) -> Setting:
    """Windows, environment and sources of a suite on a run."""
    task = run.experiment.task.build()
    windows = task.windows(suite.split, batch=suite.windows, limit=suite.windows)
    asked = suite.environment
    default = load_environment(asked) if asked else default_environment(run.process)
    everything = asked_of(suite, default)
    _, lost = honored(run.model, run.process, everything)
    nones = {n: getattr(Environment(), n) for n in lost}
    default, everything = default.replace(**nones), everything.replace(**nones)
    sources = active_sources(run.model, run.process, everything)
    place = [*AMOUNTS, "corner", "temperature_K"].index
    sources = sorted(sources, key=lambda each: place(each.name))
    sources = tuple(_named(each, default) for each in sources)
    acting = [each.name for each in sources if each.acts_on]
    traced = tuple(n for n in acting if n in AMOUNTS)
    if set(TEMPORAL) & set(traced):
        traced = (*traced, "ripple_Hz")
    chips = Chips(
        run.model,
        run.process,
        Seen.of(windows),
        stream(jr.key(seed), "robustness"),
        period_s=run.model.config.period_s,
        together=suite.together,
        traced=traced,
    )
    return Setting(run, suite, chips, default, lost, sources)


def _named(source: Source, default: Environment) -> Source:
    """The source with its value in the suite's environment; others are varied."""
    value = getattr(default, source.name)
    is_none = value is None if source.name == "temperature_K" else False
    if source.name in AMOUNTS:
        is_none = default.is_none(source.name)
    return replace(source, value="varied" if is_none else value)


def _measured(setting: Setting, point: Point, store: Store, show: SuiteProgress):
    show.begins(f"{point.study} {point.series}".strip())

    def measure():
        bits, hits = setting.chips.score(point.environment, point.chips)
        return row_of(point, bits, hits)

    row = store.get(point.id, measure)
    show.ends()
    return row


def _converters(setting: Setting, chosen: Converters, design, store: Store):
    """Bits of every chip by bits of its converters; all else ideal."""
    config = setting.run.model.config
    found = []
    if getattr(config, "converters", "surveyed") != "surveyed":
        return {"rows": [], "why": "the converters of this model are circuits"}
    for bits in chosen.bits:

        def measure(bits=bits):
            model = replace_config(setting.run.model, converter_bits=bits)
            ideal = replace(setting.chips, model=model, traced=())
            own, hits = ideal.score(Environment.ideal(), 1)
            return {"bits_of": bits, "bits": float(own[0]), "accuracy": float(hits[0])}

        found.append(store.get(f"converters/{bits}", measure))
    return {"rows": found, "own": config.converter_bits}


def replace_config(model: Any, **changes) -> Any:
    """The same model with another config, which says nothing of its arrays."""
    # Not `dataclasses.replace`: a model builds its arrays anew from its config.
    fields = dict(vars(model)) | {"config": replace(model.config, **changes)}
    changed = object.__new__(type(model))
    for name, value in fields.items():
        object.__setattr__(changed, name, value)
    return changed


def _worst(setting: Setting, chosen: WorstCase, design, store: Store):
    task = setting.run.experiment.task.build()
    n = chosen.windows
    # On the text of the studies, what is found is scored again.
    near = Seen.of(task.windows(_other(setting), batch=n, limit=n))
    near = shortened(near, chosen.tokens)
    return worst_case(
        setting.run.model,
        setting.run.process,
        chosen,
        near=near,
        far=setting.chips.seen,
        key=setting.chips.key,
        get=store.get,
    )


def _other(setting: Setting) -> str:
    """A split that the studies do not read."""
    return "validation" if setting.suite.split == "test" else "test"


def shortened(seen: Seen, tokens: int) -> Seen:
    """The first `tokens` inputs of each text; images, with one target, stay whole."""
    if seen.scored.shape[1] == 1:
        return seen
    scored = seen.scored[:, :tokens]
    return seen._replace(
        tokens=seen.tokens[:, : tokens + 1], scored=scored.at[:, -1].set(True)
    )


def _yields(setting: Setting, chosen: Yield, design, store: Store):
    run = setting.run
    bar = Bar.of(chosen, bits=design["median"], accuracy=design["accuracy"][0])
    point = Point("yield", "", 1.0, "", setting.environment, chosen.chips)
    measure = lambda adjust: (
        lambda: row_of(
            point, *setting.chips.score(point.environment, chosen.chips, adjust=adjust)
        )
    )
    before = store.get("yield/before", measure(None))
    found: dict[str, Any] = {
        "bar": str(bar),
        "bar_bits": bar.bits,
        "bar_accuracy": bar.accuracy,
        "before": yield_of(bar, before, confidence=chosen.confidence),
        "bits_before": before["bits"],
    }
    n = chosen.calibration_windows
    if not n:
        return found | {"why": "no windows were given to calibrate on"}
    task = run.experiment.task.build()
    seen = Seen.of(task.windows(_other(setting), batch=n, limit=n))
    calibrate = Calibrated.of(run.model, run.process, seen)
    after = store.get("yield/after", measure(calibrate))
    return found | {
        "after": yield_of(bar, after, confidence=chosen.confidence),
        "bits_after": after["bits"],
        "calibration_windows": calibrate.n_windows,
        "calibration": dataclasses.asdict(calibrate.config),
    }


def _ranking(setting: Setting, chosen: Ranking, design, store: Store):
    measure = lambda: ranked(
        setting.run.model,
        setting.run.process,
        chosen,
        seen=setting.chips.seen,
        prices=setting.suite.prices,
        key=setting.chips.key,
    )
    rows = store.get("ranking", measure)
    return {"rows": rows, "area": chosen.area}


# What is no list of environments, in the order in which it runs.
LATER = {
    "converters": _converters,
    "worst_case": _worst,
    "yields": _yields,
    "ranking": _ranking,
}


def unit_of(run: TrainedRun) -> str:
    """Of the quality."""
    images = isinstance(run.experiment.task, ImagesConfig)
    return "bits/image" if images else "bits/byte"


def write_results(results: dict[str, Any], folder: Path) -> None:
    """`robustness.json` and its page: written beside their place and renamed."""
    results = plain(results)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = write_page(results)
    for name, content in ((RESULTS, text), (PAGE, page)):
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_text(content, "utf-8")
        beside.replace(folder / name)
