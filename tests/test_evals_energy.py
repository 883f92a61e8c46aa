"""Energy at equal quality: what the ladder says, and where it says nothing."""

import json
import math

import equinox as eqx
import jax.random as jr
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.energy import MACHINES, Scored, compare, equal_quality, ratio_table
from evals.quality import Quality
from physnn.energy import Modeled, bill, load_prices
from physnn.process import load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig

PROCESS = load_process("cmos28")


def energy(nominal: float, spread: float = 2.0) -> Modeled:
    return Modeled(nominal / spread, nominal, nominal * spread)


# Better with every rung, ten times the energy each.
LADDER = [(2.4, energy(1e-6)), (2.0, energy(1e-5)), (1.8, energy(1e-4))]
OURS = energy(1e-8, spread=3.0)


@pytest.mark.parametrize("rung", [0, 1, 2])
def test_on_a_rung_the_ratio_is_that_of_the_bills(rung):
    score, spent = LADDER[rung]
    ratio = equal_quality(score, OURS, LADDER)
    assert ratio.relation == "="
    assert ratio.nominal == pytest.approx(spent.nominal / OURS.nominal)
    # Strongest opponent over our weakest corner, and the reverse.
    assert ratio.low == pytest.approx(spent.low / OURS.high)
    assert ratio.high == pytest.approx(spent.high / OURS.low)


def test_between_rungs_log_energy_is_linear_in_bits():
    halfway = equal_quality(1.9, OURS, LADDER)
    assert halfway.nominal == pytest.approx(math.sqrt(1e-5 * 1e-4) / 1e-8)
    quarter = equal_quality(2.3, OURS, LADDER)
    assert quarter.nominal == pytest.approx(1e-6 * 10**0.25 / 1e-8)


def test_beyond_the_best_rung_it_is_only_a_bound():
    ratio = equal_quality(1.7, OURS, LADDER)
    assert ratio.relation == ">="
    assert ratio.nominal == pytest.approx(1e-4 / 1e-8)
    assert ratio.verdict.startswith("at least")
    far = equal_quality(0.5, OURS, LADDER)
    assert far.nominal == ratio.nominal


def test_below_the_ladder_there_is_no_number():
    ratio = equal_quality(2.5, OURS, LADDER)
    assert ratio.relation == "below ladder"
    assert (ratio.low, ratio.nominal, ratio.high) == (None, None, None)
    assert ratio.opponent is None
    assert "below ladder" in ratio.verdict


def test_a_rung_that_costs_more_and_is_no_better_does_not_count():
    wasteful = [*LADDER, (2.0, energy(9e-5)), (2.2, energy(5e-5)), (1.8, energy(1.0))]
    for score in (2.3, 2.0, 1.85, 1.8, 1.7):
        assert equal_quality(score, OURS, wasteful) == equal_quality(
            score, OURS, LADDER
        )


def test_where_only_dominated_rungs_are_worse_the_cheapest_is_the_opponent():
    # Small models on a GPU all cost the host's floor; the best of them is taken.
    floored = [(2.8, energy(1e-6)), (2.6, energy(1e-6)), *LADDER]
    ratio = equal_quality(2.7, OURS, floored)
    assert ratio.relation == "="
    assert ratio.nominal == pytest.approx(1e-6 / OURS.nominal)
    assert equal_quality(2.81, OURS, floored).relation == "below ladder"


@given(
    st.lists(
        st.tuples(st.floats(0.5, 8.0), st.floats(1e-9, 1e-3)), min_size=1, max_size=6
    ),
    st.floats(0.4, 9.0),
    st.floats(0.0, 1.0),
)
def test_a_better_score_never_has_a_cheaper_opponent(rungs, score, gain):
    ladder = [(bits, energy(spent)) for bits, spent in rungs]
    worse = equal_quality(score, OURS, ladder)
    better = equal_quality(max(0.1, score - gain), OURS, ladder)
    if worse.nominal is not None:
        assert better.nominal is not None
        assert better.nominal >= worse.nominal * (1 - 1e-9)
        spent = [rung.nominal for _, rung in ladder]
        assert worse.opponent is not None
        assert min(spent) * (1 - 1e-9) <= worse.opponent.nominal
        assert worse.opponent.nominal <= max(spent) * (1 + 1e-9)
        assert worse.low is not None
        assert worse.high is not None
        assert worse.low <= worse.nominal <= worse.high


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="is empty"):
        equal_quality(2.0, OURS, [])
    with pytest.raises(ValueError, match="diverged"):
        equal_quality(2.0, OURS, [*LADDER, (math.nan, energy(1e-6))])
    with pytest.raises(ValueError, match="diverged"):
        equal_quality(2.0, Modeled(0.0, 1.0, 1.0), LADDER)


