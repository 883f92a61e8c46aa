"""Reading a truth table: hard forward, soft backward."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnn.materialized import materialized


@functools.cache
def hadamard(k: int) -> np.ndarray:
    """H with H[a, s] = (−1)^|a & s|, of 2^k addresses; H·H = 2^k."""
    h = np.ones((1, 1))
    for _ in range(k):
        h = np.block([[h, h], [h, -h]])
    return h.astype(np.float32)


# Log-odds of a bit that is stuck: as sure as one that is trained.
STUCK_LOGIT = 10.0


@functools.cache
def slopes(k: int, blur: float) -> np.ndarray:
    """S[a, j, b]: the slope over pin j at address a is Σ_b S[a, j, b]·P(b).

    The multilinear extension differentiated over pin j, averaged over flips of each
    other pin with probability `blur`. At 1/4 these are the finite differences of
    Bacellar et al. 2024, who weight a distance h with 0.75^(k−1−h)·0.25^h.
    """
    address = np.arange(2**k)
    distance = address[:, None] ^ address
    rows = []
    for j in range(k):
        flips = np.bitwise_count(distance & ~(1 << j)).astype(float)
        sign = 2.0 * ((address >> j) & 1) - 1
        rows.append(sign * (1 - blur) ** (k - 1 - flips) * blur**flips)
    return np.stack(rows, axis=1).astype(np.float32)


def multilinear(p, pins, k: int):
    """Σ_a p[a]·Π_j P(pin j agrees with a): a table read with uncertain pins.

    `p` is `(n, 2^k)`, `pins` `(*batch, k, n)` as fractions of full scale, so that a pin
    is high with probability (1 + x)/2.
    """
    # Once, apart from where they are from and go: every sum below reads them.
    likely = materialized((1 + pins) / 2)
    high = [likely[..., j, :] for j in range(k)]
    entries = materialized(jnp.moveaxis(p, -1, 0))
    # In two halves of the pins, so that an entry costs one product with the weight of
    # its low half, and 2^(k/2) of them one with that of the high half. Sums of slices,
    # not products of arrays: XLA makes one pass over the pins of them.
    low, above = _weights(high[: k // 2]), _weights(high[k // 2 :])
    value = jnp.zeros_like(high[0])
    for i, weight in enumerate(above):
        within = entries[i * len(low) : (i + 1) * len(low)]
        value += weight * sum(w * entry for w, entry in zip(low, within, strict=True))
    return materialized(value)


def _weights(high):
    """Of all addresses of these pins, the first the lowest: Π_j P(pin j agrees)."""
    weights = [jnp.ones_like(high[0])]
    for h in high:
        weights = [w * (1 - h) for w in weights] + [w * h for w in weights]
    return weights


def look_up(
    pins: Float[Array, "*batch k n"],
    logits: Float[Array, "n entries"],
    blur: float,
    shift: Float[Array, "*batch n"] | None = None,
) -> Float[Array, "*batch n"]:
    """The bit, ±1, that each table holds where its pins point.

    `shift` is added to what is read before it is rounded. Backwards the table is the
    multilinear extension of sigmoid(logits) (at `blur` 0), taken at the corner where
    the pins are: straight-through for the rounding alone.
    """
    # One batch axis: XLA's CPU gathers are 20 times slower with two.
    flat = pins.reshape(-1, *pins.shape[-2:])
    if shift is None:
        shift = jnp.zeros((1, 1), logits.dtype)
    bits: Any = _bits(flat, logits, shift.reshape(-1, shift.shape[-1]), blur)
    return jnp.reshape(bits, (*pins.shape[:-2], len(logits)))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _bits(pins, logits, shift, blur) -> Array:
    return _look_up(pins, logits, shift, blur)[0]


def _look_up(pins, logits, shift, blur):
    del blur
    n, entries = logits.shape
    # A sum and not a chain of additions: XLA would compute that again for every reader.
    weights = 2 ** jnp.arange(pins.shape[-2], dtype=jnp.int32)[:, None]
    address = jnp.sum(jnp.where(pins > 0, weights, 0), axis=-2, dtype=jnp.int32)
    address = address + entries * jnp.arange(n, dtype=jnp.int32)
    # An address is in range by construction; the check would cost as much again.
    found = logits.reshape(-1).at[address].get(mode="promise_in_bounds")
    found = found + shift
    bit = jnp.where(found > 0, 1.0, -1.0).astype(logits.dtype)
    return bit, (address, found, logits, jnp.zeros_like(shift))


def _look_up_gradient(blur, residuals, cotangent):
    address, found, logits, no_shift = residuals
    n, entries = logits.shape
    k = entries.bit_length() - 1
    p = jax.nn.sigmoid(found)
    to_found = cotangent * (2 * p * (1 - p))
    to_logits = jnp.zeros(n * entries, logits.dtype)
    to_logits = to_logits.at[address].add(to_found, mode="promise_in_bounds")
    # The slopes of all addresses are few; each sample then reads its own.
    kernel = jnp.asarray(slopes(k, blur), logits.dtype)
    table = jnp.einsum("ajb,nb->jna", kernel, jax.nn.sigmoid(logits)).reshape(k, -1)
    read = [
        # Apart from the others: fused into their stack, each is read three times over.
        materialized(cotangent * row.at[address].get(mode="promise_in_bounds"))
        for row in table
    ]
    return jnp.stack(read, axis=-2), to_logits.reshape(n, entries), no_shift


_bits.defvjp(_look_up, _look_up_gradient)
