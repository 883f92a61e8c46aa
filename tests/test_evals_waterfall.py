"""The waterfall multiplies to the ratio, and its steps are what their names say."""

import dataclasses
import math

import equinox as eqx
import jax.random as jr
import pytest

from circuits.mac import ChargeMac
from evals.frontier import equal_quality
from evals.recorded import Recorded, physical_side, record
from evals.waterfall import PHYSICS, STEPS, _width, next_to_shrink, waterfall
from physnn.energy import bill, load_prices
from physnn.energy.events import Event
from physnn.export.selection import circuits_of
from physnn.process import Excess, load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig

PROCESS = load_process("cmos28")
PERIOD_S = 1e-6
OURS = load_prices("analog28")
MACHINES = {name: load_prices(f"{name}2030") for name in ("gpu", "sram", "rom")}


def built(config):
    # Bills need shapes alone.
    return eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )


def transformer(width: int) -> Recorded:
    config = TransformerConfig(width=width, n_blocks=1, n_heads=2, n_hidden=3 * width)
    return record(built(config), PROCESS, PERIOD_S)


def total(design, prices) -> float:
    return bill(design, prices, process=PROCESS).total.nominal


def fall(side, bits_per_byte, machine, rungs):
    spent = [bill(r, machine, process=PROCESS).total for r in rungs]
    own = bill(side.built, OURS, process=PROCESS).total
    ratio = equal_quality(bits_per_byte, own, list(zip((2.4, 2.0), spent, strict=True)))
    found = waterfall(
        side,
        [(rung, 8.0) for rung in rungs],
        ratio,
        machine=machine,
        prices=OURS,
        chip=MACHINES["sram"],
        process=PROCESS,
    )
    return found, ratio


@pytest.fixture(scope="module")
def model():
    return built(
        physical_config(width=8, n_layers=1, n_states=6, n_hidden=10, n_taps=2)
    )


@pytest.fixture(scope="module")
def side(model):
    return physical_side(model, model, PROCESS, period_s=PERIOD_S)


