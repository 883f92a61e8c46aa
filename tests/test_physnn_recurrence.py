"""The linear recurrence: values and hand-written gradient, both kernels."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn import recurrence
from physnn.recurrence import linear_recurrence
from tests.helpers import quick_compilation as quick_compilation
from tests.systems import recurrence_by_loop


def problem(time=37, shape=(2, 3), seed=0):
    a, b, c = jr.split(jr.key(seed), 3)
    alpha = jr.uniform(a, (time, *shape), minval=-0.2, maxval=1.0)
    return alpha, jr.normal(b, (time, *shape)), jr.normal(c, shape)


@pytest.mark.parametrize("time", [1, 2, 8, 37])
def test_values_are_those_of_a_loop(time):
    args = problem(time)
    np.testing.assert_allclose(
        linear_recurrence(*args), recurrence_by_loop(*args), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("time", [1, 2, 37])
def test_sequential_and_associative_kernels_agree(time):
    args = problem(time)
    np.testing.assert_allclose(
        recurrence._sequential(*args),
        recurrence._associative(*args),
        rtol=1e-5,
        atol=1e-5,
    )


def plain(alpha, beta, v0):
    def body(v, inputs):
        v = inputs[0] * v + inputs[1]
        return v, v

    return jax.lax.scan(body, v0, (alpha, beta))[1]


@pytest.mark.parametrize("sequential", [True, False])
@pytest.mark.parametrize("time", [1, 37])
def test_gradients_are_those_of_a_plain_scan(sequential, time, monkeypatch):
    monkeypatch.setattr(recurrence, "is_sequential", lambda: sequential)
    args = problem(time)
    weights = jr.normal(jr.key(9), args[1].shape)
    pull = lambda f: jax.grad(lambda *a: jnp.sum(weights * f(*a)), argnums=(0, 1, 2))
    ours, theirs = jax.jit(pull(linear_recurrence))(*args), pull(plain)(*args)
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_nothing_is_remembered_behind_a_zero():
    alpha, beta, v0 = problem()
    alpha = alpha.at[20].set(0.0)
    last = lambda beta, v0: jnp.sum(linear_recurrence(alpha, beta, v0)[-1])
    to_beta, to_v0 = jax.grad(last, argnums=(0, 1))(beta, v0)
    np.testing.assert_array_equal(to_v0, 0)
    np.testing.assert_array_equal(to_beta[:20], 0)
    assert np.all(to_beta[20:] != 0)
