"""Products of rows: the plain product, its gradient, and no copies for it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.products import by_rows, rows_over_devices

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
