"""Random bits by hashing a counter: a generator of few operations for training."""

import jax
import jax.numpy as jnp
from jax.extend import random as jex
from jaxtyping import Array, UInt, UInt32

_WORDS = 2**32  # a counter of 32 bits tells so many elements apart


def hashed_bits(
    key: UInt32[Array, "2"], bit_width: int, shape: tuple[int, ...]
) -> UInt[Array, "..."]:
    """Random bits: element `i` is a hash of `i` under a key of two words.

    The hash is the permutation `triple32` of 32 bits, whose bias under avalanche is
    that of a random permutation (Wellons 2018, https://nullprogram.com/blog/2018/07/31).
    One word of the key moves the counter, the other comes in between its
    multiplications: two keys walk through one sequence only if that word is the same.

    It takes a dozen operations per element and reads nothing, where threefry takes
    twenty rounds, so XLA draws the bits inside of what uses them, on every device its
    own. It is no generator for secrets.
    """
    if bit_width == 64:
        high, low = (hashed_bits(key + n, 32, shape) for n in (0, 1))
        return high.astype(jnp.uint64) << 32 | low.astype(jnp.uint64)
    counter, overflow = _counters(shape)
    x = counter + key[0]
    x = (x ^ (x >> 17)) * jnp.uint32(0xED5AD4BB)
    x = (x ^ (x >> 11)) + (key[1] if overflow is None else key[1] + overflow)
    x = x * jnp.uint32(0xAC4C1B51)
    x = (x ^ (x >> 15)) * jnp.uint32(0x31848BAB)
    x = x ^ (x >> 14)
    return (x >> (32 - bit_width)).astype(f"uint{bit_width}")


def _counters(
    shape: tuple[int, ...],
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."] | None]:
    """The place of each element, and which 2^32 of them it is in, if not the first.

    Sums of iotas, not a reshaped one: they are cut over devices as the array is.
    """
    counter = jnp.zeros(shape, jnp.uint32)
    overflow, stride, turns = None, 1, 1
    for axis in reversed(range(len(shape))):
        if shape[axis] == 1:  # the stride may be all of 2^32 by now
            continue
        place = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        if stride * shape[axis] <= _WORDS:
            counter += place * jnp.uint32(stride)
            stride *= shape[axis]
            continue
        # From here on every place has a counter of its own under another key.
        moved = place * jnp.uint32(turns)
        overflow = moved if overflow is None else overflow + moved
        turns *= shape[axis]
    return counter, overflow


def _seed(seed: Array) -> UInt32[Array, "2"]:
    """Two words that look drawn, as those of all keys derived from them do."""
    return _THREEFRY.fold_in(_THREEFRY.seed(seed), jnp.uint32(0))


# Keys are derived by threefry: a hash as cheap as that of the bits would be walked
# through by the counters of its own children.
_THREEFRY = jex.threefry_prng_impl
HASHED = jex.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_THREEFRY.split,
    fold_in=_THREEFRY.fold_in,
    random_bits=hashed_bits,
    name="triple32",
    tag="t32",
)
