"""calibrate(run, measured): read it top to bottom."""

import csv
import io
import json
import os
import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.random as jr
import numpy as np

from evals.calibrate.chip import has_readout, measured_chip, trimmed, with_readout
from evals.calibrate.divergence import divergence
from evals.calibrate.fit import Belief, Fit, belief_of, fit
from evals.calibrate.measured import Measured, read_measured
from evals.quality import score
from evals.robustness.run import unit_of
from evals.robustness.scoring import Seen
from physnn.export.laws import number
from physnn.export.manifest import model_sha256
from physnn.export.tables import columns_of
from physnn.fabricate import banks_of
from physnn.keys import stream
from train.calibrated import FOLDER, write_calibrated
from train.corpus.files import SPLITS
from train.loop import TrainedRun, load_run
from train.run_folder import read_run_folder

HISTORY = "history"


@dataclass(frozen=True)
class Scores:
    """Quality of one die, in bits, without other mismatch: lower is better.

    `nominal`: the design as drawn. `before`: the same on this silicon, `trimmed`: with
    its trims set, `after`: with its readout as well, where that was better. `far` is
    the divergence of the predictions from the design's, before and after [bits].
    """

    unit: str
    nominal: float
    before: float
    trimmed: float
    after: float
    readout: bool
    far: tuple[float, float]


@dataclass(frozen=True)
class Calibration:
    """What a calibration wrote, and what it found."""

    folder: Path
    measured: Measured
    fit: Fit
    scores: Scores

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "die": self.measured.die,
            "fit": self.fit.to_json(),
            "quality": asdict(self.scores),
        }

    def __str__(self) -> str:
        found, s = self.fit, self.scores
        n = sum(int(mask.sum()) for mask in found.touched.values())
        lines = [
            f"{self.folder}: die {self.measured.die}, {found.n_measured} measurements"
            f" of {n} devices, {found.z_rms:.2f} sigma rms from what was expected",
            *(f"SURPRISE: {text}" for text in found.surprises[:8]),
            f"  nominal              {s.nominal:.5f} {s.unit}",
            *(
                f"  {what:20} {bits:.5f} {s.unit} ({bits - s.nominal:+.5f})"
                for what, bits in (
                    ("before calibration", s.before),
                    ("trims set", s.trimmed),
                    ("after calibration", s.after),
                )
            ),
            f"  divergence           {s.far[0]:.2e} bits before, {s.far[1]:.2e} after",
        ]
        if not s.readout:
            lines.append("  The readout was left as it was: another was no better.")
        return "\n".join(lines)


def calibrate(
    folder: str | Path,
    measured: str | Path,
    *,
    out: str | Path | None = None,
    die: str | None = None,
    split: str = "test",
    windows: int = 16,
    readout_windows: int = 8,
    seed: int = 0,
) -> Calibration:
    """Make the run of one measured die from the run of its design.

    Measurements update what the export said of every device (`fit`); trims are set
    against what they found, and the readout is fitted to the chip on half of
    `readout_windows` windows of the validation split, kept if the other half is
    no worse. The new run at `out` (beside the old one without it) holds the parent's
    checkpoint, the changes in `calibration/` and a history entry.

    Raises `ValueError` for a run without physical devices, a file that `read_measured`
    or `fit` refuses and an `out` that exists; what `load_run` raises. Nothing is
    written then.
    """
    folder = Path(folder)
    experiment, facts = read_run_folder(folder)
    if not experiment.chips:
        raise ValueError(
            f"The run in {folder} must be of a physical model to be calibrated, but is"
            f" of kind `{experiment.model.kind}`, which has no devices."
        )
    if split not in SPLITS:
        raise ValueError(f"Argument `split` must be one of {SPLITS}, but is {split!r}.")
    if windows < 1 or readout_windows < 0:
        raise ValueError(
            "There must be windows to score, and none or more for the readout, but"
            f" there are {windows} and {readout_windows}."
        )
    rows = read_measured(measured, die=die)
    out = Path(out) if out else folder.with_name(f"{folder.name}-{_plain(rows.die)}")
    if out.exists():
        raise ValueError(f"{out} must not exist yet, but does: give another --out.")
    run = load_run(folder)
    prior = belief_of(run.model, run.process)
    found = fit(prior, rows.rows)
    chip = measured_chip(run.model, prior, found)
    calibrated, scores = _scored(
        run, chip, trimmed(chip, prior, found), split, windows, readout_windows, seed
    )
    result = Calibration(out, rows, found, scores)
    entry = {
        "parent": folder.name,
        "parent_sha256": model_sha256(run.model),
        "sha256": model_sha256(calibrated),
        "measured": {"name": Path(measured).name, "sha256": rows.sha256},
        "die": rows.die,
        "temperature_K": rows.temperature_K,
        "supply_V": rows.supply_V,
        "fit": found.to_json(),
        "quality": asdict(scores) | {"split": split, "windows": windows, "seed": seed},
    }
    _write(run, calibrated, out, entry, _changes(run, calibrated, prior, found), facts)
    return result


