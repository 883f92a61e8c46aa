"""Crosstalk between neighboring columns of a matrix."""

import jax
import jax.numpy as jnp

from physnn.bank import Bank
from physnn.lines import ChargeLines


def crosstalk(bank: Bank, *, process, environment, key, place):
    """W_ij + k·(W_i,j−1 + W_i,j+1): each column also sees a share k of its neighbors.

    k is the capacitance between neighboring lines over that of the column. Linear in
    the inputs, hence an error of the weights; it takes no draw. Acts on matrices that
    add products on their columns (`ChargeLines`). The line at either edge has one
    neighbor. Crosstalk of lines beyond the next, and between inputs, is not modeled.
    """
    del process, key, place
    if environment.is_none("crosstalk") or not isinstance(bank.lines, ChargeLines):
        return None
    w = jax.lax.stop_gradient(bank.nominal())
    edge = jnp.zeros_like(w[..., :1])
    left = jnp.concatenate([edge, w[..., :-1]], axis=-1)
    right = jnp.concatenate([w[..., 1:], edge], axis=-1)
    return environment.crosstalk * (left + right)
