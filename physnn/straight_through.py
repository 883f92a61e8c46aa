"""Gradients through quantizers: straight-through (Bengio 2013, arXiv 1308.3432)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def quantize(
    x: Float[Array, "..."], *, full_scale: Float[Array, "..."] | float, bits: int
) -> Float[Array, "..."]:
    """Round to a symmetric signed code of `bits`: 2^bits − 1 levels, zero among them.

    Inside ±`full_scale` the gradient is that of the identity; outside the value is
    clipped and its gradient is zero. The error of a signal that fills the range is
    uniform with variance Δ²/12, Δ = `full_scale` / (2^(bits−1) − 1). Raises
    `ValueError` below 2 bits, where zero would be the only level.
    """
    if bits < 2:
        raise ValueError(f"Argument `bits` must be at least 2, but is {bits}.")
    step = full_scale / (2 ** (bits - 1) - 1)
    # Not `jnp.clip`: it halves the gradient at ±full_scale exactly, which is where the
    # largest weight of a column sits.
    inside = jnp.abs(x) <= full_scale
    clipped = jnp.where(inside, x, jnp.sign(x) * full_scale)
    return clipped + jax.lax.stop_gradient(jnp.round(clipped / step) * step - clipped)
