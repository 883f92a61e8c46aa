"""The digital opponent on images: a small conventional network in Flax NNX."""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from physnn.energy.events import Event, token_events
from physnn.process import Process
from physnn.straight_through import quantize
from train.baseline import FlaxModel

KERNEL = 3  # pixels of a convolution both ways
STRIDE = 2
# Pixels of Fashion-MNIST have this mean and spread (of the training images), so that
# the first layer sees inputs of mean 0 and variance 1. Folded into its weights.
MEAN, SPREAD = 0.286, 0.353


@dataclass(frozen=True)
class ImageNetworkConfig:
    """Convolutions of 3 x 3 pixels and stride 2, dense layers, classes; ReLU between.

    `bits`: of a weight. Below 16 the weights are trained and scored through their
    rounding, one scale for each output; activations are billed at 8 bits and not
    rounded, in favor of the network. It has no normalization: at this depth it trains
    without, and would only be billed for it.
    """

    kind: Literal["image_network"] = "image_network"
    side: int = 28  # pixels of an image both ways
    convolutions: tuple[int, ...] = ()  # channels of each
    hidden: tuple[int, ...] = (256,)  # units of each dense layer but the last
    bits: int = 8

    def __post_init__(self):
        for name in ("convolutions", "hidden"):
            if any(n < 1 for n in getattr(self, name)):
                raise ValueError(
                    f"Argument `{name}` must hold positive sizes, but is"
                    f" {getattr(self, name)}."
                )
        if not 2 <= self.bits <= 16:
            raise ValueError(
                f"Argument `bits` must be from 2 to 16, but is {self.bits}."
            )
        if self.side < 1:
            raise ValueError(f"Argument `side` must be at least 1, but is {self.side}.")

    def sides(self) -> list[int]:
        """Side of the image before and after every convolution [pixels]."""
        sides = [self.side]
        for _ in self.convolutions:
            sides.append(math.ceil(sides[-1] / STRIDE))
        return sides

    def shapes(self, vocabulary: int) -> list[tuple[str, tuple[int, ...], int]]:
        """(name, shape of the kernel, places it is applied at) of every layer."""
        sides, channels, layers = self.sides(), 1, []
        for i, n in enumerate(self.convolutions):
            shape = (KERNEL, KERNEL, channels, n)
            layers.append((f"convolution{i}", shape, sides[i + 1] ** 2))
            channels = n
        width = sides[-1] ** 2 * channels
        for i, n in enumerate(self.hidden):
            layers.append((f"dense{i}", (width, n), 1))
            width = n
        return [*layers, ("head", (width, vocabulary), 1)]

    def build(self, *, vocabulary: int, process: Process, key: Key[Array, ""]):
        del process
        module = ImageNetwork(self, vocabulary, rngs=nnx.Rngs(key))
        return FlaxModel(module, config=self, vocabulary=vocabulary)

    def events(self, vocabulary: int, *, period_s: float) -> tuple[Event, ...]:
        """What one image makes happen, batch 1.

        A kernel is read once an image and stays at its multipliers for all places,
        which favors the network. A place at the edge counts as one inside. The pixels
        come from off chip, 8 bits each, as those of a physical classifier do.
        """
        pixels = self.side**2
        events = [
            Event("io_bit", 8 * pixels, "pixels"),
            Event("activation_byte", pixels, "pixels"),
        ]
        held, wide = 0, math.sqrt(8 * self.bits)  # of an activation and a weight
        for part, shape, places in self.shapes(vocabulary):
            weights, outputs = math.prod(shape), places * shape[-1]
            stored = weights + shape[-1]
            held += stored
            events += [
                Event("mac", places * weights, part, bits=wide),
                Event("weight_byte", stored * self.bits / 8, part),
                Event("activation_byte", outputs, part),
            ]
            if part != "head":
                events.append(Event("elementwise", outputs, part))
        return (
            *events,
            Event("stored_bit_s", held * self.bits * period_s, "weights"),
            *token_events(vocabulary),
        )


class ImageNetwork(nnx.Module):
    """Pixels of images as bytes, row by row; one logit per class."""

    def __init__(self, config: ImageNetworkConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.side, self.bits = config.side, config.bits
        draw = nnx.initializers.he_normal()
        shapes = [shape for _, shape, _ in config.shapes(vocabulary)]
        self.kernels = nnx.List(
            [nnx.Param(draw(rngs.params(), shape)) for shape in shapes]
        )
        self.biases = nnx.List([nnx.Param(jnp.zeros(shape[-1])) for shape in shapes])

    def __call__(
        self, tokens: Int[Array, "batch pixels"]
    ) -> Float[Array, "batch one classes"]:
        x = (tokens.astype(jnp.float32) / 255 - MEAN) / SPREAD
        x = x.reshape(len(x), self.side, self.side, 1)
        for i, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            weight = self.rounded(kernel[...])
            if weight.ndim == 2:
                x = x.reshape(len(x), -1) @ weight
            else:
                x = jax.lax.conv_general_dilated(
                    x,
                    weight,
                    (STRIDE, STRIDE),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
            x = x + bias[...]
            if i < len(self.kernels) - 1:
                x = jax.nn.relu(x)
        return x[:, None]

    def rounded(self, weight: Float[Array, "..."]) -> Float[Array, "..."]:
        """The weights as they are stored, the largest of each output at full scale."""
        if self.bits == 16:
            return weight
        inputs = tuple(range(weight.ndim - 1))
        largest = jnp.max(jnp.abs(weight), axis=inputs, keepdims=True)
        full_scale = jax.lax.stop_gradient(jnp.maximum(largest, 1e-6))
        return quantize(weight, full_scale=full_scale, bits=self.bits)
