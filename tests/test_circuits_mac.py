"""Charge MAC: the product it computes and the charge it draws."""

import tomllib

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.mac import CLOCK_WIRES, ChargeMac
from physnn.configs import config_folder
from physnn.energy import bill, load_prices
from physnn.export import columns
from physnn.fabricate import fabricate
from physnn.process import load_process
from tests.helpers import PERIOD_S, PROCESS, QUIET, analog_C, error_of, totals


def mac(n_in=16, n_out=5, bits=6, **changes):
    return ChargeMac(n_in, n_out, bits=bits, process=PROCESS, key=jr.key(0), **changes)


def test_it_is_a_matrix_product_of_realized_weights():
    chip = fabricate(mac(gain=0.3), PROCESS, key=jr.key(1))
    x = jr.uniform(jr.key(2), (7, 16), minval=-1.0)
    weights = np.asarray(chip.weight.nominal(), np.float64) + error_of(chip.weight)
    offset = error_of(chip.offset)
    expected = np.clip(np.asarray(x, np.float64) @ weights + offset, -1, 1)
    y = chip.apply(x, process=QUIET, key=jr.key(3))
    np.testing.assert_allclose(y, expected, atol=1e-6)


def test_weights_are_whole_numbers_of_units():
    for bits in (2, 4, 8):
        weight = mac(bits=bits).weight
        units = weight.nominal() / weight.full_scale() * (2 ** (bits - 1) - 1)
        np.testing.assert_allclose(units, np.round(units), atol=1e-4)
        assert jnp.max(jnp.abs(units)) == pytest.approx(2 ** (bits - 1) - 1, rel=1e-5)


def test_the_summing_node_saturates_at_full_scale():
    signs = jnp.asarray([1.0, -1.0, 1.0, 1.0, -1.0])
    loud = eqx.tree_at(
        lambda m: m.weight.value, mac(), jnp.broadcast_to(signs, (16, 5))
    )
    y = loud.apply(0.1 * jnp.ones(16), process=PROCESS, key=jr.key(0))
    np.testing.assert_array_equal(y, signs)


def test_gain_is_that_of_root_mean_squares():
    x = 0.05 * jr.normal(jr.key(1), (2000, 256))
    wide = mac(256, 64, bits=8, gain=0.7)
    y = wide.apply(x, process=QUIET, key=jr.key(0))
    ratio = jnp.sqrt(jnp.mean(y**2) / jnp.mean(x**2))
    np.testing.assert_allclose(ratio, 0.7, rtol=0.05)


def test_a_larger_unit_trades_charge_for_noise():
    small = mac()
    large = eqx.tree_at(lambda m: m.weight.size, small, jnp.log(jnp.asarray(4.0)))
    ratio = large.noise_variance(PROCESS) / small.noise_variance(PROCESS)
    np.testing.assert_allclose(ratio, 1 / 4, rtol=1e-5)
    charge = [analog_C(m.events(PROCESS, period_s=PERIOD_S)) for m in (small, large)]
    # Wires and switches do not grow with the capacitors.
    assert 1.5 < charge[1] / charge[0] < 4


def test_charge_and_noise_have_slopes_in_the_size_of_the_unit():
    def both(size):
        sized = eqx.tree_at(lambda m: m.weight.size, mac(), size)
        charge = sum(sized.charge_C(PROCESS).values())
        return jnp.log(charge), jnp.sum(jnp.log(sized.noise_variance(PROCESS)))

    charge, noise = jax.jacrev(both)(jnp.asarray(0.7))
    assert 0 < charge < 1
    np.testing.assert_allclose(noise, -5.0, rtol=1e-5)


def test_charge_and_noise_have_the_same_feedback_capacitor():
    # Weights ten times smaller need a C_f ten times larger: less noise at the output,
    # paid for by the amplifier.
    loud = mac()
    quiet = eqx.tree_at(lambda m: m.weight.value, loud, loud.weight.value / 10)
    amplifiers = [m.charge_C(PROCESS)["amplifiers"] for m in (loud, quiet)]
    feedback = [np.mean(m.feedback_units()) for m in (loud, quiet)]
    np.testing.assert_allclose(feedback[1] / feedback[0], 10, rtol=1e-5)
    more_F = (feedback[1] - feedback[0]) * PROCESS.capacitor_min_F
    paid = 2 * 5 * PROCESS.settling_charge_C(more_F)
    np.testing.assert_allclose(amplifiers[1] - amplifiers[0], paid, rtol=1e-4)


