"""The transformer baseline and its bridge."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from circuits.memory import HashedMemory
from tests.helpers import PROCESS
from train.baseline import Attention, Experts, FlaxModel, TransformerConfig, rotate
from train.baseline_memory import HashedRows, HashedRowsConfig
from train.kernels import causal_attention
from train.objective import bits

TINY = TransformerConfig(width=16, n_blocks=2, n_heads=2, n_hidden=24)


def build(seed=0):
    return TINY.build(vocabulary=11, process=PROCESS, key=jr.key(seed))


def test_no_logit_depends_on_a_later_token():
    model, tokens = build(), jnp.arange(7)[None]
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def total(arrays):
        seen = eqx.combine(arrays, rest)
        return jnp.sum(seen.logits(tokens, process=PROCESS, key=jr.key(0))[0], axis=-1)

    # Tokens enter through their own row of the embedding.
    jacobian = jax.jit(jax.jacrev(total))(arrays)
    rows = jax.tree.leaves(jacobian.params["embed"])[0]
    influence = np.abs(rows).sum(-1)[:, :7]
    assert np.all(np.triu(influence, k=1) == 0)
    assert np.all(influence[-1] > 0), "the last logits must see every token before"


def test_attention_sees_relative_positions_only():
    q, k = jr.normal(jr.key(0), (2, 1, 12, 2, 8))
    # The same query and key at every position.
    q, k = (jnp.broadcast_to(x[:, :1], x.shape) for x in (q, k))
    scores = jnp.einsum("bqhd,bkhd->hqk", rotate(q), rotate(k))
    for head in np.asarray(scores):
        for distance in range(-5, 6):
            diagonal = np.diagonal(head, distance)
            np.testing.assert_allclose(diagonal, diagonal[0], rtol=1e-4, atol=1e-4)
        assert np.ptp(head[0]) > 0.1, "positions must matter"


def test_rotation_keeps_lengths_and_the_first_position():
    x = jr.normal(jr.key(0), (2, 9, 3, 8))
    y = rotate(x)
    np.testing.assert_allclose(y[:, 0], x[:, 0], rtol=1e-6)
    norm = lambda x: jnp.linalg.norm(x, axis=-1)
    np.testing.assert_allclose(norm(y), norm(x), rtol=1e-5)


# Pieces of one length, a last one that is shorter, fewer tokens than pieces.
@pytest.mark.parametrize("time", [16, 11, 3])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_causal_attention_is_the_plain_one_and_so_is_its_gradient(time, kv_heads):
    keys = jr.split(jr.key(time), 4)
    sizes = (4, kv_heads, kv_heads, 4)
    # Scores of a few tens: weights from 1 to what underflows.
    q, k, v, to_y = (
        size * jr.normal(key, (2, time, n, 8))
        for key, n, size in zip(keys, sizes, (3, 3, 1, 1), strict=True)
    )

    def plain(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=True)

    for ours, theirs in zip(
        gradients(causal_attention, q, k, v, to_y=to_y),
        gradients(plain, q, k, v, to_y=to_y),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)


def gradients(function, *given, to_y):
    """The value of a function of arrays, and its gradient to each of them."""
    y, back = jax.vjp(function, *given)
    return y, *back(to_y)


def plain_bits(params, tokens):
    """The mean loss of `TINY` by plain products and attention, in bits."""
    x = params["embed"]["embedding"][tokens[:, :-1]]
    rms = lambda x: x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
    for block in params["blocks"].values():
        y = rms(x) * block["norm1"]["scale"] @ block["attention"]["qkv"]["kernel"]
        q, k, v = (
            part.reshape(*x.shape[:2], 2, 8) for part in jnp.split(y, 3, axis=-1)
        )
        y = jax.nn.dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
        x = x + y.reshape(x.shape) @ block["attention"]["output"]["kernel"]
        y = rms(x) * block["norm2"]["scale"] @ block["mlp"]["inputs"]["kernel"]
        a, b = jnp.split(y, 2, axis=-1)
        x = x + (a * jax.nn.silu(b)) @ block["mlp"]["output"]["kernel"]
    logits = rms(x) * params["norm"]["scale"] @ params["head"]["kernel"]
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1)
    return -jnp.mean(found) / jnp.log(2.0)


def test_its_loss_and_gradient_are_those_of_plain_products():
    model, tokens = build(), jr.randint(jr.key(1), (3, 14), 0, 11)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    def loss(arrays):
        logits = eqx.combine(arrays, rest).logits(
            tokens[:, :-1], process=PROCESS, key=jr.key(0)
        )
        return jnp.mean(bits(logits, tokens[:, 1:]))

    value, gradient = jax.value_and_grad(loss)(arrays)
    wanted, slope = jax.value_and_grad(plain_bits)(
        nnx.to_pure_dict(arrays.params), tokens
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    found = nnx.to_pure_dict(gradient.params)
    assert jax.tree.structure(found) == jax.tree.structure(slope)
    for ours, theirs in zip(
        jax.tree.leaves(found), jax.tree.leaves(slope), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_it_is_a_pytree_of_its_parameters():
    model = build()
    n = sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_array)))
    width, hidden, vocabulary = 16, 24, 11
    block = 4 * width**2 + 3 * width * hidden + 2 * width
    assert n == 2 * block + 2 * vocabulary * width + width
    assert eqx.tree_equal(model, build())
    assert not eqx.tree_equal(model, build(1))


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"`width` must be a multiple of 2·`n_heads`"):
        TransformerConfig(width=18, n_heads=2).build(
            vocabulary=5, process=PROCESS, key=jr.key(0)
        )


def test_a_module_with_hidden_state_is_refused():
    for module in (
        nnx.Dropout(0.1, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
    ):
        with pytest.raises(ValueError, match="`module` must hold parameters only"):
            FlaxModel(module, config=TINY, vocabulary=5)


def test_a_token_takes_only_the_experts_it_chose():
    config = dataclasses.replace(TINY, n_experts=4, n_active=2)
    layer = Experts(config, rngs=nnx.Rngs(0))
    x = jr.normal(jr.key(1), (1, 3, config.width))
    y = layer(x)
    scores = np.asarray(layer.router(x))[0]
    for t, score in enumerate(scores):
        best = np.argsort(score)[-2:]
        shares = np.exp(score[best]) / np.exp(score[best]).sum()
        expected = 0.0
        for share, n in zip(shares, best, strict=True):
            a, b = jnp.split(x[0, t] @ layer.inputs[...][n], 2)
            expected += share * ((a * jax.nn.silu(b)) @ layer.output[...][n])
        np.testing.assert_allclose(y[0, t], expected, rtol=1e-4, atol=1e-5)


def test_shared_heads_are_heads_that_were_copied():
    shared = dataclasses.replace(TINY, n_heads=4, n_kv_heads=2)
    own = dataclasses.replace(TINY, n_heads=4)
    few, many = (Attention(c, rngs=nnx.Rngs(0)) for c in (shared, own))
    q, k, v = jnp.split(few.qkv.kernel[...], (16, 24), axis=-1)
    copied = [
        jnp.repeat(part.reshape(16, 2, 4), 2, axis=1).reshape(16, 16) for part in (k, v)
    ]
    many.qkv.kernel[...] = jnp.concatenate([q, *copied], axis=-1)
    many.output.kernel[...] = few.output.kernel[...]
    x = jr.normal(jr.key(1), (2, 5, 16))
    np.testing.assert_allclose(few(x), many(x), rtol=1e-4, atol=1e-5)


def test_its_memory_reads_the_rows_that_the_circuit_reads():
    config = HashedRowsConfig(longest=4, index_bits=6, row=3)
    circuit = HashedMemory(
        8,
        longest=4,
        index_bits=6,
        row=3,
        row_bits=None,
        bits=6,
        output_gain=1.0,
        process=PROCESS,
        key=jr.key(0),
    )
    rows = HashedRows(config, 8, rngs=nnx.Rngs(0))
    rows.table[...] = circuit.table
    tokens = jr.randint(jr.key(1), (2, 17), 0, 256)
    held = jnp.concatenate([circuit.init_state((2,)), tokens.T])
    read = jnp.swapaxes(circuit.read(circuit.indices(held)), 0, 1)
    # A gate without drive is half open.
    rows.gate.kernel[...] = jnp.zeros_like(rows.gate.kernel[...])
    expected = rows.output(read / 2)
    x = jr.normal(jr.key(2), (2, 17, 8))
    np.testing.assert_allclose(rows(tokens, x), expected, rtol=1e-5, atol=1e-7)


def test_its_memory_is_billed_by_what_a_token_reads():
    memory = HashedRowsConfig(longest=4, index_bits=6, row=3)
    plain, config = (
        dataclasses.replace(TINY, n_blocks=1, memory=each) for each in (None, memory)
    )

    def bytes_of(config):
        model = config.build(vocabulary=11, process=PROCESS, key=jr.key(0))
        events = model.events(PROCESS, period_s=1e-6)
        total = lambda name: sum(e.count for e in events if e.name == name)
        return total("weight_byte"), total("stored_bit_s") / 1e-6 / 8

    read, stored = np.subtract(bytes_of(config), bytes_of(plain))
    gate_and_output = 2 * TINY.width * memory.n_read + TINY.width
    assert read == memory.n_read + gate_and_output
    assert stored == pytest.approx(3 * 64 * 3 + gate_and_output, rel=1e-6, abs=0)


@pytest.mark.parametrize("wrong", [{"longest": 1}, {"index_bits": 25}, {"row": 0}])
def test_a_memory_of_a_wrong_size_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=f"`{name}` must be from"):
        HashedRowsConfig(**wrong)
