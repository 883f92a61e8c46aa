"""Selection: which circuits of a design a package holds, and what it cannot hold."""

import dataclasses
from collections.abc import Iterator, Sequence

from physnn.circuit import AbstractCircuit
from physnn.export.netlist import Bench, Netlist, cell_name
from physnn.process import Process


@dataclasses.dataclass(frozen=True)
class Exported:
    """A circuit of the design, and the cells of it that the package holds."""

    path: str
    circuit: AbstractCircuit
    cells: tuple[Netlist, ...]  # in the order in which they are used
    benches: tuple[tuple[Netlist, Bench], ...]


@dataclasses.dataclass(frozen=True)
class Refusal:
    """What a format cannot represent: a circuit by path or a cell by name, and why."""

    format: str
    what: str
    reason: str


def circuits_of(node, path: str = "") -> Iterator[tuple[str, AbstractCircuit]]:
    """Every circuit of a design by path, the whole before its parts."""
    if isinstance(node, AbstractCircuit):
        yield path, node
    if isinstance(node, tuple | list):
        for i, part in enumerate(node):
            yield from circuits_of(part, f"{path}[{i}]")
    elif isinstance(node, dict):
        for key, part in node.items():
            yield from circuits_of(part, f"{path}[{key!r}]")
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field in dataclasses.fields(node):
            below = f"{path}.{field.name}" if path else field.name
            yield from circuits_of(getattr(node, field.name, None), below)


def exported_circuits(design, process: Process) -> tuple[list[Exported], list[Refusal]]:
    """The first circuit of every family: those that are not made of other circuits.

    Second, the families that have no netlist, with what their first circuit said. A
    family of which a later circuit has one is not among them.

    Raises `ValueError` for a design in which no circuit has a netlist, for values that
    are not finite, and for two cells that have the same name.
    """
    seen: set[type] = set()
    found: list[Exported] = []
    refused: dict[type, Refusal] = {}
    for path, circuit in circuits_of(design):
        made_of = sum(1 for _ in circuits_of(circuit)) - 1
        if made_of or type(circuit) in seen:
            continue
        family = type(circuit).__name__
        try:
            netlist = circuit.netlist(process, name=cell_name(path or "design"))
        except ValueError as error:
            what = f"{path or 'design'} ({family})"
            refused.setdefault(type(circuit), Refusal("netlist", what, str(error)))
            continue
        seen.add(type(circuit))
        refused.pop(type(circuit), None)
        every = list(netlist.cells())
        benches = [(cell, bench) for cell in every for bench in cell.benches]
        if benches:
            used = {part.name for cell, _ in benches for part in cell.cells()}
            every = [cell for cell in every if cell.name in used]
        found.append(Exported(path, circuit, tuple(every), tuple(benches)))
    if not found:
        reasons = "".join(f" {refusal.reason}" for refusal in refused.values())
        raise ValueError(
            "A design must hold at least one circuit with a netlist to be exported,"
            f" but the {type(design).__name__} has none.{reasons}"
        )
    check_names(found)
    return found, list(refused.values())


def check_names(circuits: Sequence[Exported]) -> None:
    """Raises `ValueError` for two cells, or two benches, that would be one file.

    Names are lower case everywhere, because simulators fold case: `Gate` and `gate` of
    a design become the same cell.
    """
    owners: dict[str, str] = {}
    for exported in circuits:
        cells = [("cell", cell.name) for cell in exported.cells]
        cells += [("bench", bench.name) for _, bench in exported.benches]
        for kind, name in cells:
            other = owners.setdefault(f"{kind} {name}", exported.path)
            if other != exported.path:
                raise ValueError(
                    "Circuits must keep different names when they are folded to lower"
                    f" case, but `{other}` and `{exported.path}` both have the {kind}"
                    f" `{name}`: rename one of them."
                )
