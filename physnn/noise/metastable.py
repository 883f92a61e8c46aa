"""Metastability: a comparator that has not decided when it is read."""

import math

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from physnn.process import Process


def metastable_window(process: Process):
    """Input below which a comparator stays undecided [full scale].

    Its latch grows a difference by e^(t/τ); it has decided when that reaches the
    supply: |x| ≥ supply/swing·e^−`decision_taus`. For an input of density p at zero the
    probability of no decision is 2·p·window (Veendrick 1980, DOI
    10.1109/JSSC.1980.1051359). `inf` time constants leave no window.
    """
    taus = process.decision_taus
    if isinstance(taus, int | float):
        return process.supply_V / process.swing_V * math.exp(-taus)
    return process.supply_V / process.swing_V * jnp.exp(-taus)


def decided_sign(
    seen: Float[Array, "*batch n"], window, key: Key[Array, ""]
) -> Float[Array, "*batch n"]:
    """The sign of what a comparator sees, at even odds within the window."""
    sign = jnp.where(seen >= 0, 1.0, -1.0).astype(seen.dtype)
    if isinstance(window, float) and window == 0:
        return sign
    coin = jr.rademacher(key, seen.shape, seen.dtype)
    return jnp.where(jnp.abs(seen) < window, coin, sign)
