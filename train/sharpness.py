"""Sharpness-aware minimization, as a wrapper around any optax optimizer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree


def sharpness_aware(
    inner: optax.GradientTransformation,
    radius: optax.Schedule,
) -> optax.GradientTransformationExtraArgs:
    """`inner` on the gradient where the loss is worst within `radius(step)`.

    Its update takes two arguments more: `slope`, from parameters to the gradient there
    with the same draws, and `step`. `optax.contrib.sam` has the method too, but carries
    its own step and takes no schedule. Its state is that of `inner`, so what wraps or
    reads that does so here.

    Reference: Foret et al. 2021, arXiv 2010.01412.
    """
    inner = optax.with_extra_args_support(inner)

    def update(updates, state, params=None, **others):
        there = sharpest(updates, params, radius(others["step"]))
        return inner.update(others["slope"](there), state, params, **others)

    return optax.GradientTransformationExtraArgs(inner.init, update)


def sharpest(gradient: PyTree, trained: PyTree, radius: Any) -> PyTree:
    """The parameters `radius` away, uphill: p + ρ·g/‖g‖.

    The first-order maximum of the loss within a ball of that radius.
    """
    norm = optax.tree.norm(gradient)
    scale = radius / jnp.maximum(norm, 1e-12)
    return jax.tree.map(lambda p, g: p + scale * g, trained, gradient)
