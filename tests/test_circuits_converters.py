"""Converters: bit-true loops held against levels, variances and linearity of theory."""

import json
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.converters import Dac, SarConverter
from circuits.sample_hold import SampleHold
from evals.verify import verify
from physnn.energy import load_prices
from physnn.energy.events import adc_event
from physnn.export.package import export
from physnn.fabricate import fabricate
from physnn.straight_through import quantize
from physnn.variation.matching import device_sigma
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    fabricate_jit,
    run_jit,
    totals,
    with_process,
)
from tests.systems import ktc_variance


def ramp(n, channels, *, inside=1.0):
    """n inputs that fill the range evenly."""
    x = inside * (2 * (np.arange(n) + 0.5) / n - 1)
    return jnp.asarray(np.repeat(x[:, None], channels, 1), jnp.float32)


@settings(max_examples=8)
@given(bits=st.integers(2, 12), seed=st.integers(0, 9))
def test_an_ideal_converter_gives_the_nearest_code(bits, seed):
    sar = SarConverter(3, bits=bits, process=PROCESS)
    x = jr.uniform(jr.key(seed), (40, 3), minval=-1.2, maxval=1.2)
    y = np.asarray(sar.apply(x, process=QUIET, key=jr.key(0)), np.float64)
    levels = (2 * np.arange(2**bits) + 1) / 2**bits - 1
    nearest = np.min(np.abs(np.asarray(x)[..., None] - levels), axis=-1)
    np.testing.assert_allclose(np.abs(y - np.asarray(x)), nearest, atol=1e-6)


def test_the_error_of_an_ideal_converter_has_a_variance_of_a_twelfth():
    sar = SarConverter(1, bits=6, process=PROCESS)
    x = jr.uniform(jr.key(0), (40_000, 1), minval=-1.0, maxval=1.0)
    error = sar.apply(x, process=QUIET, key=jr.key(0)) - x
    # Kurtosis of a uniform variable: 9/5.
    assert_variance(error, sar.lsb**2 / 12, excess=-1.2)


def test_noise_of_sample_and_comparator_add_to_the_error_of_the_code():
    # Comparator noise of 0.16 LSB, as its size says; what is sampled has 0.12.
    sar = SarConverter(1, bits=8, process=PROCESS)
    x = jr.uniform(jr.key(0), (100_000, 1), minval=-0.99, maxval=0.99)
    error = run_jit(sar, x, process=PROCESS, key=jr.key(1)) - x
    amount = {"temperature_K": 300.0, "swing_V": 0.4, "excess": 2.0}
    sampled = ktc_variance(128 * 0.3e-15, **amount)
    decided = ktc_variance(20e-15, **amount)
    assert_variance(error, sar.lsb**2 / 12 + sampled + decided, excess=-0.5)
    expected = sar.error_variance(PROCESS)
    assert expected["sampling"] == pytest.approx(sampled, rel=1e-6, abs=0)
    assert expected["comparator"] == pytest.approx(decided, rel=1e-6, abs=0)


def test_larger_capacitors_buy_less_noise():
    sar = SarConverter(1, bits=10, process=PROCESS)
    large = SarConverter(
        1, bits=10, process=PROCESS, unit_F=1.2e-15, comparator_F=80e-15
    )
    for cause in ("sampling", "comparator"):
        ratio = (
            sar.error_variance(PROCESS)[cause] / large.error_variance(PROCESS)[cause]
        )
        assert ratio == pytest.approx(4)
    # Their own charge grows with them; what it lacks to the measured floor, shrinks.
    small, big = (
        {e.part: e.count for e in s.events(PROCESS, period_s=PERIOD_S)}
        for s in (sar, large)
    )
    for part in ("samples", "array", "comparators"):
        assert big[part] == pytest.approx(4 * small[part], rel=1e-6, abs=0)


