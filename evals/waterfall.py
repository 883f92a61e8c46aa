"""Where a ratio comes from: factors whose product it is, each from a bill of its own.

From the transformer of equal quality on its machine to the physical model, one step at
a time; after every step stands a design that was billed, so the product of the factors
is the ratio exactly. A factor depends on the place of its step in this order, so beside
it stands its range over all orders of the steps before the physics, or of those behind:

    the transformer, on its machine                                      J_0
    no host in the loop               the token loop closes on chip
    dynamics instead of attention     its context replaced by our dynamics, simulated
    fewer parameter touches           its weights replaced by ours, at its bits
    bits                              ours read and multiplied at the bits we store
    no weight movement                no weight is read
    components alone                  at the component prices of A: what a whole GPU or
                                      card adds, and what a sum of components forgets
    physics instead of digital        the same network in charge, converters everywhere,
                                      its amplifiers ideal
    amplifiers as drawn               their charge times the card's `amplifier_excess`
    no converters inside              signals stay analog between circuits
    sparsity                          silent units spend nothing           J_n = ours

What a bill cannot say is left out by name.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from evals.frontier import Ratio, blend
from evals.recorded import BITS, Physical, Recorded
from physnn.energy import Ledger, Modeled, Prices, bill
from physnn.energy.events import Event
from physnn.energy.prices import OVERHEAD
from physnn.process import Excess, Process

TARGET = 1000.0
STEPS = (
    "no host in the loop",
    "dynamics instead of attention",
    "fewer parameter touches",
    "bits",
    "no weight movement",
    "components alone",
    "physics instead of digital arithmetic",
    "amplifiers as drawn",
    "no converters inside",
    "sparsity",
)

PHYSICS = "physics instead of digital arithmetic"

_CONTEXT = ("attention_mac", "cache_byte", "elementwise", "activation_byte")
_TOUCHES = ("mac", "weight_byte", "stored_bit_s")


def waterfall(
    ours: Physical,
    ladder: Sequence[tuple[Recorded, float]],
    ratio: Ratio,
    *,
    machine: Prices,
    prices: Prices,
    chip: Prices,
    process: Process,
) -> dict[str, Any]:
    """The steps from the opponent of `ratio` on `machine` to the physical model.

    `ladder`: every rung's events and the bits of its weights; `chip`: the price list of
    a dedicated digital chip. Returns plain values:

        relation, from_J, to_J {low, nominal, high}, ratio,
        steps [{name, what, after_J {low, nominal, high}, factor,
            factor_low, factor_high (at any place of the step among those it can be
            exchanged with)}]
        left_out [{name, reason}]

    `ratio` is the product of the factors, a lower bound where `relation` is ">=".
    Raises `ValueError` below the ladder, where there is no opponent.
    """
    if ratio.opponent is None:
        raise ValueError(
            "A waterfall must start at an opponent of equal quality, but the physical"
            " model is below the ladder: add a smaller rung."
        )
    fall = _Fall(ours, ladder, ratio, machine, prices, chip, process)
    bits, excess = fall.bits, float(process.amplifier_excess.nominal)
    said = (
        ("the same transformer, its token loop closed on chip", "host_token"),
        (
            "attention, cache, norms and activations replaced by the dynamics of the"
            " physical model, simulated digitally",
            "attention_mac",
        ),
        (
            f"weights replaced by those of the physical model at {bits:.3g} bits: the"
            " whole physical model, simulated digitally",
            "mac",
        ),
        (
            f"weights read and multiplied at the {ours.read_bits:.3g} bits they are"
            " stored at on average, with activations of 8",
            "weight_byte",
        ),
        ("weights stay where they are used: none is read", "weight_byte"),
        (
            f"the same operations at the component prices of {chip.name}: without what"
            f" a whole system adds to them, and what a sum of components forgets",
            None,
        ),
        (
            f"the same network on {prices.name}, with converters on every row and"
            " column, every unit acting, amplifiers ideal",
            None,
        ),
        (
            f"amplifiers take {excess:.3g} times the charge of ideal ones, as the card"
            f" of {process.name} has it",
            None,
        ),
        ("signals stay analog from the first circuit to the last", None),
        ("what was silent on the test text spends nothing", None),
    )
    start = before = fall.after(frozenset())
    steps, left_out, taken = [], [], frozenset()
    for name, (what, event) in zip(STEPS, said, strict=True):
        taken |= {name}
        after, ranged = fall.after(taken), fall.factors(name)
        factor = before.nominal / after.nominal
        if math.isclose(factor, 1.0, rel_tol=1e-9):
            reason = _why(name, event, machine)
            if not math.isclose(min(ranged), max(ranged), rel_tol=1e-9):
                reason += f" (at another place {_from_to(ranged)})"
            left_out.append({"name": name, "reason": reason})
            continue
        steps.append(
            {
                "name": name,
                "what": what,
                "after_J": after.to_json(),
                "factor": factor,
                "factor_low": min(ranged),
                "factor_high": max(ranged),
            }
        )
        before = after
    left_out.append(
        {
            "name": "noise tolerance",
            "reason": "it would be the bill at the sizes that a model which tolerates"
            " no noise needs at these bits per byte, over this one, and is from"
            " training only; none here: unit capacitors stand at the smallest that is"
            " drawn, so that tolerance has nothing left to shrink",
        }
    )
    return {
        "relation": ratio.relation,
        "from_J": start.to_json(),
        "to_J": before.to_json(),
        "ratio": start.nominal / before.nominal,
        "steps": steps,
        "left_out": left_out,
    }


@dataclass(frozen=True)
class _Fall:
    """The bills between two designs, for any set of the steps taken.

    All steps before the physics can be taken in any order, and all behind it; the
    physics itself stands between them.
    """

    ours: Physical
    ladder: Sequence[tuple[Recorded, float]]
    ratio: Ratio
    machine: Prices
    prices: Prices
    chip: Prices
    process: Process
    known: dict[frozenset[str], Modeled] = field(default_factory=dict)

    @property
    def rungs(self) -> list[tuple[tuple[Recorded, float], float]]:
        return [(self.ladder[i], w) for i, w in self.ratio.weights.items()]

    @property
    def bits(self) -> float:
        """Mean bits of the opponents' weights."""
        return sum(w * own for (_, own), w in self.rungs)

    def after(self, taken: frozenset[str]) -> Modeled:
        """What is spent once these steps are taken, in whatever order."""
        if taken not in self.known:
            digital = PHYSICS not in taken
            self.known[taken] = (self._digital if digital else self._physical)(taken)
        return self.known[taken]

    def factors(self, name: str) -> list[float]:
        """What `name` divides the bill by, before each choice of steps like it."""
        place = STEPS.index(PHYSICS)
        if name == PHYSICS:
            fixed, others = frozenset(STEPS[:place]), ()
        elif name in STEPS[:place]:
            fixed, others = frozenset(), STEPS[:place]
        else:
            fixed, others = frozenset(STEPS[: place + 1]), STEPS[place + 1 :]
        others = [other for other in others if other != name]
        found = []
        for n in range(len(others) + 1):
            for more in combinations(others, n):
                before = fixed | set(more)
                after = self.after(before | {name})
                found.append(self.after(before).nominal / after.nominal)
        return found

    def _digital(self, taken: frozenset[str]) -> Modeled:
        on = self.chip if "components alone" in taken else self.machine
        wide, spent = _width(self.rungs), []
        for (rung, bits), _ in self.rungs:
            events = self._events(rung.recorded, bits, wide, taken)
            design = replace(rung, recorded=events)
            spent.append(bill(design, on, process=self.process).total)
        return blend(spent, {n: w for n, (_, w) in enumerate(self.rungs)})

    def _events(
        self, theirs: tuple[Event, ...], bits: float, wide: float, taken: frozenset[str]
    ) -> tuple[Event, ...]:
        ours, read = self.ours.digital.recorded, self.ours.read_bits
        ends = _only(theirs, _is_end)
        if "no host in the loop" in taken:
            ends = _only(ends, lambda event: event.name != "host_token")
        replaced = "dynamics instead of attention" in taken
        context = _only(ours if replaced else theirs, is_context)
        touching, own_bits = _only(theirs, is_touch), bits
        if "fewer parameter touches" in taken:
            touching = _only(ours, lambda event: not is_context(event))
            own_bits = BITS
        if "bits" in taken:
            wide = math.sqrt(BITS * read)
            touching = _coded(
                touching, read / own_bits, self.ours.stored_bits / own_bits, wide=wide
            )
        elif "fewer parameter touches" in taken:
            scale = self.bits / own_bits
            touching = _coded(touching, scale, scale, wide=wide)
        if "no weight movement" in taken:
            touching = _only(touching, lambda event: event.name != "weight_byte")
        return (*ends, *touching, *context)

    def _physical(self, taken: frozenset[str]) -> Modeled:
        ours, process = self.ours, self.process
        design = ours.built if "sparsity" in taken else ours.dense
        if "no converters inside" not in taken:
            more = ours.converted.recorded[len(ours.dense.recorded) :]
            design = replace(design, recorded=(*design.recorded, *more))
        if "amplifiers as drawn" not in taken:
            process = replace(process, amplifier_excess=Excess(1.0, 1.0, 1.0))
        return bill(design, self.prices, process=process).total


