"""Faults: devices that hold another value than the one that was written."""

import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Bool, Float, Key

from physnn.bank import Bank
from physnn.environment import Environment

FAULTS = ("dead", "stuck_full", "stuck_random")


def no_faults(environment: Environment) -> bool:
    """Whether no share of devices is faulty: then nothing is drawn."""
    return all(environment.is_none(name) for name in FAULTS)


def faults(bank: Bank, *, environment, key):
    """`(follow, stuck)`: which devices hold their value, and what the others hold.

    As `stuck_values`, within the legal range of the bank. None where there is no fault
    to draw. Acts on every kind but `threshold`: a pair without current is a dead
    column, which is a column of dead weights.
    """
    if bank.kind == "threshold" or no_faults(environment):
        return None
    is_stuck, stuck = stuck_values(
        bank.value.shape, bank.full_scale(), environment=environment, key=key
    )
    stuck = jnp.where(stuck == 0, 0.0, jnp.clip(stuck, bank.low, bank.high))
    return 1.0 - is_stuck.astype(stuck.dtype), stuck


def stuck_values(
    shape: tuple[int, ...], full_scale, *, environment: Environment, key: Key[Array, ""]
) -> tuple[Bool[Array, "..."], Float[Array, "..."]]:
    """Which devices are stuck, and at what; where they are not, at zero.

    A device is dead (zero) with probability `dead`, stuck at plus or minus full scale
    with `stuck_full` (either sign at even odds), at a uniform random value within full
    scale with `stuck_random`. One uniform draw decides, so that raising one share makes
    no device of another kind well again.
    """
    dead, full, anywhere = (getattr(environment, name) for name in FAULTS)
    u = jr.uniform(key, shape)
    level = jr.uniform(jr.fold_in(key, 1), shape, minval=-1.0, maxval=1.0)
    at_full = (u >= dead) & (u < dead + full)
    at_random = (u >= dead + full) & (u < dead + full + anywhere)
    stuck = jnp.where(at_full, jnp.sign(level) * full_scale, 0.0)
    stuck = jnp.where(at_random, level * full_scale, stuck)
    return u < dead + full + anywhere, stuck
