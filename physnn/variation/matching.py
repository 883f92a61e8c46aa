"""Mismatch of two nominally equal devices, by Pelgrom's area law."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from physnn.bank import Bank
from physnn.process import Process


def device_sigma(bank: Bank, process: Process) -> Float[Array, "..."]:
    """Standard deviation of each device of a bank, in its unit.

    A value made of k of its bank's `units` unit devices has the spread σ_unit·√k, in
    units of one device (independent units). With `n_units` of 1 a value is **one**
    device, not k of them, and errs in proportion to it. A bank of kind `threshold`
    holds offsets: its spread is absolute, A_VT/√area as a fraction of full scale.
    Pelgrom et al. 1989, DOI 10.1109/JSSC.1989.572629. A measured device has the share
    of it left that its bank calls `unknown`.

    No gradient passes to the values: a spread is not trained by moving them.
    """
    spread = process.spread(bank.kind, bank.area_m2) / jnp.sqrt(bank.area_factor())
    if bank.unknown is not None:
        spread = spread * bank.unknown
    if bank.kind == "threshold":
        return jnp.broadcast_to(spread / process.swing_V, bank.value.shape)
    size = jnp.abs(jax.lax.stop_gradient(bank.nominal()))
    if bank.n_units > 1:
        # Two roots: the slope of one is infinite where a value is zero.
        whole = jnp.sqrt(jax.lax.stop_gradient(size * bank.full_scale()))
        size = whole / jnp.sqrt(bank.units())
    return spread * size


def mismatch(bank: Bank, *, process, environment, key, place):
    """σ of `device_sigma` times a normal, independent for each device."""
    del environment, place
    spread = process.spread(bank.kind, bank.area_m2)
    if isinstance(spread, float) and spread == 0:
        return None
    return device_sigma(bank, process) * jr.normal(key, bank.value.shape)
