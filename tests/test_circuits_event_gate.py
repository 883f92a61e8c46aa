"""Event gate and sparse unit: what is silent, what it costs, and that it is counted."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from circuits.blocks.base import Site
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.sparse_unit import SparseUnit, SparseUnitBlock, SwitchedGate
from circuits.event_gate import COMPARATOR_F, EventGate, measure_activity
from circuits.parts import AutomaticGain
from evals.verify import verify
from physnn.export.package import export
from physnn.fabricate import fabricate
from physnn.network import Chain
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    fabricate_jit,
    run_jit,
)
from tests.systems import ktc_variance


def unit(n_hidden=40, *, width=8, inhibition=1.0):
    site = Site(width=width, process=PROCESS, key=jr.key(0))
    built = SparseUnitBlock(n_hidden=n_hidden, inhibition=inhibition).build(site)
    assert isinstance(built, SparseUnit)
    return built


@settings(max_examples=10)
@given(
    threshold=st.floats(0.01, 0.8),
    sides=st.sampled_from(["one", "two"]),
    n=st.integers(1, 9),
)
def test_what_is_under_its_threshold_is_exactly_silent(threshold, sides, n):
    gate = EventGate(n, threshold=threshold, sides=sides)
    x = jr.uniform(jr.key(n), (20, n), minval=-1.0)
    y = np.asarray(gate.apply(x, process=QUIET, key=jr.key(0)))
    drive = np.abs(x) if sides == "two" else np.asarray(x)
    over = np.maximum(drive - np.float32(threshold), 0)
    expected = np.sign(x) * over if sides == "two" else over
    np.testing.assert_allclose(y, expected, atol=1e-7)
    assert np.all(y[drive < np.float32(threshold)] == 0)


@pytest.mark.parametrize("loudness", [0.05, 0.3])
def test_units_that_inhibit_each_other_fire_as_gaussian_tails_do(loudness):
    gate = EventGate(2000, inhibition=1.5)
    x = loudness * jr.normal(jr.key(0), (50, 2000))
    active = np.mean(np.asarray(gate.apply(x, process=QUIET, key=jr.key(0))) != 0)
    # The floor of the line stands for silence: it lifts the threshold of soft drives.
    lifted = 1.5 * np.sqrt(loudness**2 + 0.01**2) / loudness
    expected = norm.sf(lifted)
    assert abs(active - expected) < 3 * np.sqrt(expected / x.size)


def test_a_threshold_is_trained_by_its_exact_gradient():
    gate = EventGate(3, threshold=0.2)
    x = jnp.asarray([0.5, 0.1, -0.9])
    f = lambda g, x: jnp.sum(g.apply(x, process=QUIET, key=jr.key(0)))
    np.testing.assert_array_equal(
        eqx.filter_grad(f)(gate, x).threshold.value, [-1, 0, 0]
    )
    np.testing.assert_array_equal(jax.grad(f, argnums=1)(gate, x), [1, 0, 0])


def test_noise_of_the_comparator_and_mismatch_of_its_threshold():
    gate = EventGate(1, threshold=0.1)
    y = run_jit(gate, jnp.full((20_000, 1), 0.5), process=PROCESS, key=jr.key(0))
    expected = ktc_variance(COMPARATOR_F, temperature_K=300.0, swing_V=0.4, excess=2.0)
    assert_variance(y, expected)
    wide = fabricate_jit(EventGate(4000, threshold=0.1), PROCESS, key=jr.key(1))
    y = run_jit(wide, jnp.full((1, 4000), 0.5), process=QUIET, key=jr.key(0))
    # 2 mV·um over one um, of a swing of 0.4 V.
    assert_variance(y[0], (2e-3 / 0.4) ** 2, excess=0.0)


def test_activity_is_that_of_the_signals_that_were_run():
    chain = Chain([AutomaticGain(400), EventGate(400, inhibition=1.2)])
    x = jr.normal(jr.key(0), (30, 2, 400))
    gate = chain.parts[1]
    assert isinstance(gate, EventGate)
    assert gate.activity() == 1
    measured = measure_activity(chain, x, process=PROCESS, key=jr.key(1)).parts[1]
    assert int(measured.seen[0]) == 60
    assert float(measured.activity()) == pytest.approx(norm.sf(1.2), rel=0.05)
    # Only the counts have changed, and a second measurement replaces the first.
    assert eqx.tree_equal(measured.threshold, gate.threshold)
    silent = measure_activity(
        with_gate(chain, measured), 0 * x, process=QUIET, key=jr.key(1)
    ).parts[1]
    assert int(silent.seen[0]) == 60
    assert float(silent.activity()) == 0
    without = AutomaticGain(3)
    same = measure_activity(without, x, process=PROCESS, key=jr.key(0))
    assert eqx.tree_equal(same, without)


def with_gate(chain, gate):
    return eqx.tree_at(lambda c: c.parts, chain, (chain.parts[0], gate))


def test_counts_are_no_trained_values():
    gate = EventGate(3, threshold=0.1)
    trained = jax.tree.leaves(eqx.filter(gate, eqx.is_inexact_array))
    assert [leaf.shape for leaf in trained] == [(3,)]


def test_silence_saves_what_it_says():
    built = unit()
    x = jr.normal(jr.key(1), (200, 8))
    measured = measure_activity(built, x, process=PROCESS, key=jr.key(2))
    share = float(measured.event.activity())
    assert 0.03 < share < 0.3
    of = lambda u: {
        e.part: float(e.count)
        for e in u.events(PROCESS, period_s=PERIOD_S)
        if e.name in ("supply_charge_C", "amplifier_charge_C", "clock_charge_C")
    }
    before, after = of(built), of(measured)
    saved = {part: after[part] / q for part, q in before.items() if after[part] != q}
    assert saved == {
        "inputs.amplifiers": pytest.approx((1 + share) / 2),
        "event.tails": pytest.approx(share),
        "gate.gates": pytest.approx(share),
        "output.input lines": pytest.approx(share),
        "output.input drivers": pytest.approx(share),
        "output.switches": pytest.approx(share),
        "output.clock wires": pytest.approx(share),
    }


def test_a_silent_unit_is_silent_whatever_the_offset_of_its_pair():
    built = eqx.tree_at(
        lambda u: u.gate.offset.value, unit(inhibition=50.0), jnp.full(40, 0.3)
    )
    x = jr.normal(jr.key(1), (5, 8))
    np.testing.assert_array_equal(run_jit(built, x, process=QUIET, key=jr.key(0)), 0)


def test_a_switched_gate_has_the_slopes_of_its_product_where_its_tail_is_on():
    gate = eqx.tree_at(
        lambda g: g.offset.value, SwitchedGate(3), jnp.asarray([0.1, 0.0, -0.2])
    )
    a, g = jr.normal(jr.key(0), (2, 32, 3))
    g = jnp.where(jr.bernoulli(jr.key(1), 0.5, g.shape), jnp.abs(g), 0.0)

    def total(gate, a, g):
        x = jnp.concatenate([a, g], axis=-1)
        return jnp.sum(gate.apply(x, process=QUIET, key=jr.key(0)))

    of_gate = eqx.filter_grad(total)(gate, a, g).offset.value
    of_a, of_g = jax.grad(total, argnums=(1, 2))(gate, a, g)
    scale, on = QUIET.linear_range(), np.asarray(g) > 0
    t = np.tanh((np.asarray(g) + np.asarray(gate.offset.value)) / scale)
    slope = on * np.asarray(a) * (1 - t**2) / scale
    np.testing.assert_allclose(of_a, on * t, atol=1e-6)
    np.testing.assert_allclose(of_g, slope, atol=1e-5)
    np.testing.assert_allclose(of_gate, slope.sum(axis=0), rtol=1e-4, atol=1e-5)


def test_a_sparse_unit_says_how_silent_it_is():
    built = unit(inhibition=1.0)
    x = jr.normal(jr.key(1), (300, 2, 8))
    figures = built.diagnose(x, process=PROCESS, key=jr.key(0))
    measured = measure_activity(built, x, process=PROCESS, key=jr.key(0))
    assert figures["silent_share"] == pytest.approx(
        1 - float(measured.event.activity()), abs=1e-3
    )
    assert figures["dead_share"] == 0
    dead = EventGate(4, threshold=0.9).diagnose(
        jnp.full((5, 4), 0.3), process=QUIET, key=jr.key(0)
    )
    assert dead == {"silent_share": 1, "dead_share": 1}


def test_without_its_mechanism_it_is_the_gated_unit():
    config = SparseUnitBlock(n_hidden=17)
    assert config.without_mechanism() == GatedUnitBlock(n_hidden=17)
    assert hasattr(unit(), config.mechanism)


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(
    "circuit",
    [
        fabricate(EventGate(3, threshold=0.2), PROCESS, key=jr.key(1)),
        fabricate(EventGate(3, threshold=0.1, sides="two"), PROCESS, key=jr.key(2)),
        fabricate(EventGate(4, inhibition=0.8), PROCESS, key=jr.key(3)),
        fabricate(unit(3, width=2).gate, PROCESS, key=jr.key(4)),
    ],
    ids=["one", "two", "inhibition", "switched"],
)
def test_ngspice_gates_as_the_model(circuit, tmp_path):
    verification = verify(
        export(circuit, PROCESS, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert verification.passed, str(verification)
    expected = json.loads((tmp_path / "x/spice/tb/expected.json").read_text())
    values = [r["value"] for bench in expected["benches"] for r in bench["results"]]
    assert max(map(abs, values)) > 0.1
    assert 0.0 in values


@pytest.mark.needs_ngspice
def test_ngspice_runs_the_parts_of_a_sparse_unit(tmp_path):
    verification = verify(
        export(unit(4, width=3), PROCESS, tmp_path / "x", provenance={}),
        gates=("B1", "B2"),
    )
    assert verification.passed, str(verification)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: EventGate(0), "`n` must be positive, but is 0"),
        (
            lambda: EventGate(1, threshold=-0.1),
            "`threshold` must be finite and not negative, but is -0.1",
        ),
        (
            lambda: EventGate(1, inhibition=float("nan")),
            "`inhibition` must be finite and not negative, but is nan",
        ),
        (
            lambda: EventGate(1, sides="three"),
            '`sides` must be "one" or "two", but is .three',
        ),
        (lambda: SparseUnitBlock(n_hidden=0), "`n_hidden` must be positive"),
        (lambda: SparseUnitBlock(inhibition=0.0), "`inhibition` must be positive"),
    ],
)
def test_impossible_gates_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
