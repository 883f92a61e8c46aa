"""Wires of lookup tables, fixed and learned; and tables that write their own bit."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.lookup import softened, truth_tables
from circuits.lookup_bits import exploring
from circuits.lookup_state import lookup_state
from circuits.lookup_wiring import FixedWiring, gather, learned_wiring
from physnn.circuit import run_stepwise
from physnn.noise import bit_flip_probability
from tests.helpers import PROCESS, QUIET, run_jit


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**20))
@settings(max_examples=8, deadline=None)
def test_fixed_wires_read_every_bit_equally_often(n_in, n_out, seed):
    wiring = FixedWiring(n_in, n_out, seed=seed)
    counts = np.bincount(wiring.chosen(), minlength=n_in)
    assert counts.max() - counts.min() <= 1
    x = jr.normal(jr.key(0), (2, 3, n_in))
    y, back = jax.vjp(wiring, x)
    np.testing.assert_array_equal(y, x[..., wiring.chosen()])
    cotangent = jr.normal(jr.key(1), y.shape)
    expected = np.zeros(x.shape)
    for pin, bit in enumerate(wiring.chosen()):
        expected[..., bit] += cotangent[..., pin]
    np.testing.assert_allclose(back(cotangent)[0], expected, atol=1e-5)


def test_wires_are_their_seed_forever():
    # A checkpoint holds no wires: these must never change.
    assert FixedWiring(5, 7, seed=3).chosen().tolist() == WIRES_OF_SEED_3
    assert FixedWiring(5, 7, seed=4).chosen().tolist() != WIRES_OF_SEED_3


WIRES_OF_SEED_3 = [1, 0, 2, 3, 4, 0, 3]


def test_a_learned_pin_reads_the_candidate_with_the_highest_score():
    wiring = learned_wiring(12, 6, group=3, n_candidates=4, key=jr.key(0))
    x = jr.normal(jr.key(1), (2, 5, 12))
    np.testing.assert_array_equal(wiring(x), x[..., wiring.chosen()])
    candidates = wiring.candidates()
    assert candidates.shape == (2, 4)
    best = jnp.argmax(wiring.score, axis=1)
    for pin, bit in enumerate(wiring.chosen()):
        assert bit == candidates[pin // 3, best[pin // 3, pin % 3]]
    moved = dataclasses.replace(wiring, score=-wiring.score)
    assert np.any(moved.chosen() != wiring.chosen())


def test_gradient_reaches_every_score_as_that_of_the_softmax():
    wiring = learned_wiring(
        12, 6, group=3, n_candidates=4, temperature=0.5, key=jr.key(0)
    )
    x, cotangent = jr.normal(jr.key(1), (5, 12)), jr.normal(jr.key(2), (5, 6))
    slope = eqx.filter_jit(eqx.filter_grad(lambda w: jnp.sum(cotangent * w(x))))
    ours = slope(wiring).score
    theirs = slope(dataclasses.replace(wiring, soft=True)).score
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    assert np.all(np.asarray(ours) != 0)


@pytest.mark.parametrize("k", [3, 4, 6])
@pytest.mark.parametrize("basis", ["multilinear", "walsh"])
def test_state_bits_step_as_they_scan(k, basis):
    state = _random_state(k, basis)
    xs = jnp.sign(jr.normal(jr.key(1), (20, 3, 10)))
    scanned = run_jit(state, xs, process=QUIET, key=jr.key(0))
    stepped = eqx.filter_jit(run_stepwise)(state, xs, process=QUIET, key=jr.key(0))
    np.testing.assert_array_equal(scanned, stepped)
    np.testing.assert_array_equal(jnp.abs(scanned), 1.0)
    # By the truth tables, bit by bit; the state is the highest pin.
    tables, wires = truth_tables(state), state.wires()
    bits = np.zeros((3, 5), int)
    for t in range(20):
        pins = (np.asarray(xs[t])[:, wires] > 0).astype(int)
        address = pins @ (1 << np.arange(k - 1)) + (bits << (k - 1))
        bits = tables[np.arange(5), address].astype(int)
        np.testing.assert_array_equal(scanned[t], 2 * bits - 1)


def _random_state(k: int, basis="multilinear"):
    state = lookup_state(5, k=k, basis=basis)  # pyright: ignore
    noise = jr.normal(jr.key(k), state.trained.shape)
    return dataclasses.replace(state, trained=noise)


def test_soft_state_is_the_multilinear_recurrence():
    state = softened(_random_state(3))
    xs = jr.uniform(jr.key(1), (6, 2, 10), minval=-1.0, maxval=1.0)
    ys = np.asarray(run_jit(state, xs, process=QUIET, key=jr.key(0)))
    p, wires = np.asarray(jax.nn.sigmoid(state.logits())), state.wires()
    s = -np.ones((2, 5))
    for t in range(6):
        pins = [*np.moveaxis(np.asarray(xs[t])[:, wires], -1, 0), s]
        following = np.zeros((2, 5))
        for a in range(8):
            weight = p[:, a]
            for j, pin in enumerate(pins):
                weight = weight * (1 + (pin if (a >> j) & 1 else -pin)) / 2
            following = following + weight
        s = 2 * following - 1
        np.testing.assert_allclose(ys[t], s, atol=1e-5)


def test_a_state_bit_starts_as_a_latch():
    state = lookup_state(3, k=6)
    data = jnp.sign(jr.normal(jr.key(0), (30, 3)))
    enable = jnp.sign(jr.normal(jr.key(1), (30, 3)))
    xs = jnp.concatenate([data, enable], axis=-1)
    ys = run_jit(state, xs, process=QUIET, key=jr.key(0))
    held = -np.ones(3)
    for t in range(30):
        held = np.where(enable[t] > 0, data[t], held)
        np.testing.assert_array_equal(ys[t], held)
    found = state.diagnose(xs, process=QUIET, key=jr.key(0))
    assert found["written_share"] == pytest.approx(np.mean(enable > 0))
    assert found["kept_share"] + found["written_share"] == pytest.approx(1.0)
    assert found["inverted_share"] == 0.0


def test_a_flip_inverts_what_a_state_bit_is_written():
    state = dataclasses.replace(lookup_state(4, k=3), node_F=2e-20)
    xs = jnp.ones((30_000, 8))  # data high, enabled: written each token
    ys = np.asarray(run_jit(state, xs, process=PROCESS, key=jr.key(0)))
    p = float(bit_flip_probability(PROCESS, 2e-20))
    n = ys.size
    assert abs(np.mean(ys < 0) - p) < 3 * (p * (1 - p) / n) ** 0.5


def test_gather_of_no_batch_axis():
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(gather(x, np.asarray([2, 0])), [2.0, 0.0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 2}, r"`k` must be at least 3 for a latch"),
        ({"k": 7}, r"`k` must be from 2 to 6"),
        ({"n": 0}, r"`n` must be positive, but is 0"),
    ],
)
def test_impossible_states_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        lookup_state(**{"n": 3, "k": 3, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"group": 4}, r"`group` must divide the 6 pins, but is 4"),
        ({"n_candidates": 9}, r"`n_candidates` must be from 1 to the 8 bits, but is 9"),
        ({"n_candidates": 0}, r"`n_candidates` must be from 1 to the 8 bits, but is 0"),
        ({"temperature": 0.0}, r"`temperature` must be positive, but is 0.0"),
    ],
)
def test_impossible_wirings_are_refused(change, message):
    asked = {"group": 3, "n_candidates": 4, "key": jr.key(0), **change}
    with pytest.raises(ValueError, match=message):
        learned_wiring(8, 6, **asked)
    with pytest.raises(ValueError, match=r"must have bits and pins, but has 0 bits"):
        FixedWiring(0, 3)


def test_explored_state_bits_are_written_with_the_probability_of_their_logit():
    # Enabled latches, so that what is read is the bit that says what to write.
    n = 3
    cell = lookup_state(n, k=3, gumbel=1.0)
    x = jnp.ones((4000, 2 * n))
    written = run_jit(exploring(cell), x[:, None], process=QUIET, key=jr.key(0))
    share = np.asarray(written > 0).mean((0, 1))
    p = float(jax.nn.sigmoid(jnp.max(cell.logits())))
    assert np.all(np.abs(share - p) < 3 * np.sqrt(p * (1 - p) / 4000))
    # What runs on a chip draws nothing.
    one, two = (
        run_jit(cell, x[:8, None], process=QUIET, key=jr.key(s)) for s in (0, 1)
    )
    np.testing.assert_array_equal(one, two)
