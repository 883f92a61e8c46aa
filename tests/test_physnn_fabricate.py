"""Mismatch: how it depends on area, units and kind."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.bank import Bank
from physnn.fabricate import fabricate
from tests.helpers import PROCESS, error_of
from tests.helpers import quick_compilation as quick_compilation


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
