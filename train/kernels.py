"""Products and attention of the transformer, as XLA's CPU compiler is quick at them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

# Queries are taken in so many pieces, each with the keys up to its end: 5/8 of the
# scores instead of all; more pieces leave products that are too small.
PIECES = 4


def by_rows(x, kernel, dimensions, **options):
    """`jax.lax.dot_general` over the last axis of `x`, all others taken as one.

    With two of them XLA's CPU compiler copies both factors of the kernel's gradient
    into another layout and takes three times as long for it.
    """
    del dimensions  # of a dense layer
    rows, over = x.reshape(-1, x.shape[-1]), (((1,), (0,)), ((), ()))
    y = jax.lax.dot_general(rows, kernel, over, **options)
    return y.reshape(*x.shape[:-1], y.shape[-1])


linear = partial(nnx.Linear, use_bias=False, dot_general=by_rows)


def causal_attention(
    q: Float[Array, "batch time head channel"],
    k: Float[Array, "batch time kv_head channel"],
    v: Float[Array, "batch time kv_head channel"],
) -> Float[Array, "batch time head channel"]:
    """softmax(q·kᵀ/√channel)·v over the tokens up to each query's own.

    The numbers of `jax.nn.dot_product_attention`, which also takes fewer heads of keys
    and values than of queries. XLA's CPU compiler computes that in full, copies the
    weights between layouts and reads them once more for the gradient; here the weights
    are divided after their product with the values, and the sum that the softmax's
    gradient takes from each row is that of y·dy (Dao et al. 2022, arXiv 2205.14135).
    """
    if jax.default_backend() != "cpu":
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)
    group = q.shape[2] // k.shape[2]
    k, v = (jnp.repeat(x, group, axis=2) if group > 1 else x for x in (k, v))
    heads = (x.swapaxes(1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    return _attention(*heads).swapaxes(1, 2)


@jax.custom_vjp
def _attention(q, k, v):
    return _forward(q, k, v)[0]


def _forward(q, k, v):
    ys, kept = [], []
    for a, b in _pieces(q.shape[2]):
        scores = jnp.einsum("bnth,bnsh->bnts", q[:, :, a:b], k[:, :, :b])
        seen = np.arange(b) <= np.arange(a, b)[:, None]
        scores = jnp.where(seen, scores, -jnp.inf)
        weights = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
        total = jnp.sum(weights, axis=-1, keepdims=True)
        ys.append(jnp.einsum("bnts,bnsh->bnth", weights, v[:, :, :b]) / total)
        kept.append((weights, total))
    y = jnp.concatenate(ys, axis=2)
    return y, (q, k, v, y, kept)


def _backward(residuals, dy):
    q, k, v, y, kept = residuals
    dqs, dk, dv = [], jnp.zeros_like(k), jnp.zeros_like(v)
    for (a, b), (weights, total) in zip(_pieces(q.shape[2]), kept, strict=True):
        share = dy[:, :, a:b] / total
        mean = jnp.sum(share * y[:, :, a:b], axis=-1, keepdims=True)
        to_weights = jnp.einsum("bnth,bnsh->bnts", share, v[:, :, :b])
        to_scores = weights * (to_weights - mean)
        dqs.append(jnp.einsum("bnts,bnsh->bnth", to_scores, k[:, :, :b]))
        to_k = jnp.einsum("bnts,bnth->bnsh", to_scores, q[:, :, a:b])
        to_v = jnp.einsum("bnts,bnth->bnsh", weights, share)
        dk, dv = dk.at[:, :, :b].add(to_k), dv.at[:, :, :b].add(to_v)
    return jnp.concatenate(dqs, axis=2), dk, dv


_attention.defvjp(_forward, _backward)


def _pieces(time: int) -> list[tuple[int, int]]:
    """Where each piece of the queries begins and ends."""
    size = -(-time // PIECES)
    return [(a, min(a + size, time)) for a in range(0, time, size)]
