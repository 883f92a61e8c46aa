"""Noise: the white draw, and the variance of every source against its formula."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.mac import ChargeMac
from circuits.parts import NODE_F, AutomaticGain, DelayLine
from circuits.state_space import GatedRC
from physnn.circuit import run
from physnn.network import Residual
from physnn.noise import thermal_noise, white
from tests.helpers import PROCESS, QUIET, assert_variance, run_jit, with_process
from tests.helpers import quick_compilation as quick_compilation
from tests.systems import ktc_variance

N = 100_000


def ktc(capacitance_F, process=PROCESS):
    return ktc_variance(
        capacitance_F,
        temperature_K=process.temperature_K,
        swing_V=process.swing_V,
        excess=process.thermal_noise,
    )


def test_white_has_the_moments_of_a_normal_but_for_its_kurtosis():
    n = 1_000_001
    x = np.asarray(white(jr.key(0), (n,)), np.float64)
    assert abs(x.mean()) < 3 / np.sqrt(n)
    assert_variance(x, 1.0)
    assert abs((x**3).mean()) < 3 * np.sqrt(15 / n)
    assert abs((x**4).mean() - 3 + 1 / 8) < 3 * np.sqrt(96 / n)
    # Below 2^-15: the ends of the binomial are there.
    assert (x.min(), x.max()) == (-4.0, 4.0)


def test_white_draws_are_independent_of_their_neighbors():
    x = np.asarray(white(jr.key(1), (1000, 100)), np.float64)
    limit = 4 / np.sqrt(x.size)
    # The two halves of a word lie 50 columns apart.
    for shift in (1, 2, 49, 50, 51):
        for moment in (x, x**2 - 1):
            within = (moment[:, :-shift] * moment[:, shift:]).mean()
            assert abs(within) < limit * np.sqrt(100 / (100 - shift)) * moment.var()
    assert abs((x[:-1] * x[1:]).mean()) < limit


@pytest.mark.parametrize(
    "shape", [(), (1,), (7,), (3, 1), (2, 5), (0,), (4, 0), (0, 3)]
)
def test_white_has_any_shape(shape):
    assert white(jr.key(0), shape).shape == shape
    assert white(jr.key(0), shape).dtype == jnp.float32


@pytest.mark.parametrize("zero", [0.0, 0])
def test_thermal_noise_of_zero_is_off_and_differentiable(zero):
    process = with_process(thermal_noise=zero)
    x = jnp.ones((3, 2))
    drawn = lambda v: thermal_noise(x, zero * v, process=process, key=jr.key(0))
    np.testing.assert_array_equal(drawn(1.0), x)
    assert jax.grad(lambda v: jnp.sum(drawn(v)))(1.0) == 0


def test_noise_power_is_linear_in_temperature_and_inverse_in_capacitance():
    x = jnp.zeros((100,))

    def noise(capacitance_F, temperature_K):
        process = with_process(temperature_K=temperature_K)
        variance = process.thermal_variance(capacitance_F)
        return thermal_noise(x, variance, process=process, key=jr.key(0))

    nominal = noise(1e-15, 300.0)
    np.testing.assert_allclose(noise(1e-15, 1200.0), 2 * nominal, rtol=1e-6)
    np.testing.assert_allclose(noise(4e-15, 300.0), nominal / 2, rtol=1e-6)


def samples(circuit, x, process=PROCESS):
    """Outputs of `N` first steps on the same input."""
    xs = jnp.broadcast_to(x, (1, N, circuit.n_in))
    return run_jit(circuit, xs, process=process, key=jr.key(5))[0]


@pytest.mark.parametrize(("bits", "size"), [(6, 0.0), (4, 0.0), (6, 2.0)])
def test_variance_of_a_mac(bits, size):
    mac = ChargeMac(8, 3, bits=bits, process=PROCESS, key=jr.key(1), gain=0.5)
    mac = eqx.tree_at(lambda m: m.weight.size, mac, jnp.asarray(size))
    weights = np.asarray(mac.weight.nominal(), np.float64)
    unit_F = PROCESS.capacitor_min_F * np.exp(size)
    # The largest code of a column is 2^(bits−1) − 1 units over C_f.
    full = np.asarray(mac.weight.full_scale()[0], np.float64)
    feedback_F = (2 ** (bits - 1) - 1) * unit_F / full
    total_F = np.abs(weights).sum(axis=0) * feedback_F + feedback_F
    expected = ktc(1.0) * total_F / feedback_F**2
    assert_variance(samples(mac, 0.1 * jnp.ones(8)), expected)


def test_variance_of_a_delay_line():
    delay = DelayLine(2, n_taps=3, process=PROCESS)
    taps = jnp.asarray([[0.5, -0.2], [0.3, 0.1], [0.0, -0.4]])
    delay = eqx.tree_at(lambda d: d.tap.value, delay, taps)
    expected = ktc(NODE_F) * (1 + np.abs(np.asarray(taps)).sum(axis=0))
    assert_variance(samples(delay, jnp.asarray([0.1, -0.1])), expected)


@pytest.mark.parametrize("state_F", [50e-15, 5e-15])
def test_variance_of_one_step_of_a_gated_rc(state_F):
    cell = GatedRC(3, period_s=1e-6, state_F=state_F)
    steer = jnp.asarray([-0.2, 0.0, 0.1])
    x = jnp.concatenate([jnp.full(3, 0.3), steer])
    rate = cell.rate_max / (1 + np.exp(-2 * np.asarray(steer) / PROCESS.linear_range()))
    total = rate + PROCESS.node_leakage_S * 1e-6 / state_F
    expected = ktc(state_F) * (1 - np.exp(-2 * total))
    assert_variance(samples(cell, x), expected)


def test_variance_of_a_skip():
    silent = AutomaticGain(2)  # its noise is counted where it is sampled: here
    x = jnp.asarray([0.1, -0.1])
    assert_variance(samples(Residual(silent, hold_F=3e-15), x), ktc(3e-15))
    assert_variance(samples(Residual(silent, hold_F=12e-15), x), ktc(12e-15))


def test_stationary_variance_of_an_rc_is_kt_over_c():
    # Whatever the conductance: the capacitance alone sets it.
    state_F, n = 2e-15, 8
    cell = GatedRC(n, period_s=1e-6, state_F=state_F)
    # Slow states forget their start within 150 tokens.
    steer = jnp.linspace(-0.15, 0.1, n)
    x = jnp.concatenate([jnp.zeros(n), steer])
    xs = jnp.broadcast_to(x, (150, 2000, 2 * n))
    last = jax.jit(lambda: run(cell, xs, process=PROCESS, key=jr.key(2))[-1])()
    quiet = run_jit(cell, xs[:, :1], process=QUIET, key=jr.key(2))
    np.testing.assert_array_equal(quiet, 0)
    # A sum of many white draws is normal.
    assert_variance(last, np.full(n, ktc(state_F)), excess=0.0)
