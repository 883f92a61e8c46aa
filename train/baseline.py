"""The digital opponent: a decoder-only transformer in Flax NNX, and its bridge."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, Key, PyTree

from physnn.energy.events import Event, token_events
from physnn.process import Process
from train.baseline_memory import HashedRows, HashedRowsConfig
from train.kernels import causal_attention, linear


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes of a transformer: rotary positions, RMS norm, gated MLP, pre-norm.

    With what modern serving builds into a design: heads that share keys and values
    (Ainslie et al. 2023, arXiv 2305.13245), a mixture of experts (Shazeer et al. 2017,
    arXiv 1701.06538), fewer bits for weights and for the cache.
    """

    kind: Literal["transformer"] = "transformer"
    width: int = 128
    n_blocks: int = 4
    n_heads: int = 4
    n_kv_heads: int = 0  # heads of keys and values; 0: as many as of queries
    n_hidden: int = 384  # of the MLP, or of each expert
    n_experts: int = 1
    n_active: int = 1  # experts that a token chooses
    bits: int = 8  # weights and activations when billed
    cache_bits: int = 0  # keys and values when billed; 0: as `bits`
    context: int = 256  # window when billed: a token attends to half of it on average
    memory: HashedRowsConfig | None = None  # read before the first block

    def __post_init__(self):
        sizes = ("width", "n_blocks", "n_heads", "n_hidden", "bits", "context")
        for name in (*sizes, "n_experts", "n_active"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Argument `{name}` must be at least 1, but is"
                    f" {getattr(self, name)}."
                )
        if self.cache_bits < 0:
            raise ValueError(
                f"Argument `cache_bits` must not be negative, but is {self.cache_bits}."
            )
        if self.n_kv_heads < 0 or self.n_heads % self.kv_heads:
            raise ValueError(
                "Argument `n_kv_heads` must divide `n_heads`, but they are"
                f" {self.n_kv_heads} and {self.n_heads}."
            )
        if self.n_active > self.n_experts:
            raise ValueError(
                "Argument `n_active` must be at most `n_experts`, but they are"
                f" {self.n_active} and {self.n_experts}."
            )

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.n_kv_heads or self.n_heads

    @property
    def kv_width(self) -> int:
        """Channels of the keys of a position, and of its values."""
        return self.width * self.kv_heads // self.n_heads

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
    angle = np.arange(x.shape[1])[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
    # Numbers, not a computation: XLA would take sines again for every row and head.
    cos, sin = (f(angle).astype(x.dtype) for f in (np.cos, np.sin))
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)


class Attention(nnx.Module):
    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        width, self.kv_width = config.width, config.kv_width
        self.n_heads, self.kv_heads = config.n_heads, config.kv_heads
        total = width + 2 * self.kv_width
        self.qkv = linear(width, total, rngs=rngs)
        self.output = linear(width, width, rngs=rngs)

    def __call__(self, x: Float[Array, "batch time width"]):
        width = x.shape[-1]
        parts = jnp.split(self.qkv(x), (width, width + self.kv_width), axis=-1)
        heads = (self.n_heads, self.kv_heads, self.kv_heads)
        q, k, v = (
            part.reshape(*x.shape[:2], n, -1)
            for part, n in zip(parts, heads, strict=True)
        )
        y = causal_attention(rotate(q), rotate(k), v)
        return self.output(y.reshape(x.shape))


class GatedMLP(nnx.Module):
    def __init__(self, width: int, n_hidden: int, *, rngs: nnx.Rngs):
        self.inputs = linear(width, 2 * n_hidden, rngs=rngs)
        self.output = linear(n_hidden, width, rngs=rngs)

    def __call__(self, x):
        a, b = jnp.split(self.inputs(x), 2, axis=-1)
        return self.output(a * jax.nn.silu(b))


class Experts(nnx.Module):
    """Gated MLPs of which a token takes the `n_active` its router scores highest.

    All of them are computed here and the others' outputs dropped, which is exact and
    slow; the bill counts the chosen ones.
    """

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        n, width, hidden = config.n_experts, config.width, config.n_hidden
        self.n_active = config.n_active
        draw = nnx.initializers.lecun_normal(batch_axis=0)
        self.router = linear(width, n, rngs=rngs)
        self.inputs = nnx.Param(draw(rngs.params(), (n, width, 2 * hidden)))
        self.output = nnx.Param(draw(rngs.params(), (n, hidden, width)))

    def __call__(self, x: Float[Array, "batch time width"]):
        scores, chosen = jax.lax.top_k(self.router(x), self.n_active)
        slots = jax.nn.one_hot(chosen, self.inputs[...].shape[0])
        shares = jnp.einsum("btk,btkn->btn", jax.nn.softmax(scores), slots)
        hidden = jnp.einsum("btw,nwh->btnh", x, self.inputs[...])
        a, b = jnp.split(hidden, 2, axis=-1)
        return jnp.einsum(
            "btnh,nhw,btn->btw", a * jax.nn.silu(b), self.output[...], shares
        )


