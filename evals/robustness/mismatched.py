"""Chips by their normal draws: a point in a space of standard deviations."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Float, Key, PyTree

from physnn.bank import Bank
from physnn.fabricate import banks_of, is_bank
from physnn.keys import stream
from physnn.process import Process
from physnn.variation import device_sigma

# Draws of a chip by bank: its error over the standard deviation of the device.
Draws = dict[str, Float[Array, "..."]]


def open_banks(model: PyTree, process: Process) -> dict[str, Bank]:
    """Banks whose devices differ from chip to chip, by path."""
    return {
        name: bank
        for name, bank in banks_of(model).items()
        if float(process.spread(bank.kind, bank.area_m2)) > 0
    }


def draws(model: PyTree, process: Process, key: Key[Array, ""]) -> Draws:
    """The draws of a random chip: those that `fabricate` makes with this key."""
    return {
        name: jr.normal(stream(key, name), bank.value.shape)
        for name, bank in open_banks(model, process).items()
    }


def chip_of(
    model: PyTree, process: Process, drawn: Draws, scale: dict[str, Any] | None = None
) -> PyTree:
    """The chip whose devices are `drawn` standard deviations from the design.

    error = scale·σ·z, σ of `device_sigma` (Pelgrom's law); `scale` is by bank, 1 where
    it is not given, 1/√a for a times the area. Differentiable in `drawn`.
    """

    def put(path, bank):
        name = jtu.keystr(path)
        if not isinstance(bank, Bank) or name not in drawn:
            return bank
        factor = (scale or {}).get(name, 1.0)
        error = factor * device_sigma(bank, process) * drawn[name]
        return dataclasses.replace(bank, error=error)

    return jtu.tree_map_with_path(put, model, is_leaf=is_bank)


def norm(drawn: Draws) -> Float[Array, ""]:
    """Mahalanobis distance of a chip from the design: the root of the sum of z²."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(z)) for z in jax.tree.leaves(drawn)))


def n_devices(model: PyTree, process: Process) -> int:
    """How many devices differ from chip to chip."""
    return sum(bank.value.size for bank in open_banks(model, process).values())
