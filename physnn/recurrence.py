"""First-order linear recurrences v_t = α_t·v_{t−1} + β_t, with their gradient."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def _sequential(alpha, beta, v0):
    def body(v, inputs):
        a, b = inputs
        v = a * v + b
        return v, v

    return jax.lax.scan(body, v0, (alpha, beta))[1]


def _sequential_gradient(alpha, v, v0, cotangent):
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


def _associative_gradient(alpha, v, v0, cotangent):
    following = jnp.concatenate([alpha[1:], jnp.zeros_like(alpha[:1])])
    reverse = (jnp.flip(following, 0), jnp.flip(cotangent, 0))
    adjoint = jnp.flip(_associative(*reverse, jnp.zeros_like(v0)), 0)
    previous = jnp.concatenate([v0[None], v[:-1]])
    return adjoint * previous, adjoint, alpha[0] * adjoint[0]


def is_sequential() -> bool:
    # On a CPU the plain scan is faster (docs/performance.md); on accelerators, which
    # wait for every step of it, the parallel prefix should be.
    return jax.default_backend() == "cpu"


@jax.custom_vjp
def linear_recurrence(
    alpha: Float[Array, " time *shape"],
    beta: Float[Array, " time *shape"],
    v0: Float[Array, "*shape"],
) -> Float[Array, " time *shape"]:
    """All states v_1 … v_time of v_t = α_t·v_{t−1} + β_t from v_0.

    The reverse pass is the same recurrence backwards in time, so it needs only α and v.
    """
    kernel = _sequential if is_sequential() else _associative
    return kernel(alpha, beta, v0)


def _forward(alpha, beta, v0):
    v = linear_recurrence(alpha, beta, v0)
    return v, (alpha, v, v0)


def _backward(residuals, cotangent):
    kernel = _sequential_gradient if is_sequential() else _associative_gradient
    alpha, v, v0 = residuals
    return kernel(alpha, v, v0, cotangent)


linear_recurrence.defvjp(_forward, _backward)
