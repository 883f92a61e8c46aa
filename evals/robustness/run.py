"""robustness(run, suite): read it top to bottom."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.random as jr

from evals.robustness.conduct import Later, Setting, conduct, varied, yields
from evals.robustness.foreign import FromRun
from evals.robustness.foreign_suite import ABOUT_RUN, foreign_setting, heading_of
from evals.robustness.ranking import ranked
from evals.robustness.scoring import Chips, Seen
from evals.robustness.store import Store
from evals.robustness.studies import asked_of
from evals.robustness.suite import (
    Converters,
    Ranking,
    Suite,
    WorstCase,
    Yield,
    load_suite,
)
from evals.robustness.worst_case import worst_case
from evals.robustness.yields import Calibrated
from physnn.deploy import active_sources, honored
from physnn.disturbance import TEMPORAL
from physnn.energy import load_prices
from physnn.environment import AMOUNTS, Environment, load_environment
from physnn.keys import stream
from physnn.process import default_environment
from train.baseline import FlaxModel
from train.experiment import to_table
from train.loop import TrainedRun, load_run
from train.run_folder import read_run_folder
from train.tasks.images import ImagesConfig


def robustness(
    folder: str | Path,
    suite: str | Path | Suite = "robustness",
    *,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Attack the run in `folder` with a suite; write `robustness.json` and a page.

    Of a digital network each array of weights is held by programmed devices, as of a
    foreign model (`attack_suite`); what such devices do not honor is named.

    What is measured is kept in `robustness.jsonl` at once: an interrupted suite
    continues, and one that is complete writes its page again. Other settings, weights
    or another commit begin anew.

    Raises `ValueError` for a run that has neither devices nor weights, a suite that is
    wrong and a bar that cannot be reached, and what `load_run` raises.
    """
    folder = Path(folder)
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    experiment, _ = read_run_folder(folder)
    if experiment.model.kind == "counts":
        raise ValueError(
            f"The run in {folder} must be of a model with devices or weights, but is of"
            " kind `counts`, whose tables are exact: give a physical run or a network."
        )
    run = load_run(folder)
    digital = isinstance(run.model, FlaxModel)
    if digital:
        f = FromRun(run.model, run.process)
        setting = foreign_setting(f, _windows(run, suite), suite, seed=seed)
        heading = heading_of(setting, ABOUT_RUN.format(kind=experiment.model.kind))
    else:
        setting, heading = setting_of(run, suite, seed=seed), {"about": []}
    return conduct(
        setting,
        folder,
        facts={
            "step": run.step,
            "experiment": to_table(run.experiment),
            "process": str(run.process),
        },
        held=run.model,
        heading=heading
        | {
            "title": f"Robustness of {run.experiment.name}",
            "run": str(folder),
            "step": run.step,
            "unit": unit_of(run),
            "process": None if digital else run.process.name,
            "split": suite.split,
        },
        seed=seed,
        progress=progress,
    )


def _windows(run: TrainedRun, suite: Suite) -> Seen:
    task = run.experiment.task.build()
    n = suite.windows
    return Seen.of(task.windows(suite.split, batch=n, limit=n))


def setting_of(run: TrainedRun, suite: Suite, *, seed: int) -> Setting:
    """Windows, environment and sources of a suite on a physical run."""
    asked = suite.environment
    default = load_environment(asked) if asked else default_environment(run.process)
    everything = asked_of(suite, default)
    _, lost = honored(run.model, run.process, everything)
    nones = {n: getattr(Environment(), n) for n in lost}
    default, everything = default.replace(**nones), everything.replace(**nones)
    sources = active_sources(run.model, run.process, everything)
    place = [*AMOUNTS, "corner", "temperature_K"].index
    sources = sorted(sources, key=lambda each: place(each.name))
    sources = tuple(varied(each, default) for each in sources)
    acting = [each.name for each in sources if each.acts_on]
    traced = tuple(n for n in acting if n in AMOUNTS)
    if set(TEMPORAL) & set(traced):
        traced = (*traced, "ripple_Hz")
    seen = _windows(run, suite)
    chips = Chips(
        run.model,
        run.process,
        seen,
        stream(jr.key(seed), "robustness"),
        period_s=run.model.config.period_s,
        together=seen.group(suite.fewest_chips, suite.together, run.model),
        traced=traced,
    )
    return Setting(suite, chips, default, lost, sources, _later(run, chips), {})


def _later(run: TrainedRun, chips: Chips) -> Mapping[str, Later]:
    """What is no list of environments, in the order in which it runs."""
    return {
        "converters": partial(_converters, chips),
        "worst_case": partial(_worst, run, chips),
        "yields": partial(_yields, run),
        "ranking": partial(_ranking, chips),
    }


def _converters(chips, setting, chosen: Converters, design, store: Store):
    """Bits of every chip by bits of its converters; all else ideal."""
    del setting, design
    config = chips.model.config
    found = []
    if getattr(config, "converters", "surveyed") != "surveyed":
        return {"rows": [], "why": "the converters of this model are circuits"}
    for bits in chosen.bits:

        def measure(bits=bits):
            model = replace_config(chips.model, converter_bits=bits)
            ideal = replace(chips, model=model, traced=())
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


def _worst(run, chips, setting, chosen: WorstCase, design, store: Store):
    del design
    task = run.experiment.task.build()
    n = chosen.windows
    # On the text of the studies, what is found is scored again.
    near = Seen.of(task.windows(_other(setting.suite), batch=n, limit=n))
    near = shortened(near, chosen.tokens)
    return worst_case(
        run.model,
        run.process,
        chosen,
        near=near,
        far=chips.seen,
        key=chips.key,
        get=store.get,
    )


def _other(suite: Suite) -> str:
    """A split that the studies do not read."""
    return "validation" if suite.split == "test" else "test"


def shortened(seen: Seen, tokens: int) -> Seen:
    """The first `tokens` inputs of each text; images, with one target, stay whole."""
    if seen.scored.shape[1] == 1:
        return seen
    scored = seen.scored[:, :tokens]
    return seen._replace(
        tokens=seen.tokens[:, : tokens + 1], scored=scored.at[:, -1].set(True)
    )


def _yields(run, setting: Setting, chosen: Yield, design, store: Store):
    n, calibrate = chosen.calibration_windows, None
    if n:
        task = run.experiment.task.build()
        seen = Seen.of(task.windows(_other(setting.suite), batch=n, limit=n))
        calibrate = Calibrated.of(run.model, run.process, seen)
    return yields(setting, chosen, design, store, calibrate=calibrate)


def _ranking(chips, setting, chosen: Ranking, design, store: Store):
    del design
    measure = lambda: ranked(
        chips.model,
        chips.process,
        chosen,
        seen=chips.seen,
        prices=setting.suite.prices,
        key=chips.key,
    )
    rows = store.get("ranking", measure)
    own = load_prices(setting.suite.prices).overrides
    return {"rows": rows, "area": chosen.area, "overrides": list(own)}


def unit_of(run: TrainedRun) -> str:
    """Of the quality."""
    images = isinstance(run.experiment.task, ImagesConfig)
    return "bits/image" if images else "bits/byte"
