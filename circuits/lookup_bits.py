"""What tables hold: trained bits in one of two bases, drawn while they are explored."""

import dataclasses
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key

from circuits.lookup_read import STUCK_LOGIT, hadamard
from physnn.keys import stream

Model = TypeVar("Model")


class TrainedBits(eqx.Module):
    """`n` tables of 2^k bits, each the sign of a trained logit θ.

    `basis` is what is trained: the logits themselves, or their Walsh coefficients w
    with θ = H·w, the same tables in other coordinates. While `exploring` (in training)
    each read draws its bit, sgn(θ(a) + gumbel·logistic noise): the Gumbel-softmax of
    two values with a straight-through estimator. What is drawn teaches logits to be
    sure, so that a table read soft says what it says hard.

    Reference: Jang et al. 2017, "Categorical reparameterization with Gumbel-softmax",
    arXiv 1611.01144.
    """

    trained: Float[Array, "n entries"]
    k: int = eqx.field(static=True)
    basis: Literal["multilinear", "walsh"] = eqx.field(static=True)
    gumbel: float = eqx.field(static=True)
    exploring: bool = eqx.field(static=True)

    def logits(self) -> Float[Array, "n entries"]:
        """θ: log-odds of every bit of every table."""
        if self.basis == "multilinear":
            return self.trained
        return self.trained @ jnp.asarray(hadamard(self.k), self.trained.dtype)

    def stored(self):
        """θ: a stuck bit reads its sign, a dead or an undecided one as zero."""
        return self.logits(), STUCK_LOGIT

    def with_stored(self, values) -> Any:
        """The tables with other logits."""
        if self.basis == "walsh":
            values = values @ jnp.asarray(hadamard(self.k), values.dtype) / 2**self.k
        return dataclasses.replace(self, trained=values)

    def drawn(
        self, shape: tuple[int, ...], dtype, key: Key[Array, ""]
    ) -> Float[Array, "..."] | None:
        """Noise on the logits of `shape` reads, None unless they are explored."""
        if not (self.exploring and self.gumbel > 0):
            return None
        return self.gumbel * jr.logistic(stream(key, "gumbel"), shape, dtype)


def exploring(model: Model) -> Model:
    """`model` as it is trained: tables with `gumbel` draw the bits that are read."""
    is_table = lambda node: isinstance(node, TrainedBits)
    explore = lambda node: (
        dataclasses.replace(node, exploring=True) if is_table(node) else node
    )
    return jax.tree.map(explore, model, is_leaf=is_table)
