"""Quantizers: levels, error, gradient."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.straight_through import quantize, quantize_learned
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


def test_a_learned_range_has_the_codes_and_the_gradient_of_a_learned_step():
    x = jnp.asarray([-1.5, -0.31, 0.2, 0.77, 2.0])
    at = lambda r: quantize_learned(x, full_scale=r, bits=4)
    one = jnp.asarray(1.0)
    np.testing.assert_allclose(at(one), quantize(x, full_scale=1.0, bits=4), atol=1e-6)
    through = jax.grad(lambda x: jnp.sum(quantize_learned(x, full_scale=one, bits=4)))
    np.testing.assert_allclose(through(x), [0, 1, 1, 1, 0], atol=1e-6)
    # Esser et al. 2020: round(v) - v inside, +-Q outside, times 1/sqrt(N Q); the step
    # is range/Q.
    v = np.asarray(x, np.float64) * 7
    expected = np.where(np.abs(v) <= 7, np.round(v) - v, 7 * np.sign(v)) / 7
    expected = expected / np.sqrt(5 * 7)
    np.testing.assert_allclose(jax.jacobian(at)(one), expected, atol=1e-6)


def test_a_learned_range_finds_a_signal_that_is_small():
    x = 0.05 * jr.normal(jr.key(0), (2000,))
    error = lambda r: jnp.mean((quantize_learned(x, full_scale=r, bits=4) - x) ** 2)
    step = jax.jit(lambda r: r - 0.05 * jnp.sign(jax.grad(error)(r)) * r)
    wide = found = jnp.asarray(1.0)
    for _ in range(60):
        found = step(found)
    assert error(found) < 0.1 * error(wide)
    assert 0.08 < float(found) < 0.25
