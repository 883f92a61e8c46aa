"""Bills of both sides of a comparison, and everything it says about them."""

import csv
import io
import json
import math

import equinox as eqx
import jax.random as jr
import pytest

from evals.energy import MACHINES, Scored, compare, ratio_table
from evals.quality import Quality
from evals.report_tables import tables
from physnn.configs import config_folder
from physnn.energy import bill, load_prices
from physnn.process import load_process
from physnn.units import readable
from tests.helpers import physical_config
from train.baseline import TransformerConfig

PROCESS = load_process("cmos28")


def quality(median: float, spread: float = 0.0, n_chips: int = 1) -> Quality:
    values = (median - spread, median, median + spread)
    return Quality(median, values[0], values[-1], 0.9, n_chips, 1000, values)


def scored(name, kind, config, *seeds: Quality) -> Scored:
    # Bills need shapes alone.
    model = eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )
    models = tuple(model for _ in seeds)
    return Scored(name, kind, models, 1000, seeds[0], seeds, PROCESS)


def rung(width: int, bits_per_byte: float) -> Scored:
    config = TransformerConfig(width=width, n_blocks=1, n_heads=2, n_hidden=3 * width)
    score = quality(bits_per_byte)
    return scored(f"transformer {width}", "transformer", config, score)


def model(width: int, *seeds: Quality) -> Scored:
    config = physical_config(width=width, n_layers=1, n_states=6, n_hidden=10, n_taps=2)
    return scored(f"physical {width}", "physical", config, *seeds)


@pytest.fixture(scope="module")
def physical():
    return model(8, quality(2.0, 0.15, n_chips=3))


@pytest.fixture(scope="module")
def comparison(physical):
    ladder = [rung(8, 2.4), rung(256, 2.0), rung(512, 1.9)]
    return compare([physical], ladder), physical, ladder


def test_comparison_is_plain_and_complete(comparison):
    found, physical, ladder = comparison
    json.dumps(found, allow_nan=False)
    assert [s["kind"] for s in found["systems"]] == ["physical"] + ["transformer"] * 3
    ours, *rivals = found["systems"]
    assert list(ours["bills"]) == ["analog28"]
    assert ours["latency_s"] == physical.models[0].config.period_s
    for system, each in zip(rivals, ladder, strict=True):
        assert list(system["bills"]) == list(MACHINES) == ["G", "A", "R"]
        assert list(system["least_latency_s"]) == ["G", "A", "R"]
        # R is a chip of its layers: one, and one of the opponent.
        assert system["least_latency_s"]["R"] == pytest.approx(1.84e-6)
        c = each.models[0].config
        matrices = 4 * c.width**2 + 3 * c.width * c.n_hidden
        assert system["parameters"] == matrices + 3 * c.width + 2 * 16 * c.width
    for machine, ratio in ours["ratios"].items():
        least = [rival["least_latency_s"][machine] for rival in rivals]
        assert min(least) <= ratio["least_latency_s"] <= max(least)
        said = f"at least {readable(ratio['least_latency_s'], 's')} per token"
        assert said in ratio["service"]["said"]
    for system in found["systems"]:
        for each in system["bills"].values():
            assert each["rows"]
            assert all(row["source"] for row in each["rows"])
    assert ours["amdahl"][0]["line"] in found["notes"][0]
    assert list(ours["ratios"]) == ["G", "A", "R"]


def test_ratio_at_the_quality_of_a_rung_is_that_of_the_two_bills(comparison):
    found, physical, ladder = comparison
    ours = bill(physical.models[0], load_prices("analog28"), process=PROCESS).total
    for name, file in MACHINES.items():
        theirs = bill(
            ladder[1].models[0], load_prices(file), process=PROCESS, period_s=1e-6
        ).total
        ratio = found["systems"][0]["ratios"][name]
        assert ratio["relation"] == "="
        assert ratio["nominal"] == pytest.approx(theirs.nominal / ours.nominal)
        assert ratio["low"] == pytest.approx(theirs.low / ours.high)
        # The interval over chips: the best end is better than all rungs.
        assert ratio["at_quality"]["low"]["relation"] == ">="
        assert ratio["at_quality"]["high"]["nominal"] < ratio["nominal"]


def test_a_larger_batch_makes_the_gpu_a_stronger_opponent(comparison):
    ratio = comparison[0]["systems"][0]["ratios"]["G"]
    alone, best = (
        ratio["other_batches"][k]["nominal"] for k in ("one user", "best batch")
    )
    assert ratio["batch"] == 8
    assert alone > ratio["nominal"] > best


def test_energy_per_byte_of_text(physical):
    found = compare([physical], [rung(8, 2.4)], bytes_per_token=4.0)
    for system in found["systems"]:
        for name, each in system["bills"].items():
            per_byte = system["J_per_byte"][name]["nominal"]
            assert per_byte == pytest.approx(
                each["total_J"]["nominal"] / 4, rel=1e-6, abs=0
            )


