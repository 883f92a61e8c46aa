"""Rows times a matrix and with a vector: plain arithmetic, and how slopes are taken."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.products import by_rows, rows_over_devices, scaled, shifted, sum_of_rows

X, W = jr.normal(jr.key(0), (3, 4, 5)), jr.normal(jr.key(1), (5, 6))


def loss(product):
    return lambda x, w: jnp.sum(jnp.sin(product(x, w)))


@pytest.mark.parametrize("axes", [(), (4,), (3, 4), (2, 3, 4)], ids=str)
def test_it_is_the_product_with_its_gradient(axes):
    x = jr.normal(jr.key(2), (*axes, 5))
    both = [
        jax.value_and_grad(loss(product), (0, 1))(x, W)
        for product in (by_rows, jnp.matmul)
    ]
    for ours, plain in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def transposed(x, w) -> int:
    """How many arrays the gradient of the matrix puts into another layout."""
    program = jax.jit(jax.grad(loss(by_rows), argnums=1))
    text = program.lower(x, w).as_text()
    return text.count("contracting_dims = [0, 1]")


def test_the_gradient_of_the_matrix_is_over_one_axis_but_on_a_mesh():
    assert transposed(X, W) == 0
    with rows_over_devices():
        assert transposed(X, W) == 1
    assert transposed(X, W) == 0


@pytest.mark.parametrize(
    "axes", [(), (4,), (32,), (48, 3), (20, 3), (16, 2, 3)], ids=str
)
@pytest.mark.parametrize(
    ("ours", "plain"), [(shifted, jnp.add), (scaled, jnp.multiply)]
)
def test_a_vector_in_every_row_is_plain_arithmetic_with_its_slopes(axes, ours, plain):
    x, by = jr.normal(jr.key(3), (*axes, 5)), jr.normal(jr.key(4), (5,))
    ways = jr.normal(jr.key(5), x.shape), jr.normal(jr.key(6), by.shape)
    found = [
        (
            jax.value_and_grad(loss(function), (0, 1))(x, by),
            jax.jvp(loss(function), (x, by), ways),
        )
        for function in (ours, plain)
    ]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_what_is_a_row_for_each_sample_is_not_summed():
    # Where flicker moves an offset, each sequence has its own.
    x, by = jr.normal(jr.key(3), (32, 4, 5)), jr.normal(jr.key(4), (4, 5))
    slope = jax.grad(lambda by: jnp.sum(x * shifted(x, by)))(by)
    np.testing.assert_allclose(slope, jnp.sum(x, 0), rtol=1e-5, atol=1e-5)


def test_sums_are_of_slices_but_on_a_mesh():
    def adds() -> int:
        slope = jax.jit(jax.grad(lambda by: jnp.sum(jnp.sin(shifted(rows, by)))))
        return slope.lower(jnp.ones(5)).as_text().count("stablehlo.slice")

    rows = jr.normal(jr.key(3), (32, 4, 5))
    assert adds() == 16
    with rows_over_devices():
        assert adds() == 0
    x = jr.normal(jr.key(7), (64, 3, 5))
    np.testing.assert_allclose(sum_of_rows(x), jnp.sum(x, (0, 1)), rtol=1e-5, atol=1e-5)
