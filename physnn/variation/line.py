"""Resistance of a line: what a column of currents loses on its way (IR drop)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.bank import Bank


def line(bank: Bank, *, process, environment, key, place):
    """w·(v − 1): v the share of each cell's current that a resistive column delivers.

    Rows are voltage sources; the cells of a column, G = |w|·`unit_S`, meet on a line of
    `line_ohm` per cell that ends at a virtual ground; positive and negative weights
    have a line each. Exact for that network (`delivered`), linear in the inputs, and
    hence an error of the weights; it takes no draw. Acts on matrices with `columns` of
    `current`: on a line of charge no current is left when it has settled, so resistance
    costs time there and no accuracy. Resistance of the rows is not modeled.
    """
    del process, key, place
    if environment.is_none("line_ohm") or bank.columns != "current":
        return None
    w = jax.lax.stop_gradient(bank.nominal())
    # Ohm times siemens first: both are far from one.
    drop = environment.line_ohm * bank.unit_S
    positive, negative = jnp.maximum(w, 0.0), jnp.maximum(-w, 0.0)
    return positive * (delivered(drop * positive) - 1) - negative * (
        delivered(drop * negative) - 1
    )


def delivered(rg: Float[Array, "rows columns"]) -> Float[Array, "rows columns"]:
    """Share of each cell's current that reaches the foot, below the last row.

    `rg` is line resistance times conductance, cell by cell. By reciprocity it is the
    voltage at the cell when the foot is driven by 1 V and all rows are grounded: with
    Y_k the admittance of the line beyond cell k, in units of 1/r,

        Y_k = rg_k + Y_k−1/(1 + Y_k−1),   v_n = 1/(1 + Y_n),   v_k−1 = v_k/(1 + Y_k−1)
    """

    def down(beyond, each):
        here = each + beyond / (1 + beyond)
        return here, here

    _, admittance = jax.lax.scan(down, jnp.zeros_like(rg[0]), rg)
    log_v = -jnp.cumsum(jnp.log1p(admittance)[::-1], axis=0)[::-1]
    return jnp.exp(log_v)
