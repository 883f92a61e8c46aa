"""Winner-take-all: whose event comes first, against softmax and against the probit.

It stands outside the catalogue of `helpers.py`: outputs that always add up to one have
neither noise in every sample nor a slope of their sum. The other laws are here.
"""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from circuits.winner import WinnerTakeAll
from evals.verify import verify
from physnn.energy import load_prices
from physnn.energy.events import EVENTS, adc_event
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    error_of,
    fabricate_jit,
    totals,
    with_process,
)
from tests.systems import softmax_probabilities, thermal_voltage, winner_of_normals

LOGITS = np.asarray([2.0, 1.2, 0.0, -0.7, -1.5, 1.9], np.float32)
N = 200_000


def shares_drawn(sampler, logits, *, process=PROCESS, seed=0, n=N):
    many = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (n, len(logits)))
    tokens = eqx.filter_jit(
        lambda sampler, many: sampler.sample(many, process=process, key=jr.key(seed))
    )(sampler, many)
    return np.bincount(np.asarray(tokens), minlength=len(logits))


def chi_square(counts, expected):
    """p-value of counts against probabilities (Pearson 1900)."""
    expected = expected * counts.sum()
    statistic = np.sum((counts - expected) ** 2 / expected)
    return chi2.sf(statistic, len(counts) - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_race_of_shot_noise_draws_from_softmax_at_the_stated_temperature(temperature):
    sampler = WinnerTakeAll(6, process=PROCESS, temperature=temperature)
    counts = shares_drawn(sampler, LOGITS)
    expected = softmax_probabilities(LOGITS, temperature=temperature)
    assert chi_square(counts, expected) > 0.01
    # The test can tell: another temperature by a twentieth is refused.
    other = softmax_probabilities(LOGITS, temperature=1.05 * temperature)
    assert chi_square(counts, other) < 1e-6


@settings(max_examples=5)
@given(n=st.integers(2, 300), seed=st.integers(0, 5))
def test_any_number_of_cells_draws_from_softmax(n, seed):
    logits = np.random.default_rng(seed).normal(size=n).astype(np.float32)
    counts = shares_drawn(WinnerTakeAll(n, process=PROCESS), logits, n=30_000)
    assert chi_square(counts, softmax_probabilities(logits, temperature=1.0)) > 1e-3


def test_thermal_comparators_draw_from_a_probit_and_how_far_that_is_from_softmax():
    sampler = WinnerTakeAll(6, process=PROCESS, clock="thermal")
    counts = shares_drawn(sampler, LOGITS)
    probit = winner_of_normals(LOGITS, sigma=np.pi / np.sqrt(6))
    softmax = softmax_probabilities(LOGITS, temperature=1.0)
    assert chi_square(counts, probit) > 0.01
    assert chi_square(counts, softmax) < 1e-6
    # Total variation 3.9 %: what is unlikely becomes more so.
    assert np.abs(counts / N - softmax).sum() / 2 == pytest.approx(0.0388, abs=0.003)
    assert counts[4] / N < 0.7 * softmax[4]


def test_temperature_follows_from_the_drive_and_from_the_chip_s_own_heat():
    n_ut = PROCESS.slope_factor * thermal_voltage(300.0)
    sampler = WinnerTakeAll(4, process=PROCESS, temperature=2.0, nats=16.0)
    assert sampler.drive_V == pytest.approx(16 * n_ut / 2)
    hot = with_process(temperature_K=360.0)
    assert sampler.temperature(PROCESS) == pytest.approx(2.0)
    assert sampler.temperature(hot) == pytest.approx(2.0 * 1.2)
    counts = shares_drawn(
        WinnerTakeAll(6, process=PROCESS, temperature=1.5), LOGITS, process=hot
    )
    expected = softmax_probabilities(LOGITS, temperature=1.5 * 1.2)
    assert chi_square(counts, expected) > 0.01
    # kT/C: a noise voltage goes with the root of the temperature.
    thermal = WinnerTakeAll(4, process=PROCESS, clock="thermal")
    assert thermal.temperature(hot) == pytest.approx(1.2**0.5, rel=1e-5)


def test_mismatch_of_thresholds_moves_a_logit_by_its_voltage_over_nut():
    sampler = WinnerTakeAll(6, process=PROCESS)
    chip = fabricate_jit(sampler, PROCESS, key=jr.key(3))
    error_V = error_of(chip.offset) * PROCESS.swing_V
    nats = error_V / (PROCESS.slope_factor * thermal_voltage(300.0))
    expected = softmax_probabilities(LOGITS + nats, temperature=1.0)
    shares = chip.shares(jnp.asarray(LOGITS / 16), process=PROCESS)
    np.testing.assert_allclose(shares, expected, rtol=1e-4)
    assert chi_square(shares_drawn(chip, LOGITS), expected) > 0.01
    # 2 mV·um over the root of 4 um2, at 33.6 mV: 0.03 nats.
    many = fabricate_jit(WinnerTakeAll(4000, process=PROCESS), PROCESS, key=jr.key(4))
    spread = error_of(many.offset) * PROCESS.swing_V / 33.6e-3
    assert_variance(spread, (1e-3 / 33.6e-3) ** 2, excess=0.0, sigmas=4)


def test_without_noise_the_largest_wins():
    logits = jr.normal(jr.key(0), (50, 7))
    sampler = WinnerTakeAll(7, process=PROCESS)
    tokens = [sampler.sample(logits, process=QUIET, key=jr.key(k)) for k in (0, 1)]
    np.testing.assert_array_equal(tokens[0], jnp.argmax(logits, -1))
    np.testing.assert_array_equal(tokens[0], tokens[1])


@pytest.mark.parametrize("clock", ["shot", "thermal"])
def test_a_draw_is_its_key_and_every_place_has_its_own(clock):
    sampler = WinnerTakeAll(8, process=PROCESS, clock=clock)
    x = jnp.zeros((40, 3, 8))
    ys = [sampler.apply(x, process=PROCESS, key=jr.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(ys[0], ys[1])
    assert not np.array_equal(ys[0], ys[2])
    assert not np.array_equal(ys[0][:, 0], ys[0][:, 1])
    assert not np.array_equal(ys[0][0], ys[0][1])
    np.testing.assert_allclose(np.sort(ys[0], axis=-1)[..., :-1], 0, atol=1e-6)
    np.testing.assert_allclose(np.sum(ys[0], axis=-1), 1, rtol=1e-5)


def test_the_gradient_is_that_of_the_probabilities():
    sampler = WinnerTakeAll(6, process=PROCESS)
    x, weights = jnp.asarray(LOGITS / 16), jnp.arange(6.0)
    f = lambda x, key: weights @ sampler.apply(x, process=PROCESS, key=key)
    g = lambda x: weights @ jax.nn.softmax(16 * x)
    np.testing.assert_allclose(jax.grad(f)(x, jr.key(0)), jax.grad(g)(x), rtol=1e-4)


def test_it_costs_a_fraction_of_the_converters_it_replaces():
    sampler = WinnerTakeAll(256, process=PROCESS)
    events = sampler.events(PROCESS, period_s=PERIOD_S)
    assert {event.name for event in events} <= set(EVENTS)
    assert len({(e.name, e.part) for e in events}) == len(events)
    prices = {price.event: price for price in load_prices("analog28").rows}
    joules = lambda event, n: n * prices[event].joules(PROCESS)[1]
    ours = sum(joules(event, n) for event, n in totals(events).items())
    converters = joules(adc_event(8), 256)
    assert 1e-12 < ours < converters / 20
    shapes = eqx.filter_eval_shape(lambda: WinnerTakeAll(256, process=PROCESS))
    assert shapes.events(PROCESS, period_s=PERIOD_S) == events


def test_it_says_how_sure_it_is_and_what_mismatch_costs():
    design = WinnerTakeAll(6, process=PROCESS)
    x = jnp.broadcast_to(jnp.asarray(LOGITS / 16), (5, 2, 6))
    figures = design.diagnose(x, process=PROCESS, key=jr.key(0))
    p = softmax_probabilities(LOGITS, temperature=1.0)
    assert figures["entropy_bits"] == pytest.approx(-np.sum(p * np.log2(p)), rel=1e-4)
    assert figures["mismatch_distance"] == pytest.approx(0, abs=1e-6)
    chip = fabricate(design, PROCESS, key=jr.key(1))
    moved = chip.diagnose(x, process=PROCESS, key=jr.key(0))["mismatch_distance"]
    assert 1e-3 < moved < 0.05


@pytest.mark.needs_ngspice
def test_ngspice_shares_the_tail_as_softmax(tmp_path):
    chip = fabricate(WinnerTakeAll(4, process=PROCESS), PROCESS, key=jr.key(2))
    verification = verify(
        export(chip, PROCESS, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert verification.passed, str(verification)
    expected = json.loads((tmp_path / "x/spice/tb/expected.json").read_text())
    values = [r["value"] for bench in expected["benches"] for r in bench["results"]]
    assert max(values) > 0.4
    assert min(values) > 0.01


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WinnerTakeAll(1, process=PROCESS), "`n` must be at least 2, but is 1"),
        (
            lambda: WinnerTakeAll(4, process=PROCESS, temperature=0.0),
            "`temperature` must be positive, but is 0.0",
        ),
        (
            lambda: WinnerTakeAll(4, process=PROCESS, clock="digital"),
            '`clock` must be "shot" or "thermal", but is .digital.',
        ),
        (
            lambda: WinnerTakeAll(4, process=QUIET, clock="thermal"),
            "must have thermal noise for a thermal clock",
        ),
        (
            lambda: WinnerTakeAll(4, process=PROCESS).sample(
                jnp.zeros(3), process=PROCESS, key=jr.key(0)
            ),
            "`logits` must end in 4 cells",
        ),
        (
            lambda: WinnerTakeAll(4, process=PROCESS, clock="thermal").netlist(
                PROCESS, name="sampler"
            ),
            "their own thermal noise, which a netlist does not hold",
        ),
    ],
)
def test_impossible_samplers_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
