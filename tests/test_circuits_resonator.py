"""Resonators: ring-down, resonance, Q, noise of every transconductor, Diffrax."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks.base import Site
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.resonator import ResonatorBlock
from circuits.resonator import GMS, Resonator
from evals.verify import verify
from physnn import recurrence
from physnn.circuit import run
from physnn.dynamics import Integrated, SolverConfig
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    run_jit,
    totals,
    with_process,
)
from tests.systems import ring_down

SCALE = PROCESS.linear_range() / 2


def bank(*rates, state_F=50e-15):
    """Resonators of `(damping, turn, gain)` per token each."""
    cell = Resonator(len(rates), period_s=PERIOD_S, process=PROCESS, state_F=state_F)
    logs = SCALE * jnp.log(jnp.asarray(rates, jnp.float32)).T
    return eqx.tree_at(lambda c: [getattr(c, gm).value for gm in GMS], cell, [*logs])


def test_a_kick_rings_down():
    cell = bank((0.05, 0.7, 0.3), (0.01, 2.0, 0.3))
    leak = cell.leak(PROCESS)
    start = jnp.asarray([0.5, -0.2, 0.1, 0.4])
    _, ys = cell.scan(start, jnp.zeros((30, 2)), process=QUIET, key=jr.key(0))
    t = np.arange(1, 31)
    for i, (damping, turn) in enumerate(((0.05, 0.7), (0.01, 2.0))):
        p, q = ring_down(
            t, damping=damping + leak, turn=turn, start=np.asarray(start[i::2])
        )
        np.testing.assert_allclose(ys[:, i], p, atol=2e-6)
        np.testing.assert_allclose(ys[:, 2 + i], q, atol=2e-6)


def test_the_gradient_of_a_ring_down_is_that_of_its_closed_form():
    def last(logs):
        cell = eqx.tree_at(
            lambda c: [c.damping.value, c.turn.value], bank((0.05, 0.7, 0.3)), [*logs]
        )
        start = jnp.asarray([0.5, -0.2])
        _, ys = cell.scan(start, jnp.zeros((9, 1)), process=QUIET, key=jr.key(0))
        return ys[-1]

    rates = jnp.asarray([[0.05], [0.7]])
    slopes = jax.jit(jax.jacrev(last))(SCALE * jnp.log(rates))[..., 0]
    p, q = ring_down(9, damping=0.05 + bank((1, 1, 1)).leak(PROCESS), turn=0.7,
                     start=(0.5, -0.2))  # fmt: skip
    # d/da = −t·z, d/dω = jt·z, and d rate / d bias = rate / scale.
    expected = 9 / SCALE * np.asarray([[-p * 0.05, -q * 0.7], [-q * 0.05, p * 0.7]])
    np.testing.assert_allclose(slopes, expected, rtol=1e-4)


@pytest.mark.parametrize("turn", [0.1, 0.5, 1.5])
def test_a_sine_at_its_frequency_is_answered_with_b_over_2a(turn):
    damping, gain, detuned = 0.02, 0.01, 1.2
    cell = bank((damping, turn, gain), (damping, turn * detuned, gain))
    a = damping + cell.leak(PROCESS)
    t = np.arange(1200)
    x = np.cos(turn * t)[:, None] * np.ones(2)
    ys = np.asarray(run_jit(cell, jnp.asarray(x, jnp.float32), process=QUIET,
                            key=jr.key(0)))  # fmt: skip
    size = np.hypot(ys[-200:, :2], ys[-200:, 2:]).mean(axis=0)
    # A held input is smaller by the sinc of half a token's turn; the counter-rotating
    # half of the cosine is left out of the closed form.
    held = math.sin(turn / 2) / (turn / 2)
    expected = held * gain / 2 / np.abs(a + 1j * turn * np.asarray([0, detuned - 1]))
    np.testing.assert_allclose(size[0], expected[0], rtol=0.03)
    if turn > 0.2:
        assert size[1] < 0.5 * size[0], "one that is detuned hears little"


@pytest.mark.parametrize("slow", [1e-4, 1e-2, 1.0])
def test_a_held_input_adds_what_the_closed_form_says(slow):
    damping, turn, gain = slow, 2 * slow, 3 * slow
    cell = bank((damping, turn, gain))
    rates = [float(rate[0]) for rate in cell.rates(PROCESS)]  # of the rounded biases
    exponent = 1j * rates[1] - rates[0] - cell.leak(PROCESS)
    added = rates[2] * np.expm1(exponent) / exponent
    v, _ = cell.step(jnp.zeros(2), jnp.ones(1), process=QUIET, key=jr.key(0))
    assert abs(complex(*map(float, v)) - added) < 2e-6 * abs(added)


def test_heat_moves_the_rates_and_the_noise_and_the_bill():
    rates, hot_K = (0.05, 0.7, 0.3), 358.0
    cell = bank(*[rates] * 2)
    cold_K, hot = PROCESS.temperature_K, with_process(temperature_K=hot_K)
    moved = np.asarray(rates) ** (cold_K / hot_K)  # biases stay, nU_T grows
    for rate, expected in zip(cell.rates(hot), moved, strict=True):
        np.testing.assert_allclose(rate, expected, rtol=1e-5)
    a, turn, gain = moved
    a += cell.leak(hot)
    ktc = PROCESS.thermal_variance(cell.state_F) * hot_K / cold_K
    expected = ktc * (a + turn + gain) / a * -math.expm1(-2 * a)
    np.testing.assert_allclose(cell.variance(hot), expected, rtol=1e-5)
    volts = PROCESS.linear_range() * PROCESS.swing_V * hot_K / cold_K
    tails = 2 * 2 * (2 * moved[0] + 2 * turn + gain) * cell.state_F * volts
    found = totals(cell.events(hot, period_s=PERIOD_S))
    assert found["supply_charge_C"] == pytest.approx(tails, rel=1e-5, abs=0)
    # The supply pays for the charge and changes nothing else.
    low = with_process(supply_V=0.8 * PROCESS.supply_V)
    assert totals(cell.events(low, period_s=PERIOD_S)) == totals(
        cell.events(PROCESS, period_s=PERIOD_S)
    )
    key = jr.key(0)
    xs = jr.normal(key, (9, 2))
    np.testing.assert_array_equal(
        run(cell, xs, process=low, key=key), run(cell, xs, process=PROCESS, key=key)
    )


def test_q_is_what_the_rates_say():
    cell = bank((0.02, 1.0, 0.3))
    a = 0.02 + cell.leak(PROCESS)
    np.testing.assert_allclose(cell.quality(PROCESS), 1 / (2 * a), rtol=1e-5)
    figures = cell.diagnose(jnp.zeros((4, 3, 1)), process=QUIET, key=jr.key(0))
    assert figures["highest Q"] == pytest.approx(1 / (2 * a), rel=1e-5)
    loud = cell.diagnose(jnp.ones((400, 3, 1)), process=QUIET, key=jr.key(0))
    assert 0 < float(loud["rms"]) < 1
    kicked = bank((0.01, 0.02, 3.0)).diagnose(
        jnp.ones((50, 3, 1)), process=QUIET, key=jr.key(0)
    )
    assert kicked["share at full scale"] > 0.2


@pytest.mark.parametrize("rates", [(0.3, 0.5, 0.2), (0.05, 1.0, 0.1)])
def test_noise_is_kt_over_c_times_all_its_transconductors(rates):
    cell = bank(rates, state_F=2e-15)
    damping, turn, gain = rates
    a = damping + cell.leak(PROCESS)
    ktc = PROCESS.thermal_variance(2e-15)
    stationary = ktc * (a + turn + gain) / a
    time = int(6 / damping)
    xs = jnp.zeros((time, 4000, 1))
    ys = run_jit(cell, xs, process=PROCESS, key=jr.key(1))[-1]
    assert_variance(ys, stationary * (1 - math.exp(-2 * a * time)), excess=0.0)
    p, q = ys.T
    # Independent in p and q.
    assert abs(np.corrcoef(p, q)[0, 1]) < 3 / math.sqrt(len(p))
    ten = with_process(thermal_noise=10 * PROCESS.thermal_noise)
    np.testing.assert_allclose(cell.variance(ten), 10 * cell.variance(PROCESS), 1e-5)


def test_paths_of_diffrax_spread_as_steps_do():
    cell = bank((0.4, 1.2, 0.3), state_F=2e-15)
    solver = SolverConfig("heun", steps_per_token=64)
    xs = jnp.zeros((2, 3000, 1))
    ys = run_jit(Integrated(cell, solver), xs, process=PROCESS, key=jr.key(2))[-1]
    decay = math.exp(-2 * (0.4 + cell.leak(PROCESS)))
    assert_variance(ys, cell.variance(PROCESS) * (1 + decay), excess=0.0)


def test_values_and_gradients_are_those_of_the_differential_equation():
    with jax.enable_x64(True):
        cell = bank((0.05, 0.7, 0.3), (0.2, 2.0, 0.5))
        cell = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), cell)
        xs = jr.uniform(jr.key(0), (6, 2, 2), minval=-1.0)
        weights = jr.normal(jr.key(1), (6, 2, 4))
        referee = Integrated(cell, SolverConfig("dopri8", rtol=1e-10, atol=1e-12))

        def loss(arrays, of):
            cell, xs = arrays
            ys = run(of(cell), xs, process=QUIET, key=jr.key(0))
            return jnp.sum(weights * ys), ys

        found = []
        for of in (
            lambda c: c,
            lambda c: eqx.tree_at(lambda r: r.circuit, referee, c),
        ):
            solve = eqx.filter_value_and_grad(
                lambda a, of=of: loss(a, of), has_aux=True
            )
            (_, ys), slopes = eqx.filter_jit(solve)((cell, xs))
            found.append([ys, *jax.tree.leaves(slopes)])
        assert len(found[0]) == 5
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-9)


def test_the_parallel_prefix_is_the_plain_scan():
    cell = bank((0.05, 0.7, 0.3), (0.002, 2.0, 0.1))
    xs = jr.normal(jr.key(0), (64, 3, 2))

    # Not from rest: from there, nobody sees at which phase the turning frame starts.
    start = jr.normal(jr.key(1), (3, 4))

    def loss(arrays):
        cell, start = arrays
        last, ys = cell.scan(start, xs, process=QUIET, key=jr.key(0))
        return jnp.sum(last) + jnp.sum(ys**2)

    found = []
    solve = eqx.filter_jit(eqx.filter_value_and_grad(loss))
    for kernel in ("sequential", "associative"):
        with recurrence.computed_by(kernel):
            found.append(solve((cell, start)))
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@settings(max_examples=25)
@given(
    bias=st.tuples(*[st.floats(-3.0, 3.0)] * 3),
    seed=st.integers(0, 2**16),
)
def test_no_bias_and_no_mismatch_makes_it_unstable(bias, seed):
    cell = bank((0.1, 0.1, 0.1))
    values = [jnp.full(1, b) for b in bias]
    cell = eqx.tree_at(lambda c: [getattr(c, gm).value for gm in GMS], cell, values)
    chip = fabricate(cell, PROCESS, key=jr.key(seed))
    v = jnp.asarray([[0.6, -0.8]])
    x = jnp.zeros((1, 1))
    for _ in range(4):
        after, _ = chip.step(v, x, process=QUIET, key=jr.key(0))
        assert jnp.sum(after**2) < jnp.sum(v**2) * (1 + 1e-6)
        v = after


def test_mismatch_of_a_bias_is_a_share_of_its_rate():
    cell = bank(*[(0.1, 0.5, 0.2)] * 4000)
    chip = fabricate(cell, PROCESS, key=jr.key(0))
    for rate, nominal in zip(chip.rates(PROCESS), (0.1, 0.5, 0.2), strict=True):
        # A_VT / √area over nU_T: 2 mV·µm, 16 µm², 1.3·25.85 mV.
        spread = 2e-3 / 4 / (1.3 * 25.85e-3)
        assert_variance(np.log(rate / nominal), spread**2, excess=0.0)


def test_tails_are_billed_by_their_transconductors():
    volts = PROCESS.linear_range() * PROCESS.swing_V
    of = lambda cell: totals(cell.events(PROCESS, period_s=PERIOD_S))
    one = of(bank((0.1, 0.5, 0.2)))
    expected = 2 * (0.2 + 1.0 + 0.2) * 50e-15 * volts
    assert one == {"supply_charge_C": pytest.approx(expected, rel=1e-5, abs=0)}
    cell = Resonator(5, period_s=PERIOD_S, process=PROCESS)
    shapes = eqx.filter_eval_shape(lambda: cell)
    assert of(shapes)["supply_charge_C"] == pytest.approx(
        of(cell)["supply_charge_C"], rel=1e-5, abs=0
    )


def test_without_states_it_is_a_gated_unit():
    config = ResonatorBlock(n=12, n_taps=3)
    assert config.without_mechanism() == GatedUnitBlock(n_hidden=24, n_taps=3)
    block = config.build(Site(width=6, process=PROCESS, key=jr.key(0)))
    assert isinstance(getattr(block, config.mechanism), Resonator)


@pytest.mark.needs_ngspice
def test_a_biquad_simulates_as_the_model_says(tmp_path):
    cell = fabricate(bank((0.05, 0.7, 0.3), (0.2, 2.0, 0.5)), PROCESS, key=jr.key(0))
    found = verify(
        export(cell, PROCESS, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert found.passed, str(found)
    assert len(found.checks) >= 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "`n` must be positive, but is 0"),
        ({"state_F": 0.0}, r"`state_F` must be positive, but is 0\.0"),
        ({"period_s": float("nan")}, "`period_s` must be positive, but is nan"),
        ({"shortest": 2.0}, r"must be periods above 2 tokens, .* but are 2\.0 and 256"),
        ({"longest": 2.5}, r"in this order, but are 3\.0 and 2\.5"),
        ({"longest": float("inf")}, "`longest` must be finite, but is inf"),
    ],
)
def test_an_impossible_bank_is_refused(changes, message):
    arguments = {"n": 2, "period_s": 1e-6, "process": PROCESS} | changes
    with pytest.raises(ValueError, match=message):
        Resonator(arguments.pop("n"), **arguments)
