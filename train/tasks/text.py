"""Text as tokens: the interpreter's own library, files, prepared folders."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from train.corpus.files import DataError
from train.corpus.prepare import Preparation, cached
from train.corpus.shards import Prepared, Tokens, is_prepared, read_manifest
from train.corpus.vocabulary import (
    AbstractVocabulary,
    Bytes,
    Characters,
    open_tokenizer,
)
from train.tasks.base import AbstractTask, Windows


@dataclass(frozen=True)
class TextConfig:
    """Which text, and how much of it a model sees at once.

    `path`: a folder that `physnn prepare` made; or a file or a folder of text, lines of
    JSON, Parquet or ArrayRecord, which is prepared in the cache; None is the standard
    library of the running interpreter. A relative path in a config file is relative to
    that file.
    """

    kind: Literal["text"] = "text"
    path: str | None = None
    context: int = 256  # tokens of one window
    # `byte`, `char` or the file of a tokenizer; None: what a prepared folder has, else
    # bytes.
    tokenizer: str | None = None
    # `random`: windows from anywhere, some more than once; `epochs`: each once, in an
    # order that is drawn anew when all were seen.
    order: Literal["random", "epochs"] = "random"

    def __post_init__(self):
        if self.context < 1:
            raise ValueError(
                f"Argument `context` must be at least 1 byte, but is {self.context}."
            )

    def build(self, *, cache: Path | None = None) -> "Text":
        """Prepare the text (once; the result is kept in `cache`) and open it.

        Raises `DataError` for text that is missing, empty, binary or too short, for a
        prepared folder that was changed, and for a tokenizer that is not the folder's.
        """
        if self.path is not None and is_prepared(self.path):
            prepared = Prepared(Path(self.path).expanduser())
            self._check_tokenizer(prepared)
        else:
            how = Preparation(tokenizer=self.tokenizer or Bytes.kind)
            prepared = Prepared(cached(self.path, how, cache=cache or default_cache()))
        return Text(prepared, context=self.context, order=self.order)

    def symbols(self) -> tuple[int, float | None]:
        """The size of the vocabulary and bytes per token of the test split.

        Without the text: of one that is not prepared yet the second may be None.
        """
        if is_prepared(self.path):
            about = read_manifest(Path(str(self.path)).expanduser())
            test = about["splits"]["test"]
            return about["vocabulary"]["size"], test["bytes"] / max(test["tokens"], 1)
        if self.tokenizer in (None, Bytes.kind):
            return Bytes.size, 1.0
        if self.tokenizer == Characters.kind:
            task = self.build()
            return task.vocabulary, task.bytes_per_token("test")
        return open_tokenizer(str(self.tokenizer)).size, None

    def _check_tokenizer(self, prepared: Prepared) -> None:
        asked, has = self.tokenizer, prepared.vocabulary
        if asked is None or asked == has.kind:
            return
        known = asked in ("byte", "char")
        if known or open_tokenizer(asked).sha256 != has.sha256:
            raise DataError(
                f"The tokenizer {asked} must be the one that the text in"
                f" {prepared.folder} was prepared with, but that is another, of kind"
                f" `{has.kind}` with {has.size:,} tokens: leave out `task.tokenizer`,"
                " or prepare the text with it."
            )


class Text(AbstractTask):
    """Prepared text, read through a memory map: nothing is held that is not used."""

    def __init__(self, prepared: Prepared, *, context: int, order: str = "random"):
        self.prepared, self.context, self._order = prepared, context, order
        self.symbols: AbstractVocabulary = prepared.vocabulary
        self.vocabulary = self.symbols.size
        self.source, self.files = prepared.source, prepared.files
        self.digest, self.text_digest = prepared.digest, prepared.text_sha256
        for split, tokens in prepared.splits.items():
            if len(tokens) <= context:
                what = "bytes" if self.symbols.file is None else "tokens"
                raise DataError(
                    f"The {split} split of {self.source} must be longer than one"
                    f" context of {context} {what}, but it has {len(tokens)}: give more"
                    " text or a smaller `context`."
                )

    def n_bytes(self, split: str) -> int:
        """Length of a split in bytes of text."""
        return self.prepared.n_bytes(split)

    def bytes_per_token(self, split: str) -> float:
        return self.n_bytes(split) / len(self.prepared.splits[split])

    def tokens(self, split: str) -> np.ndarray:
        """Every token of a split, in order."""
        return self.prepared.splits[split][:]

    def batch(self, step, *, seed, batch, rows=slice(None)):
        text = self.prepared.splits["train"]
        if self._order == "epochs":
            starts = self._in_epochs(step, seed, batch)
        else:
            rng = np.random.default_rng((seed, step))
            starts = rng.integers(0, len(text) - self.context, batch)
        return np.stack([text[s : s + self.context + 1] for s in starts[rows].tolist()])

    def _in_epochs(self, step: int, seed: int, batch: int) -> np.ndarray:
        """Where the windows of a batch begin, every window once in an epoch."""
        from grain.experimental import index_shuffle  # a second, when it is needed

        text = self.prepared.splits["train"]
        n = (len(text) - 1) // self.context
        epochs, places = np.divmod(np.arange(step * batch, (step + 1) * batch), n)
        # The windows lie elsewhere in each epoch, as far as there is room.
        room = len(text) - 1 - n * self.context
        drawn = {
            epoch: np.random.default_rng((seed, epoch)).integers(0, (1 << 31, room + 1))
            for epoch in set(epochs.tolist())
        }
        starts = []
        for epoch, place in zip(epochs.tolist(), places.tolist(), strict=True):
            order, first = map(int, drawn[epoch])
            window = index_shuffle(place, max_index=n - 1, seed=order, rounds=4)
            starts.append(first + window * self.context)
        return np.asarray(starts)

    def windows(self, split, *, batch, stride=None, limit=0):
        stride = stride or self.context
        if not 1 <= stride <= self.context:
            raise ValueError(
                f"Argument `stride` must be from 1 to the context of {self.context},"
                f" but is {stride}."
            )
        text: Tokens = self.prepared.splits[split]
        before, rate = self.prepared.about["before"], self.bytes_per_token(split)
        starts = np.arange(0, len(text), stride)
        if 0 < limit < len(starts):
            starts = starts[np.linspace(0, len(starts) - 1, limit).astype(int)]
        for first in range(0, len(starts), batch):
            tokens = np.full((batch, self.context + 1), before, text.dtype)
            scored = np.zeros((batch, self.context), bool)
            for row, start in enumerate(starts[first : first + batch].tolist()):
                end = start + stride
                targets = np.arange(end - self.context, end)
                scored[row] = (targets >= start) & (targets < len(text))
                low, high = max(end - self.context - 1, 0), min(end, len(text))
                offset = low - (end - self.context - 1)
                tokens[row, offset : offset + high - low] = text[low:high]
            yield Windows(tokens, scored, rate)


def default_cache() -> Path:
    """`physnn` in the user's cache folder (`XDG_CACHE_HOME`, else `~/.cache`)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "physnn"
