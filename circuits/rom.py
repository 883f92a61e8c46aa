"""ROM: what its wires hold, what noise flips on them, and one that is an embedding."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from circuits.lookup import BIT_NODE_F
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export.netlist import Netlist
from physnn.noise import bit_flip_probability, misread
from physnn.process import Process
from physnn.straight_through import quantize, quantize_learned

# Area of a ROM bit with its share of decoders: no more than that of an SRAM cell, and
# those of a 28 nm GPU were measured at 0.16 µm² (Chipworks 2012, "A review of TSMC
# 28 nm process technology"); the transistor of a mask ROM takes a fraction.
ROM_BIT_M2 = 0.16e-12


def bit_line_F(stored_bits: int | float, process: Process) -> float:
    """Wire that a bit travels out of a ROM of `stored_bits`: the side of a square."""
    return (stored_bits * ROM_BIT_M2) ** 0.5 * process.wire_F_per_m


def rom_wires_C(
    stored_bits: int | float, read_bits: int | float, process: Process
) -> float:
    """Charge of the wires that bring `read_bits` out of a ROM of `stored_bits` [C].

    Every bit read travels the side of the array, drawn as a square, and swings the
    supply: an upper bound, as half of the bits do not change.
    """
    return read_bits * bit_line_F(stored_bits, process) * process.supply_V


def read_flip_probability(stored_bits: int | float, process: Process):
    """Probability that a bit flips on its way out of a ROM of `stored_bits`.

    kT/C on the line that the bit is billed for (`rom_wires_C`) and the gate that it
    drives, as large as the load of a lookup table's output. Assumes that the line
    swings the supply and is decided at half of it: an inverter at its foot, no sense
    amplifier. That would decide at a swing v: the exponent C·V² of Kish 2002, DOI
    10.1016/S0375-9601(02)01365-8, is then C·v², which a line longer by (V/v)² repays.
    """
    line_F = BIT_NODE_F + bit_line_F(stored_bits, process)
    return bit_flip_probability(process, line_F)


class EmbeddingRom(AbstractMemorylessCircuit):
    """A ROM with a row of codes for every token.

        token ─ decoder ─ row ─┬─ word ─ y_1
                               ├─ word ─ y_2
                               └─ …

        y = code[token]·range / (2^(B−1) − 1)

    Inputs are the bits of the token's number as lines at plus or minus full scale,
    lowest first; a model reads by number (`read`). Outputs are what converters of
    `bits` are to give, each bit of a word flipped with the probability of
    `read_flip_probability`: the coding is that of `physnn.noise.misread`. Conversion is
    whoever's converts. `log_range`: of the learned range of the converters; None: 1.

    Assumes: one array, drawn as a square. Does not model: flips in its decoder. It is a
    mask and no devices: there is no netlist.
    """

    rows: Float[Array, "token channel"]
    log_range: Float[Array, ""] | None
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)

    def __init__(self, rows, log_range=None, *, bits: int):
        self.rows, self.log_range, self.bits = rows, log_range, bits
        tokens, self.n_out = rows.shape[-2:]
        self.n_in = max((tokens - 1).bit_length(), 1)

    def full_scale(self) -> Any:
        """Value at the end of the codes."""
        return 1.0 if self.log_range is None else jnp.exp(self.log_range)

    def codes(self) -> Float[Array, "token channel"]:
        """What is stored, rounded to codes: fractions of full scale."""
        if self.log_range is None:
            return quantize(self.rows, full_scale=1.0, bits=self.bits)
        return quantize_learned(self.rows, full_scale=self.full_scale(), bits=self.bits)

    def stored(self):
        return self.rows, self.full_scale()

    def with_stored(self, values):
        return eqx.tree_at(lambda rom: rom.rows, self, values)

    def read(
        self,
        tokens: Int[Array, "*batch"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> Float[Array, "*batch channel"]:
        """The rows of tokens, with the bits that noise flips."""
        return misread(
            self.codes()[tokens],
            full_scale=self.full_scale(),
            bits=self.bits,
            probability=read_flip_probability(self.rows.size * self.bits, process),
            key=key,
        )

    def apply(self, x, *, process, key):
        places = jnp.arange(self.n_in, dtype=jnp.int32)
        tokens = jnp.sum((x > 0).astype(jnp.int32) << places, axis=-1)
        return self.read(tokens, process=process, key=key)

    def events(self, process, *, period_s):
        del period_s
        read_bits = self.n_out * self.bits
        wires_C = rom_wires_C(self.rows.size * self.bits, read_bits, process)
        return (
            Event("rom_bit", read_bits),
            Event("supply_charge_C", wires_C, "row wires"),
        )

    def netlist(self, process, *, name) -> Netlist:
        del process
        raise ValueError(
            f"The ROM of `{name}` must be drawn as masks, but a netlist holds devices:"
            " take its rows from the parameters."
        )
