"""A digest of arrays that is the same however they are cut over devices."""

import zlib
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from train.distributed import gathered_ints, is_first

# Values that are added up at a time: the temporary arrays stay small.
_CHUNK = 1 << 18
# An odd number that spreads the bits of a position: 2^64 over the golden ratio (Knuth,
# The Art of Computer Programming, volume 3, section 6.4).
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


def own_digest(arrays: Mapping[str, np.ndarray | jax.Array]) -> int:
    """What this process adds to the digest: the values that it answers for.

    Every value, as a whole number of its bits, times an odd number that its array's
    name, shape and type and its place in it give, modulo 2^64.
    """
    total = 0
    for name, array in arrays.items():
        header = repr((name, array.shape, str(array.dtype))).encode()
        of_array = 2 * (zlib.crc32(header) << 20) + 1
        total += of_array * sum(
            _piece(values, first, array.shape) for values, first in _pieces(array)
        )
    return total % (1 << 64)


def whole_digest(own: int | None) -> int | None:
    """The digest, of the parts of all processes; None if one of them has none."""
    parts = np.asarray([own or 0], np.uint64).view(np.int32)
    every = gathered_ints([own is not None, *parts.tolist()]).astype(np.int32)
    if not every[:, 0].all():
        return None
    return sum(np.ascontiguousarray(every[:, 1:]).view(np.uint64)[:, 0].tolist()) % (
        1 << 64
    )


def old_checksum(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """What checkpoints of runs on one device were stored with before there were more:
    the CRC-32 of all arrays one after another, by name.
    """
    total = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total = zlib.crc32(repr((name, array.shape, str(array.dtype))).encode(), total)
        total = zlib.crc32(array.tobytes(), total)
    return np.asarray(total, np.uint32)


def _pieces(array) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """The parts that no other process answers for, and where each begins."""
    if not isinstance(array, jax.Array) or array.is_fully_addressable:
        if is_first():
            yield np.asarray(array), (0,) * np.ndim(array)
        return
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            first = tuple(index.start or 0 for index in shard.index)
            yield np.asarray(shard.data), first


def _piece(values: np.ndarray, first: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """Sum over one part of (bits of a value + 1) times the weight of its place."""
    if not values.size:
        return 0
    rows = np.ascontiguousarray(values).reshape(values.shape[0] if shape else 1, -1)
    # Places of the values of one row, and of the rows, in the whole array.
    strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
    inner = np.zeros((1,), np.uint64)
    for n, start, stride in zip(values.shape[1:], first[1:], strides[1:], strict=True):
        along = (start + np.arange(n, dtype=np.uint64)) * np.uint64(stride)
        inner = (inner[:, None] + along).reshape(-1)
    row_stride = np.uint64(strides[0] if strides else 0)
    start = np.uint64(first[0] if first else 0)
    bits = rows.view(f"u{rows.dtype.itemsize}")
    total, step = 0, max(1, _CHUNK // max(1, rows.shape[1]))
    for low in range(0, len(rows), step):
        part = bits[low : low + step].astype(np.uint64) + np.uint64(1)
        along = (start + np.arange(low, low + len(part), dtype=np.uint64)) * row_stride
        weights = (along[:, None] + inner) * _SPREAD
        weights ^= weights >> np.uint64(29)
        part *= weights * np.uint64(2) + np.uint64(1)
        total += int(part.sum(dtype=np.uint64))
    return total % (1 << 64)
