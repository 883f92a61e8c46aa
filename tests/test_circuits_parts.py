"""Gain control, Gilbert gate, delay line."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.parts import (
    NODE_F,
    AutomaticGain,
    DelayLine,
    GilbertGate,
    log_spaced_sigmoid_bias,
)
from tests.helpers import PERIOD_S, PROCESS, QUIET, run_jit, totals
from tests.systems import delayed_sum, differential_pair


@pytest.mark.parametrize("loudness", [0.1, 0.3, 1.0])
def test_gain_control_brings_any_vector_to_its_level(loudness):
    x = loudness * jr.normal(jr.key(0), (50, 64))
    y = AutomaticGain(64, level=0.2).apply(x, process=QUIET, key=jr.key(0))
    rms_in = np.sqrt(np.mean(np.square(x), axis=-1))
    # Up to its floor of 0.01 of full scale.
    expected = 0.2 * rms_in / np.sqrt(rms_in**2 + 0.01**2)
    np.testing.assert_allclose(np.sqrt(np.mean(y**2, axis=-1)), expected, rtol=1e-5)


def test_the_floor_of_gain_control_bounds_its_gain():
    x = 1e-6 * jnp.ones((1, 8))
    agc = AutomaticGain(8, level=0.25, floor=0.01)
    y = agc.apply(x, process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(y, 25 * x, rtol=1e-5)
    silent = agc.apply(0 * x, process=QUIET, key=jr.key(0))
    np.testing.assert_array_equal(silent, 0)


def test_gains_are_per_channel_never_negative_and_clipped():
    agc = AutomaticGain(3, level=0.25)
    agc = eqx.tree_at(lambda c: c.gain.value, agc, jnp.asarray([2.0, -1.0, 100.0]))
    y = agc.apply(0.5 * jnp.ones(3), process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(y, [0.5, 0.0, 1.0], rtol=1e-3)


def test_small_signal_gain_of_a_gilbert_gate():
    gate = GilbertGate(2)
    slope = jax.grad(
        lambda b: gate.apply(
            jnp.concatenate([jnp.asarray([0.4, -0.7]), b]), process=QUIET, key=jr.key(0)
        ).sum()
    )(jnp.zeros(2))
    # a·swing/(2nU_T), with 2nU_T = 67.2 mV at 300 K.
    expected = np.asarray([0.4, -0.7]) * PROCESS.swing_V / 67.21e-3
    np.testing.assert_allclose(slope, expected, rtol=1e-3)


def test_a_gilbert_gate_steers_with_the_law_of_a_pair():
    a, b = jnp.linspace(-1, 1, 9), jnp.linspace(0.3, -0.3, 9)
    gate = eqx.tree_at(lambda g: g.offset.value, GilbertGate(9), jnp.full(9, 0.02))
    y = gate.apply(jnp.concatenate([a, b]), process=QUIET, key=jr.key(0))
    share = differential_pair(
        (np.asarray(b) + 0.02) * PROCESS.swing_V,
        slope_factor=PROCESS.slope_factor,
        temperature_K=PROCESS.temperature_K,
    )
    np.testing.assert_allclose(y, np.asarray(a) * share, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_taps", [1, 2, 5])
def test_a_delay_line_is_a_convolution(n_taps):
    taps = 0.4 * jr.normal(jr.key(0), (n_taps, 3))
    delay = DelayLine(3, n_taps=n_taps, process=PROCESS)
    delay = eqx.tree_at(lambda d: d.tap.value, delay, taps)
    xs = jr.uniform(jr.key(1), (4, 3), minval=-0.5, maxval=0.5)
    ys = run_jit(delay, xs, process=QUIET, key=jr.key(0))
    expected = np.clip(delayed_sum(taps, xs), -1, 1)
    np.testing.assert_allclose(ys, expected, rtol=1e-5, atol=1e-6)


def test_a_new_delay_line_passes_its_input():
    xs = jr.uniform(jr.key(1), (5, 2, 3), minval=-0.9, maxval=0.9)
    delay = DelayLine(3, n_taps=4, process=PROCESS)
    np.testing.assert_array_equal(run_jit(delay, xs, process=QUIET, key=jr.key(0)), xs)


def test_every_part_pays_for_the_nodes_it_settles():
    node_C = PROCESS.settling_charge_C(NODE_F)
    of = lambda part: totals(part.events(PROCESS, period_s=PERIOD_S))
    assert of(AutomaticGain(5)) == {
        "amplifier_charge_C": pytest.approx(15 * node_C, rel=1e-6, abs=0)
    }
    assert of(GilbertGate(5)) == {
        "amplifier_charge_C": pytest.approx(10 * node_C, rel=1e-6, abs=0)
    }
    held_C = 2 * 3 * 5 * NODE_F * PROCESS.swing_V
    summed_C = 2 * 5 * PROCESS.settling_charge_C(4 * NODE_F)
    counts = of(DelayLine(5, n_taps=3, process=PROCESS))
    assert counts.pop("flop_cycle") > 0
    assert counts == {
        "supply_charge_C": pytest.approx(held_C, rel=1e-6, abs=0),
        "amplifier_charge_C": pytest.approx(summed_C, rel=1e-6, abs=0),
        # Of each channel three transmission gates a tap and eight beside.
        "clock_charge_C": pytest.approx(
            5 * (3 * 3 + 8) * 3 * PROCESS.switch_gate_F * PROCESS.supply_V,
            rel=1e-6,
            abs=0,
        ),
    }


def test_biases_are_spaced_evenly_in_the_logarithm():
    rates = jax.nn.sigmoid(log_spaced_sigmoid_bias(5, fastest=0.3, slowest=0.3e-4))
    np.testing.assert_allclose(rates, 0.3 * 10.0 ** -np.arange(5), rtol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: AutomaticGain(0), "`n` must be positive, but is 0"),
        (lambda: AutomaticGain(2, level=-0.1), "`level` must be positive, but is -0.1"),
        (lambda: AutomaticGain(2, floor=0.0), "`floor` must be positive, but is 0.0"),
        (lambda: GilbertGate(0), "`n` must be positive, but is 0"),
        (lambda: DelayLine(0, n_taps=2, process=PROCESS), "`n` must be positive"),
        (lambda: DelayLine(2, n_taps=0, process=PROCESS), "`n_taps` must be positive"),
    ],
)
def test_impossible_parts_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
