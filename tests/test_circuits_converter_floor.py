"""Converters get no credit below what was measured, on any process and list."""

import pytest

from circuits.converter_floor import DAC_FLOOR_J, dac_floor_J
from circuits.converters import Dac
from physnn.energy import bill, load_prices
from physnn.energy.facts import load_facts
from physnn.process import load_process

FACTS = load_facts()


def test_the_floor_is_the_best_that_was_measured():
    assert pytest.approx(FACTS["dac.clamp.8b"].nominal) == DAC_FLOOR_J * 1e12
    measured = ("dac.brahms", "dac.lightning", "dac.16nm.14g")
    assert min(FACTS[name].low for name in measured) == FACTS["dac.clamp.8b"].nominal
    for prices in ("analog28", "analog130"):
        (row,) = (r for r in load_prices(prices).rows if r.event == "dac_conversion")
        assert row.low >= dac_floor_J(8) * (1 - 1e-9)
    # In proportion to bits, as the fitted rule has it.
    assert 2 * dac_floor_J(4) == pytest.approx(dac_floor_J(8), rel=1e-9, abs=0)


@pytest.mark.parametrize("card", ["cmos28", "cmos7", "sky130"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_dac_bills_its_own_charge_or_the_floor(card, bits):
    process = load_process(card)
    dac = Dac(3, bits=bits, process=process)
    events = dac.events(process, period_s=1e-6)
    times = {"supply_charge_C": 1.0, "amplifier_charge_C": process.amplifier_excess.low}
    parts = {e.part: e.count * times[e.name] for e in events if e.name in times}
    joules = float(sum(parts.values())) * process.supply_V / 3
    floor = parts.pop("measured floor", 0.0) * process.supply_V / 3
    own = joules - floor
    assert joules == pytest.approx(max(own, dac_floor_J(bits)), rel=1e-6, abs=0)
    assert (floor > 0) is (own < dac_floor_J(bits))
    # In the lowest corner, too; flip-flops come on top.
    ledger = bill(dac, load_prices("analog28"), process=process, period_s=1e-6)
    lines = ledger.by_line()
    core = lines["physical core"] + lines["amplifiers"]
    assert core.low >= 3 * dac_floor_J(bits) * (1 - 1e-6)
    assert ledger.by_line()["clock"].nominal > 0
