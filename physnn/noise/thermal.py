"""Thermal (kT/C) noise."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from physnn.noise.white import white
from physnn.process import Process


def thermal_noise(
    x: Float[Array, "*batch n"], variance, *, process: Process, key: Key[Array, ""]
) -> Float[Array, "*batch n"]:
    """`x` with thermal noise of `variance` [full scale²] added; off at zero noise."""
    if isinstance(process.thermal_noise, int | float) and process.thermal_noise == 0:
        return x
    return x + jnp.sqrt(variance) * white(key, x.shape)
