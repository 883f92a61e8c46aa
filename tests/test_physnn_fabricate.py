"""Mismatch: how it depends on area, units and kind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.typing import ArrayLike

from physnn.bank import Bank
from physnn.environment import Environment
from physnn.fabricate import fabricate
from physnn.lines import ChargeLines
from physnn.variation import TEN_YEARS_S, floor_plan
from tests.helpers import PROCESS, assert_variance, error_of, member


def spread(value, n_chips=20_000, **changes):
    """Measured standard deviation of each device over chips."""
    defaults = {"kind": "capacitor", "unit": "C/C_f", "area_m2": 1e-12}
    design = Bank(jnp.asarray(value, jnp.float32), **(defaults | changes))
    draw = lambda key: fabricate(design, PROCESS, key=key).error
    return np.asarray(jax.jit(jax.vmap(draw))(jr.split(jr.key(0), n_chips))).std(axis=0)


def test_a_weight_of_k_units_errs_by_the_root_of_k():
    units = np.asarray([1.0, 4.0, 9.0, 16.0, 31.0])
    measured = spread(units[:, None], n_units=31)[:, 0]
    unit_spread = PROCESS.matching["capacitor"] / 1e-6
    np.testing.assert_allclose(measured, np.sqrt(units) * unit_spread, rtol=0.02)


def test_spread_falls_with_the_root_of_area():
    # Pelgrom et al. 1989, DOI 10.1109/JSSC.1989.572629.
    areas = np.asarray([0.25e-12, 1e-12, 4e-12])
    measured = np.stack([spread(np.ones(1), area_m2=float(a))[0] for a in areas])
    expected = PROCESS.matching["capacitor"] / np.sqrt(areas)
    np.testing.assert_allclose(measured, expected, rtol=0.02)


def test_a_trained_size_is_an_area():
    size = jnp.asarray(np.log(4.0), jnp.float32)
    small, large = spread(np.ones(1)), spread(np.ones(1), size=size)
    np.testing.assert_allclose(large, small / 2, rtol=1e-5)


def test_a_current_errs_in_proportion_and_a_threshold_absolutely():
    values = np.asarray([0.0, 0.1, 1.0])
    relative = spread(values, kind="current") / (PROCESS.matching["current"] / 1e-6)
    np.testing.assert_allclose(relative, values, rtol=0.02)
    volts = spread(values, kind="threshold") * PROCESS.swing_V
    np.testing.assert_allclose(volts, PROCESS.matching["threshold"] / 1e-6, rtol=0.02)


def test_the_design_is_not_changed_and_a_chip_is_its_key():
    design = Bank(jnp.ones(3), kind="current", unit="A", area_m2=1e-12)
    a, b, c = (fabricate(design, PROCESS, key=jr.key(seed)) for seed in (1, 1, 2))
    assert design.error is None
    assert eqx.tree_equal(a, b)
    assert not np.any(error_of(a) == error_of(c))
    # A chip of a chip is another chip of the design, not one with two errors.
    assert eqx.tree_equal(fabricate(a, PROCESS, key=jr.key(2)), c)


def test_the_gradient_reaches_the_trained_value_alone():
    def loss(value):
        design = Bank(value, kind="current", unit="A", area_m2=1e-12)
        return jnp.sum(fabricate(design, PROCESS, key=jr.key(0)).realized())

    np.testing.assert_array_equal(jax.grad(loss)(jnp.ones(3)), jnp.ones(3))


def test_an_unknown_kind_of_device_is_refused():
    design = Bank(jnp.ones(3), kind="memristor", unit="S", area_m2=1e-12)
    message = (
        "matching coefficient for every kind of device, but `memristor` is missing"
    )
    with pytest.raises(ValueError, match=message):
        fabricate(design, PROCESS, key=jr.key(0))


EQUAL = PROCESS.matched()
VALUE = jr.normal(jr.key(9), (6, 4))


def matrix(value: ArrayLike = VALUE, **changes):
    defaults = {"kind": "capacitor", "unit": "C/C_f", "area_m2": 1e-12}
    return Bank(jnp.asarray(value, jnp.float32), **(defaults | changes))


def chips(design, environment, n_chips=4000):
    """What `n_chips` hold of a design, without mismatch."""
    make = lambda key: fabricate(design, EQUAL, key=key, environment=environment)
    return np.asarray(
        jax.jit(jax.vmap(lambda key: make(key).realized()))(
            jr.split(jr.key(0), n_chips)
        ),
        np.float64,
    )


def test_no_amount_fabricates_the_design():
    for name in ("ChargeMac", "LookupLayer", "HashedMemory"):
        design = member(name)
        chip = fabricate(design, EQUAL, key=jr.key(0), environment=Environment())
        assert eqx.tree_equal(chip, design)


def test_a_programming_error_is_a_part_of_full_scale():
    held = chips(matrix(), Environment(programming=0.025))
    full = np.abs(np.asarray(VALUE)).max(axis=0)
    expected = np.broadcast_to((0.025 * full) ** 2, (6, 4))
    assert_variance(held, expected, sigmas=4, excess=0.0)
    fixed = matrix(programmed=False)
    assert fabricate(fixed, EQUAL, key=jr.key(0), environment=Environment(
        programming=0.025
    )) is fixed  # fmt: skip


def test_faults_are_as_many_and_hold_what_they_should():
    e = Environment(dead=0.1, stuck_full=0.05, stuck_random=0.2)
    held, full = chips(matrix(), e), np.abs(np.asarray(VALUE)).max(axis=0)
    n = held.size
    shares = {
        0.1: held == 0,
        0.05: np.isclose(np.abs(held), full, rtol=1e-6)
        & ~np.isclose(np.abs(VALUE), full, rtol=1e-6),
        0.65: held == np.asarray(VALUE),
    }
    # The largest value of a column is itself at full scale, and not counted.
    counted = {0.1: n, 0.05: n * (1 - 4 / 24), 0.65: n}
    for share, where in shares.items():
        error = np.sqrt(share * (1 - share) / counted[share])
        assert abs(where.sum() / counted[share] - share) < 3 * error, share
    others = held[(held != 0) & (held != VALUE) & (np.abs(held) < 0.999 * full)]
    assert abs(others.mean()) < 0.05
    assert np.all(np.abs(held) <= full * (1 + 1e-6))


def test_a_faulty_device_lets_go_of_its_value_for_good():
    e = Environment(dead=0.5)
    chip = fabricate(matrix(), EQUAL, key=jr.key(0), environment=e)
    dead = np.asarray(chip.realized()) == 0
    assert 0 < dead.mean() < 1
    # Also of another value that is written later, and of its gradient.
    again = eqx.tree_at(lambda bank: bank.value, chip, VALUE + 1.0)
    np.testing.assert_array_equal(np.asarray(again.realized()) == 0, dead)
    of = lambda v: jnp.sum(eqx.tree_at(lambda b: b.value, chip, v).realized())
    np.testing.assert_array_equal(jax.grad(of)(VALUE), 1.0 - dead)


@pytest.mark.parametrize("name", ["LookupLayer", "HashedMemory"])
def test_faults_reach_what_is_stored_in_bits(name):
    design = member(name)
    layer = lambda c: c.parts[1] if name == "LookupLayer" else c
    stuck = fabricate(
        design, EQUAL, key=jr.key(0), environment=Environment(stuck_full=0.25)
    )
    values, full_scale = layer(stuck).stored()
    share = np.mean(np.isclose(np.abs(values), full_scale, rtol=1e-3))
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / values.size)


def test_a_gradient_runs_across_the_die():
    place = floor_plan([matrix(), matrix(area_m2=4e-12)])
    # Six rows of four devices of 1 µm, and of 2 µm beside them or above.
    assert [each.pitch_mm for each in place] == pytest.approx([1e-3, 2e-3])
    x, y = place[0].positions_mm((6, 4))
    assert (x.shape, y.shape) == ((1, 4), (6, 1))
    np.testing.assert_allclose(np.diff(x[0]), 1e-3, rtol=1e-4)
    # Ones: the error is the gradient, and a ratio has its middle at zero.
    design = matrix(np.ones((6, 4)))
    error = chips(design, Environment(gradient_per_mm=30.0)) - 1
    np.testing.assert_allclose(error.mean(axis=(1, 2)), 0, atol=1e-6)
    for axis in (1, 2):
        slope = np.diff(error, axis=axis) / 1e-3
        np.testing.assert_allclose(slope, slope[:, :1, :1] * np.ones(slope.shape[1:]),
            atol=0.3)  # fmt: skip
    down, right = np.diff(error, axis=1)[:, 0, 0], np.diff(error, axis=2)[:, 0, 0]
    squares = (down**2 + right**2) / 1e-6
    assert abs(squares.mean() - 900) < 3 * 900 / np.sqrt(len(squares))
    bent = chips(design, Environment(gradient_per_mm2=3e4))
    assert np.any(np.abs(np.diff(bent, n=2, axis=1)) > 1e-4)


def test_ageing_is_a_power_of_time():
    A, n = EQUAL.ageing["threshold_V"] / EQUAL.swing_V, EQUAL.ageing["exponent"]
    pair = matrix(np.zeros(8), kind="threshold", unit="full scale")
    for years, factor in ((10.0, 1.0), (10 / 32, 0.5)):
        held = chips(pair, Environment(age_s=years / 10 * TEN_YEARS_S))
        assert 32**-n == 0.5
        assert_variance(held, np.full(8, (A * factor) ** 2), excess=0.0, sigmas=4)
    ring = matrix(np.ones(8), kind="ring_frequency", unit="rad/token")
    lost = 1 - chips(ring, Environment(age_s=TEN_YEARS_S))
    most, spread = EQUAL.ageing["ring_frequency"], EQUAL.ageing["spread"]
    assert abs(lost.mean() - most) < 4 * most * spread / np.sqrt(lost.size)
    assert_variance(lost, np.full(8, (most * spread) ** 2), excess=0.0, sigmas=4)
    # The mean loss of two equal devices cancels in their ratio.
    ratio = matrix(np.ones(8), kind="current", unit="I/I_u")
    kept = chips(ratio, Environment(age_s=TEN_YEARS_S))
    assert abs(kept.mean() - 1) < 4 * 0.002 / np.sqrt(kept.size)


def test_crosstalk_is_a_share_of_the_neighbors():
    design = matrix(lines=ChargeLines(1e-8, 0.3e-12))
    (held,) = chips(design, Environment(crosstalk=0.1), n_chips=1)
    mixing = np.eye(4) + 0.1 * (np.eye(4, k=1) + np.eye(4, k=-1))
    np.testing.assert_allclose(held, np.asarray(VALUE) @ mixing, rtol=1e-5)
    assert fabricate(
        matrix(), EQUAL, key=jr.key(0), environment=Environment(crosstalk=0.1)
    ).error is None  # fmt: skip


def test_sources_add_up_and_reseed_no_other():
    one, two = Environment(programming=0.01), Environment(age_s=1e8)
    both = one.replace(age_s=1e8)
    errors = [
        error_of(fabricate(matrix(), PROCESS, key=jr.key(0), environment=e))
        for e in (Environment(), one, two, both)
    ]
    np.testing.assert_allclose(
        errors[3] - errors[0], errors[1] + errors[2] - 2 * errors[0], atol=1e-7
    )
