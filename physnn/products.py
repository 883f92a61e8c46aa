"""Products of rows with a matrix and with a vector, as XLA's CPU compiler is quick."""

import contextlib
from collections.abc import Iterator
from functools import reduce

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.materialized import materialized

_cut = jax.make_user_context(False)

# Slices of the first axis that are added before the rest is summed.
_SLICES = 16


@contextlib.contextmanager
def rows_over_devices() -> Iterator[None]:
    """While entered, circuits are traced for a mesh that cuts rows over devices.

    JAX's caches know of it, as of `recurrence.computed_by`.
    """
    with _cut(True):
        yield


def by_rows(
    x: Float[Array, "*rows inputs"], matrix: Float[Array, "inputs outputs"]
) -> Float[Array, "*rows outputs"]:
    """`x @ matrix`, all axes of `x` but the last taken as one.

    With two of them XLA's CPU compiler copies both factors of the matrix's gradient
    into another layout. On a mesh each axis is cut by itself, and one axis of both
    would have to be gathered: there it is the plain product.
    """
    if _cut.value or x.ndim < 3:
        return x @ matrix
    y = x.reshape(-1, x.shape[-1]) @ matrix
    return y.reshape(*x.shape[:-1], y.shape[-1])


def shifted(x: Float[Array, "*rows n"], by: Float[Array, "..."]) -> Array:
    """`x + by`, whose gradient in a vector `by` is `sum_of_rows`."""
    return _shifted(x, by) if by.ndim == 1 < x.ndim else x + by


def scaled(x: Float[Array, "*rows n"], by: Float[Array, "..."]) -> Array:
    """`x * by`, whose gradient in a vector `by` is `sum_of_rows`."""
    return _scaled(x, by) if by.ndim == 1 < x.ndim else x * by


@jax.custom_jvp
def _shifted(x, by):
    return x + by


@_shifted.defjvp
def _shifted_jvp(primals, tangents):
    (x, by), (dx, dby) = primals, tangents
    return x + by, dx + _in_rows(dby, x.shape)


@jax.custom_jvp
def _scaled(x, by):
    return x * by


@_scaled.defjvp
def _scaled_jvp(primals, tangents):
    (x, by), (dx, dby) = primals, tangents
    return x * by, dx * by + x * _in_rows(dby, x.shape)


def sum_of_rows(x: Float[Array, "*rows n"]) -> Float[Array, " n"]:
    """The sum over all axes but the last: slices of the first added, then the rest.

    XLA's CPU compiler sums over rows window by window, at a third of the pace or less
    at which it adds arrays (docs/performance.md).
    """
    axes = tuple(range(x.ndim - 1))
    slices = jnp.split(x, _slices(x.shape))
    return jnp.sum(materialized(reduce(jnp.add, slices)) if slices[1:] else x, axes)


def _in_rows(v: Float[Array, " n"], shape: tuple[int, ...]) -> Float[Array, "*rows n"]:
    """`v` in every row: the linear function of which `sum_of_rows` is the transpose."""
    n = _slices(shape)
    if n == 1:
        return jnp.broadcast_to(v, shape)
    slice_ = materialized(jnp.broadcast_to(v, (shape[0] // n, *shape[1:])))
    return jnp.concatenate([slice_] * n)


def _slices(shape: tuple[int, ...]) -> int:
    """Into how many slices the first axis is cut; 1 where a mesh cuts it itself."""
    if _cut.value or len(shape) < 2 or shape[0] % _SLICES:
        return 1
    return _SLICES
