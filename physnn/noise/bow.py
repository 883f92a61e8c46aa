"""Non-linearity of a converter that no mismatch of its own explains."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.noise.thermal import is_zero
from physnn.process import Process


def bowed(
    x: Float[Array, "*batch n"], *, lsb: Float[Array, ""] | float, process: Process
) -> Float[Array, "*batch n"]:
    """x + A·(3√3/2)·x·(1 − x²), A = `converter_bow_LSB` steps of `lsb` [full scale].

    The integral non-linearity of an odd, settling-limited or saturating front end: none
    at zero and at both ends, A at x = ±1/√3. What mismatch of capacitors adds is in the
    converters themselves.
    """
    if is_zero(process.converter_bow_LSB):
        return x
    peak = process.converter_bow_LSB * lsb
    return x + peak * (1.5 * math.sqrt(3)) * x * (1 - jnp.square(x))
