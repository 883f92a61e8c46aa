"""Compute: how a training step is carried out, as far as a run may choose it."""

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key, UInt32

from physnn.keys import stream
from physnn.noise.hashed import HASHED
from physnn.recurrence import computed_by
from train.stack import Stack


@dataclass(frozen=True)
class Compute:
    """How a training step is carried out: what it draws, keeps, compiles and rounds.

    `generator`: of the noise and the chips of training. Initial weights, validation
    during training and all of `evals` keep JAX's default, so that it moves neither the
    start nor a score. The first two are equal on every kind of machine, for any number
    of chips and of devices; `triple32` (`physnn.noise.hashed`) takes a tenth of the
    operations. `rbg` and `unsafe_rbg` are the hardware's: they differ between CPU,
    GPU and TPU, and under `jax.vmap` draw the bits of all chips from the key of the
    first, so that a chip's noise also depends on how many there are.

    `rematerialize`: `blocks` keeps what goes into each block of a sequence model and
    computes the rest again for the gradient. `scan_layers`: its layers are compiled
    once and run in a loop. `scan`: how linear recurrences are solved
    (`physnn.recurrence`); `auto` leaves it to the backend. All three give the same run
    but for rounding.

    `matmul_precision`, of training alone: `default` leaves products of matrices to the
    backend (JAX: float32 on a CPU, TensorFloat-32 on recent GPUs, bfloat16 on a TPU);
    `bfloat16` rounds both factors to eight bits and adds up in float32; `float32`
    rounds nothing. State, noise, parameters and all that is element by element are in
    float32 with each of them.
    """

    generator: Literal["triple32", "threefry2x32", "rbg", "unsafe_rbg"] = "triple32"
    rematerialize: Literal["none", "blocks"] = "none"
    scan_layers: bool = False
    matmul_precision: Literal["default", "float32", "bfloat16"] = "default"
    scan: Literal["auto", "sequential", "associative", "chunked"] = "auto"

    def check_model(self, model: Any, *, in_the_loop: bool) -> None:
        """Raise `ValueError` for what is without effect on the model of a config.

        `in_the_loop`: whether a device computes forward in training.
        """
        usual = Compute()
        physical_only = ("generator", "scan", "rematerialize", "scan_layers")
        for name in physical_only if model.kind != "physical" else ():
            of_blocks = name in ("rematerialize", "scan_layers")
            has = model.kind == "classifier" and not of_blocks
            if getattr(self, name) != getattr(usual, name) and not has:
                raise ValueError(
                    f"Argument `compute.{name}` goes with a model of kind `physical`"
                    f"{'' if of_blocks else ' or `classifier`'}, but the model is of"
                    f" kind `{model.kind}`: leave it out."
                )
        if self.matmul_precision != "default" and model.kind == "counts":
            raise ValueError(
                "Argument `compute.matmul_precision` goes with a model that is trained,"
                " but counts are not: leave it out."
            )
        if self.scan_layers and model.n_layers < 2:
            raise ValueError(
                "Argument `compute.scan_layers` must have at least 2 layers to run in a"
                f" loop, but `model.n_layers` is {model.n_layers}: leave it out."
            )
        if in_the_loop and (self.scan_layers or self.rematerialize != "none"):
            raise ValueError(
                "Arguments `compute.scan_layers` and `compute.rematerialize` must be"
                " left out with a device in the loop, which computes every block once"
                " and by its name."
            )

    def training_key(self, seed: int) -> Key[Array, ""]:
        """The key under which a run draws all noise and all chips of its training."""
        return stream(jr.key(seed, impl=self._implementation()), "train")

    def key_of(self, words: UInt32[Array, " n"]) -> Key[Array, ""]:
        """The key whose words a checkpoint holds."""
        return jr.wrap_key_data(words, impl=self._implementation())

    def _implementation(self) -> Any:
        return HASHED if self.generator == "triple32" else self.generator

    def applied(self, model: Any) -> Any:
        """The same model, its stack of blocks carried out as asked."""

        def is_stack(node) -> bool:
            return isinstance(node, Stack)

        def asked(node):
            if not is_stack(node):
                return node
            return dataclasses.replace(
                node,
                rematerialized=self.rematerialize == "blocks",
                scanned=self.scan_layers,
            )

        return jax.tree.map(asked, model, is_leaf=is_stack)

    @contextlib.contextmanager
    def tracing(self, *, training: bool) -> Iterator[None]:
        """While entered, recurrences and products are traced as asked.

        A score is not that of training: its products are those of the default.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(computed_by(self.scan))
            if training and self.matmul_precision != "default":
                algorithm = _ALGORITHMS[self.matmul_precision]
                stack.enter_context(jax.default_matmul_precision(algorithm))
            yield

    def check_backend(self) -> None:
        """Raise `ValueError` where `matmul_precision` would be without effect.

        The machine is asked, by a small product: XLA's CPU compiler accepts bfloat16
        and computes in float32.
        """
        asked = self.matmul_precision
        if asked == "default":
            return
        error = _error_of_products(_ALGORITHMS[asked])
        if not _LEAST_ERROR[asked] <= error < _MOST_ERROR[asked]:
            raise ValueError(
                "Argument `compute.matmul_precision` must be what this machine does,"
                f" but its {jax.default_backend()} does not compute in {asked}, as"
                f" products are off by {error:.1g} of themselves: leave it out, or"
                " train on another machine."
            )


# As `jax.default_matmul_precision` knows them; the first one is of
# `jax.lax.DotAlgorithmPreset`: factors of 8 bits, sums of 24.
_ALGORITHMS = {"bfloat16": "BF16_BF16_F32", "float32": "highest"}
# Of sums of 64 products, at most, as a part of themselves: 8 bits leave about 8e-4, the
# 11 of TensorFloat-32 1e-4, and 24 some 1e-7.
_LEAST_ERROR = {"bfloat16": 3e-4, "float32": 0.0}
_MOST_ERROR = {"bfloat16": 4e-3, "float32": 1e-5}


def _error_of_products(algorithm: str) -> float:
    x = np.random.default_rng(0).uniform(0.5, 1.0, (64, 64)).astype(np.float32)
    with jax.default_matmul_precision(algorithm):
        found = jax.jit(lambda x: x @ x)(jnp.asarray(x))
    exact = x.astype(np.float64) @ x.astype(np.float64)
    return float(np.max(np.abs(np.asarray(found) - exact) / exact))
