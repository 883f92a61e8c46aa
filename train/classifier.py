"""The physical classifier: an image in, a class out, through a chain of circuits."""

from dataclasses import dataclass
from typing import Literal, get_args

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from circuits.blocks import BlockConfig, LayerConfig, Site
from circuits.layers import MacLayer
from circuits.parts import NODE_F
from physnn.circuit import run
from physnn.energy.events import Event, adc_event, token_events
from physnn.keys import stream
from physnn.network import Chain, Residual
from physnn.process import Process
from physnn.straight_through import quantize
from train.correction import Correction
from train.model import PhysicalModel


@dataclass(frozen=True)
class ClassifierConfig:
    """Layers from pixels to classes; a block keeps its width and gets a skip."""

    kind: Literal["classifier"] = "classifier"
    layers: tuple[LayerConfig | BlockConfig, ...] = (
        MacLayer(n_out=256, gain=3.0),
        MacLayer(n_out=10, gain=0.3),
    )
    n_pixels: int = 784
    patch: int = 0  # pixels that arrive together, a token; 0: the whole image
    weight_bits: int = 6
    converter_bits: int = 8
    period_s: float = 1e-6  # time a token takes

    def __post_init__(self):
        if not self.layers:
            raise ValueError("Argument `layers` must hold a layer, but is empty.")
        if self.patch < 0 or self.n_pixels < 1 or self.n_pixels % self.per_token:
            raise ValueError(
                f"Argument `patch` must divide the {self.n_pixels} pixels of an image,"
                f" but is {self.patch}."
            )

    @property
    def per_token(self) -> int:
        """Pixels that arrive together."""
        return self.patch or self.n_pixels

    def build(self, *, vocabulary: int, process: Process, key: Key[Array, ""]):
        return Classifier(self, vocabulary=vocabulary, process=process, key=key)


class Classifier(eqx.Module):
    """Pixels in, one logit per class out.

    Pixels become voltages by 8-bit DACs, from 0 to full scale. An image arrives as one
    token or as several of `patch` pixels, and the last token's outputs are digitized.
    """

    chain: Chain
    correction: Correction | None  # of the logits of one measured chip
    config: ClassifierConfig = eqx.field(static=True)
    vocabulary: int = eqx.field(static=True)

    def __init__(self, config, *, vocabulary, process, key):
        self.config, self.vocabulary = config, vocabulary
        is_block = [isinstance(each, get_args(BlockConfig)) for each in config.layers]
        width, parts = config.per_token, []
        for i, layer in enumerate(config.layers):
            site = Site(
                width=width,
                process=process,
                key=stream(key, f"layer{i}"),
                period_s=config.period_s,
                weight_bits=config.weight_bits,
                output_gain=1 / max(sum(is_block), 1) ** 0.5,
            )
            if is_block[i]:
                part = Residual(layer.build(site), hold_F=NODE_F)
            else:
                part = layer.build(width, site)
            parts.append(part)
            width = part.n_out
        if width != vocabulary:
            raise ValueError(
                f"The last of `layers` must have one output for each of {vocabulary}"
                f" classes, but has {width}."
            )
        self.chain, self.correction = Chain(parts), None

    def logits(
        self,
        tokens: Int[Array, "batch pixels"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> Float[Array, "batch one classes"]:
        """Logits of the class of every image."""
        if tokens.shape[1] != self.config.n_pixels:
            raise ValueError(
                f"An image must have {self.config.n_pixels} pixels, but has"
                f" {tokens.shape[1]}: give `model.n_pixels`."
            )
        x = tokens.astype(jnp.float32) / 255
        patches = jnp.swapaxes(x.reshape(len(x), -1, self.chain.n_in), 0, 1)
        ys = run(self.chain, patches, process=process, key=key)
        bits = self.config.converter_bits
        y = quantize(ys[-1], full_scale=1.0, bits=bits)
        y = PhysicalModel.LOGIT_RANGE * y[:, None]
        return y if self.correction is None else self.correction(y)

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What one image makes happen: all its tokens, and the converters."""
        tokens = self.config.n_pixels // self.chain.n_in
        bits = self.config.converter_bits
        chain = self.chain.events(process, period_s=period_s)
        return (
            # A byte each, as of a digital network: they come from off chip.
            Event("io_bit", 8 * self.config.n_pixels, "pixels"),
            Event("dac_conversion", self.config.n_pixels, "pixels"),
            *(each._replace(count=tokens * each.count) for each in chain),
            Event(adc_event(bits), self.vocabulary, "head"),
            *token_events(self.vocabulary),
            *(() if self.correction is None else self.correction.events()),
        )
