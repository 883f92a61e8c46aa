"""Journal: what a run tells of its steps, and whether they went well."""

import math
import time
from pathlib import Path
from typing import Any

from train.distributed import Watch, is_first
from train.experiment import Experiment, to_json_table
from train.metrics import MetricsFile
from train.objective import Measured
from train.progress import TrainProgress
from train.recovery import Spikes, TrainingDiverged
from train.sinks import MetricsConfig


class Journal:
    """Metrics and progress of a run from its step `done` on; to be entered.

    Every process keeps one and comes to the same verdicts; the first one writes.
    """

    def __init__(
        self, experiment: Experiment, folder: Path, *, done: int, progress: bool
    ):
        self._experiment = experiment
        self._metrics = MetricsFile(
            folder / "metrics.jsonl", step=done, enabled=is_first()
        )
        sinks = experiment.metrics if is_first() else MetricsConfig()
        self._sinks = sinks.open(
            folder, name=experiment.name, about=to_json_table(experiment), step=done
        )
        self._began = time.monotonic() - self._metrics.last.get("seconds", 0.0)
        self._spikes = Spikes(experiment.recovery, self._metrics.kept)
        self._skipped = 0
        self._show = TrainProgress(
            experiment.name,
            steps=experiment.steps,
            step=done,
            tokens_per_step=experiment.tokens_per_step,
            pause_every=experiment.evaluate_every,
            enabled=progress and is_first(),
        )
        self._watch = Watch(experiment.mesh.patience_s)

    def __enter__(self):
        self._metrics.__enter__()
        self._show.__enter__()
        self._watch.__enter__()
        return self

    def __exit__(self, *error):
        self._watch.__exit__(*error)
        self._show.__exit__(*error)
        self._metrics.__exit__(*error)
        self._sinks.close()

    @property
    def shift(self) -> int:
        """By how many batches rollbacks have moved the data on."""
        return self._spikes.shift

    def step(self, step: int, measured: Measured, *, saved: bool) -> bool:
        """Write what an update measured; whether it is a spike to go back from.

        `saved`: there is a checkpoint to go back to. Raises `TrainingDiverged` if the
        loss is no number and nothing may be done about it.
        """
        recovery, in_a_row = self._experiment.recovery, 0
        bits_per_byte = float(measured.bits_per_byte)
        line: dict[str, Any] = {"bits_per_byte": bits_per_byte}
        if self._experiment.noise.energy_weight > 0 and self._experiment.chips:
            line["energy_J"] = float(measured.energy_J)
        if measured.skipped is not None and measured.skipped_in_a_row is not None:
            line["skipped"] = self._skipped = int(measured.skipped)
            in_a_row = int(measured.skipped_in_a_row)
        is_skipped = 0 < in_a_row <= recovery.skip
        is_well = math.isfinite(bits_per_byte) and not in_a_row
        if not is_skipped:
            found = bits_per_byte if is_well else math.nan
            if self._spikes.heard(step, found, saved=saved):
                return True
        if not (is_well or is_skipped):
            row = f", the {in_a_row} in a row" if in_a_row else ""
            raise TrainingDiverged(
                "The loss and its gradient must stay finite, but the loss is"
                f" {bits_per_byte} at step {step}{row}: lower `optimizer.peak_rate`."
                " Earlier checkpoints are intact."
            )
        if is_skipped:  # JSON has no nan, and a curve no such point
            line = {k: v for k, v in line.items() if k == "skipped" or math.isfinite(v)}
        self._write(step, line)
        self._told()
        self._show.update(step, None if is_skipped else bits_per_byte)
        self._watch.alive()
        return False

    def validation(
        self, step: int, bits_per_byte: float, *, soft: float | None = None
    ) -> None:
        """Write a score; `soft` is that of soft lookup tables, where there are any."""
        line = {"validation_bits_per_byte": bits_per_byte}
        if soft is not None:
            line["validation_soft_bits_per_byte"] = soft
            line["soft_hard_gap"] = soft / bits_per_byte - 1
        self._write(step, line)
        self._show.validation(bits_per_byte)

    def paused(self, seconds: float) -> None:
        """So long no step was made: the run evaluated, or saved."""
        self._show.paused(seconds)
        self._watch.alive()

    def flush(self) -> None:
        """A checkpoint promises that the metrics up to its step are there."""
        self._metrics.flush()

    def back(self, spike: int, *, to: int) -> None:
        """The run goes back from a spike: the lines after it are dropped, one says so.

        Raises `TrainingDiverged` if it did so too often.
        """
        moved = self._spikes.back(spike, to=to)
        self._metrics.rewind(to)
        self._sinks.rewind(to)
        self._write(to, {"rolled_back_from": spike, "data_shift": moved})
        # On disk at once: a run that is killed continues after the rollback.
        self._metrics.flush()
        self._told()
        self._watch.alive()

    def _told(self) -> None:
        self._show.trouble(skipped=self._skipped, rollbacks=self._spikes.rollbacks)

    def _write(self, step: int, line: dict[str, Any]) -> None:
        seconds = round(time.monotonic() - self._began, 3)
        tokens = step * self._experiment.tokens_per_step
        line = {"step": step, "tokens": tokens, **line, "seconds": seconds}
        self._metrics.write(line)
        self._sinks.write(line)
