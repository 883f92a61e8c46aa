"""Supply ripple: a tone and white noise on the supply, the same for a whole chip."""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from physnn.noise.white import white


def supply_V(
    phase: Float[Array, "*batch"], *, ripple_V, noise_V, key: Key[Array, ""]
) -> Float[Array, "*batch"]:
    """Deviation of the supply [V]: ripple_V·sin(phase) + noise_V·N(0, 1).

    Rms: √(ripple_V²/2 + noise_V²). `phase` is that of the tone [rad].
    """
    return ripple_V * jnp.sin(phase) + noise_V * white(key, phase.shape)


def advanced(
    phase: Float[Array, "*batch"], frequency_Hz, *, step_s: float
) -> Float[Array, "*batch"]:
    """The phase a step later, within a turn. Above half the step rate it aliases."""
    turns = jnp.mod(frequency_Hz * step_s, 1.0)
    return jnp.mod(phase + 2 * math.pi * turns, 2 * math.pi)


def first_phase(shape: tuple[int, ...], key: Key[Array, ""]) -> Float[Array, "*batch"]:
    """Where in the tone each sequence begins: anywhere."""
    return jr.uniform(key, shape, maxval=2 * math.pi)
