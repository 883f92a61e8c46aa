"""The bill: what is summed, what is refused, what is never hidden."""

import dataclasses
import json
import math
import operator
from typing import Any

import equinox as eqx
import jax
import jax.random as jr
import pytest

from physnn.energy import (
    LINES,
    Ledger,
    Measured,
    Modeled,
    bill,
    load_prices,
    supply_energy_J,
)
from physnn.energy.events import EVENTS, Event, adc_event
from physnn.process import load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig

PROCESS = load_process("cmos28")
SMALL = physical_config(width=8, n_layers=2, n_states=6, n_hidden=10, n_taps=2)
TINY = TransformerConfig(width=8, n_blocks=2, n_heads=2, n_hidden=12, context=15)

PRICE = """
[[price]]
line = "arithmetic"
event = "mac"
low = 1
nominal = 2
high = 4
unit = "pJ/op"
source = "a test"
confidence = "high"
"""
REST_ZERO = f"""
[[price]]
zero = true
line = {json.dumps(list(LINES), ensure_ascii=False)}
reason = "not in this test"
"""


@dataclasses.dataclass
class Counts:
    """A design that is nothing but its events."""

    made: tuple[Event, ...]

    def events(self, process, *, period_s):
        del process, period_s
        return self.made


def shapes_of(config):
    """A design that was never built."""
    return eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )


@pytest.fixture(scope="module")
def physical():
    build = eqx.filter_jit(
        lambda key: SMALL.build(vocabulary=16, process=PROCESS, key=key)
    )
    return build(jr.key(0))


@pytest.fixture(scope="module")
def transformer():
    return shapes_of(TINY)


@pytest.fixture
def write(tmp_path):
    def write(text, *, head='description = "for a test"\n'):
        path = tmp_path / "own.toml"
        path.write_text(head + text)
        return path

    return write


def billed(prices, *events, period_s: float | None = 1e-6) -> Ledger:
    return bill(Counts(events), prices, process=PROCESS, period_s=period_s)


def counted(design, name, part="", period_s=1e-6) -> float:
    return sum(
        float(event.count)
        for event in design.events(PROCESS, period_s=period_s)
        if event.name == name and event.part.startswith(part)
    )


def test_count_times_price(write):
    ledger = billed(load_prices(write(PRICE + REST_ZERO)), Event("mac", 3e6, "a"))
    assert ledger.total == Modeled(3e-6, 6e-6, 12e-6)
    (row,) = ledger.rows
    assert (row.part, row.line, row.count, row.unit) == ("a", "arithmetic", 3e6, "op")
    assert row.source == "a test"
    # Told in two halves, it costs the same.
    half = Event("mac", 1.5e6, "a")
    assert billed(load_prices(write(PRICE + REST_ZERO)), half, half) == ledger


def test_supply_charge_costs_charge_times_supply():
    prices = load_prices("analog28")
    event = Event("supply_charge_C", 1e-12, "x")
    for supply_V in (0.9, 0.6):
        process = eqx.tree_at(lambda p: p.supply_V, PROCESS, supply_V)
        ledger = bill(Counts((event,)), prices, process=process, period_s=1e-6)
        core = ledger.by_line()["physical core"]
        assert core.nominal == pytest.approx(1e-12 * supply_V)
        assert core.high > core.nominal


def test_ideal_amplifiers_cost_the_excess_of_the_process_in_every_corner():
    event = Event("amplifier_charge_C", 1e-12, "x")
    ledger = billed(load_prices("analog28"), event)
    line = ledger.by_line()["amplifiers"]
    times, ideal_J = PROCESS.amplifier_excess, 1e-12 * PROCESS.supply_V
    found = [line.low / ideal_J, line.nominal / ideal_J, line.high / ideal_J]
    assert found == pytest.approx(times)
    assert PROCESS.sources["amplifier_excess"] in ledger.rows[0].note
    spent = float(supply_energy_J(Counts((event,)), PROCESS, period_s=1e-6))
    assert spent == pytest.approx(line.nominal, rel=1e-6, abs=0)


