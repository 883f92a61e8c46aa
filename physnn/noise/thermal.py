"""Thermal (kT/C) noise."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from physnn.materialized import materialized
from physnn.noise.white import white
from physnn.process import Process
from physnn.products import scaled


def thermal_noise(
    x: Float[Array, "*batch n"], variance, *, process: Process, key: Key[Array, ""]
) -> Float[Array, "*batch n"]:
    """`x` with thermal noise of `variance` [full scale²] added; off at zero noise."""
    if is_zero(process.thermal_noise):
        return x
    return noisy(x, variance, key)


def noisy(
    x: Float[Array, "*batch n"], variance, key: Key[Array, ""]
) -> Float[Array, "*batch n"]:
    """`x` with white noise of `variance` added; also where a traced one is zero."""
    return x + scaled(white(key, x.shape), rms(variance))


def rms(variance) -> Float[Array, "..."]:
    """√variance, with a slope of zero where a (traced) variance is none."""
    variance = jnp.asarray(variance)
    some = variance > 0
    return materialized(jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0))


def is_zero(amount) -> bool:
    """Whether an amount is a Python number and zero: then nothing is drawn."""
    return isinstance(amount, int | float) and amount == 0
