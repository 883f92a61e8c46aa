"""The digital opponent: a decoder-only transformer in Flax NNX, and its bridge."""

import math
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from physnn.energy.events import Event, token_events
from physnn.process import Process


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer: rotary positions, RMS norm, gated MLP, pre-norm."""

    kind: Literal["transformer"] = "transformer"
    width: int = 128
    n_blocks: int = 4
    n_heads: int = 4
    n_hidden: int = 384
    bits: int = 8  # weights and activations when billed
    context: int = 256  # window when billed: a token attends to half of it on average

    def build(self, *, vocabulary: int, process: Process, key: Key[Array, ""]):
        del process
        if self.width % (2 * self.n_heads):
            raise ValueError(
                f"`width` must be a multiple of 2·`n_heads` for rotary positions, but"
                f" they are {self.width} and {self.n_heads}."
            )
        module = Transformer(self, vocabulary, rngs=nnx.Rngs(key))
        return FlaxModel(module, config=self, vocabulary=vocabulary)


def rotate(x: Float[Array, "batch time head pair2"]) -> Float[Array, "..."]:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864)."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = jnp.arange(x.shape[1], dtype=jnp.float32)[:, None, None] * frequency
    a, b = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Attention(nnx.Module):
    def __init__(self, width: int, n_heads: int, *, rngs: nnx.Rngs):
        self.n_heads = n_heads
        self.qkv = nnx.Linear(width, 3 * width, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(width, width, use_bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "batch time width"]):
        qkv = self.qkv(x).reshape(*x.shape[:2], 3, self.n_heads, -1)
        q, k, v = rotate(qkv[:, :, 0]), rotate(qkv[:, :, 1]), qkv[:, :, 2]
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        return self.output(y.reshape(x.shape))


class GatedMLP(nnx.Module):
    def __init__(self, width: int, n_hidden: int, *, rngs: nnx.Rngs):
        self.inputs = nnx.Linear(width, 2 * n_hidden, use_bias=False, rngs=rngs)
        self.output = nnx.Linear(n_hidden, width, use_bias=False, rngs=rngs)

    def __call__(self, x):
        a, b = jnp.split(self.inputs(x), 2, axis=-1)
        return self.output(a * jax.nn.silu(b))


class Block(nnx.Module):
    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.norm1 = nnx.RMSNorm(config.width, rngs=rngs)
        self.attention = Attention(config.width, config.n_heads, rngs=rngs)
        self.norm2 = nnx.RMSNorm(config.width, rngs=rngs)
        self.mlp = GatedMLP(config.width, config.n_hidden, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nnx.Module):
    def __init__(self, config: TransformerConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(vocabulary, config.width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, rngs=rngs) for _ in range(config.n_blocks)]
        )
        self.norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.head = nnx.Linear(config.width, vocabulary, use_bias=False, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class FlaxModel(eqx.Module):
    """A Flax NNX module seen as a pytree: its leaves are its parameters.

    Raises `ValueError` for a module with hidden state (dropout, batch statistics):
    the bridge copies the module at every call, so such state would silently be lost.
    """

    params: PyTree
    graphdef: nnx.GraphDef = eqx.field(static=True)
    config: TransformerConfig = eqx.field(static=True)
    vocabulary: int = eqx.field(static=True)

    def __init__(self, module: nnx.Module, *, config, vocabulary: int):
        self.graphdef, self.params, rest = nnx.split(module, nnx.Param, ...)
        if jax.tree.leaves(rest):
            raise ValueError(
                "Argument `module` must hold parameters only, but it also has state:"
                f" {rest}."
            )
        self.config, self.vocabulary = config, vocabulary

    def logits(
        self, tokens: Int[Array, "batch time"], *, process: Process, key: Key[Array, ""]
    ) -> Float[Array, "batch time vocabulary"]:
        """Logits after every token; digital arithmetic has neither noise nor chips."""
        del process, key
        return nnx.merge(self.graphdef, self.params)(tokens)

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What one generated token makes happen, from the shapes of the parameters.

        The bill is of the mean token of a window of `config.context`, as it is scored:
        token t attends to t positions, (context + 1) / 2 on average. The KV cache is
        read at `config.bits`, with one new position written. A softmax costs three
        operations per weight, a norm four per channel, a rotation three per value.
        """
        del process
        c = self.config
        mean_context = (c.context + 1) / 2
        size_B = c.bits / 8
        counts: dict[str, float] = {}
        for path, leaf in jtu.tree_leaves_with_path(self.params):
            names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
            part = "blocks." + names[2] if names[0] == "blocks" else names[0]
            counts[part] = counts.get(part, 0) + math.prod(leaf.shape)
        row = counts.pop("embed") / self.vocabulary
        stored = self.vocabulary * row + sum(counts.values())
        events = [Event("weight_byte", row * size_B, "embedding")]
        for part, count in counts.items():
            op = "elementwise" if "norm" in part else "mac"
            events += [
                Event(op, count * (4 if op == "elementwise" else 1), part),
                Event("weight_byte", count * size_B, part),
            ]
        L, attention, mlp = c.n_blocks, "blocks.attention", "blocks.mlp"
        scores = L * c.n_heads * mean_context
        positions = L * 2 * c.width
        activations = L * (4 * c.width + 3 * c.n_hidden + 2 * c.width)
        cache_bits = positions * c.context * c.bits
        return (
            *events,
            Event("attention_mac", positions * mean_context, attention),
            Event("cache_byte", positions * (mean_context + 1) * size_B, attention),
            Event("elementwise", 3 * scores + 3 * positions, attention),
            Event("elementwise", 2 * L * c.n_hidden, mlp),
            Event("elementwise", 2 * L * c.width, "blocks.skip"),
            Event("activation_byte", activations * size_B, "blocks"),
            Event("activation_byte", self.vocabulary * size_B, "head"),
            Event("stored_bit_s", stored * c.bits * period_s, "weights"),
            Event("stored_bit_s", cache_bits * period_s, "cache"),
            *token_events(self.vocabulary),
        )
