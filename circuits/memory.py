"""Hashed memory: what followed the last bytes, read from a mask ROM."""

from functools import cache

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from circuits.mac import ChargeMac
from circuits.parts import NODE_F, AutomaticGain, GilbertGate
from circuits.rom import read_flip_probability, rom_wires_C
from physnn.bank import Bank
from physnn.circuit import AbstractCircuit
from physnn.energy.events import Event
from physnn.export.logic import HashedRoms
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.noise import coupled, flipped_places, is_rare, misread, thermal_noise
from physnn.process import Process
from physnn.straight_through import quantize

BYTE_LINES = 8
# A code at its end is this part of full scale, and rows start with this spread.
ROW_RANGE, ROW_SPREAD = 0.5, 0.05


@cache
def hash_table(head: int, n_bytes: int, bits: int) -> np.ndarray:
    """The word of byte b at place p back, of `bits` random bits: `(n_bytes, 256)`.

    The index of a gram is the exclusive or of its words (simple tabulation hashing):
    small ROMs and a tree of gates, no multiplier, the same on every machine. Any two
    grams meet in a row with probability 2^−bits, and rows fill as if at random.

    Reference: Pătraşcu & Thorup 2012, "The power of simple tabulation hashing", DOI
    10.1145/2220357.2220361.
    """
    words = [w >> (64 - bits) for w in _split_mix(seed=head, count=256 * n_bytes)]
    return np.asarray(words, np.int32).reshape(n_bytes, 256)


def _split_mix(*, seed: int, count: int) -> list[int]:
    """64-bit words of SplitMix64.

    Steele, Lea & Flood 2014, DOI 10.1145/2660193.2660195.
    """
    mask, words = (1 << 64) - 1, []
    state = (seed + 1) * 0xD1342543DE82EF95 & mask
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        words.append(z ^ (z >> 31))
    return words


