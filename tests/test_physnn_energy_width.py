"""Widths: what a multiplication of few bits costs, and which machines say so."""

import math
from typing import NamedTuple

import equinox as eqx
import jax.random as jr
import pytest

from physnn.configs import config_folder
from physnn.energy import bill, load_prices
from physnn.energy.events import EVENTS, Event
from physnn.energy.facts import joules_per, load_facts
from physnn.process import load_process
from train.baseline import TransformerConfig
from train.image_baseline import ImageNetworkConfig

PROCESS = load_process("cmos28")
FACTS = load_facts()
MACS = ("mac", "attention_mac")
# Sums of components; what is measured or claimed as a whole has one price.
BY_WIDTH = {"flash", "jouppi7", "near_memory", "sram2030", "sram7"}
DIGITAL = BY_WIDTH | {"b200", "etsoc7", "founding", "gpu2030", "h100", "hc1", "rom2030"}


class Counts(NamedTuple):
    made: tuple[Event, ...]

    def events(self, process, *, period_s):
        del process, period_s
        return self.made


def billed(machine: str, *events: Event):
    return bill(Counts(events), load_prices(machine), process=PROCESS, period_s=1e-6)


def arithmetic(machine: str, bits: float | None, name: str = "mac"):
    return billed(machine, Event(name, 1e9, "a", bits=bits)).by_line()["arithmetic"]


@pytest.mark.parametrize("name", MACS)
@pytest.mark.parametrize("machine", sorted(BY_WIDTH))
def test_narrow_multiplications_cost_less_where_components_are_billed(machine, name):
    law = FACTS["dig.mac.width"]
    own, eight, four, sixteen = (arithmetic(machine, b, name) for b in (None, 8, 4, 16))
    assert own == eight
    # The low corner is that of the steepest law below the price's width, of the
    # flattest above.
    exponents = {"low": law.high, "nominal": law.nominal, "high": law.low}
    for corner, exponent in exponents.items():
        less = getattr(eight, corner) / getattr(four, corner)
        assert less == pytest.approx(2**exponent)
    assert sixteen.low == pytest.approx(2**law.low * eight.low)
    assert sixteen.nominal == pytest.approx(2**law.nominal * eight.nominal)
    assert sixteen.high == pytest.approx(2**law.high * eight.high)


@pytest.mark.parametrize("machine", sorted(DIGITAL - BY_WIDTH))
def test_a_machine_measured_whole_has_one_price_for_all_widths(machine):
    assert arithmetic(machine, 4) == arithmetic(machine, 8) == arithmetic(machine, None)


def test_every_list_is_one_or_the_other():
    found = set()
    for path in (config_folder() / "hardware").glob("*.toml"):
        rows = [row for row in load_prices(path).rows if row.line == "arithmetic"]
        widths = {row.width is not None for row in rows if row.event in MACS}
        assert len(widths) <= 1, path
        if widths == {True}:
            found.add(path.stem)
    assert found == BY_WIDTH


def test_the_law_goes_through_what_was_published():
    law = FACTS["dig.mac.width"]
    value = lambda name: FACTS[name].nominal
    wide = value("dig.45.int32.mul") + value("dig.45.int32.add")
    narrow = value("dig.45.int8.mul") + value("dig.45.int32.add")
    assert law.nominal == pytest.approx(math.log(wide / narrow, 4), abs=0.01)
    wide7 = value("dig.7.int32.mul") + value("dig.7.int32.add")
    measured = [
        math.log(wide7 / (value("dig.7.int8.mul") + value("dig.7.int32.add")), 4),
        math.log2(value("cim.colonnade.8b") / value("cim.colonnade.4b")),
        math.log2(value("gpu.b200.fp8.flop") / value("gpu.b200.fp4.flop")),
    ]
    assert all(law.low <= each <= law.high for each in measured)
    # A bfloat16 multiply and add over an int8 one: nobody took it into account.
    floats = value("dig.7.bf16.mul") + value("dig.7.bf16.add")
    assert 2**law.nominal == pytest.approx(floats / value("dig.7.int8.mac"), rel=0.05)


def test_a_bill_says_by_how_much_and_why():
    ledger = billed("sram7", Event("mac", 1.0, "a", bits=4), Event("mac", 1.0, "b"))
    four, eight = ledger.rows
    assert "at 4 bits" in four.note
    assert "dig.mac.width" in four.note
    assert not eight.note
    # A price is as sure as the weaker of the two it rests on.
    assert (eight.confidence, four.confidence) == ("high", "medium")
    assert four.note in str(ledger)


