"""Where a ratio comes from: factors whose product it is, each from a bill of its own.

From the transformer of equal quality on its machine to the physical model, one step at
a time; after every step stands a design that was billed, so the product of the factors
is the ratio exactly. A factor depends on the place of its step in this order:

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
from dataclasses import dataclass, replace
from typing import Any

from circuits.mac import ChargeMac
from circuits.memory import HashedMemory
from evals.frontier import Ratio, blend
from evals.wind_tunnel import simulated
from physnn.energy import Ledger, Modeled, Prices, bill
from physnn.energy.events import Event, adc_event
from physnn.energy.floor_plan import NOWHERE, Site, site_of
from physnn.energy.prices import OVERHEAD
from physnn.export.selection import circuits_of
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

_CONTEXT = ("attention_mac", "cache_byte", "elementwise", "activation_byte")
_TOUCHES = ("mac", "weight_byte", "stored_bit_s")
# What every digital machine resolves a number to, unless its config says otherwise.
_BITS = 8


@dataclass(frozen=True)
class Recorded:
    """A design as the events it made at one period: billed again without its model.

    `site` is what a floor plan needs of it: its layers and circuits.
    """

    recorded: tuple[Event, ...]
    period_s: float
    site: Site = NOWHERE

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """The events, whatever the process: they were counted for one."""
        del process, period_s
        return self.recorded


def record(design: Any, process: Process, period_s: float) -> Recorded:
    """The events of one step of `design`, as numbers."""
    events = design.events(process, period_s=period_s)
    plain = (event._replace(count=float(event.count)) for event in events)
    return Recorded(tuple(plain), period_s, site_of(design, process))


@dataclass(frozen=True)
class Physical:
    """The physical side of a waterfall: what it is, and what it could have been.

    - `built`: as billed; `dense`: with every unit acting; `converted`: dense, and with
      a DAC on every row and an ADC on every column of its charge MACs.
    - `digital`: its noiseless model as a digital chip computes it, 8 bits a weight.
    - `read_bits`, `stored_bits`: mean bits of a weight it reads, and of one it stores.
    """

    built: Recorded
    dense: Recorded
    converted: Recorded
    digital: Recorded
    read_bits: float
    stored_bits: float


def physical_side(
    model: Any, dense: Any, process: Process, *, period_s: float
) -> Physical:
    """Everything a waterfall asks of a physical model; `dense` is it before counting.

    A design without charge MACs has no rows and columns to convert, so its `converted`
    is its `dense`.
    """
    whole = record(dense, process, period_s)
    simulation = simulated(dense, process)
    macs = [(p, c) for p, c in circuits_of(dense) if isinstance(c, ChargeMac)]
    adc = adc_event(getattr(dense.config, "converter_bits", _BITS))
    converters = []
    for path, mac in macs:
        converters.append(Event("dac_conversion", mac.n_in, f"row converters.{path}"))
        # The head has its own already, or its race needs none.
        if path != "head":
            converters.append(Event(adc, mac.n_out, f"column converters.{path}"))
    read, stored = float(simulation.read), float(simulation.stored)
    read_bits, stored_bits = _BITS * read, _BITS * stored
    for _, circuit in circuits_of(dense):
        if isinstance(circuit, ChargeMac):
            bits = float(circuit.weight.code_bits())
            saved = circuit.n_in * circuit.n_out * (_BITS - bits)
            read_bits, stored_bits = read_bits - saved, stored_bits - saved
        elif isinstance(circuit, HashedMemory):
            heads, rows, row = circuit.table.shape
            saved = heads * row * (_BITS - (circuit.row_bits or 8))
            read_bits, stored_bits = read_bits - saved, stored_bits - rows * saved
    return Physical(
        record(model, process, period_s),
        whole,
        replace(whole, recorded=(*whole.recorded, *converters)),
        record(simulation, process, period_s),
        read_bits / read if read else _BITS,
        stored_bits / stored if stored else _BITS,
    )


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
        steps [{name, what, after_J {low, nominal, high}, factor}]
        left_out [{name, reason}]

    `ratio` is the product of the factors, a lower bound where `relation` is ">=".
    Raises `ValueError` below the ladder, where there is no opponent.
    """
    if ratio.opponent is None:
        raise ValueError(
            "A waterfall must start at an opponent of equal quality, but the physical"
            " model is below the ladder: add a smaller rung."
        )
    on = lambda design, each, of=process: bill(design, each, process=of).total
    ideal = replace(process, amplifier_excess=Excess(1.0, 1.0, 1.0))
    rungs = [(ladder[i], w) for i, w in ratio.weights.items()]
    shares = {n: w for n, (_, w) in enumerate(rungs)}
    bits = sum(w * own for (_, own), w in rungs)

    def mixed(change) -> Modeled:
        bills = [on(replace(r, recorded=change(r)), machine) for (r, _), _ in rungs]
        return blend(bills, shares)

    free = lambda rung: tuple(e for e in rung.recorded if e.name != "host_token")
    digital = ours.digital.recorded
    dynamics = _only(digital, is_context)
    own = _only(digital, lambda event: not is_context(event))
    ends = lambda events: _only(events, _is_end)
    touching = lambda events: _only(events, is_touch)
    as_theirs = _coded(own, bits, bits, wide=_width(rungs))
    as_stored = _coded(
        own, ours.read_bits, ours.stored_bits, wide=math.sqrt(_BITS * ours.read_bits)
    )
    resting = _only(as_stored, lambda event: event.name != "weight_byte")
    still = lambda rung: (*ends(free(rung)), *resting, *dynamics)
    at_rest = mixed(still)
    on_chip = [on(replace(r, recorded=still(r)), chip) for (r, _), _ in rungs]
    start = mixed(lambda rung: rung.recorded)
    stages: list[tuple[str, str | None, Modeled]] = [
        (
            "the same transformer, its token loop closed on chip",
            "host_token",
            mixed(free),
        ),
        (
            "attention, cache, norms and activations replaced by the dynamics of the"
            " physical model, simulated digitally",
            "attention_mac",
            mixed(lambda r: (*ends(free(r)), *touching(free(r)), *dynamics)),
        ),
        (
            f"weights replaced by those of the physical model at {bits:.3g} bits: the"
            " whole physical model, simulated digitally",
            "mac",
            mixed(lambda r: (*ends(free(r)), *as_theirs, *dynamics)),
        ),
        (
            f"weights read and multiplied at the {ours.read_bits:.3g} bits they are"
            " stored at on average, with activations of 8",
            "weight_byte",
            mixed(lambda r: (*ends(free(r)), *as_stored, *dynamics)),
        ),
        (
            "weights stay where they are used: none is read",
            "weight_byte",
            at_rest,
        ),
        (
            f"the same operations at the component prices of {chip.name}: without what"
            f" a whole system adds to them, and what a sum of components forgets",
            None,
            blend(on_chip, shares),
        ),
        (
            f"the same network on {prices.name}, with converters on every row and"
            " column, every unit acting, amplifiers ideal",
            None,
            on(ours.converted, prices, ideal),
        ),
        (
            "amplifiers take"
            f" {float(process.amplifier_excess.nominal):.3g} times the charge of ideal"
            f" ones, as the card of {process.name} has it",
            None,
            on(ours.converted, prices),
        ),
        (
            "signals stay analog from the first circuit to the last",
            None,
            on(ours.dense, prices),
        ),
        (
            "what was silent on the test text spends nothing",
            None,
            on(ours.built, prices),
        ),
    ]
    steps, left_out, before = [], [], start
    for name, (what, event, after) in zip(STEPS, stages, strict=True):
        factor = before.nominal / after.nominal
        if math.isclose(factor, 1.0, rel_tol=1e-9):
            left_out.append({"name": name, "reason": _why(name, event, machine)})
            continue
        steps.append(
            {"name": name, "what": what, "after_J": after.to_json(), "factor": factor}
        )
        before = after
    left_out.append(
        {
            "name": "noise tolerance",
            "reason": "from training only: which sizes a model that did not tolerate"
            " noise would need at these bits per byte is in no bill (train with another"
            " noise.energy_weight)",
        }
    )
    return {
        "relation": ratio.relation,
        "from_J": start.to_json(),
        "to_J": stages[-1][2].to_json(),
        "ratio": start.nominal / stages[-1][2].nominal,
        "steps": steps,
        "left_out": left_out,
    }


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
    """Events of weights of 8 bits, at other mean numbers of bits.

    `wide`: width of a multiplication, where its price follows it.
    """
    scale = {"weight_byte": read / _BITS, "stored_bit_s": stored / _BITS}
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
                sums[1] += share * event.count * (event.bits or _BITS)
    return sums[1] / sums[0] if sums[0] else float(_BITS)


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
