"""Lookup tables: what a table reads, its gradient, its noise, and what is exported."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.lookup import (
    PASS_THROUGH,
    LookupLayer,
    lookup_layer,
    softened,
    truth_tables,
)
from circuits.lookup_bits import exploring
from circuits.lookup_read import hadamard, look_up
from circuits.lookup_state import lookup_state
from circuits.lookup_wiring import FixedWiring, learned_wiring
from evals.verify import verify
from physnn.circuit import run
from physnn.export.package import export
from physnn.noise import bit_flip_probability, flip_bits
from tests.helpers import PERIOD_S, PROCESS, QUIET, run_jit, totals, with_process

every_k = pytest.mark.parametrize("k", range(2, 7))


def words(k: int) -> np.ndarray:
    """Every input word, ±1: row a has pin i high where bit i of a is."""
    return (2.0 * ((np.arange(2**k)[:, None] >> np.arange(k)) & 1) - 1).astype("f4")


def to_each(layer: LookupLayer) -> jax.Array:
    """Inputs that show every table every word, for tables of bits of their own."""
    x = np.zeros((2**layer.k, layer.n_in), np.float32)
    assert sorted(layer.wires().ravel()) == list(range(layer.n_in))
    for wires in layer.wires():
        x[:, wires] = words(layer.k)
    return jnp.asarray(x)


def addresses(layer: LookupLayer, x: np.ndarray) -> np.ndarray:
    """The address that each table of a layer sees, from the wires it says it has."""
    pins = (x[:, layer.wires()] > 0).astype(int)
    return pins @ (1 << np.arange(layer.k))


@every_k
@pytest.mark.parametrize("basis", ["multilinear", "walsh"])
def test_hard_table_is_its_truth_table(k, basis):
    layer = lookup_layer(3 * k, 3, k=k, start="random", basis=basis, key=jr.key(k))
    y = run_jit(layer, to_each(layer)[None], process=QUIET, key=jr.key(0))[0]
    np.testing.assert_array_equal(y, 2.0 * truth_tables(layer).T - 1)
    assert 0.2 < truth_tables(layer).mean() < 0.8


@every_k
def test_both_bases_are_the_same_tables(k):
    plain, walsh = (
        lookup_layer(8, 5, k=k, start="random", basis=basis, key=jr.key(1))
        for basis in ("multilinear", "walsh")
    )
    np.testing.assert_allclose(plain.logits(), walsh.logits(), atol=1e-6)
    assert not np.allclose(plain.trained, walsh.trained, atol=1e-3)
    h = hadamard(k)
    np.testing.assert_array_equal(h @ h, 2**k * np.eye(2**k))
    x = jr.uniform(jr.key(2), (1, 7, 8), minval=-1.0, maxval=1.0)
    soft = [
        run_jit(softened(c), x, process=QUIET, key=jr.key(0)) for c in (plain, walsh)
    ]
    np.testing.assert_allclose(soft[0], soft[1], atol=1e-6)


@every_k
def test_soft_table_is_exact_at_the_corners_and_a_mean_inside(k):
    layer = softened(lookup_layer(2 * k, 2, k=k, start="random", key=jr.key(k)))
    p = np.asarray(jax.nn.sigmoid(layer.logits()))
    y = run_jit(layer, to_each(layer)[None], process=QUIET, key=jr.key(0))[0]
    np.testing.assert_allclose(y, 2 * p.T - 1, atol=1e-6)
    middle = run_jit(layer, jnp.zeros((1, 1, 2 * k)), process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(middle[0, 0], 2 * p.mean(axis=1) - 1, atol=1e-6)


@every_k
@pytest.mark.parametrize("blur", [0.0, 0.25])
def test_gradient_of_a_pin_is_the_finite_difference_of_the_table(k, blur):
    logits = jr.normal(jr.key(k), (1, 2**k))
    x = words(k)
    pins = jnp.asarray(x)[:, :, None]
    slope = jax.jit(jax.grad(lambda pins: jnp.sum(look_up(pins, logits, blur))))(pins)
    p = np.asarray(jax.nn.sigmoid(logits))[0]
    for a in range(2**k):
        for j in range(k):
            # The other pins flip with probability `blur`, each on its own.
            expected = 0.0
            for b in range(2**k):
                flips = bin((a ^ b) & ~(1 << j)).count("1")
                sign = 1 if (b >> j) & 1 else -1
                expected += sign * p[b] * blur**flips * (1 - blur) ** (k - 1 - flips)
            assert slope[a, j, 0] == pytest.approx(expected, abs=1e-5)


@every_k
def test_gradient_is_that_of_the_soft_table_at_the_corner(k):
    hard = lookup_layer(k + 2, 4, k=k, start="random", blur=0.0, key=jr.key(k))
    x = jnp.sign(jr.normal(jr.key(0), (1, 9, k + 2)))
    cotangent = jr.normal(jr.key(1), (1, 9, 4))

    @eqx.filter_jit
    def gradients(layer):
        loss = lambda args: jnp.sum(
            cotangent * run(args[0], args[1], process=QUIET, key=jr.key(0))
        )
        layer, x_bar = eqx.filter_grad(loss)((layer, x))
        return layer.trained, x_bar

    for ours, true in zip(gradients(hard), gradients(softened(hard)), strict=True):
        np.testing.assert_allclose(ours, true, atol=1e-5)
        assert np.any(np.asarray(true) != 0)


@every_k
@pytest.mark.parametrize("basis", ["multilinear", "walsh"])
def test_a_layer_starts_passing_its_first_pin_on(k, basis):
    layer = lookup_layer(10, 12, k=k, basis=basis, key=jr.key(0))
    x = jnp.sign(jr.normal(jr.key(1), (1, 20, 10)))
    y = run_jit(layer, x, process=QUIET, key=jr.key(0))
    np.testing.assert_array_equal(y, x[..., layer.wires()[:, 0]])
    p = jax.nn.sigmoid(layer.logits())
    np.testing.assert_allclose(jnp.maximum(p, 1 - p), PASS_THROUGH, rtol=1e-5)


def test_exploring_draws_each_bit_with_the_probability_of_its_logit():
    layer = lookup_layer(2, 3, k=2, start="random", gumbel=1.0, key=jr.key(3))
    n = 20_000
    x = jnp.broadcast_to(jnp.asarray([1.0, -1.0]), (n, 2))
    ask = lambda c, key: run_jit(c, x, process=QUIET, key=key)
    drawn = np.asarray(ask(exploring(layer), jr.key(0)) > 0)
    at = addresses(layer, np.asarray(x[:1]))[0]
    p = np.asarray(jax.nn.sigmoid(layer.logits()))[np.arange(3), at]
    assert np.all(np.abs(drawn.mean(0) - p) < 3 * np.sqrt(p * (1 - p) / n))
    # Tables and samples draw apart; what runs on a chip draws nothing.
    assert np.all(np.abs(np.corrcoef(drawn.T) - np.eye(3)) < 4 / n**0.5)
    assert not np.any(np.all(drawn == drawn[:1], axis=0))
    assert np.all(ask(layer, jr.key(0)) == ask(layer, jr.key(1)))


def test_gradient_passes_straight_through_the_drawn_bits():
    layer = lookup_layer(3, 4, k=3, start="random", gumbel=0.7, key=jr.key(3))
    x = jnp.sign(jr.normal(jr.key(0), (1, 5, 3)))
    loss = lambda layer: jnp.sum(run(layer, x, process=QUIET, key=jr.key(1)))
    slope = eqx.filter_jit(eqx.filter_grad(loss))
    drawn, plain = (slope(c).trained for c in (exploring(layer), layer))
    seen = np.zeros((4, 8), bool)
    seen[np.arange(4), addresses(layer, np.asarray(x[0]))] = True
    for gradient in (drawn, plain):
        np.testing.assert_array_equal(np.asarray(gradient) != 0, seen)
        # 2·σ(1 − σ) of the logit that is rounded, at most 1/2 for each read.
        assert np.all((np.asarray(gradient) >= 0) & (np.asarray(gradient) <= 2.5))
    assert not np.allclose(drawn, plain, rtol=1e-2)


@pytest.mark.parametrize("node_F", [1e-20, 5e-20])
def test_bits_flip_as_often_as_thermal_noise_passes_the_margin(node_F):
    # A node of a tenth of an attofarad, where flips can be counted.
    layer = lookup_layer(4, 5, k=4, node_F=node_F, key=jr.key(0))
    x = jnp.ones((40_000, 4))
    flipped = np.asarray(run_jit(layer, x, process=PROCESS, key=jr.key(1)) < 0)
    kT = 1.380649e-23 * PROCESS.temperature_K
    sigma_V = (PROCESS.thermal_noise * kT / node_F) ** 0.5
    p = 0.5 * math.erfc(PROCESS.supply_V / 2 / (2**0.5 * sigma_V))
    assert 1e-3 < p < 0.5
    n = flipped.size
    assert abs(flipped.mean() - p) < 3 * (p * (1 - p) / n) ** 0.5
    # Each read of each table flips on its own.
    together = np.mean(flipped[:, 0] & flipped[:, 1])
    assert abs(together - p**2) < 4 * p / len(flipped) ** 0.5


def test_a_healthy_node_does_not_flip_and_no_noise_is_exact():
    assert bit_flip_probability(PROCESS, 1e-15) < 1e-30
    assert bit_flip_probability(QUIET, 1e-20) == 0.0
    bits = jnp.ones((5, 3))
    assert flip_bits(bits, 0.0, jr.key(0)) is bits
    noise = with_process(thermal_noise=jnp.asarray(0.0))
    assert not np.any(
        flip_bits(bits, bit_flip_probability(noise, 1e-20), jr.key(0)) < 0
    )


def test_soft_and_hard_tables_agree_when_they_are_sure():
    layer = lookup_layer(6, 8, k=3, start="random", key=jr.key(0))
    x = jnp.sign(jr.normal(jr.key(1), (1, 50, 6)))
    of = lambda c: c.diagnose(x, process=QUIET, key=jr.key(0))["soft_hard_distance"]
    sure = dataclasses.replace(layer, trained=1e3 * layer.trained)
    assert of(layer) > 0.2
    assert of(sure) < 0.02
    hard, soft = (
        run_jit(c, x, process=QUIET, key=jr.key(0)) for c in (layer, softened(layer))
    )
    np.testing.assert_allclose(of(layer), np.mean(np.abs(hard - soft)) / 2, rtol=1e-5)


def test_softened_reaches_tables_alone_or_everything():
    wiring = learned_wiring(6, 6, group=3, n_candidates=4, key=jr.key(0))
    layer = lookup_layer(6, 3, k=2, wiring=wiring, key=jr.key(0))
    tables, all_soft = softened([layer])[0], softened([layer], tables_only=False)[0]
    assert tables.soft
    assert all_soft.soft
    soft_wires = [c.wiring.soft for c in (tables, all_soft)]  # pyright: ignore
    assert soft_wires == [False, True]
    assert not layer.soft


def test_a_table_costs_its_bits_and_its_tree():
    layer = lookup_layer(8, 10, k=4, key=jr.key(0))
    spent = totals(layer.events(PROCESS, period_s=PERIOD_S))
    assert spent["rom_bit"] == 10
    assert spent["stored_bit_s"] == pytest.approx(160 * PERIOD_S)
    bare = with_process(wire_F_per_m=0.0, switch_gate_F=0.0)
    charge = totals(layer.events(bare, period_s=PERIOD_S))["supply_charge_C"]
    assert charge == pytest.approx(10 * 1e-15 * PROCESS.supply_V, rel=1e-6, abs=0)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 6), st.integers(0, 3))
@settings(max_examples=6, deadline=None)
def test_sizes_and_batch_axes(n_in, n, k, n_axes):
    layer = lookup_layer(n_in, n, k=k, start="random", key=jr.key(0))
    x = jnp.sign(jr.normal(jr.key(1), (2,) * n_axes + (n_in,)))
    y = layer.apply(x, process=QUIET, key=jr.key(0))
    assert y.shape == (*x.shape[:-1], n)
    np.testing.assert_array_equal(jnp.abs(y), 1.0)
    flat = np.asarray(x).reshape(-1, n_in)
    expected = 2.0 * truth_tables(layer)[np.arange(n), addresses(layer, flat)] - 1
    np.testing.assert_array_equal(y.reshape(-1, n), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 1}, r"`k` must be from 2 to 6 inputs, but is 1"),
        ({"k": 7}, r"`k` must be from 2 to 6 inputs, but is 7"),
        ({"n_tables": 0}, r"`n_tables` must be positive, but is 0"),
        ({"blur": 0.5}, r"`blur` must be from 0 to below 0.5, but is 0.5"),
        ({"node_F": 0.0}, r"`node_F` must be positive, but is 0.0"),
        ({"gumbel": -1.0}, r"`gumbel` must not be negative, but is -1.0"),
        ({"wiring": FixedWiring(4, 6)}, r"`wiring` must lead from 4 bits to 12 pins"),
    ],
)
def test_impossible_layers_are_refused(change, message):
    asked = {"n_tables": 6, "k": 2, "key": jr.key(0), **change}
    with pytest.raises(ValueError, match=message):
        lookup_layer(4, **asked)


# The type checker of the tests is faster than the sentence.
@pytest.mark.parametrize(
    "ask",
    [
        lambda: lookup_layer(4, 6, basis="fourier", key=jr.key(0)),  # pyright: ignore
        lambda: lookup_layer(4, 6, start="zero", key=jr.key(0)),  # pyright: ignore
        lambda: lookup_state(3, basis="fourier"),  # pyright: ignore
    ],
)
def test_unknown_words_are_refused(ask):
    with pytest.raises((ValueError, TypeError), match=r"basis|start"):
        ask()


@pytest.mark.needs_ngspice
def test_exported_tables_simulate_as_their_truth_tables(tmp_path):
    design = (
        lookup_layer(4, 2, k=3, start="random", key=jr.key(0)),
        lookup_state(2, k=3),
    )
    folder = export(design, PROCESS, tmp_path / "package", provenance={})
    verification = verify(folder, gates=("B1", "B2"))
    assert verification.passed, str(verification)
    assert sum("addresses" in check.name for check in verification.checks) >= 8
