"""Fixed points: values, gradients by either adjoint, what does not settle."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.equilibrium import FixedPointConfig, fixed_point, residual, solve

FINE = FixedPointConfig(tolerance=1e-12, max_steps=400)


def pulled(v, args):
    weight, target = args
    return jnp.tanh(v) @ weight + target


def gradients(adjoint):
    """Of a loss of a saturated network: by the fixed point, or by its iterations."""
    n = 8
    weight = 0.5 / n**0.5 * jr.normal(jr.key(1), (n, n))
    targets = jr.normal(jr.key(2), (5, n))
    weights = jr.normal(jr.key(3), (5, n))
    config = dataclasses.replace(FINE, adjoint=adjoint or "exact")

    def loss(args):
        if adjoint is not None:
            v = fixed_point(pulled, 0 * targets, args, config)
        else:
            v = 0 * targets
            for _ in range(80):
                v = pulled(v, args)
        return jnp.sum(weights * v)

    slopes = jax.jit(jax.grad(loss))((weight, targets))
    return np.concatenate([np.ravel(leaf) for leaf in slopes])


def test_gradient_is_that_of_the_unrolled_iterations():
    with jax.enable_x64(True):
        exact, unrolled = gradients("exact"), gradients(None)
        np.testing.assert_allclose(exact, unrolled, rtol=1e-6, atol=1e-9)
        one_term = gradients("one_term")
    cosine = exact @ one_term / np.linalg.norm(exact) / np.linalg.norm(one_term)
    assert 0.95 < cosine < 0.99999


def test_one_term_is_one_application_of_the_transposed_jacobian():
    weight, target = jnp.asarray([[0.0, 0.7], [-0.7, 0.2]]), jnp.asarray([0.1, 0.2])
    affine = lambda v, args: v @ args[0] + args[1]
    config = FixedPointConfig(adjoint="one_term")
    g = jnp.asarray([1.0, -2.0])
    loss = lambda b: g @ fixed_point(affine, b, (weight, b), config)
    expected = np.asarray(g) + np.asarray(weight) @ np.asarray(g)
    np.testing.assert_allclose(jax.grad(loss)(target), expected, rtol=1e-6)


def test_the_adjoint_is_solved_at_any_size_of_the_cotangent():
    args = (jnp.asarray([[0.0, 0.7], [-0.7, 0.2]]), jnp.asarray([0.1, 0.2]))
    affine = lambda v, args: v @ args[0] + args[1]
    config = FixedPointConfig(tolerance=1e-5)

    @jax.jit
    def slope(scale):
        loss = lambda b: scale * fixed_point(affine, b, (args[0], b), config).sum()
        return jax.grad(loss)(args[1])

    expected = np.linalg.solve(np.eye(2) - np.asarray(args[0]), np.ones(2))
    for scale in (1e-12, 1.0, 1e6):
        np.testing.assert_allclose(slope(scale) / scale, expected, rtol=1e-3)
    np.testing.assert_array_equal(slope(0.0), 0)


@pytest.mark.parametrize(("max_steps", "settled"), [(3, False), (64, True)])
def test_a_solve_without_steps_left_gives_its_last_iterate(max_steps, settled):
    config = FixedPointConfig(max_steps=max_steps)
    found = solve(lambda v, a: v / 2 + a, jnp.zeros(2), jnp.ones(2), config)
    # 2·(1 − 2^−k) after k steps.
    steps = int(found.stats["num_steps"])
    np.testing.assert_allclose(found.value, 2 - 2.0 ** (1 - steps), rtol=1e-6)
    assert (steps < max_steps) == settled
    left = residual(lambda v, a: v / 2 + a, found.value, 1.0)
    assert (left <= config.tolerance) == settled


def test_residual_is_the_largest_step_left():
    v = jnp.asarray([[0.0, 0.3], [0.2, 0.1]])
    np.testing.assert_allclose(residual(lambda v, a: a * v, v, 0.5), [0.15, 0.1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tolerance": 0.0}, "`tolerance` must be positive and finite, but is 0.0"),
        ({"tolerance": float("nan")}, "`tolerance` must be positive and finite"),
        ({"max_steps": 0}, "`max_steps` must be at least 1, but is 0"),
    ],
)
def test_an_impossible_solve_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        FixedPointConfig(**changes)
