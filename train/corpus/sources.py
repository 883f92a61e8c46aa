"""Where text comes from: files on this machine, or a data set that is streamed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.corpus.documents import Survey, read, survey, text_of
from train.corpus.extras import extra
from train.corpus.files import HELD_OUT, SPLITS, DataError, Found, find, split_of

HUB = "hf:"
# Of a streamed data set without a split of its own, the length of which nobody knows:
# every so many records one goes to validation, and one to test.
_EVERY = round(1 / HELD_OUT)


class Files:
    """Text files, lines of JSON, Parquet and ArrayRecord on this machine."""

    def __init__(self, path: str | None, column: str | None = None):
        self._found: Found = find(path)
        self._column = column
        self.name, self.root = self._found.source, self._found.root

    def stamp(self) -> Any:
        """What changes when the corpus does."""
        return self._found.stamp()

    def on_disk_B(self) -> int:
        return sum(row[2] for row in self._found.stamp())

    def survey(self, tell) -> Survey:
        """Read all of it once; `tell` hears how many bytes were read."""
        return survey(self._found, self._column, tell)

    def stream(self, known: Survey) -> Iterator[tuple[str, bytes]]:
        """Pieces of text and their splits, always in the same order."""
        for split, files in known.files.items():
            pieces = (piece for file in files for piece in read(file, self._column))
            if split != "whole":
                yield from ((split, piece) for piece in pieces)
                continue
            size = known.sizes[split]
            held_out = (round(size * (1 - 2 * HELD_OUT)), round(size * (1 - HELD_OUT)))
            yield from _by_position(pieces, held_out)


class Hub:
    """A data set of Hugging Face `datasets`, streamed; nothing is kept on disk."""

    def __init__(self, spec: str, column: str | None = None):
        """`spec`: `hf:NAME[:CONFIG][@REVISION]`; NAME may be a folder here."""
        self.name, self.root, self._column = spec, spec, column
        name, _, self._revision = spec[len(HUB) :].partition("@")
        self._name, _, self._config = name.partition(":")
        if not self._name:
            raise DataError(
                "A data set of Hugging Face must be written hf:NAME[:CONFIG][@REVISION]"
                f", but is {spec!r}."
            )

    def stamp(self) -> Any:
        """A folder by its files; of a hub's set we know what was asked for."""
        folder = Path(self._name)
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        return [self.name, *([str(f), f.stat().st_mtime_ns] for f in files)]

    def on_disk_B(self) -> None:
        """Nobody knows."""

    def survey(self, tell) -> Survey:
        """Nothing: it would be sent twice."""
        del tell
        return Survey({}, {}, [])

    def stream(self, known: Survey) -> Iterator[tuple[str, bytes]]:
        """Records and their splits, always in the same order."""
        del known
        library = extra("datasets", group="data", purpose=f"To stream {self.name}")
        try:
            found = library.load_dataset(
                self._name,
                self._config or None,
                revision=self._revision or None,
                streaming=True,
            )
        except Exception as error:  # of many types, of many libraries
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise DataError(
                f"The data set {self.name} must be one that `datasets` can load, but it"
                f" cannot ({reason}): check its name and the network."
            ) from error
        own: dict[str, list] = {}
        for name, records in found.items():
            own.setdefault(split_of(name) or "train", []).append(records)
        divided = all(split in own for split in SPLITS)
        for split, parts in own.items():
            for number, record in enumerate(each for part in parts for each in part):
                piece = text_of(record, self._column, self.name)
                yield (split if divided else _share(number)), piece


def source_at(path: str | os.PathLike | None, column: str | None) -> Files | Hub:
    """What a path of a corpus means; None is the interpreter's own library."""
    if path is not None and str(path).startswith(HUB):
        return Hub(str(path), column)
    return Files(None if path is None else str(path), column)


def _share(number: int) -> str:
    """The split of a record by its place."""
    place = number % _EVERY
    return {_EVERY // 2 - 1: "validation", _EVERY - 1: "test"}.get(place, "train")


def _by_position(
    pieces: Iterator[bytes], cuts: tuple[int, int]
) -> Iterator[tuple[str, bytes]]:
    """Train, validation and test, cut at these bytes or where their character ends."""
    position, split = 0, 0
    for piece in pieces:
        while split < len(cuts) and position + len(piece) > cuts[split]:
            at = max(cuts[split] - position, 0)
            while at < len(piece) and piece[at] & 0xC0 == 0x80:
                at += 1
            if at == len(piece):
                break
            yield SPLITS[split], piece[:at]
            position, piece, split = position + at, piece[at:], split + 1
        yield SPLITS[split], piece
        position += len(piece)
