"""Coupling between the cells of a circuit, through what they share."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.noise.thermal import is_zero
from physnn.process import Process


def coupled(
    x: Float[Array, "*batch n"], *, process: Process
) -> Float[Array, "*batch n"]:
    """Nodes `x` with what they bring each other through substrate and supply.

        x_i + s·mean_j x_j − r·(V_d/V_swing)·mean_j |x_j|

    s (`substrate`) is what a node picks up when all nodes of its circuit are at full
    scale: the substrate is one node under all of them (Su, Loinaz, Masui & Wooley 1993,
    DOI 10.1109/4.210024), and differential cells leave what their halves differ by.
    V_d (`droop_V`) is how far the supply of a circuit falls when all its nodes are at
    full scale of either sign, since what charges them comes from there; r is
    `supply_rejection`, what a pair lets through. Both off at zero.

    Assumes: the same for all nodes of a circuit, near or far, and settled within a
    token. Does not model: coupling between circuits, from clocks and logic (`ripple_V`,
    `supply_noise_V`).
    """
    y = x
    if not is_zero(process.substrate):
        y = y + process.substrate * jnp.mean(x, axis=-1, keepdims=True)
    if not is_zero(process.droop_V):
        let_through = process.operating["supply_rejection"] / process.swing_V
        fallen_V = process.droop_V * jnp.mean(jnp.abs(x), axis=-1, keepdims=True)
        y = y - let_through * fallen_V
    return y