def quality(median: float, spread: float = 0.0, n_chips: int = 1) -> Quality:
    values = (median - spread, median, median + spread)
    return Quality(median, values[0], values[-1], 0.9, n_chips, 1000, values)


def rung(width: int, bits_per_byte: float) -> Scored:
    config = TransformerConfig(width=width, n_blocks=1, n_heads=2, n_hidden=3 * width)
    # Bills need shapes alone.
    model = eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )
    name = f"transformer {width}"
    return Scored(name, "transformer", model, 1000, quality(bits_per_byte))


@pytest.fixture(scope="module")
def physical():
    config = physical_config(width=8, n_layers=1, n_states=6, n_hidden=10, n_taps=2)
    model = eqx.filter_eval_shape(
        lambda: config.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )
    return Scored("physical", "physical", model, 1000, quality(2.0, 0.15, n_chips=3))


@pytest.fixture(scope="module")
def comparison(physical):
    ladder = [rung(8, 2.4), rung(256, 2.0), rung(512, 1.9)]
    return compare(physical, ladder, process=PROCESS), physical, ladder


def test_comparison_is_plain_and_complete(comparison):
    found, physical, ladder = comparison
    json.dumps(found, allow_nan=False)
    assert [s["kind"] for s in found["systems"]] == ["physical"] + ["transformer"] * 3
    ours, *rivals = found["systems"]
    assert list(ours["bills"]) == ["analog28"]
    assert ours["latency_s"] == physical.model.config.period_s
    for system, scored in zip(rivals, ladder, strict=True):
        assert list(system["bills"]) == list(MACHINES) == ["G", "A", "R"]
        c = scored.model.config
        matrices = 4 * c.width**2 + 3 * c.width * c.n_hidden
        assert system["parameters"] == matrices + 3 * c.width + 2 * 16 * c.width
    for system in found["systems"]:
        for each in system["bills"].values():
            assert each["rows"]
            assert all(row["source"] for row in each["rows"])
    assert found["amdahl"][0]["line"] in found["notes"][0]
    assert list(found["ratios"]) == ["G", "A", "R"]


def test_ratio_at_the_quality_of_a_rung_is_that_of_the_two_bills(comparison):
    found, physical, ladder = comparison
    ours = bill(physical.model, load_prices("analog28"), process=PROCESS).total
    for name, file in MACHINES.items():
        theirs = bill(
            ladder[1].model, load_prices(file), process=PROCESS, period_s=1e-6
        ).total
        ratio = found["ratios"][name]
        assert ratio["relation"] == "="
        assert ratio["nominal"] == pytest.approx(theirs.nominal / ours.nominal)
        assert ratio["low"] == pytest.approx(theirs.low / ours.high)
        # The interval over chips: the best end is better than all rungs.
        assert ratio["at_quality"]["low"]["relation"] == ">="
        assert ratio["at_quality"]["high"]["nominal"] < ratio["nominal"]


def test_a_larger_batch_makes_the_gpu_a_stronger_opponent(comparison):
    ratio = comparison[0]["ratios"]["G"]
    alone, best = (
        ratio["other_batches"][k]["nominal"] for k in ("one user", "best batch")
    )
    assert ratio["batch"] == 8
    assert alone > ratio["nominal"] > best


def test_energy_per_byte_of_text(physical):
    found = compare(physical, [rung(8, 2.4)], process=PROCESS, bytes_per_token=4.0)
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
    assert "below ladder" in ratio_table(compare(physical, better, process=PROCESS))
    worse = [rung(8, 2.5)]
    assert ">= " in ratio_table(compare(physical, worse, process=PROCESS))
    with pytest.raises(ValueError, match="is empty"):
        compare(physical, [], process=PROCESS)