class Block(nnx.Module):
    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        self.norm1 = nnx.RMSNorm(config.width, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.norm2 = nnx.RMSNorm(config.width, rngs=rngs)
        if config.n_experts > 1:
            self.mlp = Experts(config, rngs=rngs)
        else:
            self.mlp = GatedMLP(config.width, config.n_hidden, rngs=rngs)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nnx.Module):
    def __init__(self, config: TransformerConfig, vocabulary: int, *, rngs: nnx.Rngs):
        self.embed = nnx.Embed(vocabulary, config.width, rngs=rngs)
        memory, width = config.memory, config.width
        self.memory = None if memory is None else HashedRows(memory, width, rngs=rngs)
        self.blocks = nnx.List(
            [Block(config, rngs=rngs) for _ in range(config.n_blocks)]
        )
        self.norm = nnx.RMSNorm(config.width, rngs=rngs)
        self.head = linear(config.width, vocabulary, rngs=rngs)

    def __call__(self, tokens):
        x = self.embed(tokens)
        if self.memory is not None:
            x = x + self.memory(tokens, x)
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
    config: Any = eqx.field(static=True)  # a TransformerConfig or ImageNetworkConfig
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
    ) -> Float[Array, "batch targets vocabulary"]:
        """Logits after every token, of an image after its last pixel.

        Digital arithmetic has neither noise nor chips.
        """
        del process, key
        return nnx.merge(self.graphdef, self.params)(tokens)

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What one generated token makes happen, from the shapes of the parameters.

        The bill is of the mean token of a window of `config.context`, as it is scored:
        token t attends to t positions, (context + 1) / 2 on average. The KV cache is
        read at `config.cache_bits`, with one new position written. A softmax costs
        three operations per weight, a norm four per channel, a rotation three per
        value. Of the experts a token multiplies with the chosen ones. Multiplications
        are as wide as weights and activations, those of attention as the cache, too;
        what is no multiplication is as wide as the machine has it. A network of images
        says itself what an image makes happen.
        """
        del process
        c = self.config
        if not isinstance(c, TransformerConfig):
            return c.events(self.vocabulary, period_s=period_s)
        mean_context = (c.context + 1) / 2
        size_B, cache_B = c.bits / 8, (c.cache_bits or c.bits) / 8
        active = c.n_active / c.n_experts
        counts: dict[str, float] = {}
        for path, leaf in jtu.tree_leaves_with_path(self.params):
            names = [str(getattr(key, "key", getattr(key, "name", ""))) for key in path]
            part = "blocks." + names[2] if names[0] == "blocks" else names[0]
            if part == "memory":
                part += f".{names[1]}"
            if part == "blocks.mlp" and c.n_experts > 1 and names[3] != "router":
                part = "blocks.experts"
            counts[part] = counts.get(part, 0) + math.prod(leaf.shape)
        row = counts.pop("embed") / self.vocabulary
        stored = self.vocabulary * row + sum(counts.values())
        events = [Event("weight_byte", row * size_B, "embedding")]
        if c.memory is not None:
            # A token reads a row of each head. Hashes are not billed, in its favor.
            share = c.memory.n_read / counts.pop("memory.table")
            read_B = c.memory.n_read * size_B
            events += [
                Event("weight_byte", read_B, "memory.table", active=share),
                Event("elementwise", 2 * c.memory.n_read, "memory"),
            ]
        for part, count in counts.items():
            op = "elementwise" if "norm" in part else "mac"
            share = active if part == "blocks.experts" else 1.0
            times, wide = (4, None) if op == "elementwise" else (1, c.bits)
            events += [
                Event(op, share * count * times, part, bits=wide),
                Event("weight_byte", share * count * size_B, part, active=share),
            ]
        L, attention, mlp = c.n_blocks, "blocks.attention", "blocks.mlp"
        hidden = c.n_hidden * c.n_active
        scores = L * c.n_heads * mean_context
        products = L * 2 * c.width * mean_context
        between = math.sqrt(c.bits * (c.cache_bits or c.bits))
        positions = L * 2 * c.kv_width
        rotated = L * (c.width + c.kv_width)
        activations = L * (2 * c.width + 2 * c.kv_width + 3 * hidden + 2 * c.width)
        return (
            *events,
            Event("attention_mac", products, attention, bits=between),
            Event("cache_byte", positions * (mean_context + 1) * cache_B, attention),
            Event("elementwise", 3 * scores + 3 * rotated, attention),
            Event("elementwise", 2 * L * hidden, mlp),
            Event("elementwise", 2 * L * c.width, "blocks.skip"),
            Event("activation_byte", activations * size_B, "blocks"),
            Event("activation_byte", self.vocabulary * size_B, "head"),
            Event("stored_bit_s", stored * c.bits * period_s, "weights"),
            Event("stored_bit_s", self.cache_B() * 8 * period_s, "cache"),
            *token_events(self.vocabulary),
        )

    def cache_B(self) -> float:
        """Bytes of keys and values of one full window."""
        c = self.config
        bits = c.cache_bits or c.bits
        return c.n_blocks * 2 * c.kv_width * c.context * bits / 8
