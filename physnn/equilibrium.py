"""Fixed points of contractions, their gradient, and a count of what did not settle."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

# (state, arguments) ↦ the state that they ask for
Map = Callable[[Float[Array, "*batch n"], PyTree], Float[Array, "*batch n"]]


@dataclass(frozen=True)
class FixedPointConfig:
    """How a fixed point is found, and what its gradient is.

    `tolerance` is on the largest change of a step, over all states and, as one solve
    is shared, over the batch. `exact` solves u = g + Jᵀu for the cotangent u;
    `one_term` takes u = g + Jᵀg, one term of its Neumann series (Geng et al. 2021, "On
    training implicit models", arXiv 2111.05177), at the price of one application.
    """

    tolerance: float = 1e-6
    max_steps: int = 64
    adjoint: Literal["exact", "one_term"] = "exact"

    def __post_init__(self):
        if not 0 < self.tolerance < math.inf:
            raise ValueError(
                "Argument `tolerance` must be positive and finite, but is"
                f" {self.tolerance}."
            )
        if self.max_steps < 1:
            raise ValueError(
                f"Argument `max_steps` must be at least 1, but is {self.max_steps}."
            )
        if self.adjoint not in ("exact", "one_term"):
            raise ValueError(
                "Argument `adjoint` must be exact or one_term, but is"
                f" {self.adjoint!r}."
            )


def solve(
    fn: Map, v0: Float[Array, "*batch n"], args: PyTree, config: FixedPointConfig
) -> optx.Solution:
    """Repeats v ← fn(v, args) from `v0`, without a gradient and without an error.

    A solve that runs out of steps gives the last iterate.
    """
    solver = optx.FixedPointIteration(rtol=0.0, atol=config.tolerance)
    return optx.fixed_point(
        fn, solver, v0, args, max_steps=config.max_steps, throw=False
    )


# Not the adjoint of Optimistix: it forms the Jacobian of the whole batch, or raises in
# the middle of a training where its iterative solver does not converge.
@partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def _fixed_point(fn, v0, args, config):
    return solve(fn, v0, args, config).value


def _forward(fn, v0, args, config):
    v = _fixed_point(fn, v0, args, config)
    return v, (v, args)


def _backward(fn, config, residuals, cotangent):
    v, args = residuals
    _, pull = jax.vjp(fn, v, args)
    if config.adjoint == "one_term":
        u = cotangent + pull(cotangent)[0]
    else:
        # Of order 1, as the tolerance is absolute; a solve is linear in its cotangent.
        scale = jnp.max(jnp.abs(cotangent))
        g = cotangent / jnp.where(scale > 0, scale, 1)
        # Its Jacobian is the transposed one: a contraction, too.
        u = scale * solve(lambda u, g: g + pull(u)[0], g, g, config).value
    return jnp.zeros_like(v), pull(u)[1]


_fixed_point.defvjp(_forward, _backward)


def fixed_point(
    fn: Map, v0: Float[Array, "*batch n"], args: PyTree, config: FixedPointConfig
) -> Float[Array, "*batch n"]:
    """v = fn(v, args), differentiable in `args` by the implicit function theorem.

    `fn` must be a contraction in v and hold no arrays of its own. The start `v0` has no
    gradient.
    """
    return _fixed_point(fn, v0, args, config)


def residual(
    fn: Map, v: Float[Array, "*batch n"], args: PyTree
) -> Float[Array, "*batch"]:
    """How far each state is from settled: the largest |fn(v) − v| of its entries."""
    return jnp.max(jnp.abs(fn(v, args) - v), axis=-1)