def test_charge_of_its_lines_by_hand():
    m = mac(4, 3, bits=4)
    full = np.asarray(m.weight.full_scale(), np.float64)
    share = np.minimum(np.abs(m.weight.value) / full, 1).mean()
    full_F = 7 * PROCESS.capacitor_min_F
    cell_m2 = 2 * full_F / PROCESS.capacitor_density_F_per_m2 + 4 * 0.3e-12
    cell_F = full_F * share + np.sqrt(cell_m2) * PROCESS.wire_F_per_m
    # Two halves of four lines, each past three cells, swing full scale.
    expected = 2 * 4 * 3 * cell_F * PROCESS.swing_V
    charge = m.charge_C(PROCESS)
    np.testing.assert_allclose(charge["input lines"], expected, rtol=1e-5)
    drivers = 2 * 4 * PROCESS.settling_charge_C(3 * cell_F)
    np.testing.assert_allclose(charge["input drivers"], drivers, rtol=1e-5)
    # Three transmission gates per cell and four per half column, of three gates each.
    switches = 3 * (3 * 12 + 8 * 3) * PROCESS.switch_gate_F * PROCESS.supply_V
    np.testing.assert_allclose(charge["switches"], switches, rtol=1e-5)
    # Four wires past every cell swing by the supply.
    wires = 4 * 12 * np.sqrt(cell_m2) * PROCESS.wire_F_per_m * PROCESS.supply_V
    np.testing.assert_allclose(charge["clock wires"], wires, rtol=1e-5)


def test_a_clock_drives_what_is_drawn_and_the_charge_that_was_measured():
    drawn = columns.weight("w", 3, switch=columns.transmission_gate())
    assert len(drawn.instances) == 3
    assert sum(port.startswith("phi") for port in drawn.ports) == CLOCK_WIRES
    # Column of eight weights in ngspice (configs/cells/sky130.toml), no wires drawn.
    card = tomllib.loads((config_folder() / "cells/sky130.toml").read_text())
    (found,) = (row for row in card["mac"]["supply"] if row["what"] == "switches")
    switches = mac(8, 1, bits=4).charge_C(load_process("sky130"))["switches"]
    assert float(switches) == pytest.approx(found["measured_C"], rel=0.02)
    assert float(switches) == pytest.approx(found["analytic_C"], rel=1e-4)


def test_what_a_clock_drives_is_on_its_line_with_its_drivers():
    m, prices = mac(16, 5, bits=6), load_prices("analog28")
    counted = totals(m.events(PROCESS, period_s=1e-6))["clock_charge_C"]
    ledger = bill(m, prices, process=PROCESS, period_s=1e-6)
    spent = ledger.by_event()["clock_charge_C"]
    volts = float(PROCESS.supply_V)
    assert spent.nominal == pytest.approx(1.67 * counted * volts, rel=1e-5, abs=0)
    on_line = {row.line for row in ledger.rows if row.event == "clock_charge_C"}
    assert on_line == {"clock"}


def test_what_settles_is_counted_as_ideal_amplifiers():
    m = mac(16, 5, bits=6)
    events = m.events(PROCESS, period_s=2e-6)
    named = {e.part for e in events if e.name == "amplifier_charge_C"}
    assert named == {"input drivers", "amplifiers"}
    charge = m.charge_C(PROCESS)
    settled = float(charge["input drivers"] + charge["amplifiers"])
    found = totals(events)["amplifier_charge_C"]
    assert found == pytest.approx(settled, rel=1e-5, abs=0)


def test_digital_events():
    counts = totals(mac(16, 5, bits=6).events(PROCESS, period_s=2e-6))
    assert counts["stored_bit_s"] == pytest.approx(16 * 5 * 6 * 2e-6)
    assert set(counts) == {
        "supply_charge_C",
        "amplifier_charge_C",
        "clock_charge_C",
        "stored_bit_s",
        "flop_cycle",
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_in": 0}, "`n_in` and `n_out` must be positive, but are 0 and 5"),
        ({"n_out": -1}, "`n_in` and `n_out` must be positive, but are 16 and -1"),
        ({"bits": 1}, "`bits` must be None or from 2 to 16, but is 1"),
        ({"bits": 17}, "`bits` must be None or from 2 to 16, but is 17"),
    ],
)
def test_an_impossible_mac_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        mac(**changes)
