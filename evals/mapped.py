"""Mapped logic: what tables cost once they are gates of a library.

Counts gates and area of a netlist that ABC mapped, and the energy of the transitions
that test vectors cause in it: charge of the pins each gate drives, and its internal
energy. Wires are not in it: there is no layout.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from circuits.lookup import table_events
from evals.liberty import Library, StandardCell
from physnn.process import Process


@dataclass(frozen=True)
class Gate:
    cell: StandardCell
    pins: Mapping[str, str]  # net of each input pin
    net: str  # of the output


@dataclass(frozen=True)
class Mapped:
    """A combinational netlist of cells, drivers before what they drive."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    gates: tuple[Gate, ...]
    library: Library

    @property
    def area(self) -> float:
        """In the unit of the library: µm² by convention."""
        return sum(gate.cell.area for gate in self.gates)

    @property
    def leakage_W(self) -> float:
        return sum(gate.cell.leakage_W for gate in self.gates)

    def loads_F(self) -> dict[str, float]:
        """Capacitance of the pins on each net; those outside are not known."""
        loads: dict[str, float] = {}
        for gate in self.gates:
            for pin, net in gate.pins.items():
                loads[net] = loads.get(net, 0.0) + gate.cell.pins_F[pin]
        return loads


@dataclass(frozen=True)
class Activity:
    """Transitions of every net between consecutive vectors.

    `settled` counts a net whose value differs once all is quiet; `all` also what it did
    in between, every gate taking one and the same delay. Inputs are among both.
    """

    n_steps: int
    settled: Mapping[str, int]
    all: Mapping[str, int]


def _constant(name: str, bit: int) -> StandardCell:
    value = lambda pins, mask: bit * mask
    return StandardCell(name, 0.0, 0.0, {}, "z", value, lambda load_F: 0.0)


# What ABC calls an output that is always low or high: a wire to a supply.
CONSTANTS = {
    name: _constant(name, bit) for bit, name in enumerate(("_const0_", "_const1_"))
}


def read_mapped(text: str, library: Library) -> Mapped:
    """A netlist as ABC writes it in BLIF, with `.gate` lines.

    Raises `ValueError` for a cell that the library does not have.
    """
    lines = text.replace("\\\n", " ").splitlines()
    inputs: list[str] = []
    outputs: list[str] = []
    gates = []
    for line in lines:
        kind, *words = line.split() or [""]
        if kind == ".inputs":
            inputs += words
        elif kind == ".outputs":
            outputs += words
        elif kind == ".gate" and words[0] in CONSTANTS:
            net = words[1].split("=", 1)[1]
            gates.append(Gate(CONSTANTS[words[0]], {}, net))
        elif kind == ".gate":
            cell = library.cells.get(words[0])
            if cell is None:
                raise ValueError(
                    f"A mapped netlist must use the cells of {library.name}, but uses"
                    f" {words[0]}."
                )
            nets = dict(word.split("=", 1) for word in words[1:])
            gates.append(Gate(cell, nets, nets.pop(cell.output)))
    return Mapped(
        tuple(inputs), tuple(outputs), tuple(_ordered(gates, inputs)), library
    )


def _ordered(gates: list[Gate], inputs: Sequence[str]) -> list[Gate]:
    """Drivers before what they drive. Raises `ValueError` for a loop."""
    driver = {gate.net: gate for gate in gates}
    placed, ordered = set(inputs), []
    for start in gates:
        stack = [start]
        while stack:
            gate = stack[-1]
            missing = [
                driver[net]
                for net in gate.pins.values()
                if net not in placed and net in driver
            ]
            if not missing or gate.net in placed:
                stack.pop()
                if gate.net not in placed:
                    placed.add(gate.net)
                    ordered.append(gate)
            elif len(stack) > len(gates):
                raise ValueError("A mapped netlist must be free of loops, but has one.")
            else:
                stack += missing[:1]
    return ordered


