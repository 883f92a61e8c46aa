"""Generator: an image out of noise by a diffusion transformer, or patch by patch.

A picture of `context` patches goes through the whole transformer `passes` times
(Peebles and Xie 2023, arXiv 2212.09748): steps of the sampler, twice as many where one
with and one without its prompt guide it (Ho and Salimans 2022, arXiv 2207.12598). In a
pass every patch attends to all; weights are read once for all patches, and for all
pictures of a batch:

    J per image = patches x passes x J per patch and pass

A circuit sees what came before, not all patches: it draws an image in one pass, each
patch a symbol sampled after those before (as Chen et al. 2020 from pixels, "Generative
pretraining from pixels", ICML), and J per image = patches x J per token.

What encodes the prompt and what decodes the picture are designs of their own, left out,
as are the projections of patches and the symbols of a language model.
"""

from typing import Any

from evals.scale import Unbuilt
from physnn.energy.events import Event
from physnn.process import Process
from train.baseline import TransformerConfig
from train.experiment import ModelConfig
from train.model import PhysicalConfig

# What a transformer does for the symbols of a language: a picture has none.
_OF_LANGUAGE = ("embedding", "head", "sampling", "symbols")


class Denoiser:
    """A transformer that nobody built, seen by one patch in one pass.

    Raises `ValueError` for a number of passes below 1.
    """

    def __init__(self, unbuilt: Unbuilt, config: TransformerConfig, *, passes: int):
        if passes < 1:
            raise ValueError(
                f"Argument `image_passes` must be at least 1, but is {passes}."
            )
        self.unbuilt, self.config, self.passes = unbuilt, config, passes
        self.n_layers = unbuilt.n_layers

    @property
    def parameters(self) -> int:
        """All values the design holds."""
        return self.unbuilt.parameters

    @property
    def patches_per_image(self) -> int:
        """Patches that are computed until a picture is done."""
        return self.config.context * self.passes

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What a patch makes happen in a pass, whose prompt is all patches.

        Keys and values of a pass are written once and read once. A softmax costs three
        operations per weight, a rotation three per value, as in the transformer.
        """
        c, made = self.config, []
        patches, size_B = c.context, (c.cache_bits or c.bits) / 8
        scores = 3 * c.n_heads * patches + 3 * (c.width + c.kv_width)
        whole = {
            "attention_mac": 2 * c.width * patches,
            "elementwise": scores,
            # Priced once a pass, as weights are: so many bytes for all of its patches.
            "cache_byte": 2 * c.kv_width * 2 * patches * size_B,
        }
        for event in self.unbuilt.events(process, period_s=period_s):
            if event.part.split(".")[0] in _OF_LANGUAGE:
                continue
            if event.part == "blocks.attention" and event.name in whole:
                event = event._replace(count=c.n_blocks * whole[event.name])
            made.append(event)
        return tuple(made)


def generator(
    design: Any, config: ModelConfig, *, passes: int, patches: int | None
) -> tuple[Any, int]:
    """What `design` is as a generator, and the patches it computes for an image.

    Raises `ValueError` for a circuit that should see an image more than once or is told
    no number of patches, and for a model that makes no sequences.
    """
    if isinstance(config, TransformerConfig):
        denoiser = Denoiser(design, config, passes=passes)
        return denoiser, denoiser.patches_per_image
    if not isinstance(config, PhysicalConfig):
        raise ValueError(
            "Argument `image_passes` must be left out of a model of kind"
            f" `{config.kind}`: it makes no sequences."
        )
    if passes != 1:
        raise ValueError(
            f"Argument `image_passes` must be 1 for a circuit, but is {passes}: it sees"
            " what came before, so it draws an image patch by patch, in one pass."
        )
    if patches is None:
        raise ValueError(
            "Argument `context` must say how many patches an image of a circuit has."
        )
    return design, patches
