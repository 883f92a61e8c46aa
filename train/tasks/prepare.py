"""Text of any kind made into one memory-mapped file with three splits."""

import codecs
import contextlib
import gzip
import hashlib
import json
import shutil
import sys
import sysconfig
import tempfile
import warnings
import zlib
from pathlib import Path
from typing import NamedTuple

SPLITS = ("train", "validation", "test")
# Names under which a folder may bring its own split.
OWN_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
HELD_OUT = 0.05  # part of the bytes in validation, and in test
# Some systems strip the library's tests and keep other people's code beside it. A
# library without both is the one that is alike on most machines.
NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test"}
# A byte is not text if it is NUL or no part of valid UTF-8; a file may hold so many.
MAX_NOT_TEXT = 0.001
LAYOUT_VERSION = 1
_CHUNK = 1 << 20


class DataError(ValueError):
    """The text cannot be used; the message says why and what to do."""


class Found(NamedTuple):
    """Files by split, or under `whole` if the bytes are split by position."""

    source: str
    root: Path
    files: dict[str, list[Path]]
    strict: bool  # refuse a file that is not text, instead of leaving it out


def prepare(path: str | None, *, cache: Path) -> Path:
    """Write the text at `path` into a folder under `cache`, if it is not there yet.

    The folder's name follows from the names, sizes and dates of the files, so changed
    text is prepared anew. It appears only when it is complete. It holds `text.bin`, the
    bytes of the three splits one after the other, and `manifest.json`.

    Raises `DataError`.
    """
    found = find(path)
    name = hashlib.sha256(repr((LAYOUT_VERSION, str(found.root))).encode())
    for split, files in found.files.items():
        for file in files:
            stat = file.stat()
            row = (split, str(file), stat.st_size, stat.st_mtime_ns)
            name.update(repr(row).encode())
    prepared = cache / f"text-{name.hexdigest()[:16]}"
    if (prepared / "manifest.json").is_file():
        return prepared
    try:
        cache.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=".text-", dir=cache))
    except OSError as error:
        raise DataError(
            f"The cache folder {cache} must be writable, but is not"
            f" ({error.strerror}): set XDG_CACHE_HOME to a folder that is."
        ) from error
    try:
        _write(beside, found)
        # Another process may have been faster: then its folder is there, and as good.
        with contextlib.suppress(OSError):
            beside.rename(prepared)
    except OSError as error:
        raise DataError(
            f"The text of {found.source} could not be prepared in {cache}:"
            f" {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return prepared


def find(path: str | None) -> Found:
    """The files at `path` and the split they belong to; None is the standard library.

    A folder that holds train, validation and test files keeps that split. Any other
    folder is split by file: in the order of a hash of their relative paths, files go to
    validation until it has 5 % of the bytes, then to test, the rest to train. A single
    file, or a folder of fewer than three, is split by position: 90, 5 and 5 %.
    """
    if path is None:
        root = Path(sysconfig.get_paths()["stdlib"])
        version = ".".join(map(str, sys.version_info[:3]))
        source = f"the standard library of Python {version}"
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
        return Found(source, root, split_by_file(files, root), strict=False)
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
    files = [
        file
        for file in sorted(root.rglob("*"))
        if file.is_file() and not any(p[0] == "." for p in file.relative_to(root).parts)
    ]
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


def _own_split(root: Path) -> dict[str, list[Path]] | None:
    found: dict[str, list[Path]] = {split: [] for split in SPLITS}
    for file in sorted(root.iterdir()):
        for split, names in OWN_NAMES.items():
            if file.is_file() and file.name.split(".")[0].lower() in names:
                found[split].append(file)
    if not found["train"]:
        return None
    for split, files in found.items():
        if len(files) != 1:
            raise DataError(
                f"The folder {root} holds a train file, so it must hold one file for"
                f" each of {list(SPLITS)}, but it holds {len(files)} for {split}"
                f" (names: {', '.join(OWN_NAMES[split])})."
            )
    return found


def _write(folder: Path, found: Found) -> None:
    digest = hashlib.sha256()
    bounds, kept, left_out = {}, {}, []
    with open(folder / "text.bin", "w+b") as out:
        for split, files in found.files.items():
            start, kept[split] = out.tell(), []
            for file in files:
                before = out.tell()
                problem = _append(file, out)
                if problem and found.strict:
                    raise DataError(problem)
                if problem:
                    left_out.append(problem)
                    out.truncate(before)
                    out.seek(before)
                    continue
                kept[split].append(file.relative_to(found.root).as_posix())
            bounds[split] = (start, out.tell())
        size = out.tell()
        out.seek(0)
        while chunk := out.read(_CHUNK):
            digest.update(chunk)
    if left_out and not any(kept.values()):
        raise DataError(left_out[0])
    if left_out:
        warnings.warn(
            f"{len(left_out)} files of {found.source} were left out. {left_out[0]}",
            stacklevel=4,
        )
    if "whole" in bounds:
        cuts = [0, round(size * (1 - 2 * HELD_OUT)), round(size * (1 - HELD_OUT)), size]
        bounds = {s: (cuts[i], cuts[i + 1]) for i, s in enumerate(SPLITS)}
    manifest = {
        "source": found.source,
        "sha256": digest.hexdigest(),
        "splits": bounds,
        "files": kept,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


def _append(file: Path, out) -> str | None:
    """Append a file's bytes; what is wrong with it, if something is."""
    opener = gzip.open if file.suffix == ".gz" else open
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    size = text = 0
    try:
        with opener(file, "rb") as source:
            while chunk := source.read(_CHUNK):
                out.write(chunk)
                size += len(chunk)
                text += len(decoder.decode(chunk).encode()) - chunk.count(0)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"The file {file} must be whole gzip data, but is not ({error})."
    except PermissionError:
        return f"The file {file} must be readable, but is not: check its permissions."
    not_text = (size - text) / max(size, 1)
    if not_text > MAX_NOT_TEXT:
        return (
            f"The file {file} must be UTF-8 text, but {not_text:.1%} of its bytes are"
            f" not (at most {MAX_NOT_TEXT:.1%} may be): give a text file."
        )
    if not size and file.suffix != ".py":
        return f"The file {file} must hold text, but is empty."
    return None
