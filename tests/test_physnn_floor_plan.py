"""The floor plan: lengths and borders against closed forms."""

import math

import equinox as eqx
import jax.random as jr
import pytest

from circuits.mac import ChargeMac
from circuits.rom import ROM_BIT_M2
from physnn.energy import bill, load_prices
from physnn.energy.events import Event
from physnn.energy.facts import joules_per, load_facts
from physnn.energy.floor_plan import Geometry, Part, Site, plan, site_of, wiring
from physnn.process import load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig

PROCESS = load_process("cmos28")
CHIP = 100e-6  # m²: 10 mm on a side
PLACED = Geometry("in place", 1e-12, None, CHIP, ())


def test_neighbors_are_half_of_both_sides_apart():
    found = plan([Part("a", 4e-6, leaving=3.0), Part("b", 16e-6)], CHIP)
    assert found.lengths == pytest.approx(3.0 * (2e-3 + 4e-3) / 2)
    assert (found.chips, found.crossing) == (1, 0.0)
    assert found.area_m2 == pytest.approx(20e-6)
    # Inside, a bit runs along one side.
    alone = plan([Part("a", 9e-6, inside=5.0)], CHIP)
    assert alone.lengths == pytest.approx(5.0 * 3e-3)


def test_what_does_not_fit_begins_a_new_chip():
    parts = [Part(str(i), 0.6 * CHIP, leaving=7.0) for i in range(4)]
    found = plan(parts, CHIP)
    assert found.chips == 4
    assert found.crossing == 3 * 7.0
    together = plan([Part(str(i), 0.5 * CHIP, 7.0) for i in range(4)], CHIP)
    assert (together.chips, together.crossing) == (2, 7.0)


@pytest.mark.parametrize(("chips", "borders"), [(1, 0), (4, 1), (9, 2)])
def test_a_part_larger_than_a_chip_is_crossed_on_its_way(chips, borders):
    found = plan([Part("a", chips * CHIP, inside=11.0)], CHIP)
    assert (found.chips, found.crossing) == (chips, borders * 11.0)
    assert plan([], CHIP).chips == 0


def test_activations_run_along_a_row_and_down_a_column_of_their_layer():
    bits, moved, row = 1e6, 50.0, 4.0
    events = (
        Event("weight_byte", row, "embedding"),
        Event("weight_byte", bits / 8, "blocks.mlp"),
        Event("stored_bit_s", bits + 8 * row, "weights"),
        Event("activation_byte", moved, "blocks"),
    )
    found, made = wiring(events, Site(4), PLACED, period_s=1.0)
    side, first = math.sqrt(bits * 1e-12 / 4), math.sqrt(8 * row * 1e-12)
    along = 8 * moved * 2 * side + 8 * row * (3.5 * side + first / 2 + side / 2)
    assert found.lengths == pytest.approx(along)
    assert {e.name: e.count for e in made} == {"wire_bit_m": found.lengths}


def test_experts_that_rest_take_area_too():
    def area(active):
        events = (
            Event("weight_byte", 1e6 * active, "blocks.experts", active),
            Event("mac", 1e6 * active, "blocks.experts"),
            Event("stored_bit_s", 8e6, "weights"),
        )
        hard = Geometry("in place", 1e-12, 1e-12, CHIP, ())
        plans = (wiring(events, Site(), g, period_s=1.0)[0] for g in (PLACED, hard))
        return [found.parts[1].area_m2 for found in plans]

    assert area(1 / 8) == pytest.approx(area(1.0))
    assert area(1.0) == pytest.approx([8e-6, 1e-6])