def sized(size: float, bits: int = 8, n: int = 2):
    sar = SarConverter(n, bits=bits, process=PROCESS)
    return eqx.tree_at(lambda s: s.capacitor.size, sar, jnp.asarray(size, jnp.float32))


def figures(sar):
    """What is billed, what errs, and the spread of its capacitors."""
    counts = totals(sar.events(PROCESS, period_s=PERIOD_S))
    shares = sar.capacitor.nominal() / jnp.sum(sar.capacitor.nominal())
    spread = device_sigma(sar.capacitor, PROCESS) / sar.capacitor.nominal() * shares
    return counts, sar.error_variance(PROCESS), spread[: (sar.resolution - 1) * 2]


def assert_alike(one, other):
    for ours, theirs in zip(figures(one)[:2], figures(other)[:2], strict=True):
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=2e-5, abs=0), name
    np.testing.assert_allclose(figures(one)[2], figures(other)[2], rtol=2e-5)


@pytest.mark.parametrize("bits", [7, 6, 4, 2])
def test_a_converter_of_fewer_units_is_one_of_fewer_bits(bits):
    small, plain = sized(-math.log(2) * (8 - bits)), sized(0.0, bits)
    assert small.resolution == bits
    assert_alike(small, plain)
    x = jr.uniform(jr.key(0), (200, 2), minval=-1.1, maxval=1.1)
    one, other = (run_jit(s, x, process=QUIET, key=jr.key(0)) for s in (small, plain))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(small.transitions(), plain.transitions(), atol=1e-6)


def test_a_converter_of_larger_units_errs_less_and_draws_more():
    drawn = SarConverter(2, process=PROCESS, unit_F=1.2e-15, comparator_F=80e-15)
    assert_alike(sized(math.log(4)), drawn)
    less, more = (figures(sized(size))[1] for size in (0.0, math.log(4)))
    for cause in ("sampling", "comparator", "mismatch"):
        assert less[cause] == pytest.approx(4 * more[cause])


@pytest.mark.parametrize("size", [-math.log(4), -math.log(2), 0.5])
def test_the_slope_of_the_error_to_the_size_is_that_of_its_variance(size):
    x = jr.uniform(jr.key(0), (100_000, 2), minval=-0.98, maxval=0.98)

    def error(size):
        y = sized(size).apply(x, process=PROCESS, key=jr.key(1))
        return jnp.mean(jnp.square(y - x))

    # As the capacitor of a sample; below zero the rest as the square of a step.
    causes = sized(size).error_variance(PROCESS)
    rest = 2 * (causes["quantization"] + causes["comparator"]) if size < 0 else 0
    expected = -causes["sampling"] - rest
    assert float(jax.jit(jax.grad(error))(size)) == pytest.approx(expected, rel=0.05)


def test_effective_bits_of_chips_are_those_of_the_formula():
    n = 400
    process = with_process(matching={**PROCESS.matching, "capacitor": 5e-8})
    sar = SarConverter(n, bits=8, process=process)
    chips = fabricate_jit(sar, process, key=jr.key(1))
    x = ramp(4000, n, inside=0.99)
    error = np.asarray(run_jit(chips, x, process=process, key=jr.key(2)) - x)
    power = error.var(axis=0)
    expected = sum(sar.error_variance(process).values())
    assert sar.error_variance(process)["mismatch"] > expected / 2
    standard_error = power.std() / np.sqrt(n)
    assert abs(power.mean() - expected) < 3 * standard_error
    measured = np.log2(2 / np.sqrt(12 * power.mean()))
    assert measured == pytest.approx(sar.effective_bits(process), abs=0.05)
    assert sar.effective_bits(process) < 7.2 < SarConverter(1, process=QUIET).bits


