"""The tornado: which price moves the ratio, and by how much."""

import pytest

from evals.recorded import Recorded
from evals.sensitivity import Side, at_corner, price_id, tornado, with_excess
from physnn.energy import bill, load_prices
from physnn.energy.events import Event
from physnn.process import load_process

PROCESS = load_process("cmos28")
OURS, SRAM = load_prices("analog28"), load_prices("sram2030")


def side(prices, *designs) -> Side:
    def biller(events):
        design = Recorded(events, 1e-6)
        return lambda each: bill(design, each, process=PROCESS).total

    return Side(prices, tuple(biller(events) for events in designs))


PHYSICAL = side(OURS, (Event("supply_charge_C", 1e-9), Event("stored_bit_s", 1e-3)))
LADDER = side(
    SRAM,
    (Event("mac", 1e3), Event("stored_bit_s", 1e-2)),
    (Event("mac", 1e5), Event("stored_bit_s", 1.0)),
)
SCORES = (2.4, 2.0)


def rows(bits=2.4, ours=PHYSICAL, ladder=LADDER, **options):
    return {row["price"]: row for row in tornado(bits, ours, ladder, SCORES, **options)}


def test_a_price_that_is_the_whole_bill_moves_it_in_proportion():
    own = side(OURS, (Event("supply_charge_C", 1e-9),))
    ladder = side(SRAM, (Event("compare", 1e3),), (Event("compare", 1e5),))
    found = rows(ours=own, ladder=ladder)
    add = found["base2030.asic.add32"]
    price = next(r for r in SRAM.rows if r.event == "compare")
    assert add["sides"] == "opponent"
    assert add["swing"] == pytest.approx(price.high / price.low)
    assert add["ratio_low"]["nominal"] < add["ratio_high"]["nominal"]
    charge = found["an.supply.charge"]
    assert charge["sides"] == "physical"
    # Dearer charge, smaller ratio.
    assert charge["ratio_high"]["nominal"] < charge["ratio_low"]["nominal"]


def test_a_shared_price_moves_both_sides_at_once():
    leaking = (Event("stored_bit_s", 1e-3),)
    both = rows(
        ours=side(OURS, leaking), ladder=side(SRAM, leaking, (Event("mac", 1e9),))
    )
    # The same leak and the same losses on both sides: neither matters.
    assert "ovh.vr" in both
    for price in ("leak.7.sram", "ovh.vr", "ovh.board.asic"):
        assert both[price]["sides"] == "both"
        assert both[price]["swing"] == pytest.approx(1.0)
    assert rows()["leak.7.sram"]["swing"] > 1.01


def test_the_largest_swing_comes_first_and_the_list_is_cut():
    found = tornado(2.2, PHYSICAL, LADDER, SCORES)
    swings = [row["swing"] for row in found]
    assert swings == sorted(swings, reverse=True)
    assert len(tornado(2.2, PHYSICAL, LADDER, SCORES, n_shown=2)) == 2
    assert all(row["source"] and row["confidence"] for row in found)


def test_prices_that_no_event_uses_are_not_listed():
    assert not {"adc.rule.8b", "base2030.asic.sram.byte"} & set(rows())


def test_one_price_alone_is_moved():
    moved = at_corner(OURS, "adc.rule.8b", "high")
    for before, after in zip(OURS.rows, moved.rows, strict=True):
        if price_id(before, OURS) == "adc.rule.8b":
            assert after.low == after.nominal == after.high == before.high
        else:
            assert after == before
    assert moved.multipliers == OURS.multipliers


def test_the_exponent_of_a_width_moves_alone():
    narrow = lambda n: (Event("mac", n, bits=4.0),)
    (mac,) = (r for r in SRAM.rows if (r.event, r.line) == ("mac", "arithmetic"))
    assert mac.width is not None
    found = rows(ladder=side(SRAM, narrow(1e3), narrow(1e5)))
    row = found[mac.width.fact]
    assert (row["sides"], row["lines"]) == ("opponent", ["arithmetic"])
    assert row["confidence"] == mac.width.confidence
    assert row["low"] == pytest.approx(mac.width.low / mac.width.nominal)
    # A higher exponent makes narrow multiplications cheaper, by 2^p of the arithmetic.
    pinned = at_corner(SRAM, mac.width.fact, "high")
    (moved,) = (r for r in pinned.rows if (r.event, r.line) == ("mac", "arithmetic"))
    assert moved.joules(PROCESS, 4.0)[1] == pytest.approx(
        mac.nominal / 2**mac.width.high
    )
    assert row["ratio_high"]["nominal"] < row["ratio_low"]["nominal"]
    # At the width its price is of it is in no bill.
    assert mac.width.fact not in rows()


def test_the_excess_of_amplifiers_moves_from_corner_to_corner():
    events = (Event("amplifier_charge_C", 1e-9),)
    ours = side(OURS, events)
    ours = Side(with_excess(OURS, PROCESS), ours.bills)
    low, nominal, high = PROCESS.amplifier_excess
    row = rows(ours=ours)["amplifier_excess of cmos28"]
    assert (row["low"], row["high"]) == pytest.approx((low / nominal, high / nominal))
    # Amplifiers are the whole bill here.
    assert row["swing"] == pytest.approx(high / low)
    assert row["source"] == PROCESS.sources["amplifier_excess"]
    (spent,) = ours.bills
    assert spent(ours.prices).nominal == spent(OURS).nominal


def test_below_the_ladder_no_price_makes_a_ratio():
    found = rows(bits=2.6)
    assert found
    assert {row["ratio_low"]["relation"] for row in found.values()} == {"below ladder"}
    assert {row["swing"] for row in found.values()} == {None}
