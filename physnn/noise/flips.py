"""Flips: bits that thermal noise inverts as they are read."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from physnn.materialized import materialized
from physnn.process import Process
from physnn.units import thermal_energy_J

# Half a step of the 32 random bits that decide: below it no draw would ever flip.
RAREST = 2.0**-33


def bit_flip_probability(process: Process, node_F: float):
    """Probability that noise carries a node over its margin: ½·erfc(margin / √2·σ).

    σ² = thermal_noise·kT/`node_F`, margin = half the supply. Exactly zero without
    noise. Reference: Kish 2002, "End of Moore's law: thermal (noise) death of
    integration in micro and nano electronics", DOI 10.1016/S0375-9601(02)01365-8.
    """
    if isinstance(process.thermal_noise, int | float) and process.thermal_noise == 0:
        return 0.0
    # kT/C first: 4e-21 J alone would be lost in float32.
    variance = process.thermal_noise * (
        thermal_energy_J(process.temperature_K) / node_F
    )
    z = process.supply_V / 2 / (2 * variance) ** 0.5
    if isinstance(z, float):
        return 0.5 * math.erfc(z)
    return 0.5 * jax.scipy.special.erfc(z)


def flip_bits(
    bits: Float[Array, "*batch n"], probability, key: Key[Array, ""]
) -> Float[Array, "*batch n"]:
    """±1 `bits`, each inverted with `probability` (in steps of 2^−32)."""
    if isinstance(probability, float) and probability == 0:
        return bits  # nothing to draw, the usual case at a healthy supply
    limit = (jnp.asarray(probability) * 2.0**32).astype(jnp.uint32)
    flipped = jr.bits(key, bits.shape, jnp.uint32) < limit
    return jnp.where(flipped, -bits, bits)


def is_rare(probability) -> bool:
    """Whether it is a Python number below 2^−33, which no draw would ever show."""
    return isinstance(probability, int | float) and probability < RAREST


def flipped_places(
    shape: tuple[int, ...], *, bits: int, probability, key: Key[Array, ""]
) -> Int[Array, "..."]:
    """Words of `shape` with a one at each of the lowest `bits` places that flips.

    Each with `probability`, which may be an array, independently of the others. One
    random number of 32 bits is all of a word: it decides about the lowest place, and
    what is left of it, drawn out to 0 ... 1 again, about the next. Draws nothing where
    the probability is below 2^−33, traced or not.
    """
    if is_rare(probability):
        return jnp.zeros(shape, jnp.int32)
    p = jnp.asarray(probability, jnp.float32)

    def draw(p):
        words = materialized(jr.bits(key, shape, jnp.uint32))
        u = (words.astype(jnp.float32) + 0.5) * 2.0**-32
        found = jnp.zeros(shape, jnp.int32)
        for place in range(bits):
            flips = u < p
            found = jnp.where(flips, found | (1 << place), found)
            u = jnp.where(flips, u / p, (u - p) / (1 - p))
        return found

    # The usual supply costs a comparison, also where it is traced.
    nothing = lambda p: jnp.zeros(shape, jnp.int32)
    possible = jnp.any(p >= RAREST)
    return jax.lax.cond(possible, draw, nothing, jax.lax.stop_gradient(p))


def misread(
    values: Float[Array, "*batch"],
    *,
    full_scale: Float[Array, ""] | float,
    bits: int,
    probability,
    key: Key[Array, ""],
) -> Float[Array, "*batch"]:
    """`values` as they come out of a ROM of words of `bits`, each read bit by bit.

    A word is the code of `quantize` in two's complement, as `HashedRoms` writes it:
    bit k is worth 2^k steps, the highest −2^(`bits`−1). Each flips with `probability`.
    The code below −`full_scale`, which only a flip can make, is converted as the lowest
    that a converter has. A word without a flip is what it was, to the last bit; the
    gradient passes as if there were none. `values` are codes, or what is rounded next.
    """
    if is_rare(probability):
        return values
    step = full_scale / (2 ** (bits - 1) - 1)
    flips = flipped_places(values.shape, bits=bits, probability=probability, key=key)
    # The sign of a word of 32 bits is the highest bit of ours, repeated.
    flips = jnp.where(flips >> (bits - 1) > 0, flips - (1 << bits), flips)
    codes = jnp.round(jnp.clip(values, -full_scale, full_scale) / step)
    found = (codes.astype(jnp.int32) ^ flips).astype(values.dtype) * step
    found = jnp.clip(found, -full_scale, full_scale)
    return jnp.where(flips != 0, values + jax.lax.stop_gradient(found - values), values)