def _from_to(factors: Sequence[float]) -> str:
    return f"{min(factors):.3g} to {max(factors):.3g}"


def _is_end(event: Event) -> bool:
    """What happens at the edge of any language model: tokens in, tokens out."""
    return event.name not in (*_CONTEXT, *_TOUCHES)


def is_context(event: Event) -> bool:
    """What a model spends on the tokens before this one, and between its matrices."""
    return event.name in _CONTEXT or (
        event.name == "stored_bit_s" and event.part.split(".")[0] == "cache"
    )


def is_touch(event: Event) -> bool:
    """What a model spends on its weights: multiplied, read and held."""
    return event.name in _TOUCHES and not is_context(event)


def _only(events: tuple[Event, ...], keep) -> tuple[Event, ...]:
    return tuple(event for event in events if keep(event))


def _coded(
    events: tuple[Event, ...], read: float, stored: float, *, wide: float
) -> tuple[Event, ...]:
    """Events of weights at `read` times the bits that are read, `stored` times held.

    `wide`: width of a multiplication, where its price follows it.
    """
    scale = {"weight_byte": read, "stored_bit_s": stored}
    return tuple(
        e._replace(
            count=e.count * scale.get(e.name, 1.0),
            bits=wide if e.name == "mac" else None,
        )
        for e in events
    )


