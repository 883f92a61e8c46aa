"""Flicker noise: 1/f as a sum of Ornstein-Uhlenbeck poles, advanced exactly."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from physnn.noise.white import white

POLES_PER_DECADE = 1


def pole_rates(low_Hz: float, high_Hz: float) -> tuple[float, ...]:
    """Corner frequencies of the poles [Hz], evenly in the logarithm of the band.

    Raises `ValueError` for a band that is empty.
    """
    if not 0 < low_Hz < high_Hz:
        raise ValueError(
            "The band of flicker noise must not be empty, but is from"
            f" {low_Hz} Hz to {high_Hz} Hz (half the token rate)."
        )
    n = max(1, round(math.log10(high_Hz / low_Hz) * POLES_PER_DECADE))
    middles = (np.arange(n) + 0.5) / n
    return tuple((low_Hz * (high_Hz / low_Hz) ** middles).tolist())


def flicker_variance(density_1Hz, *, low_Hz: float, high_Hz: float):
    """∫ S(1 Hz)/f df over the band: S(1 Hz)·ln(high/low)."""
    return density_1Hz * math.log(high_Hz / low_Hz)


def flicker_poles(
    z: Float[Array, " poles *shape"],
    rates_Hz: Sequence[float],
    *,
    step_s: float,
    started: Float[Array, ""],
    key: Key[Array, ""],
) -> Float[Array, " poles *shape"]:
    """Poles of unit variance a step later; the first step draws them stationary.

    dz = −2πf·z dt + √(4πf) dW: z ← ρ·z + √(1 − ρ²)·N(0, 1), ρ = e^(−2πf·step), exact
    for any step (Gillespie 1996, DOI 10.1103/PhysRevE.54.2084). Each has the one-sided
    spectrum (2/πf_p)/(1 + (f/f_p)²). Evenly in log f_p their sum is 1/f, to 6 % from a
    decade and a half above the lower end of the band to as much below the upper one
    (van der Ziel 1950, DOI 10.1016/0031-8914(50)90078-4).
    """
    shape = (-1,) + (1,) * (z.ndim - 1)
    decay = np.exp(-2 * math.pi * step_s * np.asarray(rates_Hz))
    rho = jnp.asarray(decay, z.dtype).reshape(shape) * started
    fresh = jnp.sqrt(1 - jnp.square(rho))
    return rho * z + fresh * white(key, z.shape)
