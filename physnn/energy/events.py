"""The closed vocabulary of what a design can make happen, one line each."""

import math
from typing import NamedTuple

from jaxtyping import Array, Float

# event: (unit of the count, what one count includes and excludes)
EVENTS: dict[str, tuple[str, str]] = {
    "supply_charge_C": ("C", "charge drawn from the supply by analog parts"),
    "amplifier_charge_C": (
        "C",
        "charge of amplifiers were they ideal stages in weak inversion that draw only"
        " while they settle; a bill multiplies it by the process's amplifier_excess",
    ),
    "clock_charge_C": (
        "C",
        "charge of the gates of clocked switches and of the clock wires to them, what"
        " drives these left out",
    ),
    "clock_m": ("m", "one meter of clock wire between circuits, up and down once"),
    "chip_s": ("s", "one chip that works for a second"),
    "mac": ("op", "one multiply-accumulate with a stored weight, of `Event.bits`"),
    "attention_mac": ("op", "one multiply-accumulate of two activations, of `bits`"),
    "elementwise": ("op", "one non-linear or additive operation on an activation"),
    "weight_byte": ("byte", "one byte of weights brought to the arithmetic"),
    "cache_byte": ("byte", "one byte of KV cache or digital state, read or written"),
    "activation_byte": ("byte", "one byte of activations written and read back"),
    "wire_bit_m": ("bit·m", "one bit of an activation moved one meter on chip"),
    "weight_bit_m": ("bit·m", "one bit of a weight moved one meter on chip"),
    "chip_bit": ("bit", "one bit that goes from one chip to the next"),
    "rom_bit": ("bit", "one bit read from a mask ROM or a small local table"),
    "dac_conversion": ("sample", "one 8-bit digital-to-analog conversion"),
    "adc_conversion_4b": ("sample", "one analog-to-digital conversion of up to 4 bits"),
    "adc_conversion_6b": ("sample", "one analog-to-digital conversion of 5 or 6 bits"),
    "adc_conversion_8b": ("sample", "one analog-to-digital conversion of 7 or 8 bits"),
    "compare": ("op", "one 32-bit add or compare of the token sampler"),
    "random_bit": ("bit", "one random bit of the token sampler"),
    "flop_cycle": ("cycle", "one flip-flop clocked once, with its clock branch"),
    "stored_bit_s": ("bit·s", "one bit held in SRAM cells for one second: leakage"),
    "io_bit": ("bit", "one bit of a symbol crossing the edge of the chip"),
    "host_token": ("token", "work of a host processor for one token"),
}


class Event(NamedTuple):
    """`count` times `name`, made by the part at `part` of the design.

    `active`: the count of one token over that of all there is, where tokens choose (the
    experts of a mixture): what a batch touches together is more than what one does.
    `bits`: width of the operands, the geometric mean where the two differ; None: that
    which the price is of.
    """

    name: str
    count: Float[Array, ""] | float | int  # pyright: ignore[reportIncompatibleMethodOverride]
    part: str = ""
    active: float = 1.0
    bits: float | None = None

    def under(self, prefix: str) -> "Event":
        """The same event seen from one level up, where this part is called `prefix`."""
        return self._replace(part=f"{prefix}.{self.part}" if self.part else prefix)


def adc_event(bits: int) -> str:
    """The event of one analog-to-digital conversion of `bits` (none above 8)."""
    for limit in (4, 6, 8):
        if bits <= limit:
            return f"adc_conversion_{limit}b"
    raise ValueError(
        f"A converter must have at most 8 bits to be billed, but has {bits}: add an"
        " event and a price for it."
    )


def token_events(vocabulary: int, *, sampled: bool = True) -> tuple[Event, ...]:
    """What every language model makes happen at the end of a token, of whatever kind.

    The sampler looks up exp of each logit (16 bits), forms the running sum and compares
    it with one random number of 32 bits; without it (`sampled` false) a circuit draws
    the token. The symbol goes off chip, and one of a prompt comes in for each that goes
    out.
    """
    symbol_bits = math.ceil(math.log2(vocabulary))
    sampling = (
        Event("rom_bit", 16 * vocabulary, "sampling"),
        Event("compare", 2 * vocabulary, "sampling"),
        Event("random_bit", 32, "sampling"),
    )
    return (
        *(sampling if sampled else ()),
        Event("io_bit", 2 * symbol_bits, "symbols"),
        Event("host_token", 1, "host"),
    )
