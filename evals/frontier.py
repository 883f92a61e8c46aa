"""Equal quality: what a ladder of opponents would spend at one system's bits per byte.

A ladder is a list of rungs `(bits per byte, J)`. Its frontier leaves out every rung
that costs as much as another and is no better; between the rungs of the frontier log J
is linear in bits per byte, so the curve is monotone and passes through all of them.
Nothing is extrapolated: past an end there is a bound, which says which side it bounds.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from physnn.energy import Modeled

Relation = Literal["=", ">=", "below ladder"]

N_DRAWS = 1000
CONFIDENCE = 0.95
# Fewer than this many seeds cannot show their own spread: the range of five holds the
# median with 94 % (evals/quality.py).
ENOUGH_SEEDS = 6


@dataclass(frozen=True)
class Ratio:
    """Opponent's Joules over ours at equal bits per byte.

    `relation` says what the three numbers are: the ratio ("="), lower bounds of it
    (">=": we are better than every rung), or absent ("below ladder": every rung is
    better than we are, and the ladder says nothing about worse ones).

    `weights`: share of each rung in log J of the opponent, by place in the ladder.
    """

    relation: Relation
    low: float | None
    nominal: float | None
    high: float | None
    opponent: Modeled | None
    verdict: str
    weights: dict[int, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "relation": self.relation,
            "low": self.low,
            "nominal": self.nominal,
            "high": self.high,
            "verdict": self.verdict,
            "opponent_J": self.opponent.to_json() if self.opponent else None,
        }


def frontier(scores: Sequence[float], energies: Sequence[float]) -> list[int]:
    """The rungs nobody beats in both bits per byte and J, from the cheapest up."""
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda i: (energies[i], scores[i])):
        if not kept or scores[i] < scores[kept[-1]]:
            kept.append(i)
    return kept


def read(
    bits_per_byte: float, scores: Sequence[float], energies: Sequence[float]
) -> tuple[Relation, dict[int, float]]:
    """What `bits_per_byte` is to the ladder, and the opponent as shares of rungs.

    Log J of the opponent is the sum of log J of the rungs times their shares. Better
    than every rung (">="), it is the best rung; worse than every rung ("below
    ladder"), the cheapest, which then bounds the ratio from above. Where only rungs off
    the frontier are worse, it is the cheapest, too.
    """
    kept = frontier(scores, energies)
    if bits_per_byte > max(scores):
        return "below ladder", {kept[0]: 1.0}
    if bits_per_byte < scores[kept[-1]]:
        return ">=", {kept[-1]: 1.0}
    if bits_per_byte >= scores[kept[0]]:
        return "=", {kept[0]: 1.0}
    upper = next(n for n, i in enumerate(kept) if scores[i] <= bits_per_byte)
    i, j = kept[upper - 1], kept[upper]
    share = (scores[i] - bits_per_byte) / (scores[i] - scores[j])
    return "=", {k: w for k, w in ((i, 1 - share), (j, share)) if w > 0}


def blend(energies: Sequence[Modeled], weights: dict[int, float]) -> Modeled:
    """exp of the weighted mean of log J, each corner by itself."""

    def at(corner: str) -> float:
        return math.exp(
            sum(w * math.log(getattr(energies[i], corner)) for i, w in weights.items())
        )

    return Modeled(at("low"), at("nominal"), at("high"))


def equal_quality(
    bits_per_byte: float, energy: Modeled, ladder: Sequence[tuple[float, Modeled]]
) -> Ratio:
    """The ratio at the quality of the physical model, from `(bits per byte, J)` rungs.

    Raises `ValueError` for an empty ladder, and for energies or scores that are not
    positive and finite.
    """
    check_ladder(bits_per_byte, energy, ladder)
    scores = [score for score, _ in ladder]
    spent = [each for _, each in ladder]
    relation, weights = read(bits_per_byte, scores, [each.nominal for each in spent])
    opponent = blend(spent, weights)
    worst, best = max(scores), min(scores)
    if relation == "below ladder":
        (cheapest,) = weights
        return Ratio(
            relation,
            None,
            None,
            None,
            None,
            f"below ladder: every rung is better than {bits_per_byte:.3f} bits per"
            f" byte; the cheapest reaches {scores[cheapest]:.3f} with"
            f" {opponent.nominal / energy.nominal:.3g}x the energy.",
            weights,
        )
    verdict = f"at equal quality, interpolated between {worst:.3f} and {best:.3f}."
    if relation == ">=":
        verdict = (
            f"at least (>=): better than every rung; the best reaches {best:.3f} and"
            " would have to spend more."
        )
    elif len(weights) == 1:
        (rung,) = weights
        verdict = f"at equal quality or better: that of the rung of {scores[rung]:.3f}."
    return Ratio(
        relation,
        opponent.low / energy.high,
        opponent.nominal / energy.nominal,
        opponent.high / energy.low,
        opponent,
        verdict,
        weights,
    )


def check_ladder(
    bits_per_byte: float, energy: Modeled, ladder: Sequence[tuple[float, Modeled]]
) -> None:
    """`ValueError` unless there is a rung, and all of it is positive and finite."""
    if not ladder:
        raise ValueError("Argument `ladder` must have at least one rung, but is empty.")
    for score, spent in ((bits_per_byte, energy), *ladder):
        values = (score, spent.low, spent.nominal, spent.high)
        if not all(0 < value < math.inf for value in values):
            raise ValueError(
                "Every score and energy must be positive and finite, but there is"
                f" {score} bits per byte at {spent.low}, {spent.nominal} and"
                f" {spent.high} J: leave out what diverged."
            )


@dataclass(frozen=True)
class Sampled:
    """One system as it was sampled: bits per byte of every chip of every seed.

    `energies`: the bill of each seed [J], or one for all of them.
    """

    values: tuple[tuple[float, ...], ...]
    energies: tuple[Modeled, ...]


@dataclass(frozen=True)
class Resampled:
    """The bootstrap interval of a ratio over seeds and chips.

    - `low`, `high`: at nominal prices; None where the interval is open on that side,
      because that end of it lies past the end of the ladder.
    - `low_all_prices`, `high_all_prices`: the same with every price at the corner that
      favors the opponent, and at the one that favors us. Corners are no standard
      deviations: they are never drawn, the interval is found again at each.
    - `inside`, `above`, `below`: shares of the resamples that lie on the ladder, are
      better than every rung, and are worse than every rung.
    - `drawn`: what was resampled, and what could not be.
    """

    low: float | None
    high: float | None
    low_all_prices: float | None
    high_all_prices: float | None
    inside: float
    above: float
    below: float
    n_draws: int
    confidence: float
    drawn: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "said": str(self),
            "ends": _ends(self.low, self.high),
            "ends_all_prices": _ends(self.low_all_prices, self.high_all_prices),
        }

    def __str__(self):
        said = (
            f"the middle {self.confidence:.0%} of {self.n_draws} resamples of"
            f" {self.drawn}"
        )
        for share, words in (
            (self.above, "better than every rung"),
            (self.below, "worse than every rung"),
        ):
            if share:
                said += f"; {_share(share)} are {words}, so that end is open"
        return said


def _share(share: float) -> str:
    return "all" if share == 1 else f"{share:.1%}"


def _ends(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "open on both sides"
    if low is None:
        return f"at most {_times(high)}"
    if high is None:
        return f"at least {_times(low)}"
    return f"{_times(low)} to {_times(high)}"


def _times(value: float | None) -> str:
    return f"{float(f'{value:.3g}'):,.12g}x"


@dataclass(frozen=True)
class Draws:
    """Resamples of two sides: bits per byte of each, and which seeds were ours."""

    ours: Float[np.ndarray, " draw"]
    seeds: list[np.ndarray]
    rungs: Float[np.ndarray, "draw rung"]


def draw(
    ours: Sampled, rungs: Sequence[Sampled], *, n_draws: int = N_DRAWS, seed: int = 0
) -> Draws:
    """Resample seeds, and the chips of each, with replacement; rungs independently.

    The score of a resample is the median over its seeds of the median over chips, as
    the score itself is (two-stage bootstrap: Davison & Hinkley 1997, Bootstrap methods
    and their application, 3.8).
    """
    rng = np.random.default_rng(seed)
    ours_bits, ours_seeds = np.empty(n_draws), []
    rung_bits = np.empty((n_draws, len(rungs)))
    for n in range(n_draws):
        ours_bits[n], chosen = _resample(ours, rng)
        ours_seeds.append(chosen)
        for r, rung in enumerate(rungs):
            rung_bits[n, r], _ = _resample(rung, rng)
    return Draws(ours_bits, ours_seeds, rung_bits)


def _resample(system: Sampled, rng: np.random.Generator) -> tuple[float, np.ndarray]:
    n = len(system.values)
    chosen = rng.integers(n, size=n)
    scores = []
    for i in chosen:
        chips = np.asarray(system.values[i])
        scores.append(np.median(chips[rng.integers(len(chips), size=len(chips))]))
    return float(np.median(scores)), chosen


def bootstrap(ours: Sampled, rungs: Sequence[Sampled], draws: Draws) -> Resampled:
    """The interval of the ratio over `draws` of these systems at their prices.

    A resample past the end of the ladder is a bound only: better than every rung, it
    counts as unbounded above; worse than every rung, as unbounded below. So an end of
    the interval that falls among them is open, never a number.
    """
    nominal = [rung.energies[0].nominal for rung in rungs]
    shares, relations = np.zeros((len(draws.ours), len(rungs))), []
    for n, (bits, scores) in enumerate(zip(draws.ours, draws.rungs, strict=True)):
        relation, weights = read(float(bits), scores.tolist(), nominal)
        shares[n, [*weights]] = [*weights.values()]
        relations.append(relation)
    relations = np.asarray(relations)
    opponent = np.exp(shares @ np.log(_corners(rung.energies[0] for rung in rungs)))
    own = _corners(ours.energies)
    if len(own) > 1:
        own = np.median(own[np.asarray(draws.seeds)], axis=1)
    # Their low corner over our high one, and the reverse.
    low, middle, high = (opponent / own[:, ::-1]).T
    share = lambda relation: float(np.mean(relations == relation))
    return Resampled(
        _lower(middle, relations),
        _upper(middle, relations),
        _lower(low, relations),
        _upper(high, relations),
        share("="),
        share(">="),
        share("below ladder"),
        len(relations),
        CONFIDENCE,
        _drawn(ours, rungs),
    )


def _corners(energies: Iterable[Modeled]) -> np.ndarray:
    return np.asarray([(each.low, each.nominal, each.high) for each in energies])


def _lower(values: np.ndarray, relations: np.ndarray) -> float | None:
    bound = np.sort(np.where(relations == "below ladder", 0.0, values))
    # The order statistic, not a mean of two: one of them may be no number.
    end = bound[math.floor((1 - CONFIDENCE) / 2 * len(bound))]
    return float(end) if end > 0 else None


def _upper(values: np.ndarray, relations: np.ndarray) -> float | None:
    bound = np.sort(np.where(relations == ">=", math.inf, values))
    end = bound[math.ceil((1 + CONFIDENCE) / 2 * len(bound)) - 1]
    return float(end) if end < math.inf else None


def _drawn(ours: Sampled, rungs: Sequence[Sampled]) -> str:
    n_chips = min(len(chips) for chips in ours.values)
    counts = [len(ours.values), *(len(rung.values) for rung in rungs)]
    theirs = sorted(set(counts[1:]))
    of_rungs = " or ".join(str(n) for n in theirs)
    said = f"{_n(counts[0], 'seed')} of {_n(n_chips, 'chip')} against {of_rungs}"
    said += " seeds" if theirs != [1] else " seed"
    said += " of each rung" if len(rungs) > 1 else " of the rung"
    if min(counts) == 1:
        return f"{said} (what one seed leaves open is not in it)"
    if min(counts) < ENOUGH_SEEDS:
        return f"{said} (fewer than {ENOUGH_SEEDS} seeds show too little spread)"
    return said


def _n(count: int, what: str) -> str:
    return f"{count} {what}" + ("s" if count != 1 else "")
