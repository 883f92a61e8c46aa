"""fabricate: one chip from a design, with its frozen mismatch."""

from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Key

from physnn.bank import Bank
from physnn.keys import stream
from physnn.process import Process

Design = TypeVar("Design")


def fabricate(design: Design, process: Process, *, key: Key[Array, ""]) -> Design:
    """Draw one chip: every bank gets its own frozen device errors.

    A value made of k of its bank's `n_units` unit devices has the spread
    σ_unit·√k in units of one device (independent units; Pelgrom et al. 1989, DOI
    10.1109/JSSC.1989.572629). A bank of kind `threshold` holds offsets: its spread is
    absolute, A_VT/√area as a fraction of full scale. With zero spread the chip *is*
    the design.

    Banks draw from streams named by their path, so a new bank reseeds no other.
    """

    def draw(path, leaf):
        if not isinstance(leaf, Bank):
            return leaf
        spread = process.spread(leaf.kind, leaf.area_m2)
        if isinstance(spread, float) and spread == 0:
            return leaf
        normal = jr.normal(stream(key, jtu.keystr(path)), leaf.value.shape)
        sigma = device_sigma(leaf, process)
        return eqx.tree_at(
            lambda bank: bank.error, leaf, sigma * normal, is_leaf=lambda x: x is None
        )

    return jtu.tree_map_with_path(
        draw, design, is_leaf=lambda leaf: isinstance(leaf, Bank)
    )


def device_sigma(bank: Bank, process: Process) -> Float[Array, "..."]:
    """Standard deviation of each device of a bank, in its unit; the law of `fabricate`.

    No gradient passes to the values: a spread is not trained by moving them.
    """
    spread = process.spread(bank.kind, bank.area_m2) / jnp.sqrt(bank.area_factor())
    if bank.kind == "threshold":
        return jnp.full(bank.value.shape, spread / process.swing_V)
    size = jnp.abs(jax.lax.stop_gradient(bank.nominal()))
    if bank.n_units > 1:
        size = jnp.sqrt(size * bank.full_scale() / bank.n_units)
    return spread * size
