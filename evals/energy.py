"""Energy at equal quality: bills of both sides, and what they say about each other.

`compare` returns plain values; the report needs nothing else:

    systems [{name, kind: "physical" | "transformer" | "counts", parameters, tokens,
              quality {median, low, high, n_chips, values, ...}, seeds [like it],
              latency_s (of a physical model; None: see `least_latency_s`),
              least_latency_s {bill: s, or None} (of a digital machine),
              bytes_per_token,
              J_per_byte {bill: {low, nominal, high}}, bills {bill: Ledger.to_json()}}]
        bills of a transformer are called G, A and R, that of a physical model by its
        price list, that of counted tables (a row of their own, in no ratio) the same;
        of every physical system, beside these:
    ratios {"G" | "A" | "R": {relation: "=" | ">=" | "below ladder", low, nominal, high,
            verdict (a sentence), opponent_J {low, nominal, high}, list, batch,
            least_latency_s (of the opponent),
            service {class, latencies, said},
            J_per_byte {ours, opponent: {low, nominal, high}},
            corner_runs {low, high: the ratio with all prices of both sides there},
            interval (evals.frontier.Resampled, over seeds and chips),
            at_quality {low, high: {relation, nominal}} (at the ends of the interval of
            the bits per byte), other_batches {name: the same} (only G)}}
    amdahl [{line, energy_J, share, gain_if_free}]
    next_to_shrink (evals.waterfall), waterfall {machine: evals.waterfall},
    tornado {machine: evals.sensitivity}, rulers [evals.rulers] of the first seed
    notes [sentence]

A ratio is the opponent's Joules over ours; above 1 we spend less. Its `low` is the
opponent's low corner over our high one. For ">=" the three are lower bounds; "below
ladder" has none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax

from evals.frontier import Draws, Ratio, Sampled, bootstrap, draw, equal_quality
from evals.latency import least_latency
from evals.quality import Quality
from evals.recorded import Physical, Recorded, physical_side, record
from evals.rulers import rulers_of_model
from evals.sensitivity import Side, tornado, with_excess
from evals.waterfall import next_to_shrink, waterfall
from physnn.energy import Ledger, Modeled, Prices, bill, load_prices
from physnn.process import Process
from physnn.units import readable

# The three machines of about 2030, always printed together.
MACHINES = {"G": "gpu2030", "A": "sram2030", "R": "rom2030"}
# What else the GPU may be asked: one user alone, and the batch of the lowest energy per
# token that was measured (mle3.llama-31-8b-instruct.b200x1.min).
OTHER_BATCHES = {"one user": 1.0, "best batch": 2043.0}
# Seeds whose bills differ by more than this are told about.
ALIKE = 0.01


@dataclass(frozen=True)
class Scored:
    """A trained system of one or several seeds, its size and its scores.

    - `models`: one of each seed, as billed.
    - `quality`: over all seeds; `seeds`: of each, in the order of `models`.
    - `dense`: the first model before its silence was counted; without it, the first.
    """

    name: str
    kind: Literal["physical", "transformer", "counts"]
    models: tuple[Any, ...]
    tokens: int
    quality: Quality
    seeds: tuple[Quality, ...]
    process: Process
    dense: Any = None

    def sampled(self, energies: Sequence[Modeled]) -> Sampled:
        return Sampled(tuple(each.values for each in self.seeds), tuple(energies))


@dataclass(frozen=True)
class _Ladder:
    """The rungs at one period, and their draws against one physical system."""

    rungs: Sequence[Scored]
    recorded: tuple[Recorded, ...]

    @property
    def scores(self) -> list[float]:
        return [rung.quality.median for rung in self.rungs]

    def bills(self, prices: Prices, process: Process) -> list[Ledger]:
        return [bill(each, prices, process=process) for each in self.recorded]

    def latencies(self, prices: Prices) -> list[float | None]:
        return [_least(each, prices) for each in self.recorded]

    def side(self, prices: Prices, process: Process) -> Side:
        return Side(prices, tuple(_biller(each, process) for each in self.recorded))


def _least(design: Recorded, prices: Prices) -> float | None:
    """The least time of a token of one user [s]; None: the list tells nothing of it."""
    _, latency_s = least_latency(
        design.recorded,
        prices,
        period_s=design.period_s,
        n_layers=design.site.n_layers,
    )
    return latency_s


def _biller(design: Any, process: Process):
    return lambda prices: bill(design, prices, process=process).total


def compare(
    physical: Sequence[Scored],
    ladder: Sequence[Scored],
    *,
    counted: Sequence[Scored] = (),
    prices: str = "analog28",
    bytes_per_token: float = 1.0,
) -> dict[str, Any]:
    """Bills of all systems and the ratios on each machine; the schema is above.

    Digital machines are billed at a physical model's period, which only their leakage
    depends on: both sides are as busy. `counted` tables are billed as ROM on the
    physical models' price list. Raises `ValueError` for an empty ladder and without a
    physical system.
    """
    if not ladder or not physical:
        raise ValueError(
            "Arguments `physical` and `ladder` must have at least one system, but one"
            " of them is empty."
        )
    ours = load_prices(prices)
    machines = {name: load_prices(file) for name, file in MACHINES.items()}
    system = partial(_system, bytes_per_token=bytes_per_token)
    systems, notes = [], []
    for each in physical:
        period_s = bill(each.models[0], ours, process=each.process).period_s
        recorded = (record(rung.models[0], each.process, period_s) for rung in ladder)
        rungs = _Ladder(ladder, tuple(recorded))
        ledgers = [bill(model, ours, process=each.process) for model in each.models]
        side = physical_side(
            each.models[0],
            each.models[0] if each.dense is None else each.dense,
            each.process,
            period_s=period_s,
        )
        systems.append(
            system(each, {prices: ledgers[0]}, period_s)
            | _gains(each, ledgers, side, rungs, machines, ours, bytes_per_token)
        )
        notes += _notes(each, ledgers)
    first = physical[0]
    period_s = systems[0]["latency_s"]
    for rung in ladder:
        own = record(rung.models[0], first.process, period_s)
        on = {m: bill(own, p, process=first.process) for m, p in machines.items()}
        least = {m: _least(own, p) for m, p in machines.items()}
        systems.append(system(rung, on, None) | {"least_latency_s": least})
    for each in counted:
        own = bill(each.models[0], ours, process=first.process)
        systems.append(system(each, {prices: own}, None))
    return {"systems": systems, "notes": notes}


def _gains(
    scored: Scored,
    ledgers: Sequence[Ledger],
    side: Physical,
    rungs: _Ladder,
    machines: dict[str, Prices],
    ours: Prices,
    bytes_per_token: float,
) -> dict[str, Any]:
    """Everything that one physical system says about the ladder."""
    process, quality = scored.process, scored.quality
    energies = [ledger.total for ledger in ledgers]
    sampled = scored.sampled(energies)
    draws = draw(sampled, [each.sampled(()) for each in rungs.rungs])
    ask = partial(
        _ratio, scored, ledgers[0], sampled, draws, rungs, per_byte=1 / bytes_per_token
    )
    bits_of = lambda rung: getattr(getattr(rung.models[0], "config", None), "bits", 8)
    bits = [float(bits_of(rung)) for rung in rungs.rungs]
    weights_bits = list(zip(rungs.recorded, bits, strict=True))
    ratios, falls, swings, opponents = {}, {}, {}, {}
    for name, machine in machines.items():
        found, ratios[name] = ask(machine)
        swings[name] = tornado(
            quality.median,
            Side(with_excess(ours, process), (_biller(side.built, process),)),
            rungs.side(machine, process),
            rungs.scores,
        )
        if found.opponent:
            opponents[name] = found.opponent.nominal
            falls[name] = waterfall(
                side,
                weights_bits,
                found,
                machine=machine,
                prices=ours,
                chip=machines["A"],
                process=process,
            )
    if "G" in ratios:
        ratios["G"]["other_batches"] = {
            name: ask(machines["G"].at_batch(batch))[1]
            for name, batch in OTHER_BATCHES.items()
        }
    return {
        "ratios": ratios,
        "amdahl": ledgers[0].amdahl(),
        "next_to_shrink": next_to_shrink(ledgers[0], opponents),
        "waterfall": falls,
        "tornado": swings,
        "rulers": [
            each.to_json() for each in rulers_of_model(scored.models[0], ours, process)
        ],
    }


def _ratio(
    scored: Scored,
    ledger: Ledger,
    sampled: Sampled,
    draws: Draws,
    rungs: _Ladder,
    machine: Prices,
    *,
    per_byte: float,
) -> tuple[Ratio, dict[str, Any]]:
    own = ledger.total
    bills = rungs.bills(machine, scored.process)
    totals = [each.total for each in bills]
    ladder = list(zip(rungs.scores, totals, strict=True))
    median, *ends = (
        equal_quality(getattr(scored.quality, point), own, ladder)
        for point in ("median", "low", "high")
    )
    theirs = [
        rung.sampled([total]) for rung, total in zip(rungs.rungs, totals, strict=True)
    ]
    least = rungs.latencies(machine)
    latency_s = None
    if not any(least[i] is None for i in median.weights):
        latency_s = sum(w * (least[i] or 0.0) for i, w in median.weights.items())
    return median, {
        **median.to_json(),
        "least_latency_s": latency_s,
        "list": bills[0].prices,
        "batch": bills[0].batch,
        "service": _service(bills[0].batch, ledger.period_s, latency_s),
        "J_per_byte": {
            key: each.scaled(per_byte).to_json() if each else None
            for key, each in (("ours", own), ("opponent", median.opponent))
        },
        "corner_runs": _corner_runs(median, own),
        "interval": bootstrap(sampled, theirs, draws).to_json(),
        "at_quality": {
            end: {"relation": each.relation, "nominal": each.nominal}
            for end, each in zip(("low", "high"), ends, strict=True)
        },
    }


def _corner_runs(ratio: Ratio, own: Modeled) -> dict[str, float] | None:
    """The ratio with every price of both sides at its low, and at its high corner."""
    if ratio.opponent is None:
        return None
    return {
        "low": ratio.opponent.low / own.low,
        "high": ratio.opponent.high / own.high,
    }


def _service(batch: float, period_s: float, theirs_s: float | None) -> dict[str, str]:
    """What both sides are asked for: the number of users at once, and the latency."""
    own = f"{readable(period_s, 's')} per token"
    least = "whose latency is not known"
    if theirs_s is not None:
        least = f"at least {readable(theirs_s, 's')} per token"
    if batch == 1:
        theirs, kind = "one user", "one user on both sides"
    else:
        theirs = f"{batch:g} users at once"
        kind = f"throughput of {batch:g} users, against one user"
    return {
        "class": kind,
        "latencies": f"{own} against {least.removeprefix('whose ')}",
        "said": f"one user, {own}, against {theirs}, {least}",
    }


def _notes(scored: Scored, ledgers: Sequence[Ledger]) -> list[str]:
    ledger, name = ledgers[0], scored.name
    said = [f"{name}: {ledger.largest()[0].lower()}{ledger.largest()[1:]}"]
    said += [f"{name}: {each}" for each in ledger.overrides]
    if caution := ledger.caution():
        said.append(f"{name} on {ledger.prices}: {caution}")
    totals = [each.total.nominal for each in ledgers]
    if max(totals) > (1 + ALIKE) * min(totals):
        said.append(
            f"{name}: the seeds spend {readable(min(totals), 'J')} to"
            f" {readable(max(totals), 'J')}; the bill shown is that of the first."
        )
    return said


def _system(
    scored: Scored,
    bills: dict[str, Ledger],
    latency_s: float | None,
    *,
    bytes_per_token: float,
) -> dict[str, Any]:
    return {
        "name": scored.name,
        "kind": scored.kind,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(scored.models[0])),
        "tokens": scored.tokens,
        "quality": scored.quality.to_json(),
        "seeds": [each.to_json() for each in scored.seeds],
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
    physical = (s for s in comparison["systems"] if s["kind"] == "physical")
    return "\n".join(line for system in physical for line in _lines_of(system))


def _lines_of(ours: dict[str, Any]) -> list[str]:
    interval = next(iter(ours["ratios"].values()))["interval"]
    spent = Modeled(*next(iter(ours["J_per_byte"].values())).values())
    lines = [
        f"{ours['name']}: {ours['quality']['median']:.3f} bits/byte,"
        f" {spent.scaled(ours['bytes_per_token'])} per token, {spent} per byte,"
        f" {readable(ours['latency_s'], 's')} per token"
    ]
    for machine, ratio in ours["ratios"].items():
        for name, each in ((machine, ratio), *ratio.get("other_batches", {}).items()):
            label = name if name == machine else f"{machine}, {name}"
            numbers = f"no ratio ({each['verdict'].rstrip('.')})"
            if each["nominal"] is not None:
                sign = ">= " if each["relation"] == ">=" else ""
                numbers = (
                    f"{sign}{each['nominal']:.3g}x ({each['low']:.3g} to"
                    f" {each['high']:.3g} over all prices)"
                )
            lines.append(
                f"  {label}: {numbers}; {each['service']['class']},"
                f" {each['service']['latencies']}; seeds and chips"
                f" {each['interval']['ends']}, with all prices"
                f" {each['interval']['ends_all_prices']}"
            )
    latency = readable(ours["latency_s"], "s")
    least = ", ".join(
        f"{readable(ratio['least_latency_s'], 's')} on {machine}"
        for machine, ratio in ours["ratios"].items()
        if ratio["least_latency_s"] is not None
    )
    return [
        *lines,
        f"  {next(iter(ours['ratios'].values()))['verdict']}",
        f"  Seeds and chips: {interval['said']}.",
        f"  The physical model serves one user at {latency} per token; its opponents"
        f" take at least {least} (docs/energy.md: bounds by bandwidth, R an estimate).",
    ]
