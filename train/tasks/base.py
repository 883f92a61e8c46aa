"""AbstractTask: what a model is trained and scored on."""

import abc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8


class Windows(NamedTuple):
    """A batch of windows: inputs are `tokens[:, :-1]`, targets the last of `tokens`.

    A text has a target after every input, an image one: its class.
    """

    tokens: UInt8[np.ndarray, "batch time_and_one"]
    scored: Bool[np.ndarray, "batch targets"]  # which targets count


class AbstractTask(abc.ABC):
    """A stream of tokens in three splits: "train", "validation" and "test"."""

    vocabulary: int
    context: int  # inputs of one window
    digest: str  # of every token: the same data, the same digest

    @abc.abstractmethod
    def batch(
        self, step: int, *, seed: int, batch: int
    ) -> UInt8[np.ndarray, "batch time_and_one"]:
        """The training batch of `step`: a function of `seed` and `step` alone.

        So a run that was stopped continues with exactly the batches it would have seen.
        """

    @abc.abstractmethod
    def windows(
        self, split: str, *, batch: int, stride: int | None = None, limit: int = 0
    ) -> Iterator[Windows]:
        """Windows that score every token of `split` exactly once, in batches.

        Each window scores its last `stride` targets (default: all), so a scored token
        sees at least `context - stride` and at most `context` tokens. `limit` > 0 takes
        that many windows only, evenly spaced. Batches are padded to `batch` windows.
        """
