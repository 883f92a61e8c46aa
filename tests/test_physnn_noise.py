"""Noise: the white draw, and the variance of every source against its formula."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.channel import SUM_F, ChannelLayer
from circuits.converters import SarConverter
from circuits.mac import AMPLIFIER_PAIR_M2, ChargeMac
from circuits.parts import NODE_F, AutomaticGain, DelayLine
from circuits.state_space import GatedRC
from physnn.circuit import run
from physnn.disturbance import disturbed
from physnn.environment import Environment
from physnn.network import Residual
from physnn.noise import decided_sign, flicker_poles, thermal_noise, white
from physnn.noise.flicker import pole_rates
from physnn.units import ELEMENTARY_CHARGE_C
from tests.helpers import PROCESS, QUIET, assert_variance, run_jit, with_process
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


def test_the_sum_of_poles_is_one_over_f_within_its_band():
    rates = np.asarray(pole_rates(1.0, 1e6))
    assert len(rates) == 6
    f = np.geomspace(50, 2e4, 200)[:, None]
    # One-sided: a pole of unit variance has 2/(π·f_p) / (1 + (f/f_p)²) [1/Hz].
    spectrum = np.sum(2 / (np.pi * rates) / (1 + (f / rates) ** 2), axis=1)
    # Each stands for an equal part of ln(high/low), as S = 1/f has there.
    share = np.log(1e6) / len(rates)
    np.testing.assert_allclose(spectrum * share * f[:, 0], 1.0, rtol=0.06)
    with pytest.raises(ValueError, match="band of flicker noise must not be empty"):
        pole_rates(10.0, 1.0)


def test_flicker_poles_keep_their_variance_and_forget_exactly():
    rates, step_s, n = (1e3, 3e4), 1e-5, 40_000
    first = flicker_poles(
        jnp.zeros((2, n)), rates, step_s=step_s, started=jnp.zeros(()), key=jr.key(0)
    )
    z = first
    for i in range(3):
        z = flicker_poles(
            z, rates, step_s=step_s, started=jnp.ones(()), key=jr.key(1 + i)
        )
    assert_variance(np.asarray(first).T, np.ones(2))
    assert_variance(np.asarray(z).T, np.ones(2), excess=0.0)
    kept = np.exp(-2 * np.pi * np.asarray(rates) * 3 * step_s)
    measured = np.mean(np.asarray(first * z, np.float64), axis=1)
    assert np.all(np.abs(measured - kept) < 3 * np.sqrt(2 / n))


def columns(environment, *, batch=20_000, time=1, size=0.0, process=QUIET):
    """Outputs of two columns without weights: what is left is what disturbs them."""
    mac = ChargeMac(2, 2, bits=4, process=PROCESS, key=jr.key(0))
    mac = eqx.tree_at(
        lambda m: (m.weight.value, m.offset.size),
        mac,
        (jnp.zeros((2, 2)), jnp.asarray(size, jnp.float32)),
        is_leaf=lambda node: node is None,
    )
    chip = disturbed(mac, process, environment, period_s=1e-6)
    xs = jnp.zeros((time, batch, 2))
    ys = jax.jit(lambda: run(chip, xs, process=process, key=jr.key(1)))()
    return np.asarray(ys, np.float64)


@pytest.mark.parametrize("size", [0.0, 2.0])
def test_variance_of_flicker_is_that_of_the_pair(size):
    K = 1e-17  # far more than any process, to be seen in float32
    ys = columns(Environment(flicker_V2m2=K, flicker_low_Hz=10.0), size=size)
    band = np.log(5e5 / 10.0)  # up to half the rate of tokens
    volts2 = 2 * K / (AMPLIFIER_PAIR_M2 * np.exp(size)) * band
    assert_variance(ys[0], np.full(2, volts2 / PROCESS.swing_V**2))


def test_flicker_goes_on_from_step_to_step():
    ys = columns(Environment(flicker_V2m2=1e-17), time=2)
    high, low = 5e5, 1.0
    rates = np.asarray(pole_rates(low, high))
    kept = np.mean(np.exp(-2 * np.pi * rates * 1e-6))
    correlation = np.mean(ys[0] * ys[1]) / np.mean(ys**2)
    assert abs(correlation - kept) < 3 / np.sqrt(ys[0].size)
    assert kept > 0.5


def test_ripple_is_a_tone_that_a_chip_shares():
    e = Environment(ripple_V=0.1, ripple_Hz=1e5)
    ys = columns(e, batch=50, time=20)
    np.testing.assert_array_equal(ys[..., 0], ys[..., 1])
    through = 0.1 * PROCESS.operating["supply_rejection"] / PROCESS.swing_V
    # A period is ten tokens; every sequence begins somewhere in it.
    np.testing.assert_allclose(ys[10:], ys[:10], atol=1e-6)
    np.testing.assert_allclose((ys[:10] ** 2).mean(0), through**2 / 2, rtol=1e-4)
    assert np.std(ys[0, :, 0]) > 0.3 * through


def test_variance_of_supply_and_output_noise():
    supply = columns(Environment(supply_noise_V=0.3))
    through = 0.3 * PROCESS.operating["supply_rejection"] / PROCESS.swing_V
    assert_variance(supply[0, :, 0], through**2)
    np.testing.assert_array_equal(supply[..., 0], supply[..., 1])
    output = columns(Environment(output_noise=0.06))
    assert_variance(output[0], np.full(2, 0.06**2))
    assert abs(np.corrcoef(output[0].T)[0, 1]) < 4 / np.sqrt(len(output[0]))


def test_none_of_it_is_the_circuit_itself():
    mac = ChargeMac(2, 2, bits=4, process=PROCESS, key=jr.key(0))
    assert disturbed(mac, PROCESS, Environment(), period_s=1e-6) is mac


def test_shot_noise_is_that_of_the_electrons_that_were_integrated():
    # A process without kT/C: what is left is 2qI of the tails.
    process = with_process(thermal_noise=0.0)
    layer = ChannelLayer(3, 1, bits=6, key=jr.key(0))
    ys = samples(layer, jnp.zeros(3), process=process)
    pitch_m = np.sqrt(layer.cell_m2())
    full_C = 2 * (SUM_F + 3 * pitch_m * PROCESS.wire_F_per_m) * PROCESS.swing_V
    tails = np.abs(np.asarray(layer.weight.nominal(), np.float64)).sum() / layer.units
    electrons = tails * full_C / ELEMENTARY_CHARGE_C
    # Poisson: the variance of a count is the count.
    expected = PROCESS.shot_noise * electrons * (ELEMENTARY_CHARGE_C / full_C) ** 2
    assert_variance(ys[:, 0], expected)
    silent = samples(layer, jnp.zeros(3), process=process.noiseless())
    assert np.all(silent == silent[0])


def test_a_comparator_is_undecided_within_its_window():
    # 3 time constants: |x| below supply/swing·e^-3.
    process = with_process(decision_taus=3.0)
    window = PROCESS.supply_V / PROCESS.swing_V * np.exp(-3)
    x = jnp.full((N,), 0.999 * window)
    wrong = np.mean(np.asarray(decided_sign(x, window, jr.key(0))) < 0)
    assert abs(wrong - 0.5) < 3 * 0.5 / np.sqrt(N)
    assert np.all(decided_sign(x / 0.99, window, jr.key(0)) > 0)
    sar = SarConverter(1, bits=2, process=PROCESS)
    code = samples(sar, jnp.asarray([0.9 * window]), process.noiseless())
    # The first of two decisions is a coin; the second corrects what it can.
    assert abs(np.mean(code > 0) - 0.5) < 3 * 0.5 / np.sqrt(N)
    sure = samples(sar, jnp.asarray([1.1 * window]), process.noiseless())
    assert np.all(sure > 0)


def test_a_bow_is_its_integral_non_linearity():
    sar = SarConverter(1, bits=10, process=PROCESS)
    peak = jnp.asarray([[1 / np.sqrt(3)], [0.0], [-1 / np.sqrt(3)], [0.98]])
    xs = peak[:, None]
    straight, bowed = (
        run_jit(sar, xs, process=with_process(converter_bow_LSB=bow), key=jr.key(0))
        for bow in (0.0, 40.0)
    )
    moved = np.asarray(bowed - straight)[:, 0, 0] / sar.lsb
    cubic = 40 * 1.5 * np.sqrt(3) * 0.98 * (1 - 0.98**2)
    np.testing.assert_allclose(moved, [40, 0, -40, cubic], atol=4)
