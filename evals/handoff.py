"""Export a trained run: the package a tape-out team receives."""

from pathlib import Path

from physnn.export.package import export
from train.baseline import FlaxModel
from train.experiment import to_json_table
from train.loop import load_run
from train.run_folder import git_commit


def export_run(folder: str | Path, out: str | Path) -> Path:
    """Write the hand-off package of a physical run to `out`.

    Raises `ValueError` for a digital model, which is no circuit, and what `load_run`
    and `export` raise.
    """
    run = load_run(folder)
    if isinstance(run.model, FlaxModel):
        raise ValueError(
            f"The run in {folder} must hold a physical model to be exported, but holds"
            " a transformer: give the run of a physical model."
        )
    provenance = {
        "experiment": to_json_table(run.experiment),
        "step": run.step,
        "commit": git_commit(),
    }
    return export(run.model, run.process, Path(out), provenance=provenance)
