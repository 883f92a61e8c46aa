"""Floor plan: how far a bit travels on a chip, and how many chips a design takes.

Parts stand as squares in the order in which signals pass them, in rows that turn at the
edge of the chip, so that each touches the next; a part that does not fit any more
begins a new chip, and one that is larger than a chip takes a square of chips. Of a part
of side s:

    to the next part     (s + s') / 2, from center to center
    inside               s along a row of its array, s down a column (Manhattan)
    from memory outside  a quarter of the chip's side: it stands along two edges
    borders of chips     ceil(s / side of a chip) − 1 on each of these runs

Lengths are nominal; the price of a wire has the corners.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax

from physnn.bank import Bank
from physnn.energy.events import Event
from physnn.process import Process

# A channel that leaves an analog chip is digitized, sent and turned back.
LINK_BITS = 8
# The part of a circuit that makes its phases, and flip-flops clocked for each of them.
PHASES, FLOPS_PER_PHASE = "clock phases", 2


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What the parts of a machine take: the [floor_plan] of a price list.

    - `memory`: "in place", where a multiplier stands beside every bank, "edge", where
      all weights come from memory beside the chip, "analog", where weights are devices.
    - `bit_m2`: area of a stored bit, its share of all else on the chip included [m²].
    - `weight_m2`: area of a hard-wired weight [m²]; None: weights are stored bits.
    - `chip_m2`: area of the largest chip [m²].
    - `sources`: where the numbers are from.
    """

    memory: Literal["in place", "edge", "analog"]
    bit_m2: float
    weight_m2: float | None
    chip_m2: float
    sources: tuple[str, ...]


class Drawn(NamedTuple):
    """A circuit as the plan sees it: the area of its devices, its bits, its signals."""

    name: str
    device_m2: float
    bits: float
    n_in: int
    n_out: int


class Site(NamedTuple):
    """What a plan needs beside the events: how many layers, which circuits."""

    n_layers: int = 1
    circuits: tuple[Drawn, ...] = ()


NOWHERE = Site()


class Part(NamedTuple):
    """A square of the plan.

    - `leaving`: bits (of an analog part: channels) handed to the next part per token.
    - `inside`: bits (channels) that run along its rows and columns, one side each.
    """

    name: str
    area_m2: float
    leaving: float = 0.0
    inside: float = 0.0

    @property
    def side_m(self) -> float:
        return math.sqrt(self.area_m2)


class Plan(NamedTuple):
    """Parts on chips; `area_m2` is that of all parts.

    `lengths` is Σ bits times meters, `crossing` Σ bits times borders of chips; for an
    analog design both count channels.
    """

    parts: tuple[Part, ...]
    area_m2: float
    chips: int
    lengths: float
    crossing: float


def site_of(design: Any, process: Process) -> Site:
    """The site of anything billed: a model, its shapes, or what was recorded of it."""
    if (site := getattr(design, "site", None)) is not None:
        return site
    config = getattr(design, "config", None)
    layers = getattr(config, "n_blocks", getattr(design, "n_layers", 1))
    return Site(int(layers), tuple(_drawn(design, process, "")))


def plan(parts: Sequence[Part], chip_m2: float) -> Plan:
    """Stand `parts` on chips of `chip_m2` in their order; the rule is the module's."""
    chip_side = math.sqrt(chip_m2)
    lengths = crossing = used = 0.0
    chips = 1 if parts else 0
    before: Part | None = None
    for part in parts:
        if before is not None:
            lengths += before.leaving * (before.side_m + part.side_m) / 2
        if used + part.area_m2 > chip_m2 and used > 0:
            crossing += before.leaving if before is not None else 0.0
            chips, used = chips + 1, 0.0
        more = math.ceil(part.area_m2 / chip_m2) - 1 if part.area_m2 else 0
        chips += more
        used = chip_m2 if more > 0 else used + part.area_m2
        lengths += part.inside * part.side_m
        crossing += part.inside * max(0, math.ceil(part.side_m / chip_side) - 1)
        before = part
    area = sum(part.area_m2 for part in parts)
    return Plan(tuple(parts), area, chips, lengths, crossing)


