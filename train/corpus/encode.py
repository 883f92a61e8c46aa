"""Shards of text made into shards of tokens, in one process or in several."""

import contextlib
import functools
import json
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from train.corpus.files import SPLITS
from train.corpus.shards import write_json, write_shard
from train.corpus.vocabulary import AbstractVocabulary, cut, pieces, read_vocabulary

# Bytes of text in a shard: small enough that every worker has several, and large
# enough that a terabyte is no more files than a process may map.
SHARD_B = (1 << 20, 1 << 26)
# How often a shard is tried: whether its tokens give its text again.
TRIED = 4


def shards_of_text(stream: Iterator[tuple[str, bytes]], most: int):
    """(split, number, text) of every shard: whole lines of at most so many bytes."""
    waiting = {split: bytearray() for split in SPLITS}
    numbers = dict.fromkeys(SPLITS, 0)

    def shard(split: str, at: int):
        text = bytes(waiting[split][:at])
        del waiting[split][:at]
        numbers[split] += 1
        return split, numbers[split] - 1, text

    for split, piece in stream:
        waiting[split] += piece
        # A character may be cut at the end of what was read so far.
        while len(waiting[split]) > most + 4:
            yield shard(split, cut(waiting[split], most))
    for split in SPLITS:
        while waiting[split]:
            yield shard(split, cut(waiting[split], most))


def whole_lines(texts: Iterator[bytes]) -> Iterator[bytes]:
    """The same text in parts that cut no line."""
    for _, _, text in shards_of_text((("train", each) for each in texts), SHARD_B[0]):
        yield text


@contextlib.contextmanager
def in_processes(workers: int, vocabulary: AbstractVocabulary):
    """A function that encodes jobs in order, in so many processes."""
    what = (vocabulary.kind, vocabulary.content())
    one = workers == 1 or vocabulary.file is None
    if one:
        yield lambda jobs: (_result(split, _encode(what, *job)) for split, job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_end_with_parent)

    def encode(jobs):
        ahead: deque = deque()
        for split, job in jobs:
            ahead.append((split, pool.submit(_encode, what, *job)))
            if len(ahead) > 2 * workers:
                split, future = ahead.popleft()
                yield _result(split, future.result())
        while ahead:
            split, future = ahead.popleft()
            yield _result(split, future.result())

    with pool:
        try:
            yield encode
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _result(split: str, shard: dict[str, Any]) -> tuple[str, int, dict[str, Any]]:
    return split, shard["bytes"], shard


def _encode(what: tuple[str, bytes], path: Path, text: bytes) -> dict[str, Any]:
    """Write one shard, unless it was written before; what a manifest says about it."""
    note = path.with_suffix(".json")
    if note.is_file():
        shard = json.loads(note.read_text())
        if path.is_file() and path.stat().st_mtime_ns == shard["mtime_ns"]:
            return shard
    vocabulary = _opened(*what)
    shard = write_shard(path, vocabulary.encode(text))
    parts = [*pieces(text)]
    tried = parts[:: max(1, len(parts) // TRIED)]
    again = [vocabulary.decode(vocabulary.encode(part)) == part for part in tried]
    shard |= {"bytes": len(text), "reproduced": float(np.mean(again))}
    write_json(note, shard)
    return shard


@functools.lru_cache(maxsize=1)
def _opened(kind: str, content: bytes) -> AbstractVocabulary:
    return read_vocabulary(kind, content, where="the corpus")


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    # Workers are parallel as it is.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    parent = multiprocessing.parent_process()

    def watch():
        if parent is not None:
            multiprocessing.connection.wait([parent.sentinel])
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
