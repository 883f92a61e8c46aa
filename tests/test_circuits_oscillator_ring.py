"""A ring by its waveform and phase response: closed forms, and the network it makes."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.oscillator import PhaseOscillators
from circuits.oscillator_ring import MeasuredRing
from evals.characterize.card import load_card
from evals.characterize.ring import measured_ring
from tests.helpers import QUIET

PHASES = np.arange(32) / 32
GAIN_per_C, SWING_V, OHM = 3e12, 0.7, 20e3
REACH_Hz = GAIN_per_C * SWING_V / OHM


def sine(response=None) -> MeasuredRing:
    """A ring of one harmonic: v = A·sin 2πφ, Γ = g·cos 2πφ."""
    if response is None:
        response = GAIN_per_C * np.cos(2 * np.pi * PHASES)
    return MeasuredRing(
        1e9, 1e-13, response, SWING_V * np.sin(2 * np.pi * PHASES), (-1e13, 0)
    )


def test_pull_and_range_of_one_harmonic():
    # ⟨g·cos φ·A·(sin(φ + ψ) − sin φ)⟩ = g·A/2·sin ψ, from both sides together g·A.
    pull = np.asarray(sine().pull(OHM))
    grid = np.arange(len(pull)) / len(pull)
    np.testing.assert_allclose(
        pull, REACH_Hz / 2 * np.sin(2 * np.pi * grid), atol=1e-5 * REACH_Hz
    )
    assert float(sine().lock_range_Hz(OHM)) == pytest.approx(REACH_Hz, rel=1e-4)


def test_injection_range_is_the_second_harmonic_of_the_response():
    second = sine(GAIN_per_C * np.cos(4 * np.pi * PHASES))
    assert float(second.injection_range_Hz(1e-5)) == pytest.approx(
        1e-5 * GAIN_per_C / 2, rel=1e-5
    )
    assert float(sine().injection_range_Hz(1e-5)) < 1e-5 * GAIN_per_C * 1e-5


def test_locked_phase_and_slip():
    times = np.linspace(0, 30 / REACH_Hz, 50)
    locked = sine().ahead(0.5 * REACH_Hz, OHM, times)
    assert locked[-1] == pytest.approx(math.asin(0.5) / (2 * math.pi), abs=1e-3)
    slipping = sine().ahead(1.25 * REACH_Hz, OHM, times)
    # Adler's beat: sqrt(1.25² − 1) of the range.
    rate = (slipping[-1] - slipping[0]) / times[-1]
    assert rate == pytest.approx(0.75 * REACH_Hz, rel=0.05)
    started = sine().ahead(0.5 * REACH_Hz, OHM, times, start=0.3)
    assert started[0] == 0.3
    assert started[-1] == pytest.approx(locked[-1], abs=1e-3)


def test_range_is_differentiable_and_in_proportion_to_the_response():
    ring = sine()
    gradient = jax.grad(
        lambda r: eqx.tree_at(lambda m: m.response_per_C, ring, r).lock_range_Hz(OHM)
    )(ring.response_per_C)
    # Euler: of a function of degree one.
    total = float(jnp.sum(gradient * ring.response_per_C))
    assert total == pytest.approx(REACH_Hz, rel=1e-3)


def test_network_of_measured_rings_locks_where_the_rings_do():
    table = load_card("sky130")["ring"]
    ring, ohm, period_s = measured_ring(table), 50e3, 2e-9
    arguments = ring.arguments(period_s=period_s, resistance_ohm=ohm, supply_V=1.8)
    rate = arguments.pop("coupling_rate")
    net = PhaseOscillators(2, bits=None, n_steps=20, key=jr.key(0), **arguments)
    detuning_Hz = 0.5 * float(ring.lock_range_Hz(ohm))
    shift = math.pi * detuning_Hz * period_s
    net = eqx.tree_at(
        lambda n: (n.couplings[0].value, n.ring.value),
        net,
        (
            jnp.full((1, 2), rate),
            net.ring.value + jnp.asarray([-shift, shift]),
        ),
    )
    theta, x = jnp.zeros(2), jnp.zeros(net.n_in)
    advance = jax.jit(lambda theta: net.at(QUIET).settle(theta, x))
    for _ in range(20):
        theta = advance(theta)
    found = float(theta[1] - theta[0]) / (2 * math.pi)
    said = ring.ahead(detuning_Hz, ohm, np.linspace(0, 40e-9, 20))[-1]
    assert found == pytest.approx(said, abs=0.002)
    # The same charge per cycle as was measured.
    assert arguments["ring_F"] * 1.8 == pytest.approx(
        table["charge_C"], rel=1e-6, abs=0
    )


def test_refuses_what_does_not_run():
    with pytest.raises(ValueError, match="frequency_Hz"):
        MeasuredRing(0.0, 1e-13, PHASES, PHASES, (0, 0))