class HashedMemory(AbstractCircuit[Int[Array, "past *batch"]]):
    """Rows of a ROM, found by hashing the last bytes, let through by the context.

        bytes ─┬─ hash 2 ─ ROM ─ DACs ─┐
               ├─ hash 3 ─ ROM ─ DACs ─┼─ a ─┐
               └─ …                    ┘     ├─ a·tanh(b / 2nU_T) ─ MAC ─ y
        x ─ AGC ─ MAC ───────────────── b ───┘

        index_h = ⊕_p H_hp[byte_(t−p)],  p = 0 ... n_h − 1
        a_hk = scale_hk·code_h[index_h, k] + n_hk

    Inputs are x and, behind it, the eight bits of the current byte as lines at plus or
    minus full scale, lowest first. Heads take the last 2, 3, ..., `longest` bytes,
    `n_heads` of each, through tables and gates (`hash_table`). A row holds codes of
    `row_bits`, read by DACs whose references (`scale`) are trained and mismatched, with
    kT/C noise on the node each drives. Before the first byte all bytes are 0.

    Only the rows that are read cost energy: their bits, their wires across the array,
    their conversions. The rest is a mask and does not leak. The table is not counted
    with the weights of a network: `table_bits` says how large it is.

    Each bit of a word that is read, of a row or of a hash, flips with the probability
    of `circuits.rom.read_flip_probability`; a flip of a hash finds another row.

    Assumes: the ROM answers within a token; a DAC of 4 bits costs one of 8. Does not
    model: flips in the registers of bytes and in gates. The ROM is masks and gates, no
    devices: there is no netlist of the whole, but one of every part of it that is
    analog.

    References: Engram, arXiv 2601.07372; hashed n-gram embeddings, Bojanowski et al.
    2017, DOI 10.1162/tacl_a_00051.
    """

    table: Float[Array, "head row channel"]
    scale: Bank
    agc: AutomaticGain
    context: ChargeMac
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    longest: int = eqx.field(static=True)
    row_bits: int | None = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        *,
        longest: int = 5,
        n_heads: int = 1,
        index_bits: int = 14,
        row: int = 32,
        row_bits: int | None = 4,
        bits: int,
        output_gain: float,
        process: Process,
        key: Key[Array, ""],
    ):
        """`index_bits`: log2 of the rows of a head; `row`: values in a row.

        `row_bits` None stores real numbers: for studies, no ROM does.
        """
        for name, value, low, high in (
            ("longest", longest, 2, 8),
            ("n_heads", n_heads, 1, 16),
            ("index_bits", index_bits, 1, 24),
            ("row", row, 1, 4096),
            ("row_bits", 2 if row_bits is None else row_bits, 2, 8),
        ):
            if not low <= value <= high:
                raise ValueError(
                    f"Argument `{name}` must be from {low} to {high}, but is {value}."
                )
        self.n_in, self.n_out = width + BYTE_LINES, width
        self.longest, self.row_bits = longest, row_bits
        heads = (longest - 1) * n_heads
        read = heads * row
        normal = jr.normal(stream(key, "table"), (heads, 2**index_bits, row))
        self.table = ROW_SPREAD * normal
        self.scale = Bank(
            jnp.ones(read),
            kind="capacitor",
            unit="C/C_f",
            n_units=2 ** ((row_bits or 8) - 1) - 1,
            area_m2=process.capacitor_min_F / process.capacitor_density_F_per_m2,
            low=0.0,
        )
        self.agc = AutomaticGain(width)
        context = ChargeMac(
            width, read, bits=bits, process=process, key=stream(key, "context")
        )
        # The gates begin half open, so that rows are trained from the first step.
        ajar = jnp.full(read, process.linear_range() / 2)
        self.context = eqx.tree_at(lambda mac: mac.offset.value, context, ajar)
        self.gate = GilbertGate(read)
        self.output = ChargeMac(
            read,
            width,
            bits=bits,
            process=process,
            key=stream(key, "output"),
            gain=output_gain,
        )

    def stored(self):
        return self.table, ROW_RANGE

    def with_stored(self, values):
        return eqx.tree_at(lambda memory: memory.table, self, values)

    @property
    def orders(self) -> tuple[int, ...]:
        """How many bytes each head hashes."""
        per_order = self.table.shape[0] // (self.longest - 1)
        return tuple(n for n in range(2, self.longest + 1) for _ in range(per_order))

    def table_bits(self) -> int:
        """Size of the ROM in bits."""
        heads, rows, row = self.table.shape
        return heads * rows * row * (self.row_bits or 8)

    def init_state(self, batch_shape=()):
        return jnp.zeros((self.longest - 1, *batch_shape), jnp.int32)

    def indices(
        self, held: Int[Array, " time_and_past *batch"]
    ) -> Int[Array, "head time *batch"]:
        """The row of every head after each byte, the first `longest` − 1 only past."""
        past, bits = self.longest - 1, (self.table.shape[1] - 1).bit_length()
        time = len(held) - past
        found = []
        for head, n in enumerate(self.orders):
            flips = hash_table(head, n, bits)
            index = jnp.zeros((time, *held.shape[1:]), jnp.int32)
            for place in range(n):
                bytes_ = held[past - place : past - place + time]
                index = index ^ jnp.asarray(flips[place])[bytes_]
            found.append(index)
        return jnp.stack(found)

    def read(self, indices: Int[Array, " head *batch"]) -> Float[Array, "*batch read"]:
        """The codes of the rows, head after head: fractions of full scale."""
        heads = np.arange(len(self.table))
        # One gather, and one scatter-add for its gradient, in range by construction.
        rows = self.table.at[heads, jnp.moveaxis(indices, 0, -1)]
        codes = rows.get(mode="promise_in_bounds").reshape(*indices.shape[1:], -1)
        if self.row_bits is None:
            return codes
        return quantize(codes, full_scale=ROW_RANGE, bits=self.row_bits)

    def read_noisy(
        self,
        indices: Int[Array, " head *batch"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> Float[Array, "*batch read"]:
        """As `read`, with the bits that noise flips in hashes and rows."""
        if self.row_bits is None:
            return self.read(indices)
        heads, rows, _ = self.table.shape
        index_bits = (rows - 1).bit_length()
        # Of n words that are added modulo 2, an odd number of bits flips.
        p = read_flip_probability(256 * index_bits, process)
        if not is_rare(self.longest * p):
            orders = jnp.asarray(self.orders, jnp.float32)
            orders = orders.reshape(-1, *[1] * (indices.ndim - 1))
            flips = flipped_places(
                indices.shape,
                bits=index_bits,
                probability=-jnp.expm1(orders * jnp.log1p(-2 * p)) / 2,
                key=stream(key, "hashes"),
            )
            indices = indices ^ flips
        return misread(
            self.read(indices),
            full_scale=ROW_RANGE,
            bits=self.row_bits,
            probability=read_flip_probability(self.table_bits() / heads, process),
            key=stream(key, "rows"),
        )

    def scan(self, state, xs, *, process, key):
        x, lines = xs[..., : self.n_out], xs[..., self.n_out :]
        held = jnp.concatenate([state, bytes_of(lines)])
        codes = self.read_noisy(
            self.indices(held), process=process, key=stream(key, "flips")
        )
        a = thermal_noise(
            coupled(codes * self.scale.realized(), process=process),
            process.thermal_variance(NODE_F),
            process=process,
            key=stream(key, "dacs"),
        )
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        b = self.context.apply(x, process=process, key=stream(key, "context"))
        y = self.gate.apply(
            jnp.concatenate([a, b], axis=-1), process=process, key=stream(key, "gate")
        )
        y = self.output.apply(y, process=process, key=stream(key, "output"))
        return held[len(xs) :], y

    def step(self, state, x, *, process, key):
        state, ys = self.scan(state, x[None], process=process, key=key)
        return state, ys[0]

    def events(self, process, *, period_s):
        heads, rows, row = self.table.shape
        index_bits = (rows - 1).bit_length()
        read_bits = heads * row * (self.row_bits or 8)
        wires_C = heads * rom_wires_C(
            self.table_bits() / heads, read_bits / heads + index_bits, process
        )
        # 32 gates cost less than one addition of 32 bits.
        gates = sum((n - 1) * index_bits for n in self.orders)
        parts = ("agc", "context", "gate", "output")
        return (
            Event("rom_bit", read_bits, "table"),
            Event("supply_charge_C", wires_C, "table wires"),
            Event("rom_bit", sum(self.orders) * index_bits, "hash"),
            Event("compare", gates / 32, "hash"),
            Event("flop_cycle", BYTE_LINES * (self.longest - 1), "last bytes"),
            Event("dac_conversion", heads * row, "dacs"),
            *(
                event.under(name)
                for name in parts
                for event in getattr(self, name).events(process, period_s=period_s)
            ),
        )

    def diagnose(self, xs, *, process, key):
        """`open`: mean |tanh| of the gates; `silent`: share of codes that are 0."""
        x, lines = xs[..., : self.n_out], xs[..., self.n_out :]
        held = jnp.concatenate([self.init_state(xs.shape[1:-1]), bytes_of(lines)])
        codes = self.read(self.indices(held))
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        b = self.context.apply(x, process=process, key=stream(key, "context"))
        ones = jnp.concatenate([jnp.ones_like(b), b], axis=-1)
        gates = self.gate.apply(ones, process=process, key=stream(key, "gate"))
        return {
            "open": jnp.mean(jnp.abs(gates)),
            "silent": jnp.mean((codes == 0).astype(codes.dtype)),
        }

    def netlist(self, process, *, name) -> Netlist:
        del process
        raise ValueError(
            f"The ROM of `{name}` must be drawn as masks, and its hash as gates, but a"
            f" netlist holds devices: take the {self.table_bits():,} bits of `table`"
            " from the parameters, and the cells of its analog parts."
        )

    def logic(self, process) -> HashedRoms:
        """Raises `ValueError` for rows of real numbers, which no ROM holds."""
        del process
        if self.row_bits is None:
            raise ValueError(
                "The rows of a hashed memory must have codes of 2 to 8 bits to be"
                " exported, but hold real numbers: give `row_bits`."
            )
        index_bits = (self.table.shape[1] - 1).bit_length()
        steps = (2 ** (self.row_bits - 1) - 1) / ROW_RANGE

        def codes(values) -> np.ndarray:
            return np.rint(np.asarray(values) * steps).astype(np.int32)

        def model(bytes_: np.ndarray) -> np.ndarray:
            held = jnp.concatenate([self.init_state(), jnp.asarray(bytes_, jnp.int32)])
            return codes(self.read(self.indices(held)))

        whole = quantize(self.table, full_scale=ROW_RANGE, bits=self.row_bits)
        return HashedRoms(
            hashes=tuple(
                hash_table(head, n, index_bits) for head, n in enumerate(self.orders)
            ),
            rows=tuple(codes(whole)),
            index_bits=index_bits,
            value_bits=self.row_bits,
            model=model,
        )


def bytes_of(lines: Float[Array, "*batch lines"]) -> Int[Array, "*batch"]:
    """The byte on eight lines, lowest bit first: a line above zero is a one."""
    ones = (lines > 0).astype(jnp.int32)
    places = jnp.arange(BYTE_LINES, dtype=jnp.int32)
    return jnp.sum(ones << places, axis=-1, dtype=jnp.int32)
