"""Decoding a transformer as it is served: one token at a time, with a KV cache."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from train.baseline import Attention, FlaxModel, Transformer, TransformerConfig

# Bytes that a hashed memory may look back at (train/baseline_memory.py).
HISTORY = 8


class Cache(NamedTuple):
    """What of the tokens so far a sequence keeps."""

    keys: Float[Array, "block batch time head pair2"]
    values: Float[Array, "block batch time head pair2"]
    history: Int[Array, "batch last"]
    position: Int[Array, ""]


def empty_cache(model: FlaxModel, *, batch: int, context: int) -> Cache:
    """The cache of `batch` sequences before their first token.

    Raises `ValueError` for a model that is no transformer.
    """
    c = model.config
    if not isinstance(c, TransformerConfig):
        raise ValueError(
            "A model must be a transformer to have a KV cache, but is of kind"
            f" `{c.kind}`."
        )
    shape = (c.n_blocks, batch, context, c.kv_heads, c.width // c.n_heads)
    return Cache(
        jnp.zeros(shape),
        jnp.zeros(shape),
        jnp.zeros((batch, HISTORY), jnp.int32),
        jnp.zeros((), jnp.int32),
    )


def decode(
    model: FlaxModel, cache: Cache, tokens: Int[Array, " batch"]
) -> tuple[Cache, Float[Array, "batch vocabulary"]]:
    """One token of every sequence: the logits after it, and the cache with it.

    The same logits as of `model.logits` over all tokens so far, of which the cache must
    have room for one more.
    """
    module = nnx.merge(model.graphdef, model.params)
    assert isinstance(module, Transformer)
    history = jnp.concatenate([cache.history[:, 1:], tokens[:, None]], axis=1)
    x = module.embed(tokens[:, None])
    if module.memory is not None:
        stream = jnp.broadcast_to(x, (*history.shape, x.shape[-1]))
        x = x + module.memory(history, stream)[:, -1:]
    keys, values = cache.keys, cache.values
    for i, block in enumerate(module.blocks):
        y, k, v = _attend(block.attention, block.norm1(x), keys[i], values[i], cache)
        keys, values = keys.at[i].set(k), values.at[i].set(v)
        x = x + y
        x = x + block.mlp(block.norm2(x))
    after = Cache(keys, values, history, cache.position + 1)
    return after, module.head(module.norm(x))[:, 0]


def _attend(attention: Attention, x, keys, values, cache: Cache):
    batch, _, width = x.shape
    n_kv = attention.kv_width
    parts = jnp.split(attention.qkv(x), (width, width + n_kv), axis=-1)
    heads = (attention.n_heads, attention.kv_heads, attention.kv_heads)
    q, k, v = (
        part.reshape(batch, 1, n, -1) for part, n in zip(parts, heads, strict=True)
    )
    at = (0, cache.position, 0, 0)
    keys = jax.lax.dynamic_update_slice(keys, _rotated(k, cache.position), at)
    values = jax.lax.dynamic_update_slice(values, v, at)
    seen = (jnp.arange(keys.shape[1]) <= cache.position)[None, None, None]
    y = jax.nn.dot_product_attention(
        _rotated(q, cache.position), keys, values, mask=seen
    )
    return attention.output(y.reshape(x.shape)), keys, values


def _rotated(x: Float[Array, "batch one head pair2"], position: Int[Array, ""]):
    """The rotation of `train.baseline.rotate` at one position."""
    half = x.shape[-1] // 2
    frequency = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position.astype(jnp.float32) * frequency
    a, b = x[..., :half], x[..., half:]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1)
