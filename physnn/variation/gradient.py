"""Gradients across the die: what is not random, but is where it lies."""

import jax
import jax.numpy as jnp
import jax.random as jr

from physnn.bank import Bank


def gradient(bank: Bank, *, process, environment, key, place):
    """value·(g(x, y) − g_ref), g = a·x + b·y + c·x² + d·xy + e·y² [x, y in mm].

    a and b are normal with an rms slope √(a² + b²) of `gradient_per_mm`, c, d and e
    with √(c² + d² + e²) of `gradient_per_mm2`; one draw for all devices of a kind on a
    die. A ratio is held against the middle of its bank, where its reference is
    interleaved; an absolute value against the middle of the die, and a trimmed one (not
    `programmed`) keeps `trim_residue` of that. Positions are those of `floor_plan`.

    Pairs are drawn with a common centroid: kind `threshold` has none. McNutt et al.
    1994, DOI 10.1109/4.293127, measure such gradients of capacitors.
    """
    none = environment.is_none("gradient_per_mm")
    if bank.kind == "threshold" or (none and environment.is_none("gradient_per_mm2")):
        return None
    a, b, c, d, e = jr.normal(key, (5,))
    linear = environment.gradient_per_mm / 2**0.5
    quadratic = environment.gradient_per_mm2 / 3**0.5
    x, y = place.positions_mm(bank.value.shape)
    g = linear * (a * x + b * y) + quadratic * (c * x**2 + d * x * y + e * y**2)
    if bank.is_ratio:
        g = g - jnp.mean(g)
    elif not bank.programmed:
        g = g * process.operating["trim_residue"]
    return jax.lax.stop_gradient(bank.nominal()) * g
