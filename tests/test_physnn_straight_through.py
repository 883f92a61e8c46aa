"""Quantizers: levels, error, gradient."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.straight_through import quantize
from tests.systems import uniform_code


@pytest.mark.parametrize("bits", [2, 3, 6, 8])
def test_levels_are_all_codes_but_one_and_zero_is_among_them(bits):
    x = jnp.linspace(-1.2, 1.2, 20_001)
    y = quantize(x, full_scale=1.0, bits=bits)
    levels = np.unique(y)
    assert len(levels) == 2**bits - 1
    assert 0.0 in levels
    np.testing.assert_allclose(levels, -levels[::-1])
    np.testing.assert_allclose(np.diff(levels), 1 / (2 ** (bits - 1) - 1), rtol=1e-4)


def test_every_value_goes_to_the_nearest_level():
    x = 0.7 * jr.normal(jr.key(0), (1000,))
    expected = uniform_code(np.asarray(x, np.float64), full_scale=0.9, bits=5)
    np.testing.assert_allclose(quantize(x, full_scale=0.9, bits=5), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_error_variance_is_a_twelfth_of_a_step_squared(bits):
    n = 200_000
    x = jr.uniform(jr.key(0), (n,), minval=-1.0, maxval=1.0)
    error = np.asarray(quantize(x, full_scale=1.0, bits=bits) - x, np.float64)
    step = 1 / (2 ** (bits - 1) - 1)
    # Var of the mean of a squared uniform: (1/80 − 1/144)/N.
    limit = 3 * step**2 * np.sqrt((1 / 80 - 1 / 144) / n)
    assert abs(np.mean(error**2) - step**2 / 12) < limit
    assert np.max(np.abs(error)) <= step / 2 * 1.001


def test_a_code_is_its_own_code():
    x = jr.normal(jr.key(0), (10_000,))
    once = quantize(x, full_scale=0.8, bits=6)
    np.testing.assert_array_equal(quantize(once, full_scale=0.8, bits=6), once)


def test_the_gradient_is_one_inside_ends_included_and_zero_outside():
    x = jnp.asarray([-1.5, -1.0, -0.3, 0.0, 0.9, 1.0, 1.001])
    gradient = jax.grad(lambda x: jnp.sum(quantize(x, full_scale=1.0, bits=4)))(x)
    np.testing.assert_array_equal(gradient, [0, 1, 1, 1, 1, 1, 0])


@pytest.mark.parametrize("bits", [1, 0, -3])
def test_a_code_without_levels_is_refused(bits):
    with pytest.raises(ValueError, match=f"`bits` must be at least 2, but is {bits}"):
        quantize(jnp.ones(2), full_scale=1.0, bits=bits)