def _scored(run: TrainedRun, chip, trims, split, windows, readout_windows, seed):
    """The calibrated chip and its `Scores`; every score has the same noise."""
    task, batch = run.experiment.task.build(), run.experiment.batch
    key = stream(jr.key(seed), "calibrate")
    # Of other devices nothing is known: they are as drawn, in all that is compared.
    asked = {"process": run.process.matched(), "n_chips": 1, "key": key}
    shown = [*task.windows(split, batch=min(batch, windows), limit=windows)]
    quality = lambda model: score(model, shown, **asked).median
    nominal, before, trimmed_bits = map(quality, (run.model, chip, trims))
    best, after, readout = trims, trimmed_bits, False
    if readout_windows > 1 and has_readout(run.model):
        n = readout_windows
        rows = [*task.windows("validation", batch=1, limit=n)]
        fitted = with_readout(
            run.model, trims, Seen.of(rows[::2]), process=run.process.matched(), key=key
        )
        others = lambda model: score(model, rows[1::2], **asked).median
        if len(rows) > 1 and others(fitted) < others(trims):
            best, after, readout = fitted, quality(fitted), True
    seen, process = Seen.of(shown), run.process.matched()
    away = lambda model: divergence(run.model, model, seen, process)[0]
    scores = (nominal, before, trimmed_bits, after)
    return best, Scores(unit_of(run), *scores, readout, (away(chip), away(best)))


def _changes(run: TrainedRun, calibrated, prior: Belief, found: Fit) -> bytes:
    """A CSV of every measured device: old and new value, and what is programmed."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ("path", "index", "unit", "old", "old_sigma", "measured", "new_sigma")
    writer.writerow((*head, "new", "old_programmed", "new_programmed"))
    old = {path.lstrip("."): bank for path, bank in banks_of(run.model).items()}
    new = {path.lstrip("."): bank for path, bank in banks_of(calibrated).items()}
    chosen = [new[path] for path in found.belief]
    after = columns_of(chosen, run.process)
    for (path, known), columns in zip(found.belief.items(), after, strict=True):
        values = (
            prior[path].mean,
            prior[path].sigma,
            known.mean,
            known.sigma,
            columns["realized_value"],
            np.asarray(old[path].value),
            np.asarray(new[path].value),
        )
        for index in np.argwhere(found.touched[path]):
            each = [number(float(v[tuple(index)])) for v in values]
            writer.writerow((path, ",".join(map(str, index)), known.unit, *each))
    return text.getvalue().encode()


def _write(run: TrainedRun, model, out: Path, entry, changes: bytes, facts) -> None:
    """The new run folder: whole, or not there."""
    history = run.folder / FOLDER / HISTORY
    files = {
        f"{HISTORY}/{path.name}": path.read_bytes()
        for path in (sorted(history.iterdir()) if history.is_dir() else ())
    }
    n = 1 + sum(name.endswith(".json") for name in files)
    files |= {
        f"{HISTORY}/{n:04}.json": (json.dumps(entry, indent=1) + "\n").encode(),
        f"{HISTORY}/{n:04}.csv": changes,
    }
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        shutil.copytree(run.folder / "checkpoints", partial / "checkpoints")
        for name in ("experiment.toml", "metrics.jsonl"):
            if (run.folder / name).exists():
                shutil.copy(run.folder / name, partial / name)
        parent = {"name": run.folder.name, "sha256": entry["parent_sha256"]}
        facts = {**facts, "parent": parent}
        (partial / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
        about = {"model_sha256": entry["sha256"], "die": entry["die"], "imports": n}
        write_calibrated(partial, model, files=files, facts={**about, "parent": parent})
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _plain(die: str) -> str:
    """A die as a part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "_", die).strip("._") or "die"
