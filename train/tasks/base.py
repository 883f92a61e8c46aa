"""AbstractTask: what a model is trained and scored on."""

import abc
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt


class Windows(NamedTuple):
    """A batch of windows: inputs are `tokens[:, :-1]`, targets the last of `tokens`.

    A text has a target after every input, an image one: its class.
    """

    tokens: UInt[np.ndarray, "batch time_and_one"]
    scored: Bool[np.ndarray, "batch targets"]  # which targets count
    # Of the split; bits of a token over it are bits of a byte. An image is one.
    bytes_per_token: float = 1.0


class AbstractTask(abc.ABC):
    """A stream of tokens in three splits: "train", "validation" and "test"."""

    vocabulary: int
    context: int  # inputs of one window
    digest: str  # of every token: the same data, the same digest

    @abc.abstractmethod
    def batch(
        self, step: int, *, seed: int, batch: int, rows: slice = slice(None)
    ) -> UInt[np.ndarray, "rows time_and_one"]:
        """The training batch of `step`: a function of `seed` and `step` alone.

        So a run that was stopped continues with exactly the batches it would have seen.
        `rows`: those of the batch that this process needs.
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

    def bytes_per_token(self, split: str) -> float:
        """Measured on a split; 1 where a token is a byte, or an image."""
        del split
        return 1.0