def test_multipliers_compound_in_every_corner():
    prices = load_prices("sram2030")
    total = billed(prices, Event("mac", 1e6)).total
    macs = [price for price in prices.rows if price.event == "mac"]
    for corner in ("low", "nominal", "high"):
        wall = math.prod(getattr(each, corner) for each in prices.multipliers)
        expected = 1e6 * sum(getattr(mac, corner) for mac in macs) * wall
        assert getattr(total, corner) == pytest.approx(expected, rel=1e-6, abs=0)


def test_the_best_efficiency_is_the_lowest_multiplier():
    (regulators,) = (
        each
        for each in load_prices("sram2030").multipliers
        if each.line == "regulators"
    )
    corners = regulators.low, regulators.nominal, regulators.high
    assert corners == pytest.approx((1 / 0.93, 1 / 0.90, 1 / 0.85))


def test_both_sides_pay_the_same_multipliers_and_the_same_sampler(
    physical, transformer
):
    ours, theirs = load_prices("analog28"), load_prices("sram2030")
    assert ours.multipliers == theirs.multipliers
    for name in ("random_bit", "compare", "io_bit", "host_token"):
        assert counted(physical, name) == counted(transformer, name) > 0


def test_floor_charges_only_what_is_missing():
    prices = load_prices("gpu2030")
    host = Event("host_token", 1)
    alone = billed(prices, host).total
    assert alone.nominal == pytest.approx(34e-6 / 8)
    small = billed(prices, host, Event("mac", 1e6))
    assert small.total.nominal == pytest.approx(alone.nominal)
    large = billed(prices, host, Event("mac", 1e9))
    assert large.by_line()["host"].nominal == 0
    assert large.total.nominal == pytest.approx(1.74e-3)


def test_batch_shares_only_what_is_per_batch():
    prices = load_prices("gpu2030")
    events = Event("mac", 1e9), Event("weight_byte", 1e9)
    at = {b: billed(prices.at_batch(b), *events).by_line() for b in (1, 8)}
    weights = [at[b]["weights"].nominal for b in (1, 8)]
    assert weights[0] == pytest.approx(8 * weights[1])
    assert at[1]["arithmetic"] == at[8]["arithmetic"]
    with pytest.raises(ValueError, match="at least 1"):
        prices.at_batch(0.5)


def test_parts_at_both_ends_are_lines_of_their_own():
    prices = load_prices("sram2030")
    lines = billed(
        prices,
        Event("weight_byte", 1, "embedding"),
        Event("weight_byte", 10, "head"),
        Event("mac", 10, "head"),
        Event("weight_byte", 100, "header"),
    ).by_line()
    byte = next(row.nominal for row in prices.rows if row.event == "weight_byte")
    mac = next(row.nominal for row in prices.rows if row.event == "mac")
    assert lines["embedding"].nominal == pytest.approx(byte)
    assert lines["output head"].nominal == pytest.approx(10 * (byte + mac))
    assert lines["weights"].nominal == pytest.approx(100 * byte)


def test_couplers_of_oscillators_are_a_line():
    parts = ("oscillator0.cell.couplers", "oscillator0.cell.rings", "links")
    events = [Event("supply_charge_C", 1e-12, part) for part in parts[:2]]
    lines = billed(load_prices("analog28"), *events).by_line()
    assert lines["couplers"] == lines["physical core"]
    # A converter between two chips is part of their link.
    link = billed(load_prices("analog28"), Event("dac_conversion", 1, "links"))
    assert "chip to chip" in link.by_line()
    assert "converters" not in link.by_line()


def test_nothing_is_left_out_silently(write):
    unpriced = load_prices(write(PRICE + REST_ZERO))
    with pytest.raises(ValueError, match=r"must price event `cache_byte`.*`blocks`"):
        billed(unpriced, Event("cache_byte", 1, "blocks"))
    unlined = load_prices(write(PRICE + REST_ZERO.replace('"host", ', "")))
    with pytest.raises(ValueError, match="must have the line `host`"):
        billed(unlined, Event("mac", 1))
    with pytest.raises(ValueError, match="must be in the vocabulary"):
        billed(unpriced, Event("wish", 1))
    for count in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            billed(unpriced, Event("mac", count))
    for period_s in (None, 0.0):
        with pytest.raises(ValueError, match="`period_s`"):
            billed(unpriced, Event("mac", 1), period_s=period_s)