def _width(rungs) -> float:
    """Mean width of what the opponents multiply with their weights."""
    sums = [0.0, 0.0]
    for (rung, _), share in rungs:
        for event in rung.recorded:
            if event.name == "mac":
                sums[0] += share * event.count
                sums[1] += share * event.count * (event.bits or BITS)
    return sums[1] / sums[0] if sums[0] else float(BITS)


def _why(name: str, event: str | None, machine: Prices) -> str:
    if event is not None and event in machine.zero_events:
        return f"no price of its own on {machine.name}: {machine.zero_events[event]}"
    return {
        "sparsity": "no unit of this design is ever silent, or none was counted",
        "components alone": "this machine is priced by its components already",
        "no converters inside": "the design has no charge MACs to convert",
        "amplifiers as drawn": "the design has no amplifiers, or ideal ones",
    }.get(name, "it changes nothing in this bill")


def next_to_shrink(
    ledger: Ledger, opponents: dict[str, float], *, target: float = TARGET
) -> list[dict[str, Any]]:
    """What must shrink next: the largest line removed, again and again.

    `opponents`: nominal J of the opponent on each machine. A line takes its part of the
    multipliers (regulators, facility) with it; a multiplier becomes 1. Ends when the
    ratio on every machine has reached `target`, or nothing is left:

        [{line, removed_J, left_J, gain, ratios {machine: opponent's J / left_J}}]

    `gain` is how many times less than today; where nothing is left, `gain` and `ratios`
    are None.
    """
    base: dict[str, float] = {}
    factors: dict[str, float] = {}
    for row in ledger.rows:
        if row.event == OVERHEAD:
            factors[row.line] = factors.get(row.line, 1.0) * (1 + row.price.nominal)
        else:
            base[row.line] = base.get(row.line, 0.0) + row.energy.nominal
    left = lambda: sum(base.values()) * math.prod(factors.values())
    total = now = left()
    found: list[dict[str, Any]] = []
    hardest = min(opponents.values(), default=math.inf)
    while now > 0 and not math.inf > hardest >= target * now:
        saved = {line: energy / sum(base.values()) for line, energy in base.items()}
        saved |= {line: 1 - 1 / factor for line, factor in factors.items()}
        line = max(saved, key=lambda each: saved[each])
        if base.pop(line, None) is None:
            del factors[line]
        before, now = now, left()
        gone = now <= 1e-12 * total
        found.append(
            {
                "line": line,
                "removed_J": before - now,
                "left_J": now,
                "gain": None if gone else total / now,
                "ratios": {m: None if gone else J / now for m, J in opponents.items()},
            }
        )
    return found
