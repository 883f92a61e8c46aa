"""The cards of `configs/processes/`, and what designs cost on them."""

import dataclasses
import math
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.converter_floor import FLOORS_J, floor_J
from circuits.converters import SarConverter
from circuits.lookup import lookup_layer
from evals.characterize.card import load_card
from physnn.configs import config_folder
from physnn.energy import bill, load_prices
from physnn.energy.events import Event, adc_event
from physnn.energy.facts import load_facts
from physnn.process import MOVED, TABLES, Excess, load_process
from physnn.units import thermal_voltage_V
from tests.helpers import PERIOD_S, physical_config
from tests.systems import ktc_variance
from train.experiment import load_experiment
from train.model import PhysicalConfig

# The largest first; both of 130 nm are from open data, the others are extrapolated.
SHRINKING = ("sky130", "cmos65", "cmos28", "cmos16", "cmos7")
OPEN = ("sky130", "sg13g2")
CARDS = {name: load_process(name) for name in (*OPEN, *SHRINKING[1:])}
FACTS = load_facts()
LISTS = {name: load_prices(name) for name in ("analog28", "analog130")}

# Amounts are far below the absolute tolerance of pytest.
close_to = partial(pytest.approx, rel=1e-6, abs=0)
each_card = pytest.mark.parametrize("process", CARDS.values(), ids=CARDS)


def converter(process, bits):
    """A SAR ADC, and the Joules that its charge alone is billed."""
    sar = SarConverter(1, bits=bits, process=process)
    parts = {e.part: e for e in sar.events(process, period_s=PERIOD_S)}
    # Amplifiers at their best, as in the lowest corner of a bill.
    times = {"supply_charge_C": 1.0, "amplifier_charge_C": process.amplifier_excess.low}
    charges = [e.count * times.get(e.name, 0.0) for e in parts.values()]
    return sar, parts, float(sum(charges)) * process.supply_V


def test_every_card_of_the_folder_is_tested():
    files = {path.stem for path in (config_folder() / "processes").glob("*.toml")}
    assert files == set(CARDS)


@each_card
def test_a_card_says_what_it_is_and_where_each_number_is_from(process):
    path = config_folder() / "processes" / f"{process.name}.toml"
    head = path.read_text().splitlines()[0]
    labeled = "an extrapolation: nothing here is from a foundry" in head
    assert labeled != (process.name in OPEN)
    fields = {field.name for field in dataclasses.fields(process)}
    fields -= {"name", "sources", "shot_noise", *TABLES, *MOVED}
    for table in TABLES:
        fields |= {f"{table}.{key}" for key in getattr(process, table)}
    assert set(process.sources) == fields
    kinds = {"capacitor", "threshold", "current", "ring_frequency"}
    assert set(process.matching) == kinds


@each_card
def test_a_card_obeys_physics(process):
    least_F = process.capacitor_min_F
    amount = {"temperature_K": process.temperature_K, "swing_V": process.swing_V}
    for capacitance_F in (least_F, 16 * least_F):
        expected = ktc_variance(capacitance_F, **amount, excess=process.thermal_noise)
        found = process.thermal_variance(capacitance_F)
        assert found == close_to(expected)
    # Two devices in weak inversion need four thermal voltages each to saturate.
    U_T = thermal_voltage_V(process.temperature_K)
    assert process.supply_V - process.swing_V > 8 * U_T
    assert 1.2 <= process.slope_factor <= 1.5
    # Pelgrom: four times the area has half the spread.
    for kind in process.matching:
        spread = process.spread(kind, 1e-12)
        assert process.spread(kind, 4e-12) == close_to(spread / 2)
    # The threshold moves a current by gm/I, never more than in weak inversion.
    gm_per_I = process.matching["current"] / process.matching["threshold"]
    assert gm_per_I <= 1 / (process.slope_factor * U_T)
    # What is written beside the weights' capacitors is small against them.
    assert process.switch_gate_F < least_F
    # A capacitor of 10 fF keeps its charge for a token of a microsecond.
    assert process.node_leakage_S * PERIOD_S / 10e-15 < 0.01


