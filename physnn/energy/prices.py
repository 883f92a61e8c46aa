"""Prices: Joules per event, every one with a source."""

import math
from dataclasses import dataclass, field, replace

from physnn.energy.floor_plan import Geometry
from physnn.energy.serving import Serving
from physnn.process import Process

# The lines every bill has: what a whole system spends its energy on. Zero is a legal
# amount of each, but only with a written reason.
LINES = (
    "arithmetic",
    "weights",
    "KV cache and state",
    "activations",
    "chip to chip",
    "converters",
    "physical core",
    "amplifiers",
    "couplers",
    "noise generation",
    "clock",
    "leakage",
    "embedding",
    "output head",
    "sampling",
    "off-chip IO",
    "host",
    "regulators",
    "calibration",
    "node and idle",
    "facility",
)
# What these parts of a design compute and read is a line of its own, whoever does it.
PART_LINES = {
    "embedding": "embedding",
    "head": "output head",
    "sampling": "sampling",
}
_ROUTED = ("arithmetic", "weights", "physical core")
# What of a physical core couples one unit to another, by the last name of its part.
COUPLERS = ("couplers", "injection", "second harmonic")

# The part that a floor plan gives to what leaves a chip.
LINKS = "links"

SUPPLY = "process.supply_V"
# The event whose count is ideal, and the card's number that each corner is times.
AMPLIFIERS, EXCESS = "amplifier_charge_C", "amplifier_excess"
# The event of a bill's row that multiplies everything above it.
OVERHEAD = "overhead"


@dataclass(frozen=True)
class Width:
    """How a price depends on the width of what is computed: J ∝ (bits / `bits`)^p.

    - `bits`: the width that the price is of.
    - `low`, `nominal`, `high`: the exponent p. A high one makes narrow operations cheap
      and wide ones dear, so a corner of the price takes the end that is its own.
    """

    bits: float
    low: float
    nominal: float
    high: float
    fact: str
    source: str
    confidence: str

    def factors(self, bits: float | None) -> tuple[float, float, float]:
        """Low, nominal, high of what an operation of `bits` costs over one of ours."""
        ratio = 1.0 if bits is None else bits / self.bits
        exponents = (self.low, self.nominal, self.high)
        low, nominal, high = sorted(ratio**each for each in exponents)
        return low, nominal, high


@dataclass(frozen=True)
class Price:
    """What one event costs: three corners, and why we believe them.

    - `low`, `nominal`, `high`: J per unit of the event's count; for an event priced
      `of_supply`, multiples of the process's supply voltage.
    - `fact`: id in `energy_facts.csv`; None for a number of the user's own list.
    - `note`: why the fact is taken several times, where it is.
    - `per_batch`: the list's batch shares one event.
    - `floor`: only what the other rows lack to this price is charged.
    - `at`: size of the design [parameters a token multiplies with] that the number was
      measured at. Rows of one event at several sizes are interpolated linearly in the
      log of the size, and held beyond the ends.
    - `width`: how the price follows the event's bits; None: it is one for all.
    """

    line: str
    event: str
    low: float
    nominal: float
    high: float
    source: str
    confidence: str
    fact: str | None = None
    note: str = ""
    per_batch: bool = False
    floor: bool = False
    of_supply: bool = False
    at: float | None = None
    width: Width | None = None

    def joules(
        self, process: Process, bits: float | None = None
    ) -> tuple[float, float, float]:
        """Low, nominal, high of one event of `bits` [J], shared with nobody.

        Of an ideal amplifier's charge: times the process's `amplifier_excess`.
        """
        scale = float(process.supply_V) if self.of_supply else 1.0
        low, nominal, high = (1.0, 1.0, 1.0)
        if self.event == AMPLIFIERS:
            low, nominal, high = map(float, process.amplifier_excess)
        elif self.width is not None:
            low, nominal, high = self.width.factors(bits)
        return (
            self.low * scale * low,
            self.nominal * scale * nominal,
            (self.high * scale * high),
        )

    def line_of(self, part: str) -> str:
        """The line on which the bill puts this event when `part` makes it happen."""
        if self.line == "physical core" and part.split(".")[-1] in COUPLERS:
            return "couplers"
        if self.line in _ROUTED:
            return PART_LINES.get(part.split(".")[0], self.line)
        # Converters between two chips belong to their link.
        return "chip to chip" if part == LINKS else self.line


