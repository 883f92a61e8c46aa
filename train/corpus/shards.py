"""A prepared folder: shards of tokens that are mapped into memory, and a manifest."""

import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt

from train.corpus.files import SPLITS, DataError
from train.corpus.vocabulary import AbstractVocabulary, load_vocabulary

LAYOUT_VERSION = 2
MANIFEST = "manifest.json"
# What a preparation that is not finished leaves, to be continued.
PLAN = "plan.json"
_CHUNK = 1 << 20


class Tokens:
    """The tokens of a split: shards one after another, read through memory maps."""

    def __init__(self, shards: Sequence[np.ndarray], dtype: Any):
        self.dtype = np.dtype(dtype)
        # Without the class of the map, which makes every slice four times as slow.
        self.shards = tuple(shard.view(np.ndarray) for shard in shards)
        self._ends = [0, *accumulate(map(len, shards))]

    def __len__(self):
        return self._ends[-1]

    def __getitem__(self, index):
        if not isinstance(index, slice):
            return self[index : index + 1 or None][0]
        start, stop, step = index.indices(len(self))
        # Nearly always all of it lies in one shard: then it is a view.
        first = bisect_right(self._ends, start) - 1
        if first < len(self.shards) and stop <= self._ends[first + 1]:
            base = self._ends[first]
            return self.shards[first][start - base : max(stop, start) - base : step]
        found = [
            shard[max(start - base, 0) : max(stop - base, 0)]
            for shard, base in zip(self.shards, self._ends, strict=False)
            if base < stop and base + len(shard) > start
        ]
        return np.concatenate([np.zeros(0, self.dtype), *found])[::step]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


class Prepared:
    """What is in a prepared folder, opened."""

    def __init__(self, folder: Path):
        """Raises `DataError` for a folder that is unfinished, or was changed since."""
        self.folder = folder
        about = read_manifest(folder)
        self.about = about
        self.vocabulary: AbstractVocabulary = load_vocabulary(
            about["vocabulary"], folder
        )
        self.source: str = about["source"]
        self.files: dict[str, list[str]] = about["files"]
        self.text_sha256: str = about["sha256"]
        self.splits: dict[str, Tokens] = {
            split: self._open(about["splits"][split]) for split in SPLITS
        }

    @property
    def digest(self) -> str:
        """Alike for the same tokens: of the text, if they are its bytes."""
        if self.vocabulary.file is None:
            return self.text_sha256
        both = self.text_sha256 + self.vocabulary.sha256
        return hashlib.sha256(both.encode()).hexdigest()

    def n_bytes(self, split: str) -> int:
        """Bytes of text that the tokens of a split stand for."""
        return self.about["splits"][split]["bytes"]

    def _open(self, split: dict[str, Any]) -> Tokens:
        dtype, found = np.dtype(self.about["dtype"]), []
        for shard in split["shards"]:
            path = self.folder / shard["file"]
            check_shard(path, shard, size=shard["tokens"] * dtype.itemsize)
            found.append(np.memmap(path, dtype=dtype, mode="r"))
        return Tokens(found, dtype)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder. Raises `DataError` if it cannot be read."""
    try:
        about = json.loads((folder / MANIFEST).read_text())
        layout = about["layout"]
    except FileNotFoundError as error:
        raise DataError(
            f"The prepared text in {folder} must be finished, but is not: give the same"
            " `physnn prepare` command again, which continues it."
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"The manifest {folder / MANIFEST} must be the one that `physnn prepare`"
            " wrote, but cannot be read: prepare the text again."
        ) from error
    if layout != LAYOUT_VERSION:
        raise DataError(
            f"The prepared text in {folder} must have layout {LAYOUT_VERSION}, but has"
            f" {layout}: prepare it again."
        )
    return about


def is_prepared(path: str | Path | None) -> bool:
    """Whether a path is a folder that `physnn prepare` began or finished."""
    if path is None:
        return False
    folder = Path(path).expanduser()
    if (folder / PLAN).is_file():
        return True
    try:
        return "layout" in json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError, TypeError):
        return False


def check_shard(path: Path, shard: dict[str, Any], *, size: int) -> None:
    """Raise `DataError` if a shard is not what the manifest says.

    A file of the size and the date of when it was written is taken for it; any other is
    read whole, and must have its hash.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise DataError(
            f"The shard {path} must be there, but is not: copy it there, or prepare the"
            " text again."
        ) from error
    if stat.st_size == size and stat.st_mtime_ns == shard["mtime_ns"]:
        return
    if stat.st_size != size or sha256_of(path) != shard["sha256"]:
        raise DataError(
            f"The shard {path} must hold what was prepared, but was changed since (its"
            " hash does not match the manifest): copy it again, or prepare the text"
            " again."
        )


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def write_shard(path: Path, tokens: UInt[np.ndarray, " time"]) -> dict[str, Any]:
    """Write a shard beside its place, then rename it; what a manifest says about it."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    content = np.ascontiguousarray(tokens).tobytes()
    beside.write_bytes(content)
    beside.replace(path)
    return {
        "file": path.name,
        "tokens": len(tokens),
        "sha256": hashlib.sha256(content).hexdigest(),
        "mtime_ns": path.stat().st_mtime_ns,
    }


def shards_of(about: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every shard of a manifest, with its split."""
    for split in SPLITS:
        for shard in about["splits"][split]["shards"]:
            yield split, shard


def write_json(path: Path, value: Any) -> None:
    """Write beside first, then rename into place."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(value, indent=1) + "\n")
    beside.replace(path)