@pytest.fixture(scope="module")
def rungs():
    return [transformer(128), transformer(256)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("bits_per_byte", [2.4, 2.13, 1.9])
def test_the_product_of_the_factors_is_the_ratio(side, rungs, machine, bits_per_byte):
    found, ratio = fall(side, bits_per_byte, MACHINES[machine], rungs)
    factors = [step["factor"] for step in found["steps"]]
    for step in found["steps"]:
        assert step["factor_low"] <= step["factor"] <= step["factor_high"]
        pivot = step["name"] == PHYSICS
        assert not pivot or step["factor_low"] == step["factor_high"]
    assert math.prod(factors) == pytest.approx(ratio.nominal, rel=1e-9)
    assert found["ratio"] == pytest.approx(ratio.nominal)
    assert found["relation"] == ratio.relation == ("=" if bits_per_byte > 2 else ">=")
    # Nothing is lost: a step is there, or is left out with its reason.
    there = [step["name"] for step in found["steps"]]
    missing = {each["name"]: each["reason"] for each in found["left_out"]}
    assert {*there, *missing} == {*STEPS, "noise tolerance"}
    assert there == [name for name in STEPS if name in there]
    assert all(len(reason) > 10 for reason in missing.values())
    assert "training only" in missing["noise tolerance"]


def test_a_step_is_the_bill_without_that_one_thing(side, rungs):
    sram = MACHINES["sram"]
    found, _ = fall(side, 2.4, sram, rungs[:1] * 2)
    after = {step["name"]: step["after_J"]["nominal"] for step in found["steps"]}
    ends = ("io_bit", "host_token", "rom_bit", "compare", "random_bit")
    edge = [e for e in rungs[0].recorded if e.name in ends]
    ours = side.digital.recorded
    whole = Recorded((*edge, *ours), PERIOD_S)
    assert after["fewer parameter touches"] == pytest.approx(total(whole, sram))
    scale = {"weight_byte": side.read_bits / 8, "stored_bit_s": side.stored_bits / 8}
    wide = {"mac": math.sqrt(8 * side.read_bits)}
    coded = [
        e._replace(count=e.count * scale.get(e.name, 1), bits=wide.get(e.name))
        for e in ours
    ]
    assert after["bits"] == pytest.approx(
        total(Recorded((*edge, *coded), PERIOD_S), sram)
    )
    still = [e for e in coded if e.name != "weight_byte"]
    assert after["no weight movement"] == pytest.approx(
        total(Recorded((*edge, *still), PERIOD_S), sram)
    )
    assert after["no converters inside"] == total(side.dense, OURS)


def test_a_factor_has_the_range_of_all_orders(side, rungs):
    sram = MACHINES["sram"]
    found, _ = fall(side, 2.4, sram, rungs[:1] * 2)
    steps = {step["name"]: step for step in found["steps"]}
    # What it saves the transformer itself, as the first step of all.
    theirs = rungs[0]
    still = tuple(e for e in theirs.recorded if e.name != "weight_byte")
    alone = total(theirs, sram) / total(Recorded(still, PERIOD_S), sram)
    moved = steps["no weight movement"]
    assert moved["factor_low"] <= alone * (1 + 1e-9)
    assert moved["factor_high"] >= alone * (1 - 1e-9)
    assert moved["factor_high"] > 1.02 * moved["factor_low"]
    # Two steps behind the physics: each is its factor first or last.
    drawn, analog = steps["amplifiers as drawn"], steps["no converters inside"]
    ends = lambda step: sorted((step["factor_low"], step["factor_high"]))
    ideal = dataclasses.replace(PROCESS, amplifier_excess=Excess(1.0, 1.0, 1.0))
    first = bill(side.converted, OURS, process=ideal).total.nominal
    other = bill(side.dense, OURS, process=ideal).total.nominal
    last = total(side.dense, OURS)
    middle = total(side.converted, OURS)
    assert ends(drawn) == pytest.approx(sorted((first / middle, other / last)))
    assert ends(analog) == pytest.approx(sorted((middle / last, first / other)))


def test_their_weights_are_multiplied_as_wide_as_theirs():
    wide = lambda bits: Recorded((Event("mac", 3.0, "a", bits=bits),), PERIOD_S)
    two = [((wide(4.0), 4.0), 0.75), ((wide(None), 8.0), 0.25)]
    assert _width(two) == pytest.approx(0.75 * 4 + 0.25 * 8)
    assert _width([((Recorded((), PERIOD_S), 4.0), 1.0)]) == 8


def test_what_a_machine_does_not_price_is_left_out_with_its_words(side, rungs):
    found, _ = fall(side, 2.1, MACHINES["rom"], rungs)
    missing = {each["name"]: each["reason"] for each in found["left_out"]}
    assert "inside base2030.asic.rom" in missing["no weight movement"]
    # At the prices of components it would have one.
    assert "at another place 1 to" in missing["no weight movement"]
    found, _ = fall(side, 2.1, MACHINES["gpu"], rungs)
    # So small a model costs a GPU its host and nothing else.
    assert found["steps"][0]["name"] == "no host in the loop"
    assert "components alone" in {step["name"] for step in found["steps"]}


def test_weights_of_six_bits_are_read_as_six(model, side):
    read = sum(e.count for e in side.digital.recorded if e.name == "weight_byte")
    macs = [c for _, c in circuits_of(model) if isinstance(c, ChargeMac)]
    weights = sum(mac.n_in * mac.n_out for mac in macs)
    # Every weight of a MAC saves two bits; offsets and gains stay at eight.
    assert side.read_bits == pytest.approx(8 - 2 * weights / read)
    assert 6 < side.stored_bits < side.read_bits + 0.5 < 8.5


def test_converters_are_added_to_rows_and_columns_only(side):
    more = [e for e in side.converted.recorded if e not in side.dense.recorded]
    assert {e.name for e in more} == {"dac_conversion", "adc_conversion_8b"}
    head = [e for e in more if e.part.endswith(".head")]
    # The head has its ADCs already.
    assert [(e.name, e.count) for e in head] == [("dac_conversion", 8)]


def test_silence_is_a_factor_of_its_own(model, rungs, side):
    half = tuple(
        e._replace(count=e.count / 2) if e.name.endswith("charge_C") else e
        for e in side.dense.recorded
    )
    sparse = physical_side(model, model, PROCESS, period_s=PERIOD_S)
    sparse = type(sparse)(**{**vars(sparse), "built": Recorded(half, PERIOD_S)})
    found, _ = fall(sparse, 2.1, MACHINES["sram"], rungs)
    assert found["steps"][-1]["name"] == "sparsity"
    factor = total(sparse.dense, OURS) / total(sparse.built, OURS)
    assert found["steps"][-1]["factor"] == pytest.approx(factor)


def test_below_the_ladder_there_is_nothing_to_split(side, rungs):
    with pytest.raises(ValueError, match="below the ladder"):
        fall(side, 2.6, MACHINES["sram"], rungs)


def test_lines_vanish_largest_first_until_the_target():
    class Design:
        period_s = PERIOD_S

        def events(self, process, *, period_s):
            return (
                Event("supply_charge_C", 1e-9, "core"),
                Event("adc_conversion_8b", 100, "head"),
                Event("stored_bit_s", 0.1, "weights"),
            )

    ledger = bill(Design(), OURS, process=PROCESS)
    now = ledger.total.nominal
    rows = next_to_shrink(ledger, {"G": 100 * now, "A": 10 * now})
    base = {k: v.nominal for k, v in ledger.by_line().items()}
    assert rows[0]["line"] == "physical core"
    assert rows[0]["gain"] == pytest.approx(
        next(r for r in ledger.amdahl() if r["line"] == "physical core")["gain_if_free"]
    )
    left = [row["left_J"] for row in rows]
    assert left == sorted(left, reverse=True)
    assert sum(row["removed_J"] for row in rows) + left[-1] == pytest.approx(now)
    # Everything must go before A reaches 1000: the last step leaves nothing.
    assert {row["line"] for row in rows} <= set(base)
    assert rows[-1]["gain"] is None
    assert rows[-1]["ratios"] == {"G": None, "A": None}
    assert rows[-2]["ratios"]["A"] < 1000
    # A target within reach ends the list.
    short = next_to_shrink(ledger, {"A": 990 * now})
    assert len(short) == 1
    assert short[0]["ratios"]["A"] >= 1000
