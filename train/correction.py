"""Correction: the digital readout of a chip, fitted to it after fabrication."""

import equinox as eqx
from jaxtyping import Array, Float

from physnn.energy.events import Event


class Correction(eqx.Module):
    """A digital gain and offset for every logit, behind the converters of one chip.

    y = gain·logit + offset, from registers of 8 bits. An 8-bit product is billed as
    eight additions, which is more than a multiplier takes.
    """

    gain: Float[Array, " vocabulary"]
    offset: Float[Array, " vocabulary"]  # [nats]

    def __call__(self, logits: Float[Array, "*batch vocabulary"]):
        return self.gain * logits + self.offset

    def events(self) -> tuple[Event, ...]:
        """What one token makes happen."""
        n = self.gain.size
        return (
            Event("compare", 9 * n, "correction"),
            Event("rom_bit", 2 * 8 * n, "correction"),
        )
