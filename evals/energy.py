"""Energy at equal quality: bills of both sides, and the ratio read off the ladder.

`compare` returns plain values; the report needs nothing else:

    systems [{name, kind: "physical" | "transformer" | "counts", parameters, tokens,
              quality {median, low, high, n_chips, values, ...}, latency_s (None: not
              modeled), bytes_per_token, J_per_byte {bill: {low, nominal, high}},
              bills {bill: Ledger.to_json()}}]
        bills of a transformer are called G, A and R, that of the physical model by its
        price list, that of counted tables (a row of their own, in no ratio) the same
    ratios {"G" | "A" | "R": {relation: "=" | ">=" | "below ladder", low, nominal, high,
            verdict (a sentence), opponent_J {low, nominal, high}, list, batch,
            at_quality {low, high: {relation, nominal}} (at the ends of the interval of
            the chips' bits per byte), other_batches {name: the same} (only G)}}
    amdahl [{line, energy_J, share, gain_if_free}] of the physical model
    notes [sentence]

A ratio is the opponent's Joules over ours; above 1 we spend less. Its `low` is the
opponent's low corner over our high one. For ">=" the three are lower bounds; "below
ladder" has none.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from evals.quality import Quality
from physnn.energy import Ledger, Modeled, Prices, bill, load_prices
from physnn.process import Process
from physnn.units import readable

# The three machines of about 2030, always printed together.
MACHINES = {"G": "gpu2030", "A": "sram2030", "R": "rom2030"}
# What else the GPU may be asked: one user alone, and the batch of the lowest energy per
# token that was measured (mle3.llama-31-8b-instruct.b200x1.min).
OTHER_BATCHES = {"one user": 1.0, "best batch": 2043.0}


@dataclass(frozen=True)
class Scored:
    """A trained system, its size and its score."""

    name: str
    kind: Literal["physical", "transformer", "counts"]
    model: Any
    tokens: int
    quality: Quality


@dataclass(frozen=True)
class Ratio:
    """Opponent's Joules over ours at equal bits per byte.

    `relation` says what the three numbers are: the ratio ("="), lower bounds of it
    (">=": we are better than every rung), or absent ("below ladder": every rung is
    better than we are, and the ladder says nothing about worse ones).
    """

    relation: Literal["=", ">=", "below ladder"]
    low: float | None
    nominal: float | None
    high: float | None
    opponent: Modeled | None
    verdict: str

    def to_json(self) -> dict[str, Any]:
        return {
            "relation": self.relation,
            "low": self.low,
            "nominal": self.nominal,
            "high": self.high,
            "verdict": self.verdict,
            "opponent_J": self.opponent.to_json() if self.opponent else None,
        }


def equal_quality(
    bits_per_byte: float, energy: Modeled, ladder: Sequence[tuple[float, Modeled]]
) -> Ratio:
    """The ratio at the quality of the physical model, from `(bits per byte, J)` rungs.

    Rungs that cost as much as another and are no better are left out. Between the rest,
    log J is interpolated linearly in bits per byte, each corner by itself; where only
    left-out rungs are worse, the opponent is the cheapest rung. Nothing is ever
    extrapolated.

    Raises `ValueError` for an empty ladder, and for energies or scores that are not
    positive and finite.
    """
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
    frontier: list[tuple[float, Modeled]] = []
    for score, spent in sorted(ladder, key=lambda rung: (rung[1].nominal, rung[0])):
        if not frontier or score < frontier[-1][0]:
            frontier.append((score, spent))
    worst, best = max(score for score, _ in ladder), frontier[-1][0]
    if bits_per_byte > worst:
        score, spent = frontier[0]
        return Ratio(
            "below ladder",
            None,
            None,
            None,
            None,
            f"below ladder: every rung is better than {bits_per_byte:.3f} bits per"
            f" byte; the cheapest reaches {score:.3f} with"
            f" {spent.nominal / energy.nominal:.3g}x the energy.",
        )
    if bits_per_byte < best:
        opponent = frontier[-1][1]
        verdict = (
            f"at least (>=): better than every rung; the best reaches {best:.3f} and"
            " would have to spend more."
        )
        return _ratio(">=", energy, opponent, verdict)
    scores = np.array([score for score, _ in frontier[::-1]])

    def at(corner: str) -> float:
        energies = [math.log(getattr(spent, corner)) for _, spent in frontier[::-1]]
        return math.exp(np.interp(bits_per_byte, scores, energies))

    opponent = Modeled(at("low"), at("nominal"), at("high"))
    verdict = f"at equal quality, interpolated between {worst:.3f} and {best:.3f}."
    return _ratio("=", energy, opponent, verdict)


def _ratio(
    relation: Literal["=", ">="], energy: Modeled, opponent: Modeled, verdict: str
) -> Ratio:
    return Ratio(
        relation,
        opponent.low / energy.high,
        opponent.nominal / energy.nominal,
        opponent.high / energy.low,
        opponent,
        verdict,
    )


def compare(
    physical: Scored,
    ladder: Sequence[Scored],
    *,
    counted: Sequence[Scored] = (),
    process: Process,
    prices: str = "analog28",
    bytes_per_token: float = 1.0,
) -> dict[str, Any]:
    """Bills of all systems and the ratio on each machine; the schema is above.

    Digital machines are billed at the physical model's period, which only their leakage
    depends on: both sides are as busy. `counted` tables are billed as ROM on the
    physical model's price list. Raises `ValueError` for an empty ladder.
    """
    if not ladder:
        raise ValueError("Argument `ladder` must have at least one rung, but is empty.")
    ours = bill(physical.model, load_prices(prices), process=process)
    machines = {name: load_prices(file) for name, file in MACHINES.items()}

    def bills_on(each: Prices) -> list[Ledger]:
        return [
            bill(rung.model, each, process=process, period_s=ours.period_s)
            for rung in ladder
        ]

    def ratio(bills: list[Ledger]) -> dict[str, Any]:
        rungs = [
            (rung.quality.median, each.total)
            for rung, each in zip(ladder, bills, strict=True)
        ]
        median, *ends = (
            equal_quality(getattr(physical.quality, point), ours.total, rungs)
            for point in ("median", "low", "high")
        )
        return {
            **median.to_json(),
            "list": bills[0].prices,
            "batch": bills[0].batch,
            "at_quality": {
                end: {"relation": each.relation, "nominal": each.nominal}
                for end, each in zip(("low", "high"), ends, strict=True)
            },
        }

    bills = {name: bills_on(each) for name, each in machines.items()}
    ratios = {name: ratio(each) for name, each in bills.items()}
    ratios["G"]["other_batches"] = {
        name: ratio(bills_on(machines["G"].at_batch(batch)))
        for name, batch in OTHER_BATCHES.items()
    }
    own = _system(physical, {prices: ours}, ours.period_s, bytes_per_token)
    rivals = [
        _system(
            rung,
            {name: each[i] for name, each in bills.items()},
            None,
            bytes_per_token,
        )
        for i, rung in enumerate(ladder)
    ]
    tables = [
        _system(
            each,
            {prices: bill(each.model, load_prices(prices), process=process)},
            None,
            bytes_per_token,
        )
        for each in counted
    ]
    return {
        "systems": [own, *rivals, *tables],
        "ratios": ratios,
        "amdahl": ours.amdahl(),
        "notes": [ours.largest(), *_cautions(physical.name, ours)],
    }


def _cautions(name: str, ledger: Ledger) -> list[str]:
    caution = ledger.caution()
    return [f"{name} on {ledger.prices}: {caution}"] if caution else []


def _system(
    scored: Scored,
    bills: dict[str, Ledger],
    latency_s: float | None,
    bytes_per_token: float,
) -> dict[str, Any]:
    return {
        "name": scored.name,
        "kind": scored.kind,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(scored.model)),
        "tokens": scored.tokens,
        "quality": scored.quality.to_json(),
        "latency_s": latency_s,
        "bytes_per_token": bytes_per_token,
        "J_per_byte": {
            name: each.total.scaled(1 / bytes_per_token).to_json()
            for name, each in bills.items()
        },
        "bills": {name: each.to_json() for name, each in bills.items()},
    }


def ratio_table(comparison: dict[str, Any]) -> str:
    """The ratios of a comparison as text, with latency and J per byte beside them."""
    ours = comparison["systems"][0]
    spent = Modeled(*next(iter(ours["J_per_byte"].values())).values())
    lines = [
        f"{ours['name']}: {ours['quality']['median']:.3f} bits/byte,"
        f" {spent.scaled(ours['bytes_per_token'])} per token, {spent} per byte,"
        f" {readable(ours['latency_s'], 's')} per token"
    ]
    for machine, ratio in comparison["ratios"].items():
        for name, each in ((machine, ratio), *ratio.get("other_batches", {}).items()):
            label = name if name == machine else f"{machine}, {name}"
            numbers = "no ratio"
            if each["nominal"] is not None:
                sign = ">= " if each["relation"] == ">=" else ""
                numbers = (
                    f"{sign}{each['nominal']:.3g}x ({each['low']:.3g} to"
                    f" {each['high']:.3g})"
                )
            lines.append(f"  {label}: {numbers}; {each['verdict']}")
    return "\n".join(lines)
