"""Netlists of networks: parts wired from the same convention of ports.

The netlist of a circuit has the ports `bus("x", n_in)`, `bus("y", n_out)`, its clocks,
and `ref`. A part's clocks become ports of the network, named after the part.
"""

from collections.abc import Sequence

from physnn.export.cells import bus, halves
from physnn.export.netlist import Instance, Netlist

# A part: its name, its netlist, the signals it takes and those it gives.
Part = tuple[str, Netlist, Sequence[str], Sequence[str]]


def signals(name: str, count: int, *, start: int = 0) -> tuple[str, ...]:
    """The names of `count` signals: `x0`, `x1`, ... ."""
    return tuple(f"{name}{i}" for i in range(start, start + count))


def compose(
    name: str, n_in: int, n_out: int, parts: Sequence[Part], *, notes: str = ""
) -> Netlist:
    """A cell of `parts`, wired by the names of their signals.

    The inputs of the network are `x0`, `x1`, ..., its outputs `y0`, `y1`, ... . Raises
    `ValueError` for a part with another number of signals than it has ports.
    """
    clocks: list[str] = []
    instances = []
    for part_name, netlist, inputs, outputs in parts:
        wires = (*halves(*inputs), *halves(*outputs))
        ports = (*bus("x", len(inputs)), *bus("y", len(outputs)))
        own = netlist.ports[len(ports) : -1]
        if netlist.ports != (*ports, *own, "ref") or set(own) & set(ports):
            raise ValueError(
                f"Part `{part_name}` of `{name}` must have the ports of {len(inputs)}"
                f" inputs x and {len(outputs)} outputs y, its clocks and ref, but has"
                f" {len(netlist.ports)} ports: {' '.join(netlist.ports[:4])} ... ."
            )
        part_clocks = [f"{part_name}_{clock}" for clock in own]
        clocks += part_clocks
        instances.append(Instance(part_name, netlist, (*wires, *part_clocks, "ref")))
    return Netlist(
        name,
        (*bus("x", n_in), *bus("y", n_out), *clocks, "ref"),
        instances=tuple(instances),
        notes=notes,
    )


def array(
    name: str,
    cells: Sequence[tuple[Netlist, dict[str, float]]],
    *,
    n_signals_in: int = 1,
    notes: str = "",
) -> Netlist:
    """A cell for each channel: input k of channel j is `x{k·n + j}`, its output `y{j}`.

    A cell's ports are the halves of its inputs, those of its output, clocks and `ref`.
    """
    n = len(cells)
    shared = cells[0][0].ports[2 * (n_signals_in + 1) :]
    instances = tuple(
        Instance(
            f"channel{j}",
            cell,
            (
                *halves(*(f"x{k * n + j}" for k in range(n_signals_in)), f"y{j}"),
                *shared,
            ),
            values,
        )
        for j, (cell, values) in enumerate(cells)
    )
    ports = (*bus("x", n_signals_in * n), *bus("y", n), *shared)
    return Netlist(name, ports, instances=instances, notes=notes)
