"""Logic: the parts of a design that are bits, between circuits and digital formats."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8

from physnn.process import Process

Bits = UInt8[np.ndarray, "_ _"]


@dataclass(frozen=True, eq=False)
class Tables:
    """Lookup tables of k inputs that are read together.

    `bits` `(n, 2^k)` are what they hold, 0 or 1; entry Σ 2^i·pin_i. `wires` `(n, k)`
    are the signals of their pins. `node_F` is the load of an output in the model [F].
    """

    bits: UInt8[np.ndarray, "n entries"]
    wires: Int[np.ndarray, "n k"]
    node_F: float

    def __post_init__(self):
        n, k = self.wires.shape
        if self.bits.shape != (n, 2**k):
            raise ValueError(
                f"Tables of {k} pins must hold {2**k} bits each for their {n} rows of"
                f" wires, but hold {self.bits.shape}."
            )


@dataclass(frozen=True, eq=False)
class Logic:
    """Layers of tables, with registers around them where bits remember.

    Signals are numbered: `n_in` inputs, then one for each register, then the tables of
    all layers in order. `registers` are the signals that the registers take over at the
    end of a step, `outputs` those that are given. Registers start at 0.

    `model` is what the circuit itself computes: for inputs `(time, n_in)` from the
    start on, the outputs `(time, n_out)`. Test vectors are made by it, not by the
    tables. Raises `ValueError` for a signal that is read before it is there.
    """

    n_in: int
    layers: tuple[Tables, ...]
    outputs: tuple[int, ...]
    model: Callable[[np.ndarray], np.ndarray]
    registers: tuple[int, ...] = ()

    def __post_init__(self):
        known = self.n_in + len(self.registers)
        for layer in self.layers:
            if layer.wires.min() < 0 or layer.wires.max() >= known:
                raise ValueError(
                    f"The pins of tables must read the {known} signals before them, but"
                    f" read from {layer.wires.min()} to {layer.wires.max()}."
                )
            known += len(layer.wires)
        read = (*self.outputs, *self.registers)
        if not self.outputs or min(read) < 0 or max(read) >= known:
            raise ValueError(
                f"Outputs and registers must take some of the {known} signals, but take"
                f" {sorted(set(read))[:1]} to {sorted(set(read))[-1:]}."
            )

    @property
    def n_tables(self) -> int:
        return sum(len(layer.wires) for layer in self.layers)

    def names(self) -> list[str]:
        """Each signal by its name in all files: `x_3`, `s_0`, `t1_7`."""
        groups = [("x", self.n_in), ("s", len(self.registers))]
        groups += [(f"t{i}", len(layer.wires)) for i, layer in enumerate(self.layers)]
        return [f"{name}_{i}" for name, n in groups for i in range(n)]

    def evaluate(self, xs: Bits) -> tuple[Bits, Bits]:
        """What the tables say: outputs, and registers before each step.

        Raises `ValueError` where that is not what `model` says.
        """
        held = np.zeros(len(self.registers), np.uint8)
        outputs, states = [], []
        for x in xs:
            states.append(held)
            signals = np.concatenate([x, held])
            for layer in self.layers:
                address = signals[layer.wires] @ (1 << np.arange(layer.wires.shape[1]))
                read = layer.bits[np.arange(len(address)), address]
                signals = np.concatenate([signals, read])
            held = signals[list(self.registers)]
            outputs.append(signals[list(self.outputs)])
        found = np.stack(outputs).astype(np.uint8)
        wrong = int(np.sum(found != self.model(xs)))
        if wrong:
            raise ValueError(
                f"The tables of a circuit must compute what the circuit does, but"
                f" {wrong} of {found.size} bits differ: is it evaluated soft?"
            )
        return found, np.stack(states).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class HashedRoms:
    """ROMs of rows, each found by the exclusive or of words of the last bytes.

    `hashes[h]` `(places, 256)`: the word of the byte that came `place` bytes ago;
    `rows[h]` `(2^index_bits, values)`: the signed codes of `value_bits` in each row.
    Bytes before the first are 0. `model` gives for bytes `(time,)` the codes
    `(time, all values)`, head after head.
    """

    hashes: tuple[Int[np.ndarray, "_ 256"], ...]
    rows: tuple[Int[np.ndarray, "_ _"], ...]
    index_bits: int
    value_bits: int
    model: Callable[[np.ndarray], np.ndarray]

    @property
    def n_past(self) -> int:
        """Bytes that are kept beside the present one."""
        return max(len(words) for words in self.hashes) - 1

    @property
    def row_bits(self) -> int:
        """Bits of a row of one ROM."""
        return self.rows[0].shape[1] * self.value_bits

    @property
    def n_out(self) -> int:
        """Bits that are given, lowest first."""
        return len(self.rows) * self.row_bits

    def to_bits(self, codes: np.ndarray) -> Bits:
        """Codes `(time, values)` as bits: two's complement, the lowest bit first."""
        shifts = np.arange(self.value_bits)
        bits = (codes.astype(np.int64)[..., None] >> shifts) & 1
        return bits.reshape(len(codes), -1).astype(np.uint8)


def digital_parts(
    design, process: Process
) -> Iterator[tuple[str, "Logic | HashedRoms"]]:
    """The digital parts of a design by path: the whole and not again its parts."""
    if hasattr(design, "logic"):
        logic = design.logic(process)
        if logic is not None:
            yield "", logic
            return
    children: list[tuple[str, object]] = []
    if isinstance(design, tuple | list):
        children = [(f"[{i}]", part) for i, part in enumerate(design)]
    elif isinstance(design, dict):
        children = [(f"[{key!r}]", part) for key, part in design.items()]
    elif dataclasses.is_dataclass(design) and not isinstance(design, type):
        names = [field.name for field in dataclasses.fields(design)]
        children = [(f".{name}", getattr(design, name, None)) for name in names]
    for step, part in children:
        for path, logic in digital_parts(part, process):
            yield f"{step}{path}".removeprefix("."), logic


def chained(parts: list[Logic], model: Callable[[np.ndarray], np.ndarray]) -> Logic:
    """Parts without registers one after another, as one."""
    layers, signals = [], np.arange(parts[0].n_in)
    known = len(signals)
    for part in parts:
        for layer in part.layers:
            own = np.concatenate([signals, known + np.arange(len(layer.wires))])
            layers.append(dataclasses.replace(layer, wires=signals[layer.wires]))
            known += len(layer.wires)
            signals = own
        signals = signals[np.asarray(part.outputs)]
    return Logic(parts[0].n_in, tuple(layers), tuple(map(int, signals)), model)


def trial_bits(n_vectors: int, n: int, *, seed: int = 0) -> Bits:
    """Fixed bits `(n_vectors, n)` as if at random, which no training ever saw.

    SplitMix64 of their position (Steele, Lea & Flood 2014, DOI
    10.1145/2660193.2660195): the same on every machine and version of NumPy.
    """
    count = np.arange(n_vectors * n, dtype=np.uint64) + np.uint64(1 + seed)
    z = count * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return (z >> np.uint64(63)).astype(np.uint8).reshape(n_vectors, n)
