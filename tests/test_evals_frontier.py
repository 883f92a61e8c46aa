"""Equal quality: what the ladder says, where it says nothing, and how sure it is."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.frontier import Sampled, blend, bootstrap, draw, equal_quality, read
from physnn.energy import Modeled


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


def sampled(*seeds, J: float = 1e-6) -> Sampled:
    return Sampled(tuple(tuple(chips) for chips in seeds), (energy(J),))


RUNGS = [sampled([score], J=spent.nominal) for score, spent in LADDER]


def intervals(ours: Sampled, rungs=RUNGS):
    return bootstrap(ours, rungs, draw(ours, rungs))


def ends(found) -> tuple[float, float]:
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_without_any_spread_the_interval_is_the_ratio():
    found = intervals(sampled([2.2, 2.2], [2.2], J=1e-8))
    ratio = equal_quality(2.2, energy(1e-8), LADDER)
    assert found.low == pytest.approx(ratio.nominal)
    assert found.high == pytest.approx(ratio.nominal)
    assert found.low_all_prices == pytest.approx(ratio.low)
    assert found.high_all_prices == pytest.approx(ratio.high)
    assert (found.inside, found.above, found.below) == (1.0, 0.0, 0.0)


def test_the_interval_of_many_chips_is_that_of_their_median():
    # The median of n normals has the standard deviation 1.2533·σ/√n.
    n, sigma = 101, 0.02
    chips = np.random.default_rng(1).normal(2.2, sigma, n)
    found = intervals(sampled(chips, J=1e-8))
    # Between 2.4 and 2.0 one bit is 2.5 decades.
    low, high = ends(found)
    width = math.log10(high / low) / 2.5
    assert width == pytest.approx(2 * 1.96 * 1.2533 * sigma / math.sqrt(n), rel=0.35)


def test_seeds_count_more_than_the_chips_of_one():
    apart = intervals(sampled([2.1] * 20, [2.3] * 20, J=1e-8))
    # Chips spread as far, but every seed has all of them.
    chips = [2.1, 2.2, 2.3, 2.2] * 5
    alike = intervals(sampled(chips, chips, J=1e-8))
    assert ends(apart)[0] < ends(alike)[0]
    assert ends(apart)[1] > ends(alike)[1]
    at = [equal_quality(bits, energy(1e-8), LADDER).nominal for bits in (2.3, 2.1)]
    assert [*ends(apart)] == pytest.approx(at)


def test_resamples_past_an_end_leave_it_open():
    above = intervals(sampled([1.7], [1.9], [1.9], J=1e-8))
    assert above.high is None
    assert above.low == pytest.approx(math.sqrt(1e-5 * 1e-4) / 1e-8)
    # The median of three draws is 1.7 when at least two are: 7/27.
    assert above.above == pytest.approx(7 / 27, abs=0.05)
    assert "better than every rung" in str(above)
    below = intervals(sampled([2.6], [2.2], [2.2], J=1e-8))
    assert below.low is None
    assert below.below == pytest.approx(7 / 27, abs=0.05)
    both = intervals(sampled([2.6], [1.6], J=1e-8))
    assert (both.low, both.high) == (None, None)
    assert both.to_json()["ends"] == "open on both sides"


def test_below_the_ladder_the_cheapest_rung_bounds_the_ratio():
    found = intervals(sampled([2.6], J=1e-8))
    assert (found.low, found.below) == (None, 1.0)
    assert found.high == pytest.approx(1e-6 / 1e-8)
    assert found.to_json()["ends"] == "at most 100x"


def test_the_spread_of_the_rungs_counts_too():
    noisy = [sampled([2.4 - d], [2.4 + d], J=1e-6) for d in (0.05,)] + RUNGS[1:]
    ours = sampled([2.2], J=1e-8)
    assert ends(intervals(ours, noisy))[1] > ends(intervals(ours))[1]


def test_energies_of_seeds_are_resampled_with_them():
    two = Sampled(((2.2,), (2.2,)), (energy(1e-8), energy(4e-8)))
    found = intervals(two)
    at = equal_quality(2.2, energy(1e-8), LADDER).nominal
    assert at is not None
    assert [found.low, found.high] == pytest.approx([at / 4, at])


def test_one_seed_is_called_one_seed():
    assert "what one seed leaves open" in intervals(sampled([2.2, 2.3])).drawn
    two = [sampled([2.4], [2.4]), sampled([2.0], [2.1], J=1e-5)]
    assert "fewer than 6 seeds" in intervals(sampled([2.2], [2.3]), two).drawn


@given(st.floats(1.7, 2.5))
def test_the_opponent_is_a_blend_of_rungs(bits):
    spent = [each for _, each in LADDER]
    relation, weights = read(bits, [b for b, _ in LADDER], [e.nominal for e in spent])
    assert sum(weights.values()) == pytest.approx(1.0)
    ratio = equal_quality(bits, OURS, LADDER)
    assert ratio.weights == weights
    if relation == "=":
        assert ratio.opponent == blend(spent, weights)
