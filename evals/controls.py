"""Controls: what a mechanism must beat before anything is claimed for it."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import equinox as eqx
import jax
import jax.random as jr
import numpy as np

from circuits.blocks import BlockConfig, GatedUnitBlock, Site
from circuits.layers import MacLayer
from evals.evaluate import over_seeds
from evals.quality import Quality, quality_of, score, scored_hits
from physnn.controls import Trained
from physnn.process import Process, load_process
from train.classifier import ClassifierConfig
from train.experiment import Experiment
from train.loop import load_finished, train
from train.tasks.images import Images
from train.tasks.text import Text


@dataclass(frozen=True)
class Controls:
    """The qualities of the controls; those that do not apply, with the reason.

    `worth` is by how much the runs are better, seed by seed: median, lowest, highest.
    """

    rows: dict[str, Quality]
    worth: dict[str, tuple[float, float, float]]
    left_out: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        rows = {
            name: quality.to_json() | {"worth": self.worth[name]}
            for name, quality in self.rows.items()
        }
        return {"controls": rows, "left_out": self.left_out}

    def __str__(self):
        lines = []
        for name, q in self.rows.items():
            better, low, high = self.worth[name]
            by_seed = f" ({low:.4f} to {high:.4f} by seed)" if low < high else ""
            lines.append(
                f"  control: {name:<22}{q.median:.4f} ({q.low:.4f} to {q.high:.4f}),"
                f" the runs are better by {better:.4f}{by_seed}"
            )
        lines += [
            f"  control: {name:<22}- {why}" for name, why in self.left_out.items()
        ]
        return "\n".join(lines)


def run_controls(
    folders: Sequence[str | Path],
    *,
    of: Quality,
    kinds: Sequence[Trained] = (),
    split: str,
    n_chips: int,
    windows: int,
    seed: int,
) -> Controls:
    """Score the controls of some runs, training those that are not there yet.

    In bits per byte of text, in accuracy of images:
    - chance: the frequencies of the training split, or its likeliest class;
    - removed: every block without its mechanism, trained as long;
    - frozen: the mechanism's own parameters as they start (of a classifier, all layers
      but the last), the rest trained as long;
    - conventional: gated units (of images: two charge MACs) with as many parameters,
      trained as long.

    `kinds` names the trained ones that are wanted, all if none is named; `of` is the
    quality of the runs themselves, scored alike. The trained ones lie beside the runs,
    in `RUN-removed` and so on, so that an interrupted evaluation continues. The other
    solver is in the row itself.
    """
    rows: dict[str, Quality] = {}
    left_out: dict[str, str] = {}
    runs = [load_finished(folder) for folder in folders]
    task = runs[0].experiment.task.build()
    each: dict[str, list[float]] = {}
    rows["chance"] = _chance(task, split)
    each["chance"] = [rows["chance"].median] * len(runs)
    variants = controls_of(runs[0].experiment, vocabulary=task.vocabulary)
    for name, variant in variants.items():
        if kinds and name not in kinds:
            continue
        if isinstance(variant, str):
            left_out[name] = variant
            continue
        found = []
        for run in runs:
            folder = run.folder.with_name(f"{run.folder.name}-{name}")
            experiment = replace(variant, seed=run.experiment.seed)
            control = train(experiment, folder, progress=True)
            batches = [*task.windows(split, batch=experiment.batch, limit=windows)]
            asked = {
                "process": control.process,
                "n_chips": n_chips if experiment.chips else 1,
                "key": jr.key(seed),
            }
            if isinstance(task, Images):
                shares = scored_hits(control.model, batches, **asked)
                found.append(quality_of(shares, unit="accuracy"))
            else:
                found.append(score(control.model, batches, **asked))
        rows[name] = over_seeds(found, found[0].unit)
        each[name] = [quality.median for quality in found]
    # Of one run the values are those of its chips, which are not the control's chips.
    own = of.values if len(runs) > 1 else (of.median,)
    worth = {name: _worth(own, values, of.unit) for name, values in each.items()}
    return Controls(rows, worth, left_out)


def _worth(
    own: Sequence[float], control: Sequence[float], unit: str
) -> tuple[float, float, float]:
    """By how much runs are better than their controls: median, lowest, highest."""
    sign = 1 if unit == "bits/byte" else -1
    better = [sign * (b - a) for a, b in zip(own, control, strict=True)]
    return median(better), min(better), max(better)


def controls_of(
    experiment: Experiment, *, vocabulary: int
) -> dict[str, Experiment | str]:
    """The experiments of the trained controls, or why there is none."""
    model = experiment.model
    field = {"physical": "layer", "classifier": "layers"}.get(model.kind)
    if field is None:
        why = f"a model of kind `{model.kind}` has no mechanism"
        return {"removed": why, "frozen": why, "conventional": why}
    layers = getattr(model, field)
    is_block = lambda each: isinstance(each, get_args(BlockConfig))
    is_family = lambda each: is_block(each) and not isinstance(each, GatedUnitBlock)
    family = [each for each in layers if is_family(each)]
    found: dict[str, Experiment | str] = {}

    def variant(name: str, changed) -> Experiment:
        changed_model = replace(model, **{field: tuple(changed)})
        return replace(
            experiment, name=f"{experiment.name}-{name}", model=changed_model
        )

    without = {each: each.without_mechanism() for each in family}
    if not family or None in without.values():
        found["removed"] = "a block here has no version without its mechanism"
    else:
        found["removed"] = variant("removed", [without.get(e, e) for e in layers])
    own = {layer.mechanism for layer in layers if hasattr(layer, "mechanism")}
    own -= {GatedUnitBlock.mechanism} if family else set()
    names = "|".join(sorted(re.escape(name) for name in own))
    if isinstance(model, ClassifierConfig) and len(layers) > 1:
        # Random features: the last layer alone is trained.
        found["frozen"] = replace(
            experiment,
            name=f"{experiment.name}-frozen",
            frozen=rf"\.chain\.parts\[(?!{len(layers) - 1}\])",
        )
    elif own:
        found["frozen"] = replace(
            experiment,
            name=f"{experiment.name}-frozen",
            frozen=rf"\.({names})\b",
        )
    else:
        found["frozen"] = "no layer here names its mechanism"
    if family and experiment.task.kind == "text":
        process = load_process(experiment.process)
        width = model.width  # pyright: ignore[reportAttributeAccessIssue]
        matched = {each: matched_unit(each, width, process) for each in family}
        changed = [matched.get(each, each) for each in layers]
        found["conventional"] = variant("conventional", changed)
    elif isinstance(model, ClassifierConfig) and not is_conventional(model):
        process = load_process(experiment.process)
        alike = matched_layers(model, process, vocabulary=vocabulary)
        found["conventional"] = replace(
            experiment,
            name=f"{experiment.name}-conventional",
            model=replace(model, layers=alike, patch=0),
        )
    else:
        found["conventional"] = "the model is conventional itself"
    return found


def is_conventional(model: ClassifierConfig) -> bool:
    """Whether a classifier is charge MACs alone."""
    return all(isinstance(layer, MacLayer) for layer in model.layers)


def matched_layers(
    model: ClassifierConfig, process: Process, *, vocabulary: int
) -> tuple[MacLayer, MacLayer]:
    """Two layers of charge MACs with about as many trained numbers as `model`."""

    def build():
        return model.build(vocabulary=vocabulary, process=process, key=jr.key(0))

    n_hidden = round(_numbers(build) / (model.n_pixels + vocabulary + 1))
    hidden, last = ClassifierConfig().layers
    assert isinstance(hidden, MacLayer)
    assert isinstance(last, MacLayer)
    return replace(hidden, n_out=max(1, n_hidden)), replace(last, n_out=vocabulary)


def matched_unit(block, width: int, process: Process) -> GatedUnitBlock:
    """The gated unit, behind as long a delay line, with as many parameters."""
    n_taps = max(getattr(block, "n_taps", 4), 1)
    wanted = _size(block, width, process)
    sizes = [
        _size(GatedUnitBlock(n_hidden=n, n_taps=n_taps), width, process) for n in (1, 2)
    ]
    each = sizes[1] - sizes[0]
    n_hidden = max(1, round((wanted - sizes[0]) / each) + 1)
    return GatedUnitBlock(n_hidden=n_hidden, n_taps=n_taps)


def _size(block, width: int, process: Process) -> int:
    def build():
        return block.build(Site(width=width, process=process, key=jr.key(0)))

    return _numbers(build)


def _numbers(build: Callable[[], Any]) -> int:
    """Trained numbers of what `build` would build."""
    leaves = jax.tree.leaves(eqx.filter_eval_shape(build))
    return sum(
        leaf.size
        for leaf in leaves
        if isinstance(leaf, jax.ShapeDtypeStruct) and leaf.dtype == np.float32
    )


def _chance(task, split: str) -> Quality:
    """The best one can do without looking: the frequencies of the training split."""
    if isinstance(task, Text):
        # Witten-Bell without a context, as `CountedTables` of order 0, of any size.
        n_symbols = task.vocabulary
        known, seen = (
            np.bincount(task.tokens(part), minlength=n_symbols)
            for part in ("train", split)
        )
        distinct = np.count_nonzero(known)
        p = (known + distinct / n_symbols) / (known.sum() + distinct)
        bits = -float(np.sum(seen * np.log2(p)))
        n = task.n_bytes(split)
        value = bits / n
        return Quality(value, value, value, 1.0, 1, n, (value,))
    labels = [task.labels(part) for part in ("train", split)]
    likeliest = np.bincount(labels[0]).argmax()
    return quality_of([labels[1] == likeliest], unit="accuracy")