def test_every_edge_is_where_the_code_changes():
    chip = fabricate_jit(
        SarConverter(2, bits=6, process=PROCESS), PROCESS, key=jr.key(3)
    )
    edges = np.asarray(chip.transitions())
    assert edges.shape == (63, 2)
    below, above = (
        run_jit(chip, jnp.asarray(edges + d, jnp.float32), process=QUIET, key=jr.key(0))
        for d in (-1e-5, 1e-5)
    )
    codes = (2 * np.arange(64) + 1) / 64 - 1
    np.testing.assert_allclose(below, np.repeat(codes[:-1, None], 2, 1), atol=1e-6)
    np.testing.assert_allclose(above, np.repeat(codes[1:, None], 2, 1), atol=1e-6)


def test_the_step_beside_the_middle_spreads_as_the_root_of_all_units():
    # Beside code 0 the largest capacitor stands against all smaller ones.
    n, bits = 3000, 8
    sar = SarConverter(n, bits=bits, process=PROCESS)
    chips = fabricate_jit(sar, PROCESS, key=jr.key(4))
    edges = chips.transitions()
    middle = 2 ** (bits - 1)
    step = (edges[middle] - edges[middle - 1]) / sar.lsb - 1
    # Both halves of a unit: 0.3 fF at 2 fF/um2 each, at 1 %·um.
    unit = 1e-8 / np.sqrt(2 * 0.3e-15 / 2e-3)
    assert_variance(step, unit**2 * (2 ** (bits - 1) - 1), excess=0.0)


def test_a_perfect_converter_is_linear_and_a_chip_is_not():
    sar = SarConverter(2, bits=8, process=PROCESS)
    for values in sar.linearity():
        np.testing.assert_allclose(values, 0, atol=1e-4)
    inl, dnl = fabricate_jit(sar, PROCESS, key=jr.key(5)).linearity()
    assert inl.shape == (255, 2)
    assert dnl.shape == (254, 2)
    assert 0.02 < np.abs(inl).max() < 1
    assert 0.02 < np.abs(dnl).max() < 1


@settings(max_examples=8)
@given(bits=st.integers(2, 12), seed=st.integers(0, 9))
def test_an_ideal_dac_is_the_quantizer(bits, seed):
    dac = Dac(3, bits=bits, process=PROCESS)
    x = jr.uniform(jr.key(seed), (40, 3), minval=-1.2, maxval=1.2)
    y = dac.apply(x, process=QUIET, key=jr.key(0))
    expected = quantize(x, full_scale=1.0, bits=bits)
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_noise_and_spread_of_a_dac():
    dac = Dac(3000, bits=6, process=PROCESS)
    x = jnp.full((1, 3000), 16 / 31)  # the largest capacitor alone
    noise = run_jit(dac, x, process=PROCESS, key=jr.key(0)) - x
    expected = ktc_variance(31 * 0.3e-15, temperature_K=300.0, swing_V=0.4, excess=2.0)
    assert_variance(noise[0], expected)
    chip = fabricate_jit(dac, PROCESS, key=jr.key(1))
    y = run_jit(chip, x, process=QUIET, key=jr.key(0))
    unit = 1e-8 / np.sqrt(2 * 0.3e-15 / 2e-3)
    # Var C_k/C_Σ of 16 units among 31.
    assert_variance((y - x)[0], unit**2 / 31 * (16 / 31) * (15 / 31), excess=0.0)


@pytest.mark.parametrize("build", [SarConverter, Dac])
def test_the_gradient_is_that_of_a_wire_inside_the_range(build):
    converter = build(4, bits=4, process=PROCESS)
    x = jnp.asarray([-1.5, -0.3, 0.77, 1.2])
    f = lambda x: jnp.sum(converter.apply(x, process=PROCESS, key=jr.key(0)))
    np.testing.assert_array_equal(jax.grad(f)(x), [0, 1, 1, 0])
    # The capacitors are drawn, not trained: neither gradient nor decay moves them.
    g = eqx.filter_grad(
        lambda c: jnp.sum(c.apply(x, process=PROCESS, key=jr.key(0)) ** 2)
    )(converter)
    np.testing.assert_array_equal(g.capacitor.value, 0)
    assert converter.capacitor.value.ndim == 1


