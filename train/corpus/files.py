"""Which files are a corpus, and the split that each belongs to."""

import hashlib
import re
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

SPLITS: tuple[str, ...] = ("train", "validation", "test")
# Names under which a folder may bring its own split.
OWN_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
# A part of a split, as Hugging Face and Grain name them: `train-00003-of-00010`.
_PART = r"-\d+(-of-\d+)?"
HELD_OUT = 0.05  # part of the bytes in validation, and in test
# Some systems strip the library's tests and keep other people's code beside it. A
# library without both is the one that is alike on most machines.
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}


class DataError(ValueError):
    """The data cannot be used; the message says why and what to do."""


class Found(NamedTuple):
    """Files by split, or under `whole` if the bytes are split by position."""

    source: str
    root: Path
    files: dict[str, list[Path]]
    strict: bool  # refuse a file that is not text, instead of leaving it out

    def stamp(self) -> list[list]:
        """What changes when the corpus does: names, sizes and dates of its files."""
        return [
            [split, str(file), file.stat().st_size, file.stat().st_mtime_ns]
            for split, files in self.files.items()
            for file in files
        ]


def find(path: str | None) -> Found:
    """The files at `path` and the split they belong to; None is the standard library.

    A folder that holds train, validation and test files (or folders of them, or files
    in numbered parts) keeps that split. Any other folder is split by file: in the order
    of a hash of their relative paths, files go to validation until it has 5 % of the
    bytes, then to test, the rest to train. A single file, or a folder of fewer than
    three, is split by position: 90, 5 and 5 %.
    """
    if path is None:
        return _library()
    root = Path(path).expanduser().resolve()
    if not root.exists():
        raise DataError(
            f"The text at {root} must be a file or a folder, but there is none: check"
            " the path."
        )
    if root.is_file():
        return Found(str(root), root, {"whole": [root]}, strict=True)
    own = _own_split(root)
    if own:
        return Found(str(root), root, own, strict=True)
    files = _visible(root)
    if not files:
        raise DataError(f"The folder {root} must hold text files, but holds no file.")
    if len(files) < len(SPLITS):
        return Found(str(root), root, {"whole": files}, strict=True)
    return Found(str(root), root, split_by_file(files, root), strict=False)


def split_by_file(files: list[Path], root: Path) -> dict[str, list[Path]]:
    """At least three files, each in exactly one split."""

    def order(file: Path) -> bytes:
        return hashlib.sha256(file.relative_to(root).as_posix().encode()).digest()

    ordered = sorted(files, key=order)
    sizes = {file: file.stat().st_size for file in ordered}
    goal = HELD_OUT * sum(sizes.values())
    splits: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for split in ("validation", "test"):
        size = 0
        # Two files always stay for what follows, so that no split is empty.
        while not splits[split] or (size < goal and len(ordered) > 2):
            splits[split].append(ordered.pop(0))
            size += sizes[splits[split][-1]]
    splits["train"] = ordered
    return {split: sorted(files) for split, files in splits.items()}


def split_of(name: str) -> str | None:
    """The split that the name of a file or a folder says, if it says one."""
    stem = name.split(".")[0].lower()
    for split, names in OWN_NAMES.items():
        if re.fullmatch(f"({'|'.join(names)})({_PART})?", stem):
            return split
    return None


def _library() -> Found:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = ".".join(map(str, sys.version_info[:3]))
    files = [
        file
        for file in sorted(root.rglob("*.py"))
        if not NOT_LIBRARY & set(file.relative_to(root).parts)
    ]
    if not files:
        raise DataError(
            f"The standard library at {root} must hold `.py` files, but holds none:"
            " give a text file or folder."
        )
    source = f"the standard library of Python {version}"
    return Found(source, root, split_by_file(files, root), strict=False)


def _visible(root: Path) -> list[Path]:
    return [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file() and not any(p[0] == "." for p in file.relative_to(root).parts)
    ]


def _own_split(root: Path) -> dict[str, list[Path]] | None:
    files: dict[str, list[Path]] = {split: [] for split in SPLITS}
    folders: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for entry in sorted(root.iterdir()):
        if split := split_of(entry.name):
            if entry.is_file():
                files[split].append(entry)
            else:
                folders[split] += _visible(entry)
    # One of two: a source tree may well have folders `train` and `test`.
    if all(folders.values()) and not any(files.values()):
        return folders
    if not files["train"]:
        return None
    for split, found in files.items():
        parts = all(re.search(_PART, each.name) for each in found)
        if len(found) != 1 and not (found and parts):
            raise DataError(
                f"The folder {root} holds a train file, so it must hold one file, or"
                f" numbered parts, for each of {list(SPLITS)}, but it holds"
                f" {len(found)} for {split} (names: {', '.join(OWN_NAMES[split])})."
            )
    return files
