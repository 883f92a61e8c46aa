"""Joules in the loss: the bill, its gradient, the pace of sizes."""

import dataclasses
import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.converters import SarConverter
from circuits.mac import ChargeMac
from physnn.configs import config_folder
from physnn.energy import bill, load_prices
from physnn.energy.prices import OVERHEAD
from physnn.fabricate import device_sigma
from tests.helpers import PROCESS, physical_config
from train.energy_term import REACH, at_pace, billed_J, size_pace, unit_sizes
from train.experiment import load_experiment
from train.model import PhysicalConfig

PRICES = load_prices("analog28")
PERIOD_S = 1e-6


def mac(size=0.0, bits=6):
    design = ChargeMac(24, 16, bits=bits, process=PROCESS, key=jr.key(0))
    return eqx.tree_at(lambda m: m.weight.size, design, jnp.asarray(size, jnp.float32))


def energy_J(design):
    return billed_J(design, PRICES, process=PROCESS, period_s=PERIOD_S)


@pytest.mark.parametrize("size", [-1.0, 0.0, 0.7])
def test_the_term_is_the_bill_of_what_the_design_makes_happen(size):
    design = mac(size)
    ledger = bill(design, PRICES, process=PROCESS, period_s=PERIOD_S)
    names = {e.name for e in design.events(PROCESS, period_s=PERIOD_S)}
    spent = sum(row.energy.nominal for row in ledger.rows if row.event in names)
    losses = np.prod([m.nominal for m in PRICES.multipliers])
    assert any(row.event == OVERHEAD for row in ledger.rows)
    assert float(energy_J(design)) == pytest.approx(spent * losses, rel=1e-4, abs=0)


def test_it_acts_on_sizes_alone():
    config = physical_config(width=8, n_layers=1, n_states=6, n_hidden=10)
    model = config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    values, static = eqx.partition(model, eqx.is_inexact_array)

    def spent(values):
        design = eqx.combine(values, static)
        return billed_J(design, PRICES, process=PROCESS) / 1e-12

    slope = jax.grad(spent)(values)
    assert all(float(each) > 0 for each in unit_sizes(slope))
    others = eqx.tree_at(unit_sizes, slope, replace_fn=jnp.zeros_like)
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(others))


def test_its_gradient_is_the_slope_of_the_bill():
    slope = jax.grad(lambda size: energy_J(mac(size)) / 1e-12)
    difference = (energy_J(mac(0.9)) - energy_J(mac(0.5))) / 1e-12
    between = np.mean([float(slope(s)) for s in np.linspace(0.5, 0.9, 9)])
    assert between == pytest.approx(float(difference) / 0.4, rel=0.01)
    # Below zero units are whole: from 15 to 7 of them by the mean slope.
    sizes = np.linspace(np.log(7 / 31), np.log(15 / 31), 33)
    between = np.mean([float(slope(s)) for s in sizes]) * (sizes[-1] - sizes[0])
    difference = (energy_J(mac(sizes[-1])) - energy_J(mac(sizes[0]))) / 1e-12
    assert between == pytest.approx(float(difference), rel=0.1)


def test_bias_currents_follow_capacitors_and_what_has_no_size_is_small():
    experiment = load_experiment(
        config_folder() / "experiments" / "wikitext2_gated_rc.toml"
    )
    assert isinstance(experiment.model, PhysicalConfig)
    config = dataclasses.replace(experiment.model, converters="circuits")
    model = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    less = eqx.tree_at(unit_sizes, model, replace_fn=lambda size: size - math.log(2))
    full, coarse = (bill(each, PRICES, process=PROCESS) for each in (model, less))
    # A bit less: half of the units that an amplifier settles, wires beside them.
    falls = (
        coarse.by_line()["amplifiers"].nominal / full.by_line()["amplifiers"].nominal
    )
    assert 0.5 < falls < 0.56
    assert coarse.total.nominal < 0.7 * full.total.nominal
    small = r"\.(delay|gate|agc|cell)\.|^agc\.|\.skip$|^dac\."
    fixed = [row for row in full.rows if re.search(small, row.part)]
    assert len({row.part for row in fixed}) > 30
    assert sum(row.energy.nominal for row in fixed) < 0.01 * full.total.nominal


