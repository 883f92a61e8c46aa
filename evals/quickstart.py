"""The whole story in one command: train, score, bill, report, export, verify."""

import dataclasses
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.compare import compare_runs, summary
from evals.handoff import export_run
from evals.report import write_report
from evals.verify import verify
from physnn.configs import find_config
from train.experiment import load_experiment
from train.loop import train

# Experiments in configs/experiments: the physical model first, then its ladder.
EXPERIMENTS = (
    "quickstart_physical",
    "quickstart_transformer_s",
    "quickstart_transformer_m",
    "quickstart_transformer_l",
)
N_CHIPS = 8
# Evenly spaced windows of the test split; all of it would take longer than training.
TEST_WINDOWS = 256


@dataclass(frozen=True)
class Outcome:
    """What a quickstart found."""

    results: dict[str, Any]
    text: str
    passed: bool  # no check of the exported cells failed


def run_quickstart(
    *,
    data: Path | None,
    folder: Path,
    experiments: Sequence[str | Path] = EXPERIMENTS,
    n_chips: int = N_CHIPS,
    windows: int = TEST_WINDOWS,
) -> Outcome:
    """Train the physical model and its ladder on `data`, then score and hand off.

    `experiments` are TOML files or names in `configs/experiments`, the physical one
    first. Everything is kept in `folder`; called again it continues where it stopped.
    Raises what `train` raises, `Interrupted` among it.
    """
    began = time.monotonic()
    runs = []
    for name in experiments:
        experiment = load_experiment(find_config("experiments", name))
        if data is not None:
            task = dataclasses.replace(experiment.task, path=str(data.resolve()))
            experiment = dataclasses.replace(experiment, task=task)
        runs.append(train(experiment, folder / "runs" / experiment.name).folder)
    _say(f"Scoring on {n_chips} chips with noise on ...")
    results = compare_runs(runs, n_chips=n_chips, windows=windows)
    _say("Exporting the trained design and simulating its cells ...")
    package = export_run(runs[0], folder / "export")
    verification = verify(package)
    results["verify"] = verification.to_json()
    results["provenance"]["wall_s"] = round(time.monotonic() - began, 1)
    report = write_report(results, folder)
    text = "\n\n".join(
        [
            summary(results),
            str(verification),
            f"Report: {report}\nExport: {package}",
        ]
    )
    return Outcome(results, text, verification.passed)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)
