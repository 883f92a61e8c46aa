"""Export a trained run: the package a tape-out team receives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.random as jr

from evals.characterize.card import load_card
from evals.network_cut import network_of
from evals.quality import quality_of, scored_bits, scored_hits
from physnn.export.drawn import check_card
from physnn.export.package import export
from physnn.export.realize import realized_design, uncoded_design
from train.baseline import FlaxModel
from train.experiment import to_json_table
from train.loop import TrainedRun, load_run
from train.run_folder import git_commit, read_run_folder
from train.tasks.images import ImagesConfig

SPLIT = "validation"
# Windows on which the network is scored with the values that are exported.
WINDOWS = 8
# Images that count as one window of text.
IMAGES = 64


def export_run(
    folder: str | Path,
    out: str | Path,
    *,
    windows: int = WINDOWS,
    seed: int = 0,
    cells: str | Path | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the hand-off package of a physical run to `out`.

    `cells` is the card of a PDK in `configs/cells`, or such a file: its drawn cells of
    the families in the design are added.

    The network is scored again with the values of the package, on `windows` windows of
    held-out text, or 64 times as many images (0: not at all); what that costs is told,
    and stands in manifest and datasheet.

    Raises `ValueError` for a digital model, which is no circuit, and what `load_run`
    and `export` raise.
    """
    card = None if cells is None else load_card(cells)
    run = load_run(folder)
    if isinstance(run.model, FlaxModel):
        raise ValueError(
            f"The run in {folder} must hold a physical model to be exported, but holds"
            " a transformer: give the run of a physical model."
        )
    if card is not None:
        check_card(run.model, card)  # before the minute that scoring takes
    _, facts = read_run_folder(run.folder)
    realized = rescored(run, windows=windows, seed=seed)
    tell(sentence(realized))
    provenance = {
        "experiment": to_json_table(run.experiment),
        "step": run.step,
        "commit": git_commit(),
        "seeds": {"training": run.experiment.seed, "scoring": seed},
        "data_sha256": facts["data_digest"],
        # A calibrated die names the design it was made from.
        **({"parent": facts["parent"]} if "parent" in facts else {}),
    }
    return export(
        run.model,
        run.process,
        Path(out),
        provenance=provenance,
        realized=realized,
        card=card,
        network=network_of(run, split=SPLIT),
    )


def rescored(run: TrainedRun, *, windows: int, seed: int = 0) -> dict[str, Any]:
    """What the design scores as trained, as exported, and without codes.

    The design without mismatch, temporal noise on and the same in all three; `loss` is
    positive where the exported values are worse. Where it cannot be scored, the reason.

    Raises `ValueError` for a negative number of windows.
    """
    if windows < 0:
        raise ValueError(f"Argument `windows` must not be negative, but is {windows}.")
    if windows == 0:
        return _not_scored("It was asked not to (--windows 0).")
    try:
        task = run.experiment.task.build()
    except (ValueError, OSError) as error:
        return _not_scored(f"Its data are not here: {error}")
    images = isinstance(run.experiment.task, ImagesConfig)
    # A window of images is one image.
    windows *= IMAGES if images else 1
    batch = min(windows, run.experiment.batch)
    batches = list(task.windows(SPLIT, batch=batch, limit=windows))
    measure = scored_hits if images else scored_bits
    unit = "accuracy" if images else "bits/byte"
    quiet = run.process.matched()

    def score(model) -> float:
        found = measure(model, batches, process=quiet, n_chips=1, key=jr.key(seed))
        return quality_of(found, unit=unit).median

    trained, realized, uncoded = map(
        score,
        (
            run.model,
            realized_design(run.model, run.process),
            uncoded_design(run.model),
        ),
    )
    worse = -1.0 if images else 1.0
    return {
        "scored": True,
        "split": SPLIT,
        "windows": windows,
        "targets": int(sum(each.scored.sum() for each in batches)),
        "seed": seed,
        "unit": unit,
        "trained": trained,
        "realized": realized,
        "uncoded": uncoded,
        "loss": worse * (realized - trained) + 0.0,
        "coding_loss": worse * (trained - uncoded) + 0.0,
    }


def sentence(found: dict[str, Any]) -> str:
    """What exporting costs, in a line."""
    if not found["scored"]:
        return found["reason"]
    return (
        f"With exported values {found['realized']:.4f} {found['unit']}, as trained"
        f" {found['trained']:.4f}: a loss of {found['loss']:+.2g} on"
        f" {found['targets']:,} targets of {found['windows']} windows."
    )


def _not_scored(reason: str) -> dict[str, Any]:
    start = "The network was not scored with the values that are exported."
    return {"scored": False, "reason": f"{start} {reason}"}
