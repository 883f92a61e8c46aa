"""Programming error: what is written is not what was asked."""

import jax
import jax.random as jr

from physnn.bank import Bank


def programming(bank: Bank, *, process, environment, key, place):
    """A normal of `programming` times the full scale of the column, each device.

    Relative to the largest value, as write errors of analog memories and the weight
    noise of analog foundation models (2-3 % of the channel's maximum; Büchel et al.
    2025, arXiv 2505.09663) are stated. Acts on values that are `programmed`; offsets
    are no memories.
    """
    del process, place
    if environment.is_none("programming") or not bank.programmed:
        return None
    if bank.kind == "threshold":
        return None
    size = environment.programming * jax.lax.stop_gradient(bank.full_scale())
    return size * jr.normal(key, bank.value.shape)