def test_numbers_of_cards_are_those_of_the_facts_they_name():
    fact = lambda name, unit: FACTS[name].nominal * unit
    mV_um, percent_um = 1e-9, 1e-8
    for name, card in CARDS.items():
        for number, source in card.sources.items():
            named = [word.strip(".,;:()") for word in source.split()]
            like_ids = {w for w in named if w.startswith(("an.", "cell.", "cap.unit"))}
            assert like_ids <= set(FACTS), (name, number)
        assert 0.18e-9 <= card.wire_F_per_m <= 0.3e-9
        assert card.capacitor_min_F >= fact("cap.unit.min", 1e-15)
    for node in (65, 28, 16, 7):
        matching = CARDS[f"cmos{node}"].matching
        assert matching["threshold"] == close_to(fact(f"an.avt.{node}", mV_um))
    ihp, sky = CARDS["sg13g2"], CARDS["sky130"]
    assert ihp.matching["threshold"] == close_to(fact("an.avt.ihp130n", mV_um))
    for name in ("sky130", *SHRINKING[1:]):
        card, fact_of = CARDS[name], {"sky130": "sky130n", "cmos16": "7"}
        which = fact_of.get(name, name.removeprefix("cmos"))
        flicker = fact(f"an.flicker.{which}", 1e-12)  # V²·µm²
        assert card.environment["flicker_V2m2"] == close_to(flicker)
    assert ihp.matching["capacitor"] == fact("an.cmim.ihp130", percent_um)
    pair = FACTS["an.avt.sky130n"]
    assert pair.low <= sky.matching["threshold"] / mV_um <= pair.high
    # Leakage of an inverter, P = G·V².
    for card, cell, supply_V in (
        (sky, "cell.sky130.inv.leak", 1.8),
        (CARDS["cmos7"], "cell.asap7.inv.leak", 0.70),
    ):
        leaked_S = fact(cell, 1e-9) / supply_V**2
        assert card.node_leakage_S == close_to(leaked_S, rel=0.05)
    # MIM capacitors: sky130 grows by 0.15 µm on each side, SG13G2 has an edge.
    assert sky.capacitor_min_F == close_to(2e-15 * 1.15**2, rel=0.01)
    edged = 1.5e-15 * 1.14**2 + 4 * 1.14 * 40e-18
    assert ihp.capacitor_min_F == close_to(edged, rel=0.01)


def test_a_smaller_node_is_smaller_in_everything_and_not_better_in_all():
    cards = [CARDS[name] for name in SHRINKING]
    for number in ("supply_V", "switch_gate_F", "capacitor_min_F"):
        values = [getattr(card, number) for card in cards]
        assert values == sorted(values, reverse=True), number
    spreads = [card.matching["threshold"] for card in cards]
    assert spreads == sorted(spreads, reverse=True)
    # No credit below what was demonstrated, and the smallest capacitor is the noisiest.
    assert len({card.capacitor_min_F for card in cards[2:]}) == 1
    noise = [card.thermal_variance(card.capacitor_min_F) for card in cards]
    assert noise == sorted(noise)
    assert CARDS["cmos7"].node_leakage_S > CARDS["cmos28"].node_leakage_S


@pytest.fixture(scope="module")
def bills():
    """Of the quickstart model, by process and price list."""
    config = load_experiment(
        config_folder() / "experiments" / "quickstart_physical.toml"
    ).model
    assert isinstance(config, PhysicalConfig)
    found = {}
    for name, card in CARDS.items():
        # Nodes are compared with the same amplifiers: only one card holds a drawn one.
        process = dataclasses.replace(card, amplifier_excess=Excess(1.0, 1.0, 1.0))
        build = lambda p=process: config.build(vocabulary=256, process=p, key=jr.key(0))
        design = eqx.filter_eval_shape(build)
        for listed, prices in LISTS.items():
            found[name, listed] = bill(design, prices, process=process)
    return found


def test_the_quickstart_model_bills_on_every_card(bills):
    for ledger in bills.values():
        total = ledger.total
        assert 0 < total.low < total.nominal < total.high < math.inf
        for row in ledger.rows:
            assert math.isfinite(row.energy.high)
            assert row.source


def test_the_same_design_costs_less_on_a_smaller_node(bills):
    core = lambda name: bills[name, "analog28"].by_line()["physical core"].nominal
    spent = [core(name) for name in SHRINKING]
    assert spent == sorted(spent, reverse=True)
    assert core("sg13g2") < core("sky130")
    # As logic does from 130 to 28 nm, though not by the same factor: most of this is
    # the smallest capacitor times swing and supply.
    sky, small = CARDS["sky130"], CARDS["cmos28"]
    charged = lambda card: card.capacitor_min_F * card.swing_V * card.supply_V
    most = charged(sky) / charged(small)
    logic = FACTS["cell.sky130.dff.clk"].nominal / FACTS["cell.28.dff.clk"].nominal
    assert logic < core("sky130") / core("cmos28") < most
    # Below 28 nm the smallest capacitor stays, and little is left but the supply.
    assert core("cmos28") / core("cmos7") < (0.9 / 0.75) ** 2


def test_digital_edges_cost_more_at_130_nm_and_leak_less(bills):
    of = lambda name: {row.event: row.nominal for row in LISTS[name].rows}
    old, new = of("analog130"), of("analog28")
    assert set(old) == set(new)
    same = {event for event in old if old[event] == new[event]}
    charges = {"supply_charge_C", "amplifier_charge_C", "clock_charge_C"}
    assert same == {*charges, "random_bit", "io_bit", "chip_bit", "chip_s"}
    cheaper = {event for event in old if old[event] < new[event]}
    assert cheaper == {"stored_bit_s"}
    assert LISTS["analog130"].multipliers == LISTS["analog28"].multipliers
    for name in OPEN:
        edges = [
            sum(bills[name, listed].by_line()[line].nominal for line in EDGES)
            for listed in LISTS
        ]
        assert edges[0] < edges[1]


