"""Stacks of blocks: names, the lines of the byte, one token as a whole sequence."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks import GatedRCBlock, GatedUnitBlock
from circuits.blocks.memory import MemoryBlock
from tests.helpers import PROCESS, QUIET
from train.model import PhysicalConfig
from train.stack import Stack, byte_lines

LAYER = (
    GatedUnitBlock(n_hidden=6),
    MemoryBlock(longest=3, index_bits=4, row=2),
    GatedRCBlock(n_states=4, n_taps=2),
)


def build(layer=LAYER, n_layers=2) -> Any:
    config = PhysicalConfig(width=8, n_layers=n_layers, layer=layer)
    return config.build(vocabulary=256, process=PROCESS, key=jr.key(0))


def test_blocks_are_named_by_kind_and_place():
    names = "gated_unit0 memory0 gated_rc0 gated_unit1 memory1 gated_rc1"
    model = build()
    assert model.stack.names == tuple(names.split())
    billed = {e.part.split(".")[0] for e in model.events(PROCESS, period_s=1e-6)}
    assert set(names.split()) <= billed


def test_no_two_blocks_start_alike():
    first, second = (b.inner for b in build((GatedUnitBlock(n_hidden=6),)).stack.blocks)
    values = lambda block: jax.tree.leaves(eqx.filter(block, eqx.is_inexact_array))
    large = [
        (a, b)
        for a, b in zip(values(first), values(second), strict=True)
        if a.size > 1 and np.std(a) > 0
    ]
    assert large
    assert all(np.any(a != b) for a, b in large)


def test_the_lines_of_a_byte_are_its_bits():
    lines = byte_lines(jnp.asarray([0, 255, 5]))
    assert lines.dtype == jnp.float32
    np.testing.assert_array_equal(lines[0], -np.ones(8))
    np.testing.assert_array_equal(lines[1], np.ones(8))
    np.testing.assert_array_equal(lines[2], [1, -1, 1, -1, -1, -1, -1, -1])


def test_token_by_token_is_the_whole_text():
    model = build()
    # Rows that do something: they start near zero.
    louder = [b.inner.table * 10 for b in model.stack.blocks[1::3]]
    model = eqx.tree_at(
        lambda m: [b.inner.table for b in m.stack.blocks[1::3]], model, louder
    )
    tokens = jr.randint(jr.key(1), (2, 7), 0, 256)
    ask = {"process": QUIET, "key": jr.key(0)}
    whole = eqx.filter_jit(model.logits)(tokens, **ask)
    state, step = model.init_state((2,)), eqx.filter_jit(model.step)
    for t in range(7):
        state, logits = step(state, tokens[:, t], **ask)
        np.testing.assert_allclose(logits, whole[:, t], atol=0.13)  # a code of the ADC
    changed = eqx.filter_jit(model.logits)(tokens.at[:, 3].add(1) % 256, **ask)
    np.testing.assert_array_equal(changed[:, :3], whole[:, :3])
    assert np.any(changed[:, 3:] != whole[:, 3:])


def test_a_block_that_reads_bytes_says_so_where_there_are_none():
    stack = Stack.build(
        LAYER,
        n_layers=1,
        width=8,
        period_s=1e-6,
        weight_bits=6,
        process=PROCESS,
        key=jr.key(0),
    )
    with pytest.raises(ValueError, match=r"`memory0` reads the byte of a text"):
        stack.run(
            "step",
            stack.init_state(),
            jnp.zeros(8),
            process=PROCESS,
            key=jr.key(0),
        )
