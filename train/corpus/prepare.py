"""Prepare: a corpus made into shards of tokens, once, in parallel, and resumably."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train.corpus.documents import Survey
from train.corpus.encode import SHARD_B, in_processes, shards_of_text, whole_lines
from train.corpus.files import SPLITS, DataError
from train.corpus.progress import Shown
from train.corpus.shards import (
    LAYOUT_VERSION,
    MANIFEST,
    PLAN,
    check_shard,
    read_manifest,
    sha256_of,
    shards_of,
    write_json,
)
from train.corpus.sources import Files, Hub, source_at
from train.corpus.vocabulary import (
    AbstractVocabulary,
    Bytes,
    Characters,
    code_points,
    open_tokenizer,
    train_bpe,
    write_vocabulary,
)


@dataclass(frozen=True)
class Preparation:
    """How a text becomes tokens.

    - `tokenizer`: `byte`, `char`, or a file (tokenizer.json, a SentencePiece .model).
    - `trained`: instead, the size of a vocabulary of byte pairs that is learned from
      the beginning of the training split.
    - `column`: the field of a record that is text.
    """

    tokenizer: str = "byte"
    trained: int | None = None
    column: str | None = None

    def plan(self) -> dict[str, Any]:
        """What has to be the same when a preparation is continued."""
        plan = dataclasses.asdict(self) | {"layout": LAYOUT_VERSION}
        if self.tokenizer not in ("byte", "char"):
            plan["tokenizer"] = open_tokenizer(self.tokenizer).sha256
        return plan


def prepare(
    path: str | None,
    out: Path,
    how: Preparation = Preparation(),
    *,
    workers: int = 1,
    progress: bool = False,
) -> dict[str, Any]:
    """Tokenize the corpus at `path` into the folder `out`; its manifest.

    A preparation that was stopped in whatever way is continued by the same call: every
    shard is written beside its place and renamed, and one that is there is not made
    again. A folder that is finished is checked against its hashes. `path`: what
    `train.corpus.files.find` takes, or `hf:NAME` for a data set that is streamed.

    Raises `DataError`.
    """
    if workers < 1:
        raise DataError(f"Argument `workers` must be at least 1, but is {workers}.")
    source = source_at(path, how.column)
    plan = {**how.plan(), "source": str(source.root), "files": source.stamp()}
    plan = json.loads(json.dumps(plan))
    root, where = Path(source.root), out.resolve()
    # What is hidden is no part of a corpus.
    if where.is_relative_to(root) and not where.name.startswith("."):
        raise DataError(
            f"The folder {out} must lie outside of its corpus {root}, but is in it:"
            " give another folder."
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with _alone(out):
            if (out / MANIFEST).exists():
                return _finished(out, plan)
            _begin(out, plan)
            return _prepare(source, out, how, plan, workers, progress)
    except OSError as error:
        raise DataError(
            f"The text of {source.name} could not be prepared in {out}:"
            f" {error.strerror or error}."
        ) from error


def summary(manifest: dict[str, Any], out: Path) -> str:
    """What a manifest says, for a person."""
    about = manifest["vocabulary"]
    lines = [f"{out}: {about['size']:,} tokens of kind {about['kind']}"]
    for split in SPLITS:
        each = manifest["splits"][split]
        rate = each["bytes"] / max(each["tokens"], 1)
        lines.append(
            f"  {split:<11}{each['bytes']:>15,} bytes {each['tokens']:>15,} tokens"
            f" {rate:.4f} bytes/token in {len(each['shards'])} shards"
        )
    if manifest["reproduced"] < 1:
        lines.append(
            f"  Only {manifest['reproduced']:.1%} of the pieces tried can be had back"
            " from their tokens: the vocabulary loses text, and bits per byte of it are"
            " not comparable with those of one that does not."
        )
    return "\n".join(lines)


def cached(path: str | None, how: Preparation, *, cache: Path) -> Path:
    """A folder under `cache` with the text at `path`, prepared if it is not there yet.

    Its name follows from the names, sizes and dates of the files, so changed text is
    prepared anew. It appears only when it is complete. Raises `DataError`.
    """
    source = source_at(path, how.column)
    key = repr((how.plan(), str(source.root), source.stamp())).encode()
    prepared = cache / f"text-{hashlib.sha256(key).hexdigest()[:16]}"
    if (prepared / MANIFEST).is_file():
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
        prepare(path, beside, how)
        # Another process may have been faster: then its folder is there, and as good.
        with contextlib.suppress(OSError):
            beside.rename(prepared)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return prepared


def _prepare(
    source: Files | Hub, out: Path, how: Preparation, plan, workers: int, progress: bool
) -> dict[str, Any]:
    with Shown(progress) as shown:
        known = _survey(source, out, shown)
        vocabulary = _vocabulary(source, known, how, out)
        shards, digest = _shards(source, known, vocabulary, out, workers, shown)
    if not shards:
        raise DataError(
            f"The corpus {source.name} must hold text, but is empty: give another."
        )
    if known.left_out:
        warnings.warn(
            f"{len(known.left_out)} files of {source.name} were left out."
            f" {known.left_out[0]}",
            stacklevel=5,
        )
    tried = [shard.pop("reproduced") for _, shard in shards]
    splits = {
        split: {
            "tokens": sum(shard["tokens"] for s, shard in shards if s == split),
            "bytes": sum(shard.pop("bytes") for s, shard in shards if s == split),
            "shards": [shard for s, shard in shards if s == split],
        }
        for split in SPLITS
    }
    root = Path(source.root)
    manifest = {
        "layout": LAYOUT_VERSION,
        "source": source.name,
        "sha256": digest,  # of the text of all splits
        "vocabulary": write_vocabulary(vocabulary, out),
        "before": vocabulary.before,  # the token before the first of a split
        "dtype": np.dtype(vocabulary.dtype).str,
        # Part of the pieces that were tried which their tokens give again.
        "reproduced": round(float(np.mean(tried)), 6),
        "splits": splits,
        "files": {
            split: [each.relative_to(root).as_posix() for each in files]
            for split, files in known.files.items()
        },
        "plan": plan,
    }
    write_json(out / MANIFEST, manifest)
    for _, shard in shards:
        (out / shard["file"]).with_suffix(".json").unlink(missing_ok=True)
    for name in (PLAN, _SURVEY):
        (out / name).unlink(missing_ok=True)
    # What a killed process had begun to write.
    for half in out.glob(".*.*.*"):
        half.unlink(missing_ok=True)
    return manifest


_SURVEY = "survey.json"


def _survey(source: Files | Hub, out: Path, shown: Shown) -> Survey:
    """The first reading, or what it found before the preparation was stopped."""
    kept = out / _SURVEY
    if kept.is_file():
        files, sizes, left_out = json.loads(kept.read_text())
        paths = {
            split: [Path(each) for each in names] for split, names in files.items()
        }
        return Survey(paths, sizes, left_out)
    shown.phase("reading", source.on_disk_B())
    found = source.survey(shown.advance)
    files = {split: [str(each) for each in each] for split, each in found.files.items()}
    write_json(kept, [files, found.sizes, found.left_out])
    return found


def _vocabulary(
    source: Files | Hub, known: Survey, how: Preparation, out: Path
) -> AbstractVocabulary:
    texts = lambda: (each for split, each in source.stream(known) if split == "train")
    if how.trained is not None:
        if how.tokenizer != "byte":
            raise DataError(
                "A tokenizer must be given or trained, but both are asked for: leave"
                f" out {how.tokenizer!r} or the training."
            )
        # A second training would give the same; it only takes its time.
        trained = out / "tokenizer.json"
        if trained.is_file():
            return open_tokenizer(str(trained))
        found = train_bpe(whole_lines(texts()), how.trained)
        write_vocabulary(found, out)
        return found
    if how.tokenizer == "char":
        every: set[int] = set()
        for part in whole_lines(each for _, each in source.stream(known)):
            every |= set(np.unique(code_points(part)).tolist())
        return Characters(every)
    return Bytes() if how.tokenizer == "byte" else open_tokenizer(how.tokenizer)


def _shards(source, known, vocabulary, out, workers, shown):
    """Every shard with its split, and the hash of the text."""
    low, high = SHARD_B
    size = sum(known.sizes.values()) or None
    # Bytes are copied, which is not worth a second worker.
    most = high
    if size is not None and vocabulary.file is not None:
        most = min(max(size // 64, low), high)
    digest, done = hashlib.sha256(), []
    shown.phase("tokenizing", size)

    def pieces_read() -> Iterator[tuple[str, bytes]]:
        for split, piece in source.stream(known):
            digest.update(piece)
            yield split, piece

    jobs = (
        (split, (out / f"{split}-{number:05}.bin", text))
        for split, number, text in shards_of_text(pieces_read(), most)
    )
    with in_processes(workers, vocabulary) as encode:
        for split, length, shard in encode(jobs):
            shown.advance(length)
            done.append((split, shard))
    return done, digest.hexdigest()


@contextlib.contextmanager
def _alone(out: Path):
    """Hold a folder for this process."""
    with open(out / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise DataError(
                f"The folder {out} is being prepared by another process: wait for it or"
                " stop it."
            ) from error
        yield


def _begin(out: Path, plan: dict[str, Any]) -> None:
    """Note what is being prepared, or check that it is this."""
    note = out / PLAN
    if note.is_file():
        if json.loads(note.read_text()) != plan:
            raise DataError(
                f"The folder {out} holds the beginning of another preparation (another"
                " tokenizer, or files that changed since): remove it, or give another"
                " folder."
            )
        return
    if visible := sorted(p.name for p in out.iterdir() if p.name[0] != "."):
        raise DataError(
            f"The folder {out} must be empty or begun by `physnn prepare`, but holds"
            f" {visible[:3]}: give another folder."
        )
    write_json(note, plan)


def _finished(out: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a folder that is done, after a look at every hash."""
    manifest = read_manifest(out)
    if manifest["plan"] != plan:
        raise DataError(
            f"The folder {out} holds another corpus or other tokens (or the files"
            " changed since): give another folder, or remove it."
        )
    for _, shard in shards_of(manifest):
        path = out / shard["file"]
        size = shard["tokens"] * np.dtype(manifest["dtype"]).itemsize
        check_shard(path, shard, size=size)
        if sha256_of(path) != shard["sha256"]:
            check_shard(path, shard | {"mtime_ns": -1}, size=size)
    return manifest