EDGES = ("converters", "clock", "sampling", "embedding")


def test_no_price_of_a_converter_is_below_what_was_measured():
    for bits, joules in FLOORS_J.items():
        assert joules == close_to(FACTS[f"adc.clamp.{bits}b"].nominal * 1e-12)
    for prices in LISTS.values():
        priced = {row.event: row for row in prices.rows}
        for bits in (4, 6, 8):
            assert priced[adc_event(bits)].low >= floor_J(bits) * (1 - 1e-9)
    floors = [floor_J(bits) for bits in range(2, 12)]
    assert floors == sorted(floors)
    assert floor_J(7) == close_to(math.sqrt(floor_J(6) * floor_J(8)))
    assert floor_J(2) == floor_J(6)
    assert floor_J(14) == floor_J(8)


@each_card
@pytest.mark.parametrize("bits", [4, 6, 7, 8])
def test_a_converter_of_capacitors_gets_no_credit_below_the_floor(process, bits):
    sar, parts, joules = converter(process, bits)
    own = joules - process.supply_V * parts.get("measured floor", Event("", 0)).count
    assert joules == close_to(max(own, floor_J(bits)), rel=1e-9)
    assert ("measured floor" in parts) == (own < floor_J(bits))
    # Whatever the list, and in its lowest corner as well.
    for prices in LISTS.values():
        ledger = bill(sar, prices, process=process, period_s=PERIOD_S)
        lines = ledger.by_line()
        core = lines["physical core"].low + lines["amplifiers"].low
        assert core >= floor_J(bits) * (1 - 1e-9)
        assert ("measured floor" in str(ledger)) == ("measured floor" in parts)


def test_the_floor_binds_where_physics_is_cheaper_than_any_part():
    bound = {
        (name, bits)
        for name, process in CARDS.items()
        for bits in (6, 8)
        if "measured floor" in converter(process, bits)[1]
    }
    assert {("cmos28", 8), ("cmos16", 6), ("cmos7", 6), ("cmos7", 8)} <= bound
    assert not {("sky130", 6), ("sky130", 8)} & bound


def test_prices_of_drawn_cells_are_their_measured_charge():
    """What the benches of a converter found is what a bill counts, of the same cell."""
    tables, sky = load_card("sky130"), CARDS["sky130"]
    measured = {row["what"]: row["measured_C"] for row in tables["sar"]["supply"]}
    parts = converter(sky, tables["sar"]["bits"])[1]
    found = parts["comparators"].count / tables["sar"]["bits"]
    decision = measured["a decision of the comparator"]
    assert found == pytest.approx(decision, rel=0.01, abs=0)
    array = measured["the array in a conversion, drivers included"]
    assert parts["array"].count == pytest.approx(array, rel=0.01, abs=0)
    # Nothing was drawn in another process: its prices are the analytic ones.
    drawn = {name: set(card.drawn) for name, card in CARDS.items() if card.drawn}
    assert drawn == {"sky130": {"comparators", "array"}, "sg13g2": {"tables"}}


def test_tables_of_a_process_with_mapped_gates_bill_what_the_gates_take():
    """73 fJ for a table of six inputs, as its library says (docs/handoff.md)."""
    process = CARDS["sg13g2"]
    tables = lookup_layer(3000, 3000, k=6, start="random", key=jr.key(0))

    def charge_C(process, *parts):
        events = tables.events(process, period_s=PERIOD_S)
        return sum(event.count for event in events if event.part in parts)

    gates_C = charge_C(process, "multiplexers", "outputs")
    each_J = gates_C * process.supply_V / 3000
    assert each_J == pytest.approx(73e-15, rel=0.02, abs=0)
    analytic = eqx.tree_at(lambda p: p.drawn, process, {})
    assert charge_C(analytic, "wires") == charge_C(process, "wires") > 0


def test_a_model_runs_and_learns_on_an_open_process():
    process = CARDS["sky130"]
    config = physical_config(width=8, n_layers=1, n_states=6, n_hidden=10, n_taps=2)
    model = config.build(vocabulary=16, process=process, key=jr.key(0))
    tokens = jr.randint(jr.key(1), (2, 9), 0, 16)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss_and_slope(model):
        logits = model.logits(tokens[:, :-1], process=process, key=jr.key(2))
        logs = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(logs, tokens[:, 1:, None], -1))

    loss, slopes = loss_and_slope(model)
    leaves = jax.tree.leaves(eqx.filter(slopes, eqx.is_inexact_array))
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    step = jax.tree.map(lambda slope: -0.01 * slope, slopes)
    assert 0 < loss_and_slope(eqx.apply_updates(model, step))[0] < loss
