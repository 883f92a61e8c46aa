"""Named random streams: adding a source of randomness never reseeds another."""

import zlib

import jax.random as jr
from jaxtyping import Array, Key


def stream(key: Key[Array, ""], name: str) -> Key[Array, ""]:
    """The key of the stream called `name` under `key`.

    Streams are told apart by name instead of by position in a `split`, so a new
    noise source or a new bank leaves the draws of all others bit-identical.
    """
    return jr.fold_in(key, digest(name))


def digest(name: str) -> int:
    """The number of 32 bits that stands for `name`: the same on every machine."""
    return zlib.crc32(name.encode())
