"""Rulers: floors against closed forms and the golden rows of energy.md."""

import math

import jax.random as jr
import numpy as np
import pytest

from circuits.converters import SarConverter
from evals.rulers import (
    BITS,
    Ruler,
    event_rulers,
    landauer_J,
    measured_snr,
    ruler_table,
    rulers,
    sample_floor_J,
    snr_of_bits,
)
from physnn.energy import bill, load_prices
from physnn.energy.events import EVENTS, Event
from physnn.energy.facts import load_facts
from tests.helpers import PERIOD_S, PROCESS, WITHOUT_NOISE, member
from tests.systems import BOLTZMANN

FACTS = load_facts()
ANALOG = load_prices("analog28")
# One of each family that is no network of others, and is quick to compile.
NOISY = ("ChargeMac", "DelayLine", "GatedRC", "ChannelLayer", "HostileTwins")


class Counts:
    def __init__(self, *made):
        self.made = made

    def events(self, process, *, period_s):
        del process, period_s
        return self.made


def billed(prices, *made):
    return bill(Counts(*made), load_prices(prices), process=PROCESS, period_s=1e-6)


def times(value: float | None) -> float:
    assert value is not None
    return value


def ruled(name):
    (row,) = rulers(
        member(name), ANALOG, process=PROCESS, period_s=PERIOD_S, key=jr.key(0)
    )
    return row


def test_the_noise_floor_is_that_of_the_golden_rows():
    golden = FACTS["golden.30.8ktsnr8"]
    assert golden.low <= sample_floor_J(snr_of_bits(8)) / 1e-15 <= golden.high
    for bits in (4, 6, 8, 10, 12):
        fact = FACTS[f"limit.8ktsnr.{bits}b"]
        floor = sample_floor_J(snr_of_bits(bits)) / 1e-15
        assert floor == pytest.approx(fact.nominal, rel=0.01)


def test_the_best_converter_of_the_survey_is_as_far_above_it():
    best_J = FACTS["adc.survey.e8.1g"].low * 1e-12
    row = Ruler("adc", "event", 7 * best_J, 7.0, snr_of_bits(8), 56.0, 300.0)
    golden = FACTS["golden.27.adc.vs.ktc"]
    assert golden.low <= times(row.over_noise) <= golden.high
    # That of the bill is at its list's price.
    (adc,) = event_rulers(billed("analog28", Event("adc_conversion_8b", 5, "head")))
    price = FACTS["adc.rule.8b"].nominal / FACTS["adc.survey.e8.1g"].low
    assert adc.over_noise == pytest.approx(times(row.over_noise) * price, rel=1e-3)


def test_a_moved_bit_is_as_far_above_landauer_as_the_golden_row():
    # Weights from HBM alone: 39 pJ per byte.
    (row,) = event_rulers(billed("founding", Event("cache_byte", 1e9)))
    golden = FACTS["golden.19.landauer.hbmbit"]
    assert golden.low <= times(row.over_landauer) <= golden.high
    assert landauer_J(1) == pytest.approx(
        BOLTZMANN * 300 * math.log(2), rel=1e-6, abs=0
    )
    assert row.over_noise is None


def test_prices_of_one_event_add_up_over_its_bits_once():
    ledger = billed(
        "founding", Event("weight_byte", 3.0, "a"), Event("weight_byte", 5.0)
    )
    (row,) = event_rulers(ledger)
    assert row.samples == 8.0
    assert row.erased == 64.0
    assert row.spent_J == pytest.approx(8 * (39 + 2 + 2.4) * 1e-12, abs=0)
    assert set(BITS) <= set(EVENTS)


def test_a_sampling_capacitor_has_its_own_charge_as_floor():
    # Var = kT/C/V², full scale ±V: 8kT·(1/2)/Var = C·(2V)², charged once to full swing.
    mac = member("ChargeMac")
    predicted = 0.5 / float(np.mean(mac.noise_variance(PROCESS)))
    found = measured_snr(mac, process=PROCESS, key=jr.key(3))
    n = 4 * 8 * mac.n_out  # samples behind the measured variance
    assert found == pytest.approx(predicted, rel=3 * math.sqrt(2 / n))
    held_F = BOLTZMANN * 300 / (PROCESS.swing_V**2 * 0.5 / predicted)
    floor = sample_floor_J(predicted, 300.0)
    assert floor == pytest.approx(held_F * (2 * PROCESS.swing_V) ** 2, rel=1e-3, abs=0)


@pytest.mark.parametrize("name", NOISY)
def test_nothing_spends_less_than_its_floors(name):
    row = ruled(name)
    assert times(row.over_noise) > 1
    assert times(row.over_landauer) > 1000
    assert row.samples == member(name).n_out


@pytest.mark.parametrize("name", sorted(WITHOUT_NOISE))
def test_what_has_no_noise_of_its_own_has_no_noise_floor(name):
    row = ruled(name)
    assert (row.snr, row.over_noise) == (None, None)
    assert row.spent_J > 0


def test_bits_have_landauer_alone():
    row = ruled("Thermometer")
    assert row.over_noise is None
    assert times(row.over_landauer) > 1000


def test_a_converter_tells_its_effective_bits():
    sar = SarConverter(3, bits=6, process=PROCESS)
    row, *_ = rulers(sar, ANALOG, process=PROCESS, period_s=1e-6, key=jr.key(0))
    assert row.snr == pytest.approx(snr_of_bits(sar.effective_bits(PROCESS)))
    assert times(row.over_noise) > 100


def test_alike_parts_are_one_row_and_the_table_shows_it():
    rows = rulers(
        member("Chain"), ANALOG, process=PROCESS, period_s=PERIOD_S, key=jr.key(0)
    )
    spent = [row.spent_J for row in rows]
    assert spent == sorted(spent, reverse=True)
    text = ruler_table(rows)
    for row in rows:
        assert row.kind in text
    assert "over 8kT·SNR" in text
