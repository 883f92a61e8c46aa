"""Full scale: what every amplifier and every range of values ends at."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def limited(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x`, cut off at full scale, ±1; without a slope where it is cut off."""
    return jnp.clip(x, -1.0, 1.0)


@limited.defjvp
def _slope_of_limited(primals, tangents):
    # From the result, which the next stage keeps anyway: the gradient of minimum and
    # maximum would compare, halve at ties and ask for the value before it was cut.
    y = limited(*primals)
    return y, jnp.where(jnp.abs(y) < 1, tangents[0], 0)


@jax.custom_jvp
def rectified(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` above zero, zero below, where it has no slope."""
    return jnp.maximum(x, 0.0)


@rectified.defjvp
def _slope_of_rectified(primals, tangents):
    y = rectified(*primals)
    return y, jnp.where(y > 0, tangents[0], 0)