def test_amdahl_says_what_a_free_line_would_bring():
    prices = load_prices("sram2030")
    events = {
        "arithmetic": Event("elementwise", 1e6),
        "weights": Event("weight_byte", 3e5),
        "leakage": Event("stored_bit_s", 10.0),
    }
    ledger = billed(prices, *events.values())
    rows = ledger.amdahl()
    shares = [row["share"] for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    for row in rows:
        if row["line"] in events:
            rest = [event for line, event in events.items() if line != row["line"]]
            gain = ledger.total.nominal / billed(prices, *rest).total.nominal
            assert row["gain_if_free"] == pytest.approx(gain)
    assert rows[0]["line"] in ledger.largest()
    assert billed(prices, events["weights"]).amdahl()[0]["gain_if_free"] is None


def test_modeled_and_measured_cannot_be_added():
    modeled: Any = Modeled(1.0, 2.0, 3.0)
    measured: Any = Measured(2.0, window_s=60.0, instrument="NVML")
    for a, b in ((modeled, measured), (measured, modeled)):
        with pytest.raises(TypeError, match="side by side"):
            operator.add(a, b)
    assert modeled + modeled == Modeled(2.0, 4.0, 6.0)
    assert (measured + measured).energy == 4.0
    with pytest.raises(ValueError, match="one instrument"):
        operator.add(measured, Measured(1.0, window_s=1.0, instrument="wall meter"))


def test_bill_prints_its_total_sources_zeros_and_doubts(physical):
    ledger = bill(physical, load_prices("analog28"), process=PROCESS)
    text = str(ledger)
    for line in LINES:
        assert line in text
    for source in ledger.sources():
        assert source["source"] in text
    for reason in (*ledger.zero_lines.values(), ledger.largest()):
        assert reason in text
    assert "Caution" in text
    assert ledger.weak_share() > 0.1
    founding = billed(load_prices("founding"), Event("mac", 1e11))
    assert founding.weak_share() == 0
    assert "Caution" not in str(founding)
    assert "7 mJ" in str(founding)


@pytest.mark.parametrize("prices", ["analog28", "gpu2030", "sram2030", "rom2030"])
def test_json_keeps_every_joule(prices, physical, transformer):
    design = physical if prices == "analog28" else transformer
    ledger = bill(design, load_prices(prices), process=PROCESS, period_s=1e-6)
    found = json.loads(json.dumps(ledger.to_json(), allow_nan=False))
    for corner in ("low", "nominal", "high"):
        rows = [row["energy_J"][corner] for row in found["rows"]]
        assert sum(rows) == pytest.approx(found["total_J"][corner], rel=1e-6, abs=0)
    assert 0 < ledger.total.low <= ledger.total.nominal <= ledger.total.high
    lines = {row["line"] for row in found["rows"]} | {z["line"] for z in found["zeros"]}
    assert lines == set(LINES)
    assert sum(source["share"] for source in found["sources"]) == pytest.approx(1)
    again = bill(design, load_prices(prices), process=PROCESS, period_s=1e-6)
    assert again == ledger


# Our models


def test_unbuilt_designs_are_billed(physical):
    prices = load_prices("analog28")
    drawn = bill(physical, prices, process=PROCESS)
    unbuilt = bill(shapes_of(SMALL), prices, process=PROCESS)
    assert unbuilt.total.nominal == pytest.approx(drawn.total.nominal, rel=0.1)
    for line in ("converters", "leakage"):
        counted = drawn.by_line()[line].nominal
        same = pytest.approx(counted, rel=1e-6, abs=0)
        assert unbuilt.by_line()[line].nominal == same


def test_supply_energy_is_the_analog_part_of_the_bill(physical):
    ledger = bill(physical, load_prices("analog28"), process=PROCESS)
    spent = ledger.by_event()
    analog = spent["supply_charge_C"].nominal + spent["amplifier_charge_C"].nominal
    assert float(supply_energy_J(physical, PROCESS)) == pytest.approx(
        analog, rel=1e-5, abs=0
    )
    unbuilt = billed(load_prices("analog28"), Event("io_bit", 1))
    assert unbuilt.by_line().keys().isdisjoint({"physical core"})
    assert float(supply_energy_J(Counts(()), PROCESS, period_s=1e-6)) == 0


def test_supply_energy_can_stand_in_a_loss(physical):
    def energy(size):
        model = eqx.tree_at(lambda m: m.head.weight.size, physical, size)
        return supply_energy_J(model, PROCESS) / 1e-12

    value, slope = eqx.filter_jit(jax.value_and_grad(energy))(0.5)
    up, down = energy(0.51), energy(0.49)
    assert float(slope) == pytest.approx(float(up - down) / 0.02, rel=0.01)
    assert value > 0
    assert slope > 0, "larger capacitors draw more charge"


def test_events_of_the_physical_model(physical):
    c, vocabulary = SMALL, 16
    n_states, n_hidden = 6, 10
    assert counted(physical, "rom_bit", "embedding") == c.width * c.converter_bits
    assert counted(physical, "dac_conversion") == c.width
    assert counted(physical, "adc_conversion_8b", "head") == vocabulary
    weights = c.n_layers * c.width * (4 * n_states + 3 * n_hidden)
    stored = (weights + c.width * vocabulary) * c.weight_bits
    assert counted(physical, "stored_bit_s", period_s=2e-6) == pytest.approx(
        stored * 2e-6
    )
    kinds = ("gated_rc", "gated_unit")
    parts = {
        event.part.split(".")[0] for event in physical.events(PROCESS, period_s=1.0)
    }
    assert {"agc", "head"} | {f"{kind}{i}" for kind in kinds for i in (0, 1)} <= parts
    # Every residual has its hold and its wire.
    for name in (".skip", ".wires"):
        found = [
            event
            for event in physical.events(PROCESS, period_s=1.0)
            if event.part.endswith(name)
        ]
        # The charge of its capacitors, and that of what settles them.
        assert len(found) == 2 * 2 * c.n_layers
        assert all(float(event.count) > 0 for event in found)


def test_converters_without_a_price_are_refused():
    names = [adc_event(bits) for bits in range(1, 9)]
    assert set(names) == {"adc_conversion_4b", "adc_conversion_6b", "adc_conversion_8b"}
    assert set(names) <= set(EVENTS)
    model = shapes_of(dataclasses.replace(SMALL, converter_bits=10))
    with pytest.raises(ValueError, match="at most 8 bits"):
        bill(model, load_prices("analog28"), process=PROCESS)


def test_events_of_the_transformer(transformer):
    c, vocabulary = TINY, 16
    matrices = c.n_blocks * (4 * c.width**2 + 3 * c.width * c.n_hidden)
    head = c.width * vocabulary
    norms = (2 * c.n_blocks + 1) * c.width
    assert counted(transformer, "mac") == matrices + head
    assert counted(transformer, "mac", "head") == head
    # One row of the embedding, and everything else, once per token.
    assert counted(transformer, "weight_byte") == matrices + head + norms + c.width
    # Queries times keys and weights times values over 8 = (15 + 1) / 2 positions.
    assert counted(transformer, "attention_mac") == 2 * c.n_blocks * c.width * 8
    written = 2 * c.n_blocks * c.width
    assert counted(transformer, "cache_byte") == 2 * c.n_blocks * c.width * 8 + written
    parameters = matrices + head + norms + c.width * vocabulary
    cache = 2 * c.n_blocks * c.width * c.context
    assert counted(transformer, "stored_bit_s", period_s=1.0) == 8 * (
        parameters + cache
    )


def test_lower_precision_moves_fewer_bytes(transformer):
    half = shapes_of(dataclasses.replace(TINY, bits=4))
    for name in ("weight_byte", "cache_byte", "activation_byte", "stored_bit_s"):
        assert counted(half, name) == pytest.approx(counted(transformer, name) / 2)
    assert counted(half, "mac") == counted(transformer, "mac")