def wiring(
    events: Sequence[Event],
    site: Site,
    geometry: Geometry,
    *,
    period_s: float,
) -> tuple[Plan, tuple[Event, ...]]:
    """The plan of a design, and the events that its distances add.

    What is analog bills the wires of its rows, columns and residual stream with its
    charges; the plan adds the bits at its edges and what leaves a chip.
    """
    counts: dict[tuple[str, str], float] = {}
    for event in events:
        key = event.name, event.part.split(".")[0]
        counts[key] = counts.get(key, 0.0) + float(event.count)
    if geometry.memory == "analog":
        return _analog(events, counts, site, geometry, period_s)
    if geometry.memory == "edge":
        return _at_the_edge(events, geometry)
    return _in_place(events, counts, site, geometry, period_s)


def _in_place(events, counts, site, geometry, period_s):
    """Weights and cache in banks beside their multipliers; activations travel."""
    held = {
        part: counts.get(("stored_bit_s", part), 0.0) / period_s
        for part in ("weights", "cache")
    }
    stored: dict[str, float] = {}
    hard = {"blocks": 0.0, "head": 0.0, "embedding": 0.0}
    for event in events:
        top = event.part.split(".")[0]
        top = top if top in hard else "blocks"
        if event.name == "weight_byte":
            amount = 8 * float(event.count) / event.active
            stored[top] = stored.get(top, 0.0) + amount
        if event.name == "mac":
            hard[top] += float(event.count) / _active(events, event.part)
    # Of the embedding a token reads one row of those that are held.
    row = stored.pop("embedding", 0.0)
    stored["embedding"] = max(row, held["weights"] - sum(stored.values()))
    area = {top: bits * geometry.bit_m2 for top, bits in stored.items()}
    if geometry.weight_m2 is not None:
        hard["embedding"] = hard["head"]
        area = {top: n * geometry.weight_m2 for top, n in hard.items()}
    blocks = area.get("blocks", 0.0) + held["cache"] * geometry.bit_m2
    moved = {
        part: 8 * sum(n for (name, top), n in counts.items() if _moves(name, top, part))
        for part in ("blocks", "head")
    }
    # Each activation runs along a row of the array and down a column.
    layer = Part(
        "layer", blocks / site.n_layers, row, 2 * moved["blocks"] / site.n_layers
    )
    found = plan(
        (
            Part("embedding", area["embedding"], row),
            *(layer for _ in range(site.n_layers)),
            Part("head", area.get("head", 0.0), 0.0, 2 * moved["head"]),
        ),
        geometry.chip_m2,
    )
    return found, _made(
        Event("wire_bit_m", found.lengths, "wires"),
        Event("chip_bit", found.crossing, "links"),
    )


def _moves(name: str, top: str, part: str) -> bool:
    return name == "activation_byte" and (top == "head") is (part == "head")


def _active(events, part: str) -> float:
    """The share of a part's weights that a token touches."""
    return next(
        (e.active for e in events if e.name == "weight_byte" and e.part == part), 1.0
    )


def _at_the_edge(events, geometry):
    """One chip with its memory along two edges; activations run across all of it."""
    side = math.sqrt(geometry.chip_m2)
    made = []
    for event in events:
        bits = 8 * float(event.count)
        if event.name == "weight_byte":
            to_units = Event("weight_bit_m", bits * side / 4, event.part, event.active)
            made.append(to_units)
        elif event.name == "cache_byte":
            made.append(Event("wire_bit_m", bits * side / 4, "cache"))
        elif event.name == "activation_byte":
            made.append(Event("wire_bit_m", bits * 2 * side, "wires"))
    found = Plan((Part("chip", geometry.chip_m2),), geometry.chip_m2, 1, 0.0, 0.0)
    return found, _made(*made)