def test_a_held_sample_droops_and_has_the_noise_of_its_capacitor():
    hold = SampleHold(1, hold_s=5e-3, hold_F=10e-15)
    # 1 pS on 10 fF: a time constant of 10 ms.
    y = hold.apply(jnp.asarray([0.8]), process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(y, 0.8 * np.exp(-0.5), rtol=1e-5)
    noise = run_jit(hold, jnp.zeros((20_000, 1)), process=PROCESS, key=jr.key(0))
    amount = {"temperature_K": 300.0, "swing_V": 0.4, "excess": 2.0}
    assert_variance(noise, ktc_variance(10e-15, **amount))


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_what_a_converter_is_made_of_costs_what_converters_cost(bits):
    sar = SarConverter(1, bits=bits, process=PROCESS)
    counts = totals(sar.events(PROCESS, period_s=PERIOD_S))
    # Its parts instead of the surveyed whole, never both.
    assert set(counts) == {"supply_charge_C", "amplifier_charge_C", "flop_cycle"}
    prices = {price.event: price for price in load_prices("analog28").rows}
    joules = sum(n * prices[event].joules(PROCESS)[1] for event, n in counts.items())
    low, _, high = prices[adc_event(bits)].joules(PROCESS)
    assert low < joules < high


def test_a_converter_says_how_well_it_does():
    sar = SarConverter(2, bits=8, process=PROCESS)
    x = ramp(2000, 2, inside=1.25)
    figures = sar.diagnose(x, process=PROCESS, key=jr.key(0))
    assert figures["clipped_share"] == pytest.approx(0.2)
    x = ramp(2000, 2)
    figures = sar.diagnose(x, process=PROCESS, key=jr.key(0))
    assert figures["effective_bits"] == pytest.approx(7.6, abs=0.1)


# A leak that shows within microseconds: a time constant of 10 us on 10 fF.
LEAKY = with_process(node_leakage_S=1e-9)


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(
    "circuit",
    [
        fabricate(SarConverter(2, bits=6, process=PROCESS), PROCESS, key=jr.key(1)),
        fabricate(Dac(2, bits=6, process=PROCESS), PROCESS, key=jr.key(2)),
        SampleHold(2, hold_s=3e-6),
    ],
    ids=lambda circuit: type(circuit).__name__,
)
def test_ngspice_converts_as_the_model(circuit, tmp_path):
    verification = verify(
        export(circuit, LEAKY, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert verification.passed, str(verification)
    expected = json.loads((tmp_path / "x/spice/tb/expected.json").read_text())
    values = [r["value"] for bench in expected["benches"] for r in bench["results"]]
    assert max(map(abs, values)) > 0.5


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SarConverter(0, process=PROCESS), "`n` must be positive, but is 0"),
        (
            lambda: SarConverter(1, bits=1, process=PROCESS),
            "`bits` must be from 2 to 14, but is 1",
        ),
        (
            lambda: SarConverter(1, process=PROCESS, unit_F=1e-18),
            "`unit_F` must be at least the 3e-16 F that process `cmos28`",
        ),
        (
            lambda: SarConverter(1, process=PROCESS, comparator_F=0.0),
            "`comparator_F` must be positive, but is 0.0",
        ),
        (lambda: Dac(1, bits=20, process=PROCESS), "`bits` must be from 2 to 14"),
        (
            lambda: Dac(1, process=PROCESS, load_F=-1.0),
            "`load_F` must be positive, but is -1.0",
        ),
        (lambda: SampleHold(0, hold_s=1.0), "`n` must be positive, but is 0"),
        (lambda: SampleHold(1, hold_s=float("nan")), "`hold_s` must be positive"),
    ],
)
def test_impossible_converters_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
