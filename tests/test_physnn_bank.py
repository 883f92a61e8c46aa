"""Banks: codes, full scales and legal ranges."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.bank import Bank
from tests.systems import uniform_code


def bank(value, **changes):
    defaults = {"kind": "capacitor", "unit": "C/C_f", "area_m2": 1e-12}
    return Bank(jnp.asarray(value), **(defaults | changes))


def test_nominal_is_the_nearest_code_of_the_column():
    value = jr.normal(jr.key(0), (64, 3)) * jnp.asarray([0.1, 1.0, 10.0])
    coded = bank(value, bits=4)
    for column in range(3):
        x = np.asarray(value[:, column], np.float64)
        full_scale = min(np.abs(x).max(), 2.5 * np.sqrt(np.mean(x**2)))
        expected = uniform_code(x, full_scale=full_scale, bits=4)
        np.testing.assert_allclose(coded.nominal()[:, column], expected, rtol=1e-5)


def test_a_code_beyond_the_clip_ends_at_full_scale():
    value = jnp.ones((100, 1)).at[0].set(50.0)
    coded = bank(value, bits=6)
    rms = np.sqrt((99 + 2500) / 100)
    np.testing.assert_allclose(jnp.max(coded.nominal()), 2.5 * rms, rtol=1e-6)
    assert bank(value).full_scale()[0, 0] == 50.0


def test_values_stay_in_their_legal_range():
    value = jnp.asarray([-2.0, -0.3, 0.4, 0.9, 7.0])
    for bits in (None, 3, 8):
        nominal = bank(value, low=-0.5, high=0.77, bits=bits).nominal()
        # A full scale beyond the range would let a code end beyond it.
        assert jnp.max(nominal) == np.float32(0.77)
        half_step = 0 if bits is None else 0.77 / (2 ** (bits - 1) - 1) / 2
        assert abs(jnp.min(nominal) + 0.5) <= half_step


def test_the_gradient_passes_every_device_inside_the_code_whole():
    value = jr.normal(jr.key(0), (4, 3))
    gradient = jax.grad(lambda v: jnp.sum(bank(v, bits=6).nominal()))(value)
    # With four devices no column reaches 2.5 rms: the largest is at full scale.
    np.testing.assert_array_equal(gradient, jnp.ones((4, 3)))


def test_the_error_of_a_chip_is_added_to_the_code():
    value = jr.normal(jr.key(0), (4, 3))
    chip = Bank(
        value, 0.01 * value, kind="capacitor", unit="C/C_f", area_m2=1e-12, bits=4
    )
    expected = bank(value, bits=4).nominal() + 0.01 * value
    np.testing.assert_array_equal(chip.realized(), expected)


def test_mean_fraction_of_gaussian_values_is_known_from_shapes():
    known = bank(jr.normal(jr.key(0), (2000, 20)), bits=6)
    shapes = jax.eval_shape(lambda: known)
    np.testing.assert_allclose(known.mean_fraction(), shapes.mean_fraction(), rtol=0.01)


def test_area_factor_buys_area_and_never_shrinks_below_the_smallest():
    assert bank(jnp.ones(2)).area_factor() == 1.0
    for size, factor in ((-1.0, 1.0), (0.0, 1.0), (np.log(4.0), 4.0)):
        sized = bank(jnp.ones(2), size=jnp.asarray(size, jnp.float32))
        np.testing.assert_allclose(sized.area_factor(), factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 1}, "`bits` must be None or from 2 to 16, but is 1"),
        ({"bits": 17}, "`bits` must be None or from 2 to 16, but is 17"),
        ({"area_m2": 0.0}, "`area_m2` must be positive, but is 0.0"),
        ({"area_m2": -1e-12}, "`area_m2` must be positive, but is -1e-12"),
        ({"area_m2": float("nan")}, "`area_m2` must be positive, but is nan"),
        ({"n_units": 0}, "`n_units` must be at least 1, but is 0"),
        ({"low": 1.0, "high": 1.0}, "`low` must be below `high`"),
    ],
)
def test_an_impossible_bank_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        bank(jnp.ones(2), **changes)


def sized(value, size, **changes):
    return bank(value, size=jnp.asarray(size), bits=6, n_units=31, **changes)


def test_a_size_below_zero_gives_units_of_the_largest_value_away():
    value = jr.normal(jr.key(0), (64, 3))
    for asked, units, bits in (
        (31, 31, 6),
        (16, 15, 5),
        (7, 7, 4),
        (4, 3, 3),
        (0.1, 1, 2),
    ):
        small = sized(value, np.log(asked / 31))
        assert float(small.units()) == pytest.approx(units)
        # As many levels as the stored bits tell apart, and no fewer.
        assert float(small.code_bits()) == bits
        assert float(small.area_factor()) == 1.0
        steps = small.nominal() / (small.full_scale() / units)
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-4)
        assert np.max(np.abs(steps)) == pytest.approx(units, abs=1e-3)
    whole = sized(value, 0.0)
    np.testing.assert_array_equal(whole.nominal(), bank(value, bits=6).nominal())
    grown = sized(value, 1.0)
    assert float(grown.units()) == pytest.approx(31)
    assert float(grown.area_factor()) == pytest.approx(np.e)


def test_the_gradient_of_the_size_says_how_the_rounding_grows():
    value = jr.normal(jr.key(0), (4096, 1))
    excess = lambda size: jnp.mean((sized(value, size).nominal() - value) ** 2)
    # Off a change of the number of units; clipped values do not follow the size.
    inside = jnp.abs(value) < sized(value, 0.0).full_scale()
    rounding = lambda size: jnp.mean(
        jnp.where(inside, (sized(value, size).nominal() - value) ** 2, 0.0)
    )
    size = np.float32(np.log(12 / 31))
    slope = jax.grad(rounding)(size)
    # d/d(size) of Δ²/12 at Δ ∝ e^(−size) is −2 times it.
    assert float(slope) == pytest.approx(-2 * float(rounding(size)), rel=0.05)
    assert float(excess(size)) > float(excess(0.0))
