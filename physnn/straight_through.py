"""Gradients through quantizers: straight-through (Bengio 2013, arXiv 1308.3432)."""

import math

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
    return quantize_to(x, full_scale=full_scale, levels=2 ** (bits - 1) - 1)


def quantize_to(
    x: Float[Array, "..."],
    *,
    full_scale: Float[Array, "..."] | float,
    levels: Float[Array, ""] | float | int,
) -> Float[Array, "..."]:
    """Round to a symmetric code of `levels` steps on either side of zero.

    As `quantize`, and differentiable in the number of levels: the error of a rounded
    value grows with its step, so that dy/dΔ is error/Δ (Esser et al. 2020, arXiv
    1902.08153). A loss that suffers from the rounding then asks for more levels.
    """
    step = full_scale / levels
    # Not `jnp.clip`: it halves the gradient at ±full_scale exactly, which is where the
    # largest weight of a column sits.
    inside = jnp.abs(x) <= full_scale
    clipped = jnp.where(inside, x, jnp.sign(x) * full_scale)
    error = jax.lax.stop_gradient(jnp.round(clipped / step) * step - clipped)
    if isinstance(levels, int):
        return clipped + error
    # The factor is 1; its gradient is that of the step.
    return clipped + error * (step / jax.lax.stop_gradient(step))


def quantize_learned(
    x: Float[Array, "..."], *, full_scale: Float[Array, ""], bits: int
) -> Float[Array, "..."]:
    """The code of `quantize`, with a gradient for its range as well.

    With Q = 2^(bits−1) − 1 and step s = `full_scale`/Q the gradient of a code to s is
    round(x/s) − x/s inside the range and ±Q where it is clipped: a range that clips is
    widened, one that wastes levels is narrowed. It is scaled by 1/√(N·Q), N = `x.size`,
    so that one range moves at the pace of its N values (learned step size: Esser et al.
    2020, arXiv 1902.08153). The gradient to `x` is as in `quantize`. Raises
    `ValueError` below 2 bits.
    """
    if bits < 2:
        raise ValueError(f"Argument `bits` must be at least 2, but is {bits}.")
    top = 2 ** (bits - 1) - 1
    share = 1 / math.sqrt(x.size * top)
    held = jax.lax.stop_gradient(full_scale)
    # The same number, of which a share of the gradient passes.
    step = (held + share * (full_scale - held)) / top
    level = x / step
    inside = jnp.abs(x) <= held
    rounded = level + jax.lax.stop_gradient(jnp.round(level) - level)
    return jnp.where(inside, rounded, jnp.sign(x) * top) * step
