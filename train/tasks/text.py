"""Bytes of text: the interpreter's own library, a file, or a folder."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.tasks.base import AbstractTask, Windows
from train.tasks.prepare import SPLITS, DataError, prepare

# What comes before the first byte of a split.
LINE_FEED = 10


@dataclass(frozen=True)
class TextConfig:
    """Which text, and how much of it a model sees at once.

    `path`: a text file, a `.gz` of one, or a folder; None is the standard library of
    the running interpreter. A relative path in a config file is relative to that file.
    """

    kind: Literal["text"] = "text"
    path: str | None = None
    context: int = 256  # bytes of one window

    def __post_init__(self):
        if self.context < 1:
            raise ValueError(
                f"Argument `context` must be at least 1 byte, but is {self.context}."
            )

    def build(self, *, cache: Path | None = None) -> "Text":
        """Prepare the text (once; the result is kept in `cache`) and open it.

        Raises `DataError` for text that is missing, empty, binary or too short.
        """
        prepared = prepare(self.path, cache=cache or default_cache())
        return Text(prepared, context=self.context)


class Text(AbstractTask):
    """Prepared text, read through a memory map: nothing is held that is not used."""

    def __init__(self, prepared: Path, *, context: int):
        """`prepared`: a folder made by `prepare`."""
        manifest = json.loads((prepared / "manifest.json").read_text())
        self.vocabulary = 256
        self.context = context
        self.source: str = manifest["source"]
        self.digest: str = manifest["sha256"]
        self.files: dict[str, list[str]] = manifest["files"]
        everything = np.memmap(prepared / "text.bin", dtype=np.uint8, mode="r")
        self._splits: dict[str, np.ndarray] = {}
        for split in SPLITS:
            start, stop = manifest["splits"][split]
            if stop - start <= context:
                raise DataError(
                    f"The {split} split of {self.source} must be longer than one"
                    f" context of {context} bytes, but it has {stop - start}: give more"
                    " text or a smaller `context`."
                )
            self._splits[split] = everything[start:stop]

    def n_bytes(self, split: str) -> int:
        """Length of a split."""
        return len(self._splits[split])

    def tokens(self, split: str) -> np.ndarray:
        """Every byte of a split, in order."""
        return self._splits[split]

    def batch(self, step, *, seed, batch):
        text = self._splits["train"]
        rng = np.random.default_rng((seed, step))
        starts = rng.integers(0, len(text) - self.context, batch)
        return np.stack([text[s : s + self.context + 1] for s in starts])

    def windows(self, split, *, batch, stride=None, limit=0):
        stride = stride or self.context
        if not 1 <= stride <= self.context:
            raise ValueError(
                f"Argument `stride` must be from 1 to the context of {self.context},"
                f" but is {stride}."
            )
        text = self._splits[split]
        starts = np.arange(0, len(text), stride)
        if 0 < limit < len(starts):
            starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
        for first in range(0, len(starts), batch):
            tokens = np.full((batch, self.context + 1), LINE_FEED, np.uint8)
            scored = np.zeros((batch, self.context), bool)
            for row, start in enumerate(starts[first : first + batch]):
                end = start + stride
                targets = np.arange(end - self.context, end)
                scored[row] = (targets >= start) & (targets < len(text))
                low, high = max(end - self.context - 1, 0), min(end, len(text))
                offset = low - (end - self.context - 1)
                tokens[row, offset : offset + high - low] = text[low:high]
            yield Windows(tokens, scored)


def default_cache() -> Path:
    """`physnn` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "physnn"
