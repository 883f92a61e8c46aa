"""Full scale: values of a clip, and a slope of one inside of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnn.full_scale import limited, rectified

X = jnp.asarray([-np.inf, -3.0, -1.0, -0.999, -0.0, 0.5, 0.999, 1.0, 1.001, np.inf])


@pytest.mark.parametrize("slopes", [jax.grad, jax.jacfwd])
def test_limited_is_a_clip_with_its_slope(slopes):
    np.testing.assert_array_equal(limited(X), jnp.clip(X, -1.0, 1.0))
    # At full scale itself the next larger signal gives nothing more.
    inside = (np.abs(X) < 1).astype(np.float32)
    np.testing.assert_array_equal(jax.vmap(slopes(limited))(X), inside)


@pytest.mark.parametrize("slopes", [jax.grad, jax.jacfwd])
def test_rectified_is_a_maximum_with_its_slope(slopes):
    np.testing.assert_array_equal(rectified(X), jnp.maximum(X, 0.0))
    above = (np.asarray(X) > 0).astype(np.float32)
    np.testing.assert_array_equal(jax.vmap(slopes(rectified))(X), above)


@pytest.mark.parametrize("law", [limited, rectified])
def test_a_value_that_is_no_number_stays_one(law):
    assert jnp.isnan(law(jnp.asarray(jnp.nan)))
