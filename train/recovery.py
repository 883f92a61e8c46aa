"""Recovery: what a run does by itself about a step that goes wrong."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.distributed import gathered_ints


class TrainingDiverged(RuntimeError):
    """The loss is no longer a number, or leaps again and again."""


@dataclass(frozen=True)
class Recovery:
    """What is done about a step whose gradient is no number, and about a leap.

    `skip`: so many steps in a row whose gradient is not finite change nothing but the
    count `skipped` in the metrics (`optax.apply_if_finite`); one more ends the run. 0:
    the first one does. Rate and decay wait for a skipped step, data and noise do not.

    `spike_bits`: a loss that exceeds the mean of the last `spike_steps` by so many bits
    per byte, or is no number and may not be skipped, is a spike: the run goes back to
    its newest checkpoint and on with the data after the spike, other noise and other
    chips (after Chowdhery et al. 2022, arXiv 2204.02311; from memory, not looked up).
    Nothing is one before there are a checkpoint and `spike_steps` losses. inf: never.
    `rollbacks`: at most so many; the next spike ends the run.
    """

    skip: int = 0
    spike_bits: float = math.inf
    spike_steps: int = 50
    rollbacks: int = 3

    def __post_init__(self):
        for name, least in {"skip": 0, "spike_steps": 1, "rollbacks": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"Argument `recovery.{name}` must be at least {least}, but is"
                    f" {getattr(self, name)}."
                )
        if not self.spike_bits > 0:
            raise ValueError(
                "Argument `recovery.spike_bits` must be positive, or inf to go on"
                f" after every leap, but is {self.spike_bits}."
            )

    @property
    def rolls_back(self) -> bool:
        return self.spike_bits < math.inf


class Spikes:
    """Finds spikes in the losses of a run, and says how far its data has moved on.

    All it knows follows from the lines of the metrics, so a run that was killed and
    continued finds the same. Process 0 tells the others what it read.
    """

    def __init__(self, config: Recovery, lines: Iterable[dict[str, Any]]):
        self._config = config
        self.shift = 0  # windows of batches that rollbacks passed over
        self.rollbacks = 0
        self._losses: list[tuple[int, float]] = []
        if not config.rolls_back:
            return
        steps, losses = [], []
        for line in lines:
            self.shift += line.get("data_shift", 0)
            self.rollbacks += "data_shift" in line
            if "bits_per_byte" in line:
                steps.append(line["step"])
                losses.append(line["bits_per_byte"])
        n = config.spike_steps
        padded = ([-1] * n + steps)[-n:]
        # The bits of a float32, which a loss is.
        words = np.asarray(([0.0] * n + losses)[-n:], np.float32).view(np.int32)
        told = gathered_ints([self.shift, self.rollbacks, *padded, *words.tolist()])[0]
        self.shift, self.rollbacks = int(told[0]), int(told[1])
        values = np.asarray(told[2 + n :], np.int32).view(np.float32).tolist()
        found = zip(told[2 : 2 + n].tolist(), values, strict=True)
        self._losses = [(step, loss) for step, loss in found if step >= 0]

    def heard(self, step: int, bits_per_byte: float, *, saved: bool) -> bool:
        """Whether the loss of a step is a spike; if not, it is remembered.

        `saved`: there is a checkpoint to go back to.
        """
        if not self._config.rolls_back:
            return False
        if not math.isfinite(bits_per_byte):
            return saved
        recent = [loss for _, loss in self._losses[-self._config.spike_steps :]]
        if saved and len(recent) == self._config.spike_steps:
            mean = sum(recent) / len(recent)
            if bits_per_byte > mean + self._config.spike_bits:
                return True
        self._losses.append((step, bits_per_byte))
        return False

    def back(self, spike: int, *, to: int) -> int:
        """Go back from a step to an earlier one: by how much the data moves on.

        Raises `TrainingDiverged` if that was done too often.
        """
        if self.rollbacks >= self._config.rollbacks:
            raise TrainingDiverged(
                f"The loss must not leap, but does so again at step {spike} after"
                f" {self.rollbacks} rollbacks: lower `optimizer.peak_rate` or raise"
                " `recovery.rollbacks` in a new run. Earlier checkpoints are intact."
            )
        moved = spike - to
        self.shift += moved
        self.rollbacks += 1
        self._losses = [each for each in self._losses if each[0] <= to]
        return moved