def lanes(bits: np.ndarray) -> list[int]:
    """Columns of bits `(time, n)` as integers: bit t is the value at time t."""
    packed = np.packbits(bits.astype(np.uint8), axis=0, bitorder="little")
    return [int.from_bytes(column.tobytes(), "little") for column in packed.T]


def evaluate(mapped: Mapped, inputs: Mapping[str, int], n: int) -> dict[str, int]:
    """The values of all nets for `n` vectors, in lanes."""
    mask = (1 << n) - 1
    values = {net: inputs[net] for net in mapped.inputs}
    for gate in mapped.gates:
        pins = {pin: values[net] for pin, net in gate.pins.items()}
        values[gate.net] = gate.cell.function(pins, mask)
    return values


def activity(mapped: Mapped, inputs: Mapping[str, int], n: int) -> Activity:
    """Transitions caused by `n` vectors in order (`lanes` by input)."""
    values = evaluate(mapped, inputs, n)
    steps = n - 1
    mask = (1 << steps) - 1
    # In lane t every net starts where vector t left it and ends where t + 1 does.
    settled = {net: ((v ^ (v >> 1)) & mask).bit_count() for net, v in values.items()}
    now = {net: value & mask for net, value in values.items()}
    total: Counter[str] = Counter()
    readers: dict[str, list[Gate]] = {}
    for gate in mapped.gates:
        for net in set(gate.pins.values()):
            readers.setdefault(net, []).append(gate)
    changes = {net: (values[net] >> 1) & mask for net in mapped.inputs}
    while changes:
        touched: dict[str, Gate] = {}
        for net, value in changes.items():
            flips = now[net] ^ value
            if flips:
                total[net] += flips.bit_count()
                now[net] = value
                touched |= {gate.net: gate for gate in readers.get(net, ())}
        changes = {}
        for net, gate in touched.items():
            pins = {pin: now[wire] for pin, wire in gate.pins.items()}
            value = gate.cell.function(pins, mask)
            if value != now[net]:
                changes[net] = value
    return Activity(steps, settled, dict(total))


def switching_J(mapped: Mapped, transitions: Mapping[str, int], n_steps: int) -> float:
    """Energy of one evaluation [J]: ½·C·V² of the pins and the internal energy.

    The pins that inputs drive are in it, what drives the inputs is not.
    """
    loads = mapped.loads_F()
    half = mapped.library.voltage_V**2 / 2
    total = sum(half * loads.get(net, 0.0) * transitions.get(net, 0) for net in loads)
    for gate in mapped.gates:
        count = transitions.get(gate.net, 0)
        if count:
            total += count * gate.cell.internal_J(loads.get(gate.net, 0.0))
    return total / n_steps


def gates_J(layers: Sequence[Mapping[str, int | float]], process: Process) -> float:
    """What the bill takes for multiplexers and outputs of `n` tables each [J].

    Its other lines are not in it: wires, and the read and the leakage of stored bits,
    which tables of gates do not have.
    """
    charge_C = sum(
        float(event.count)
        for row in layers
        for event in table_events(
            int(row["n"]), int(row["k"]), row["node_F"], process, 1.0
        )
        if event.part in ("multiplexers", "outputs")
    )
    return charge_C * float(process.supply_V)


def read_vectors(text: str, width: int) -> np.ndarray:
    """Lines of `$readmemh` as bits `(n, width)`, the lowest first.

    Raises `ValueError` for a line that is not hexadecimal or too wide.
    """
    rows = []
    for line in text.split():
        if not re.fullmatch(r"[0-9a-f]+", line) or int(line, 16) >> width:
            raise ValueError(
                f"A vector must be a hexadecimal number of {width} bits, but is"
                f" {line[:40]!r}."
            )
        whole = int(line, 16).to_bytes(-(-width // 8), "little")
        bits = np.unpackbits(np.frombuffer(whole, np.uint8), bitorder="little")
        rows.append(bits[:width])
    return np.asarray(rows, np.uint8).reshape(-1, width)
