"""Netlists of lookup tables, latches and comparators: behavioral cells."""

import numpy as np

from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.process import Process

# A gate restores a bit: full scale from this fraction of it.
GATE_GAIN = 1e3


def bit_law(law: str) -> str:
    """1 where `law` is above 0, else 0 [V], as steep as a chain of gates."""
    return f"max(0, min(1, 0.5 + {cells.number(GATE_GAIN)} * ({law})))"


def multiplexer(bits: list[str], entries: list[str]) -> tuple[list[Device], str]:
    """Devices that select one of `entries` by the nets `bits`, and the law of it.

    An entry is a law; the first bit is the lowest of the address.
    """
    devices, level = [], entries
    for j, bit in enumerate(bits):
        pairs = zip(level[::2], level[1::2], strict=True)
        laws = [f"({a}) + v({bit}, ref) * (({b}) - ({a}))" for a, b in pairs]
        if len(laws) == 1:
            return devices, laws[0]
        level = []
        for i, law in enumerate(laws):
            net = f"m{j}_{i}"
            devices.append(Device(net, "voltage", (net, "ref"), law=law))
            level.append(f"v({net}, ref)")
    return devices, level[0]


def table_cell(name: str, k: int, process: Process, bits: np.ndarray) -> Netlist:
    """A table of `k` inputs, its bits as parameters, with a bench of all addresses."""
    inputs = [
        Device(
            f"b{j}",
            "voltage",
            (f"b{j}", "ref"),
            law=bit_law(cells.difference(f"x{j}", process)),
        )
        for j in range(k)
    ]
    entries = [f"t{a}" for a in range(2**k)]
    tree, law = multiplexer([f"b{j}" for j in range(k)], entries)
    address = np.arange(2**k)
    drive = {
        f"x{j}": np.where((address >> j) & 1, 1.0, -1.0).astype(np.float32)
        for j in range(k)
    }
    bench = cells.static_bench(
        f"{name}_addresses",
        drive,
        {"y": 2.0 * bits.astype(np.float32) - 1},
        process=process,
    )
    return Netlist(
        name,
        (*cells.bus("x", k), *cells.halves("y"), "ref"),
        (
            *inputs,
            *tree,
            *cells.differential_voltage("y", f"2 * ({law}) - 1", process),
        ),
        parameters={
            entry: Parameter(float(bit), "1", "stored bit at this address")
            for entry, bit in zip(entries, bits, strict=True)
        },
        benches=(bench,),
        notes="y is the stored bit at address sum 2^j [x_j > 0]; bits are 0 and 1 V"
        " over ref inside, plus and minus full scale outside.",
    )


def table_netlist(
    name: str, tables: np.ndarray, wires: np.ndarray, *, n_in: int, process: Process
) -> Netlist:
    """A layer of `tables` `(n, 2^k)` whose pins read the bits `wires` `(n, k)`."""
    n, k = wires.shape
    cell = table_cell(f"{name}_table", k, process, tables[0])
    instances = tuple(
        Instance(
            f"table{j}",
            cell,
            (*cells.halves(*(f"x{i}" for i in wires[j]), f"y{j}"), "ref"),
            {f"t{a}": float(bit) for a, bit in enumerate(tables[j])},
        )
        for j in range(n)
    )
    ports = (*cells.bus("x", n_in), *cells.bus("y", n), "ref")
    return Netlist(name, ports, instances=instances)


def state_netlist(
    name: str,
    tables: np.ndarray,
    wires: np.ndarray,
    *,
    n_in: int,
    hold_F: float,
    process: Process,
) -> Netlist:
    """State bits: a table each, whose last pin is what its latch held before.

    In `phi1` the master samples the state, in `phi2` the table's bit is written, so
    that no state is overwritten while it is read.
    """
    n, k = len(tables), wires.shape[1] + 1
    table = table_cell(f"{name}_table", k, process, tables[0])
    hold = cells.hold(f"{name}_hold", hold_F, process)
    clocks = ("phi1", "phi2", "ref")
    instances = []
    for j in range(n):
        values = {f"t{a}": float(bit) for a, bit in enumerate(tables[j])}
        y, s, d = (cells.halves(f"{signal}{j}") for signal in "ysd")
        pins = cells.halves(*(f"x{i}" for i in wires[j]))
        instances += [
            Instance(f"before{j}", hold, (*y, *s, "phi1", "ref")),
            Instance(f"table{j}", table, (*pins, *s, *d, "ref"), values),
            Instance(f"after{j}", hold, (*d, *y, "phi2", "ref")),
        ]
    ports = (*cells.bus("x", n_in), *cells.bus("y", n), *clocks)
    return Netlist(name, ports, instances=tuple(instances))