def test_two_widths_of_one_part_are_two_rows():
    four, eight = Event("mac", 1.0, "a", bits=4), Event("mac", 1.0, "a", bits=8)
    both = billed("sram7", four, eight, eight)
    assert [row.count for row in both.rows] == [1.0, 2.0]
    alone = (
        billed("sram7", four).total.nominal + 2 * billed("sram7", eight).total.nominal
    )
    assert both.total.nominal == pytest.approx(alone)


@pytest.mark.parametrize("bits", [0, -1.0, math.inf, math.nan])
def test_impossible_widths_are_refused(bits):
    with pytest.raises(ValueError, match="must be positive and finite, but are"):
        billed("sram7", Event("mac", 1.0, "a", bits=bits))


def test_registers_of_a_chip_are_clocked_by_the_bit():
    clock = lambda bits: billed(
        "sram2030", Event("mac", 1.0, "a", bits=bits)
    ).by_line()["clock"]
    fact = FACTS["base2030.asic.clock"]
    assert fact.unit == "fJ/MAC"
    assert clock(8).nominal == pytest.approx(1e-15 * fact.nominal)
    assert clock(4).nominal == pytest.approx(clock(8).nominal / 2)
    assert clock(8).nominal < 0.4 * arithmetic("sram2030", 8).nominal
    flop, node = FACTS["cell.asap7.dff.clk"], FACTS["dig.scale.tsmc.n7a14"]
    assert fact.nominal == pytest.approx(20 * flop.nominal / 2.1, rel=0.01)
    assert fact.low == pytest.approx(12 * flop.low / node.high, rel=0.01)
    assert fact.high == pytest.approx(48 * flop.high, rel=0.01)


@pytest.mark.parametrize(
    ("machine", "fact"),
    [("gpu2030", "base2030.gpu.cache"), ("hc1", "dig.7.sram1m.byte")],
)
def test_a_cache_has_a_price_on_whole_machines(machine, fact):
    ledger = billed(machine, Event("cache_byte", 1e6, "cache"))
    parsed = joules_per(FACTS[fact].unit)
    assert parsed is not None
    per_J, unit = parsed
    assert unit == EVENTS["cache_byte"][0]
    for corner in ("low", "nominal", "high"):
        spent = getattr(ledger.total, corner)
        assert spent == pytest.approx(1e6 * per_J * getattr(FACTS[fact], corner))


def test_the_cache_of_2030_is_memory_and_link_moved_as_the_law_was():
    moved = FACTS["base2030.gpu.stream"].nominal / FACTS["sys.decode.stream"].nominal
    cache = FACTS["base2030.gpu.cache"].nominal
    assert cache == pytest.approx(FACTS["founding.hbm.byte"].nominal * moved, rel=0.01)


def opponent(**sizes):
    config = TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=12, **sizes)
    return eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )


def test_a_transformer_multiplies_as_wide_as_its_weights_and_its_cache():
    wide = {
        (bits, cache): bill(
            opponent(bits=bits, cache_bits=cache),
            load_prices("sram7"),
            process=PROCESS,
            period_s=1e-6,
        ).by_event()
        for bits, cache in ((8, 0), (4, 0), (8, 4))
    }
    halved = 2 ** FACTS["dig.mac.width"].nominal
    for name in MACS:
        less = wide[8, 0][name].nominal / wide[4, 0][name].nominal
        assert less == pytest.approx(halved)
    # A cache of 4 bits: the products of attention alone, and of them one operand.
    assert wide[8, 4]["mac"] == wide[8, 0]["mac"]
    one = wide[8, 0]["attention_mac"].nominal / wide[8, 4]["attention_mac"].nominal
    assert one == pytest.approx(math.sqrt(halved))
    # Non-linearities stay as wide as they are.
    assert wide[4, 0]["elementwise"] == wide[8, 0]["elementwise"]


def test_an_image_network_multiplies_its_weights_with_activations_of_8_bits():
    network = ImageNetworkConfig(side=4, hidden=(3,), bits=2)
    widths = {e.bits for e in network.events(10, period_s=1e-6) if e.name == "mac"}
    assert widths == {4.0}