def _analog(events, counts, site, geometry, period_s):
    """Circuits in their order; a channel that leaves a chip is converted twice.

    A clock runs past all of them and turns once for each phase of each circuit; wires
    of the phases themselves are in the circuits.
    """
    row = counts.get(("rom_bit", "embedding"), 0.0)
    width = counts.get(("dac_conversion", "embedding"), 0.0)
    width = width or row / LINK_BITS
    parts = [
        Part(
            each.name,
            each.device_m2 + each.bits * geometry.bit_m2,
            # The residual stream runs beside what the circuit hands on.
            each.n_out + width,
            float(each.n_in + each.n_out),
        )
        for each in site.circuits
    ]
    found = plan(parts, geometry.chip_m2)
    sides = {part.name: part.side_m for part in parts}
    first = next((p.side_m for p in parts if p.name != "embedding"), 0.0)
    codes = sum(
        int(name.removeprefix("adc_conversion_").removesuffix("b")) * n
        for (name, top), n in counts.items()
        if name.startswith("adc_conversion_") and top == "head"
    )
    turns = sum(
        float(event.count) / FLOPS_PER_PHASE
        for event in events
        if event.name == "flop_cycle" and event.part.split(".")[-1] == PHASES
    )
    # A row from the foot of the embedding's ROM, whose circuit bills the way to there,
    # spreads along the first circuit; codes of the head run along it to the sampler at
    # its corner.
    bits_m = row * first + codes * sides.get("head", 0.0) / 2
    return found, _made(
        Event("wire_bit_m", bits_m, "edges"),
        Event("clock_m", turns * sum(part.side_m for part in parts), "clock"),
        Event("chip_s", found.chips * period_s, "chips"),
        Event("adc_conversion_8b", found.crossing, "links"),
        Event("chip_bit", found.crossing * LINK_BITS, "links"),
        Event("dac_conversion", found.crossing, "links"),
    )


def _made(*events: Event) -> tuple[Event, ...]:
    return tuple(event for event in events if event.count > 0)


def _drawn(node: Any, process: Process, path: str) -> Iterator[Drawn]:
    """The innermost circuits of a design in their order, and tables beside them."""
    below = list(_fields(node, path))
    if _is_circuit(node) and not any(_has_circuit(part) for part, _ in below):
        yield _one(node, process, path)
    elif _is_array(node):
        # A table that belongs to no circuit is looked up: 8 bits a value.
        yield Drawn(path, 0.0, 8.0 * math.prod(node.shape), 0, 0)
    elif not isinstance(node, Bank) and not hasattr(node, "graphdef"):
        for part, name in below:
            yield from _drawn(part, process, name)


def _one(circuit: Any, process: Process, path: str) -> Drawn:
    if hasattr(circuit, "span_m"):
        # It has drawn itself: its lines are billed by this side.
        area, bits = float(circuit.span_m(process)) ** 2, 0.0
    else:
        is_bank = lambda leaf: isinstance(leaf, Bank)
        leaves = jax.tree.leaves(circuit, is_leaf=is_bank)
        banks = [leaf for leaf in leaves if is_bank(leaf)]
        held = [math.prod(leaf.shape) for leaf in leaves if not is_bank(leaf)]
        sizes = [math.prod(bank.value.shape) for bank in banks]
        each = list(zip(sizes, banks, strict=True))
        area = sum(n * bank.n_units * bank.area_m2 for n, bank in each)
        codes = (n * (bank.bits or 0) for n, bank in each)
        # What is in no bank is a table: of bits, or of rows as coded as it says.
        bits = sum(codes) + (getattr(circuit, "row_bits", 1) or 8) * sum(held)
    return Drawn(path, float(area), float(bits), circuit.n_in, circuit.n_out)


def _fields(node: Any, path: str) -> Iterator[tuple[Any, str]]:
    if isinstance(node, tuple | list):
        yield from ((part, f"{path}[{i}]") for i, part in enumerate(node))
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field in dataclasses.fields(node):
            below = f"{path}.{field.name}" if path else field.name
            yield getattr(node, field.name, None), below


def _has_circuit(node: Any) -> bool:
    if isinstance(node, Bank):
        return False  # devices, and lines that may name a share for every column
    if _is_circuit(node):
        return True
    return any(_has_circuit(part) for part, _ in _fields(node, ""))


def _is_circuit(node: Any) -> bool:
    # By what it answers: physnn.circuit imports the events of this package.
    return all(hasattr(node, name) for name in ("n_in", "n_out", "events", "netlist"))


def _is_array(node: Any) -> bool:
    return hasattr(node, "shape") and hasattr(node, "dtype")
