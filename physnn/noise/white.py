"""The standard white draw that every temporal noise source scales."""

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from physnn.materialized import materialized
from physnn.noise.hashed import HASHED


def white(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Independent draws with mean 0 and variance 1, normal to their third moment.

    A standardized Binomial(16, 1/2), the number of ones among 16 random bits: 17
    levels up to ±4σ, excess kurtosis −1/8. Temporal noise is small, frequent and
    summed over many devices, so its variance is what counts, and a draw costs a third
    of a normal by the inverse error function (`make bench`). Mismatch, where tails
    decide the yield, is drawn from true normals in `fabricate`.
    """
    if jr.key_impl(key) == HASHED:
        # So cheap that every reader may draw them again.
        ones = jax.lax.population_count(jr.bits(key, shape, jnp.uint16))
        return (ones.astype(jnp.float32) - 8) / 2
    *lead, last = shape or (1,)
    words = jr.bits(key, (*lead, (last + 1) // 2), jnp.uint32)
    # Otherwise XLA draws the same bits again for every reader of the noise.
    words = materialized(words)
    halves = [jax.lax.population_count(half) for half in (words & 0xFFFF, words >> 16)]
    ones = jnp.concatenate(halves, axis=-1)[..., :last]
    return ((ones.astype(jnp.float32) - 8) / 2).reshape(shape)
