"""On the device: what a run gives on the hardware its experiment names."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax.random as jr

from evals.evaluate import over_seeds
from evals.quality import Quality, quality_of, scored_bits, scored_hits
from train.hardware import on_device, plain_errors
from train.loop import load_run
from train.tasks.images import ImagesConfig


@dataclass(frozen=True)
class OnDevice:
    """Quality of runs in our model, and on the device: the model gap is between."""

    name: str
    training: str
    in_model: Quality
    on_device: Quality

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self):
        return (
            f"{self.name}, trained {self.training.replace('_', ' ')}\n"
            f"  in our model  {self.in_model}\n"
            f"  on its device {self.on_device}"
        )


def score_on_device(
    folders: Sequence[str | Path], *, split: str, windows: int, seed: int
) -> OnDevice:
    """Score runs that differ in their seed in our model and on their own devices.

    Images in accuracy, text in bits per byte; on one chip of ours, and on the one that
    the device is, each with its noise. Raises `ValueError` for runs without
    `[hardware]` or of several kinds of training, `DeviceError` for a device that
    fails, and what `load_run` raises.
    """
    runs = [load_run(folder) for folder in folders]
    trainings = set()
    for run in runs:
        if run.experiment.hardware is None:
            raise ValueError(
                f"The run in {run.folder} must name a device in its `hardware`, but"
                " names none: `physnn score` scores it in our model."
            )
        trainings.add((run.experiment.name, run.experiment.hardware.training))
    if len(trainings) != 1:
        raise ValueError(
            "The runs must be one experiment, trained in one way, with different"
            f" seeds, but are {sorted(trainings)}: score them one after the other."
        )
    images = isinstance(runs[0].experiment.task, ImagesConfig)
    measure, unit = (scored_hits, "accuracy") if images else (scored_bits, "bits/byte")
    task = runs[0].experiment.task.build()
    batch = runs[0].experiment.batch
    batches = [*task.windows(split, batch=batch, limit=windows)]
    found: tuple[list[Quality], list[Quality]] = ([], [])
    for run in runs:
        asked = {"process": run.process, "n_chips": 1, "key": jr.key(seed)}
        found[0].append(quality_of(measure(run.model, batches, **asked), unit=unit))
        assert run.experiment.hardware is not None  # checked above
        device = run.experiment.hardware.device.build()
        with plain_errors(device):
            # What the device computes has its own mismatch, whatever ours is.
            shares = measure(on_device(run.model, device), batches, **asked)
            found[1].append(quality_of(shares, unit=unit))
    (name, training) = trainings.pop()
    return OnDevice(name, training, *(over_seeds(each, unit) for each in found))
