"""First-order linear recurrences v_t = α_t·v_{t−1} + β_t, with their gradient."""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.time_parts import in_parts, joined, n_parts

# How a recurrence is computed: one step after the other; all at once, as a parallel
# prefix (Blelloch 1990); or the prefix inside chunks, one chunk after the other.
Kernel = Literal["sequential", "associative", "chunked"]
KERNELS: tuple[Kernel, ...] = ("sequential", "associative", "chunked")

# Steps of a chunk: what a parallel prefix holds at a time.
CHUNK = 64

_asked = jax.make_user_context("auto")


@contextlib.contextmanager
def computed_by(kernel: str) -> Iterator[None]:
    """While entered, every recurrence is traced as `kernel`; `auto`: as it is outside.

    JAX's caches know of it, so a function that was compiled with another is traced
    again. Raises `ValueError` for a name that is none.
    """
    if kernel not in (*KERNELS, "auto"):
        raise ValueError(
            f"Argument `kernel` must be one of {[*KERNELS, 'auto']}, but is {kernel!r}."
        )
    if kernel == "auto":
        yield
        return
    with _asked(kernel):
        yield


def kernel_here() -> Kernel:
    """The kernel of a recurrence that is traced now: asked for, or the backend's."""
    if _asked.value != "auto":
        return _asked.value
    # On a CPU the plain scan is faster (docs/performance.md); on accelerators, which
    # wait for every step of it, the parallel prefix should be.
    return "sequential" if jax.default_backend() == "cpu" else "associative"


def linear_recurrence(
    alpha: Float[Array, " time *shape"],
    beta: Float[Array, " time *shape"],
    v0: Float[Array, "*shape"],
) -> Float[Array, " time *shape"]:
    """All states v_1 … v_time of v_t = α_t·v_{t−1} + β_t from v_0.

    The reverse pass is the same recurrence backwards in time, so it needs only α and v.
    Computed by `kernel_here()`, both ways; the kernels agree but for rounding. Where
    time is cut (`physnn.time_parts`), each device does so with its part of it.

    Reference: Blelloch 1990, "Prefix sums and their applications", CMU-CS-90-190.
    """
    # Chosen once: the gradient may be traced where the choice is another.
    kernel = kernel_here()
    if n_parts() > 1:
        return _over_parts(kernel, alpha, beta, v0)
    return _recurrence(kernel, alpha, beta, v0)


def _over_parts(kernel: Kernel, alpha, beta, v0):
    """All parts at once, each from zero; then what each began with, as it decays.

    From device to device go the ends of the parts alone: what was left of the state
    before, and what was added to it.
    """
    alpha, beta = in_parts(alpha), in_parts(beta)
    solve = jax.vmap(partial(_recurrence, kernel), in_axes=(0, 0, None))
    added = solve(alpha, beta, jnp.zeros_like(v0))
    left = solve(alpha, jnp.zeros_like(beta), jnp.ones_like(v0))
    ends = _recurrence(kernel, left[:, -1], added[:, -1], v0)
    starts = jnp.roll(jnp.asarray(ends), 1, axis=0).at[0].set(v0)
    return joined(added + left * starts[:, None])


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _recurrence(kernel: Kernel, alpha, beta, v0):
    return _SOLVERS[kernel](alpha, beta, v0)


def _forward(kernel, alpha, beta, v0):
    v = _recurrence(kernel, alpha, beta, v0)
    return v, (alpha, v, v0)


def _backward(kernel, residuals, cotangent):
    alpha, v, v0 = residuals
    if kernel == "sequential":
        return _sequential_gradient(alpha, v, v0, cotangent)
    # λ_t = c_t + α_{t+1}·λ_{t+1}, from the end.
    following = jnp.concatenate([alpha[1:], jnp.zeros_like(alpha[:1])])
    reverse = (jnp.flip(following, 0), jnp.flip(cotangent, 0), jnp.zeros_like(v0))
    adjoint = jnp.flip(_SOLVERS[kernel](*reverse), 0)
    previous = jnp.concatenate([v0[None], v[:-1]])
    return adjoint * previous, adjoint, alpha[0] * adjoint[0]


_recurrence.defvjp(_forward, _backward)


def _sequential(alpha, beta, v0):
    def body(v, inputs):
        a, b = inputs
        v = a * v + b
        return v, v

    return jax.lax.scan(body, v0, (alpha, beta))[1]


def _sequential_gradient(alpha, v, v0, cotangent):
    """Both products in the one scan: less to write than by the general rule."""
    previous = jnp.concatenate([v0[None], v[:-1]])

    def body(carried, inputs):
        a, v_before, c = inputs
        adjoint = c + carried
        return a * adjoint, (adjoint * v_before, adjoint)

    inputs = (alpha, previous, cotangent)
    to_v0, (to_alpha, to_beta) = jax.lax.scan(
        body, jnp.zeros_like(v0), inputs, reverse=True
    )
    return to_alpha, to_beta, to_v0


def _associative(alpha, beta, v0):
    beta = beta.at[0].add(alpha[0] * v0)

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    return jax.lax.associative_scan(combine, (alpha, beta))[1]


def _chunked(alpha, beta, v0):
    time = len(alpha)
    length = min(CHUNK, time)
    n_chunks = -(-time // length)
    short = ((0, n_chunks * length - time), *((0, 0),) * (alpha.ndim - 1))

    def chunk(v, inputs):
        a, b = inputs
        vs = _associative(a, b, v)
        return vs[-1], vs

    # What is added at the end is cut off again.
    cut = [
        jnp.pad(x, short).reshape(n_chunks, length, *x.shape[1:]) for x in (alpha, beta)
    ]
    _, vs = jax.lax.scan(chunk, v0, tuple(cut))
    return vs.reshape(n_chunks * length, *v0.shape)[:time]


_SOLVERS = {
    "sequential": _sequential,
    "associative": _associative,
    "chunked": _chunked,
}