def test_a_byte_from_memory_at_the_edge_costs_its_distance():
    # energy.md 8, row 3: 2.4 pJ per byte is 5 mm of wire, not the way across a chip.
    ledger = bill(
        _Counts((Event("weight_byte", 1e9),)),
        load_prices("jouppi7"),
        process=PROCESS,
        period_s=1e-3,
    )
    facts = load_facts()
    scale = joules_per("fJ/bit/mm")
    assert scale is not None
    per_bit_m = facts["wire.7.default"].nominal * scale[0]
    side_m = math.sqrt(facts["chip.area.max"].nominal * 1e-6)
    wires = ledger.by_event()["weight_bit_m"].nominal / 1e9
    assert wires == pytest.approx(8 * per_bit_m * side_m / 4, abs=0)
    founding = facts["founding.comm.byte"].nominal * 1e-12
    assert founding / (8 * per_bit_m) == pytest.approx(5e-3)
    # A batch reads weights once, and so moves them once.
    shared = bill(
        _Counts((Event("weight_byte", 1e9),)),
        load_prices("jouppi7").at_batch(8),
        process=PROCESS,
        period_s=1e-3,
    )
    assert shared.by_event()["weight_bit_m"].nominal == pytest.approx(1e9 * wires / 8)


class _Counts:
    def __init__(self, made):
        self.made = made

    def events(self, process, *, period_s):
        del process, period_s
        return self.made


def test_a_circuit_that_has_drawn_itself_takes_the_area_of_its_lines():
    mac = ChargeMac(32, 8, bits=6, process=PROCESS, key=jr.key(0))
    (drawn,) = site_of(mac, PROCESS).circuits
    assert drawn.device_m2 == pytest.approx(float(mac.span_m(PROCESS)) ** 2, abs=0)
    assert (drawn.n_in, drawn.n_out) == (32, 8)


def test_sites_of_built_and_unbuilt_designs_agree():
    config = physical_config(width=8, n_layers=2, n_states=6, n_hidden=10, n_taps=2)
    build = lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    unbuilt = eqx.filter_eval_shape(build)
    site = site_of(unbuilt, PROCESS)
    names = [each.name for each in site.circuits]
    assert names[0] == "embedding"
    assert {"agc", "head"} <= set(names)
    assert site.circuits[0].bits == 8 * 16 * 8
    assert len([name for name in names if name.startswith("stack.blocks")]) > 4
    transformer = TransformerConfig(width=8, n_blocks=3, n_heads=2, n_hidden=12)
    shapes = eqx.filter_eval_shape(
        lambda: transformer.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )
    assert site_of(shapes, PROCESS) == Site(3, ())


def test_wires_of_the_digital_edges_are_on_the_physical_bill():
    config = physical_config(width=8, n_layers=1, n_states=6, n_hidden=10, n_taps=2)
    shapes = eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )
    ledger = bill(shapes, load_prices("analog28"), process=PROCESS)
    (row,) = (row for row in ledger.rows if row.event == "wire_bit_m")
    circuits = {each.name: each for each in site_of(shapes, PROCESS).circuits}
    first, head = (
        math.sqrt(each.device_m2 + 0.3e-12 * each.bits)
        for each in (list(circuits.values())[1], circuits["head"])
    )
    row_bits, codes = 8 * 8, 16 * 8
    assert row.count == pytest.approx(row_bits * first + codes * head / 2)
    assert row.line == "activations"
    # The way out of the ROM is on the embedding's own line, whole words at full supply.
    (wires,) = (row for row in ledger.rows if row.part == "embedding.row wires")
    side_m = math.sqrt(16 * 8 * 8 * ROM_BIT_M2)
    charge_C = row_bits * side_m * PROCESS.wire_F_per_m * PROCESS.supply_V
    assert wires.count == pytest.approx(charge_C, abs=0)
    assert wires.line == "embedding"
    # A clock runs past all circuits, once for each of their phases: four of a MAC, one
    # for each tap; and one chip works for a token.
    (clock,) = (row for row in ledger.rows if row.event == "clock_m")
    macs = [name for name in circuits if name.endswith(("inputs", "output", "head"))]
    phases = 4 * len(macs) + sum(2 for name in circuits if name.endswith("delay"))
    sides = sum(
        math.sqrt(each.device_m2 + 0.3e-12 * each.bits) for each in circuits.values()
    )
    assert clock.count == pytest.approx(phases * sides)
    assert clock.line == "clock"
    (chip,) = (row for row in ledger.rows if row.event == "chip_s")
    assert (chip.line, chip.count) == ("calibration", shapes.config.period_s)
    assert ledger.plan is not None
    assert ledger.plan.chips == 1