@dataclass(frozen=True)
class Multiplier:
    """Energy at the input over energy at the output of what feeds the chip (>= 1)."""

    line: str
    low: float
    nominal: float
    high: float
    source: str
    confidence: str
    fact: str | None = None


@dataclass(frozen=True)
class Device:
    """What one device of a machine holds and reads, or how long it takes for a layer.

    - `memory_B`: bytes of weights and cache it holds.
    - `bandwidth_B_per_s`: at which it reads them.
    - `source`: where the numbers are from.
    - `in_place`: a multiplier stands beside every bank, so a design that holds a share
      of the memory has that share of the bandwidth; else the whole, of whole devices.
    - `weights_alone`: a cache stands elsewhere, and is read meanwhile.
    - `layer_s`: time of a token in a layer, where weights are wired in and not read.
    """

    memory_B: float
    bandwidth_B_per_s: float
    source: str
    in_place: bool = False
    weights_alone: bool = False
    layer_s: float = 0.0


@dataclass(frozen=True)
class Prices:
    """A price list: what every event costs on one kind of machine.

    - `zero_events`, `zero_lines`: what costs nothing here, and why.
    - `serving`: how the machine is used; `batch` of it is the list's own.
    - `device`: what one device of it holds and reads; None: not told.
    - `geometry`: what its parts take on a chip; None: it prices whole machines.
    - `file`: where it was read, if not from `configs/hardware`.
    """

    name: str
    description: str
    rows: tuple[Price, ...]
    multipliers: tuple[Multiplier, ...]
    zero_events: dict[str, str]
    zero_lines: dict[str, str]
    serving: Serving = field(default_factory=Serving)
    device: Device | None = None
    geometry: Geometry | None = None
    file: str | None = None

    @property
    def overrides(self) -> tuple[str, ...]:
        """A sentence for a list of one's own, and for each number of its own there."""
        said = []
        if self.file is not None:
            said.append(f"Price list `{self.name}` is not of physnn but {self.file}.")
        for row in (*self.rows, *self.multipliers):
            if row.fact is not None:
                continue
            what, unit = f"line `{row.line}`", ""
            if isinstance(row, Price):
                what += f", event `{row.event}`"
                unit = " V of the supply" if row.of_supply else " J"
            said.append(
                f"Own number in `{self.name}`, {what}: {row.nominal:.4g}"
                f" ({row.low:.4g} to {row.high:.4g}){unit or ' times'}"
                f" [{row.confidence}]: {row.source}"
            )
        return tuple(said)

    @property
    def batch(self) -> float:
        """Sequences that share what is priced per batch."""
        return self.serving.batch

    def at_batch(self, batch: float | int) -> "Prices":
        """The same list for another batch."""
        return self.served(batch=float(batch))

    def served(self, **how) -> "Prices":
        """The same list used in another way: fields of `Serving`."""
        return replace(self, serving=replace(self.serving, **how))

    def share_of(self, price: Price, size: float) -> float:
        """How much of `price` counts for a design of `size`: 1 without an `at`."""
        if price.at is None:
            return 1.0
        others = [
            row.at
            for row in self.rows
            if row.at is not None
            and (row.line, row.event, row.per_batch)
            == (price.line, price.event, price.per_batch)
        ]
        if size < price.at:
            near = max((at for at in others if at < price.at), default=None)
        else:
            near = min((at for at in others if at > price.at), default=None)
        if near is None or size == price.at:
            return 1.0
        away = math.log(max(size, 1e-300) / price.at) / math.log(near / price.at)
        return max(0.0, 1 - away)