def test_table_prints_ratio_latency_and_what_it_cannot_say(comparison, physical):
    text = ratio_table(comparison[0])
    for said in ("G:", "A:", "R:", "best batch", "bits/byte", "per byte", "1 µs"):
        assert said in text
    better = [rung(8, 1.5)]
    assert "below ladder" in ratio_table(compare([physical], better))
    worse = [rung(8, 2.5)]
    assert ">= " in ratio_table(compare([physical], worse))
    for ours, ladder in (([physical], []), ([], better)):
        with pytest.raises(ValueError, match="one of them is empty"):
            compare(ours, ladder)


def test_several_systems_and_seeds_each_have_their_ratios():
    seeds = (quality(2.0, 0.01, 3), quality(2.1, 0.01, 3))
    ours = [model(8, *seeds), model(16, quality(2.2, 0.01, 3))]
    found = compare(ours, [rung(8, 2.4), rung(256, 1.9)])
    json.dumps(found, allow_nan=False)
    first, second = found["systems"][:2]
    assert [len(s["seeds"]) for s in (first, second)] == [2, 1]
    for system in (first, second):
        ratio = system["ratios"]["A"]
        assert ratio["relation"] == "="
        interval = ratio["interval"]
        assert interval["inside"] == 1.0
        assert interval["low_all_prices"] < interval["low"] <= ratio["nominal"]
        assert interval["high"] < interval["high_all_prices"]
        falls, swings = system["waterfall"]["A"], system["tornado"]["A"]
        factors = [step["factor"] for step in falls["steps"]]
        assert math.prod(factors) == pytest.approx(ratio["nominal"])
        assert len(swings) == 10
    # Seeds that differ widen the interval; one seed has only its chips.
    widths = [
        math.log(s["ratios"]["A"]["interval"]["high"])
        - math.log(s["ratios"]["A"]["interval"]["low"])
        for s in (first, second)
    ]
    assert widths[0] > 2 * widths[1]
    assert "what one seed leaves open" in second["ratios"]["A"]["interval"]["said"]
    text = ratio_table(found)
    assert "physical 8:" in text
    assert "physical 16:" in text


def test_prices_of_ones_own_are_shown_wherever_they_were_used(physical, tmp_path):
    shipped = (config_folder() / "hardware" / "analog28.toml").read_text()
    given = 'fact = "an.supply.charge"'
    own = """low = 0.8
nominal = 0.9
high = 1.0
unit = "x process.supply_V"
source = "a supplier's word"
confidence = "low\""""
    assert given in shipped
    path = tmp_path / "mine.toml"
    path.write_text(shipped.replace(given, own))
    found = compare([physical], [rung(8, 2.4)], prices=str(path))
    said = (
        f"Price list `mine` is not of physnn but {path}.",
        "Own number in `mine`, line `physical core`, event `supply_charge_C`: 0.9 (0.8"
        " to 1) V of the supply [low]: a supplier's word",
    )
    ours = found["systems"][0]
    (billed,) = ours["bills"].values()
    assert tuple(billed["overrides"]) == said
    ledger = bill(physical.models[0], load_prices(path), process=PROCESS, period_s=1e-6)
    for each in said:
        assert any(each in note for note in found["notes"])
        assert each in str(ledger)
    for name, table in tables(found).items():
        rows = [row for row in csv.DictReader(io.StringIO(table))]
        own = [row for row in rows if row["system"] == physical.name]
        # Rulers need a model that was built.
        assert own or name == "rulers.csv", name
        assert all(row["overrides"] == " ".join(said) for row in own), name
        assert not any(r["overrides"] for r in rows if r not in own), name
    assert load_prices("analog28").overrides == ()


def test_service_and_corner_runs_stand_beside_each_ratio(comparison):
    ours = comparison[0]["systems"][0]
    for name, ratio in ours["ratios"].items():
        same = "one user on both sides"
        assert (ratio["service"]["class"] == same) is (name != "G")
        assert "1 µs per token" in ratio["service"]["said"]
        runs, opponent = ratio["corner_runs"], ratio["opponent_J"]
        own = ours["bills"]["analog28"]["total_J"]
        for corner in ("low", "high"):
            assert runs[corner] == pytest.approx(opponent[corner] / own[corner])
            assert ratio["low"] <= runs[corner] <= ratio["high"]
    # Every row of the table says what both sides are asked for.
    rows = [row for row in ratio_table(comparison[0]).splitlines() if "x (" in row]
    of = {label: row for row in rows for label in [row.strip().split(":")[0]]}
    assert set(of) == {"G", "G, one user", "G, best batch", "A", "R"}
    for label, users in (("G", "8 users"), ("G, best batch", "2043 users")):
        assert f"throughput of {users}, against one user, 1 µs per token" in of[label]
    for label in ("G, one user", "A", "R"):
        assert "one user on both sides, 1 µs per token against at least" in of[label]
    alone = ours["ratios"]["G"]["other_batches"]["one user"]
    assert alone["service"]["class"] == "one user on both sides"