def converter(size):
    sar = SarConverter(3, process=PROCESS)
    return eqx.tree_at(lambda s: s.capacitor.size, sar, jnp.asarray(size, jnp.float32))


# At 7 bits that from 6 to 8; and where its own charge is above what was measured.
@pytest.mark.parametrize(
    ("low", "high", "sizes", "rel"),
    [
        (-math.log(4), 0.0, [-math.log(2)], 0.05),
        (1.6, 2.4, np.linspace(1.6, 2.4, 17), 0.01),
    ],
    ids=["bits", "units"],
)
def test_its_slope_to_a_converter_is_that_of_the_bill(low, high, sizes, rel):
    slope = jax.jit(jax.grad(lambda size: energy_J(converter(size)) / 1e-12))
    difference = float(energy_J(converter(high)) - energy_J(converter(low))) / 1e-12
    between = np.mean([float(slope(s)) for s in sizes]) * (high - low)
    assert between == pytest.approx(difference, rel=rel)
    assert difference > 1.0


def test_a_converter_below_what_was_measured_grows_for_nothing():
    assert float(energy_J(converter(0.5))) == pytest.approx(
        float(energy_J(converter(0.0))), rel=0.02, abs=0
    )


def test_fewer_units_are_what_fewer_bits_are():
    for bits in (5, 4, 3):
        coarse = mac(np.log((2 ** (bits - 1) - 1) / 31))
        plain = mac(bits=bits)
        for ask in (
            energy_J,
            lambda m: m.noise_variance(PROCESS),
            lambda m: m.weight.nominal(),
            lambda m: device_sigma(m.weight, PROCESS),
        ):
            np.testing.assert_allclose(ask(coarse), ask(plain), rtol=2e-4, atol=1e-7)


def test_the_slope_is_finite_where_a_weight_is_zero():
    def spread(size):
        design = eqx.tree_at(lambda m: m.weight.value, mac(size), jnp.zeros((24, 16)))
        return jnp.sum(device_sigma(design.weight, PROCESS))

    assert np.isfinite(jax.grad(spread)(-0.5))


def test_sizes_go_at_their_own_pace():
    changes = jax.tree.map(jnp.ones_like, eqx.filter(mac(), eqx.is_inexact_array))
    # As far as the pace says, whatever the learning rate of the weights.
    paced = at_pace(changes, 0.1, 0.5)
    assert [float(size) for size in unit_sizes(paced)] == pytest.approx([0.1 / 0.5])
    np.testing.assert_array_equal(paced.weight.value, changes.weight.value)
    none = eqx.tree_at(lambda m: m.weight.size, changes, None)
    assert jax.tree.leaves(at_pace(none, 0.1, 0.5))
    assert float(unit_sizes(at_pace(changes, 0.1, 0.0))[0]) < math.inf


@pytest.mark.parametrize("steps", [40, 400])
def test_how_far_a_size_can_go_does_not_follow_the_length_of_a_training(steps):
    pace = [
        float(size_pace(jnp.asarray(step), steps=steps, first=0.25, last=0.75))
        for step in range(steps)
    ]
    inside = pace[steps // 4 : 3 * steps // 4]
    assert not any(pace[: steps // 4] + pace[3 * steps // 4 :])
    assert sum(inside) == pytest.approx(REACH, rel=3 / steps * 2)
    assert np.all(np.diff(inside) < 0)


def test_a_list_that_is_no_sum_and_an_event_without_a_price_are_refused():
    with pytest.raises(ValueError, match="`gpu2030` has floors"):
        billed_J(mac(), load_prices("gpu2030"), process=PROCESS, period_s=PERIOD_S)
    rows = tuple(row for row in PRICES.rows if row.event != "supply_charge_C")
    without = dataclasses.replace(PRICES, rows=rows)
    with pytest.raises(ValueError, match="must price event `supply_charge_C`"):
        billed_J(mac(), without, process=PROCESS, period_s=PERIOD_S)
