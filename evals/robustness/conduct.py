"""conduct(setting): all studies of a suite on what can be scored, kept and written."""

import dataclasses
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from evals.report import plain
from evals.robustness.page import write_page
from evals.robustness.progress import SuiteProgress
from evals.robustness.scoring import Adjust, Seen
from evals.robustness.store import Store, fingerprint
from evals.robustness.studies import STUDIES, Point, points_of, row_of
from evals.robustness.suite import Suite, Yield
from evals.robustness.yields import Bar, Calibrated, yield_of
from physnn.deploy import Source
from physnn.environment import AMOUNTS, Environment
from train.run_folder import git_commit

RESULTS, PAGE, STORE = "robustness.json", "robustness.html", "robustness.jsonl"


@runtime_checkable
class Scorer(Protocol):
    """What a suite attacks: the chips of a run, or of a foreign model."""

    @property
    def seen(self) -> Seen: ...

    def score(
        self, environment: Environment, n: int, *, adjust: Adjust | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bits and accuracy of chips 0 to n."""
        ...


# A study that is no list of environments: (setting, its table, design, store).
Later = Callable[["Setting", Any, dict[str, Any], Store], Any]


@dataclass(frozen=True)
class Setting:
    """What all studies share: the chips, their windows and environment, what acts."""

    suite: Suite  # without what is `refused`
    chips: Scorer
    environment: Environment  # of the suite, without what no part honors
    left_out: tuple[str, ...]  # amounts that no part honors
    sources: tuple[Source, ...]
    later: Mapping[str, Later]  # by table, in the order in which they run
    refused: Mapping[str, str]  # tables that were asked for, and why they are not run

    @property
    def acting(self) -> set[str]:
        """Amounts that some part of the model honors."""
        return {each.name for each in self.sources if each.acts_on}


def conduct(
    setting: Setting,
    folder: Path,
    *,
    facts: Mapping[str, Any],
    held: Any,
    heading: Mapping[str, Any],
    seed: int,
    progress: bool,
) -> dict[str, Any]:
    """Measure what `folder` does not hold yet, and write `robustness.json` and a page.

    `facts` and the arrays of `held` are all that results depend on beside the suite,
    its environment, the seed and the commit. `heading` says of what the results are:
    `title`, `run`, `step`, `unit`, `process`, `split`, sentences `about` it and, where
    that is none of `physnn`, the `command`.
    """
    suite = setting.suite
    commit = git_commit()
    facts = {
        "suite": dataclasses.asdict(suite),
        "seed": seed,
        "commit": commit,
        "environment": str(setting.environment),
        **facts,
    }
    folder.mkdir(parents=True, exist_ok=True)
    store = Store(folder / STORE, fingerprint(facts, held))
    began = time.monotonic()
    points = points_of(suite, setting.environment, setting.acting)
    later = {n: do for n, do in setting.later.items() if getattr(suite, n) is not None}
    show = SuiteProgress(
        f"robustness of {folder.name}",
        steps=len(points) + len(later),
        enabled=progress,
    )
    with show:
        rows = [_measured(setting, point, store, show) for point in points]
        design = rows[0]
        results: dict[str, Any] = {
            "command": shlex.join(["physnn", *sys.argv[1:]]),
            **heading,
            "commit": commit,
            "seed": seed,
            "windows": len(setting.chips.seen.tokens),
            "scored": int(setting.chips.seen.scored.sum()),
            "suite": plain(dataclasses.asdict(suite)),
            "left_out": list(setting.left_out),
            "refused": {**setting.refused, **_empty(suite, points)},
            "sources": [dataclasses.asdict(each) for each in setting.sources],
            "design": design,
            "studies": rows[1:],
        }
        for name, measure in later.items():
            show.begins(name.replace("_", " "))
            results[name] = measure(setting, getattr(suite, name), design, store)
            show.ends()
    results["wall_s"] = round(time.monotonic() - began, 1)
    write_results(results, folder)
    return results


def _empty(suite: Suite, points: list[Point]) -> dict[str, str]:
    """Tables of environments that were asked for and have no point."""
    there = {point.study for point in points}
    asked = [name for name in STUDIES if getattr(suite, name) is not None]
    why = "none of its amounts acts on this model"
    return {name: why for name in asked if name not in there}


def _measured(setting: Setting, point: Point, store: Store, show: SuiteProgress):
    show.begins(f"{point.study} {point.series}".strip())

    def measure():
        bits, hits = setting.chips.score(point.environment, point.chips)
        return row_of(point, bits, hits)

    row = store.get(point.id, measure)
    show.ends()
    return row


def varied(source: Source, default: Environment) -> Source:
    """The source with its value in the suite's environment; others are varied."""
    value = getattr(default, source.name)
    is_none = value is None if source.name == "temperature_K" else False
    if source.name in AMOUNTS:
        is_none = default.is_none(source.name)
    return replace(source, value="varied" if is_none else value)


def yields(
    setting: Setting,
    chosen: Yield,
    design: dict[str, Any],
    store: Store,
    *,
    calibrate: Calibrated | None,
    why: str = "no windows were given to calibrate on",
) -> dict[str, Any]:
    """Yield before calibration and, where there is one, after; else `why` not."""
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
    if calibrate is None:
        return found | {"why": why}
    after = store.get("yield/after", measure(calibrate))
    return found | {
        "after": yield_of(bar, after, confidence=chosen.confidence),
        "bits_after": after["bits"],
        "calibration_windows": calibrate.n_windows,
        "calibration": dataclasses.asdict(calibrate.config),
    }


def write_results(results: dict[str, Any], folder: Path) -> None:
    """`robustness.json` and its page: written beside their place and renamed."""
    results = plain(results)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = write_page(results)
    for name, content in ((RESULTS, text), (PAGE, page)):
        beside = folder / f".{name}.{os.getpid()}"
        beside.write_text(content, "utf-8")
        beside.replace(folder / name)
