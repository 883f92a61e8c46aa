"""Products of rows with a matrix, as XLA's CPU compiler is quick at them."""

import contextlib
from collections.abc import Iterator

import jax
from jaxtyping import Array, Float

_cut = jax.make_user_context(False)


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
