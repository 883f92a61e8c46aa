"""What the nets of a cell are, discrete in time, and the order in which they follow.

The plan of a real-number model (`physnn.export.real_number`): every net is given by one
step, or by a few that share charge, and each step reads only nets given before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from physnn.export.flatten import flattened
from physnn.export.laws import nets_of
from physnn.export.netlist import GROUND, Device, Netlist
from physnn.export.system_verilog import (
    amount,
    expression,
    flow,
    identifier,
    plus,
    total,
    voltage,
)


@dataclass
class _Store:
    """A net with a capacitor: its voltage over `base` is kept."""

    base: str
    farads: list[str] = field(default_factory=list)
    # (control, threshold, other net) of the switches that set it
    sets: list[tuple[str, str]] = field(default_factory=list)
    moved: bool = False


@dataclass(frozen=True)
class _Step:
    """Statements that give nets, once those they read have been given."""

    gives: tuple[str, ...]
    reads: frozenset[str]
    lines: tuple[str, ...]


class Plan:
    """What every net of a cell is, and in which order it is computed.

    `steps` give nets in order; `stores` are the nets with capacitors, `inputs` the
    ports that its bench drives, `outputs` the variables behind the others, `logic` the
    inputs that do nothing but control switches.

    Raises `ValueError` for a cell whose nets have no order in which they follow from
    each other, and for one without a bench, whose inputs nobody knows.
    """

    def __init__(self, cell: Netlist):
        if not cell.benches:
            raise ValueError(
                f"Cell `{cell.name}` must have a bench to say what drives it."
            )
        bench = cell.benches[0]
        self.cell, self.bench = cell, bench
        self.inputs = {*bench.drive, *bench.clocks, *bench.supplies}
        # A port of type real is a net: what is computed is a variable of its own.
        self.outputs = {p: f"out__{p}" for p in cell.ports if p not in self.inputs}
        self.devices = flattened(cell, nets=self.outputs)
        self.known = {*self.inputs, GROUND}
        self.sources = {d.nets[0]: d for d in self._of("voltage")}
        self.virtual: dict[str, Device] = {}
        self.amplified: dict[str, Device] = {}
        for device in self._of("amplifier"):
            out_p, out_n, in_p, in_n, _ = device.nets
            self.virtual |= {in_p: device, in_n: device}
            self.amplified |= {out_p: device, out_n: device}
        self.stores = self._find_stores()
        self.logic = self._find_logic()
        self.steps = self._ordered()
        given = {net for step in self.steps for net in step.gives}
        for port, net in self.outputs.items():
            if net not in given:
                raise ValueError(
                    f"A real-number model of `{cell.name}` must give all its outputs,"
                    f" but nothing drives {port}."
                )

    def _of(self, *kinds: str) -> list[Device]:
        return [device for device in self.devices if device.kind in kinds]

    def _fixed(self, net: str) -> bool:
        """Whether others give the voltage of a net."""
        given = (self.known, self.sources, self.virtual, self.amplified)
        return any(net in nets for nets in given)

    def _find_stores(self) -> dict[str, _Store]:
        stores: dict[str, _Store] = {}
        for device in self._of("capacitor"):
            free = [net for net in device.nets if not self._fixed(net)]
            if not free:
                continue
            if len(free) == 2:
                raise ValueError(
                    f"A real-number model of `{self.cell.name}` must find every"
                    f" capacitor at a net that something drives, but `{device.name}`"
                    f" floats between {free[0]} and {free[1]}."
                )
            other = next(net for net in device.nets if net != free[0])
            base = self.virtual[other].nets[4] if other in self.virtual else other
            store = stores.setdefault(free[0], _Store(base))
            if store.base != base:
                raise ValueError(
                    f"A real-number model of `{self.cell.name}` must find all"
                    f" capacitors of a net at one other net, but {free[0]} has some to"
                    f" {store.base} and some to {base}."
                )
            store.farads.append(amount(device, "capacitance_F"))
        for device in self._of("resistor", "current", "transconductance"):
            for net in device.nets[:2]:
                if net in stores:
                    stores[net].moved = True
        return stores

    def _find_logic(self) -> set[str]:
        """Inputs that do nothing but control switches: logic, not voltages."""
        read = {net for d in self.devices if d.law for net in nets_of(d.law)}
        read |= {net for d in self.devices for net in d.nets[:2]}
        switches = self._of("switch")
        control = {d.nets[2] for d in switches if d.nets[3] == GROUND}
        unused = {*self.bench.clocks} - {net for d in self.devices for net in d.nets}
        return ((control & self.inputs) - read) | (unused - read)

    def _closed(self, device: Device) -> str:
        """The condition under which a switch is closed."""
        high, low = device.nets[2:]
        if high in self.logic:
            return identifier(high)
        return f"{voltage(high, low)} > {amount(device, 'threshold_V')}"

    def _ordered(self) -> list[_Step]:
        """Every step once, after those that give what it reads."""
        steps = [*self._source_steps(), *self._store_steps(), *self._node_steps()]
        steps += self._amplifier_steps()
        shares = self._share_steps()
        steps += shares
        givers: dict[str, list[int]] = {}
        for i, step in enumerate(steps):
            for net in step.gives:
                givers.setdefault(net, []).append(i)
        graph: TopologicalSorter[int] = TopologicalSorter()
        for i, step in enumerate(steps):
            graph.add(i)
            for net in sorted(step.reads - self.known):
                before = givers.get(net, [])
                if not before:
                    raise ValueError(
                        f"A real-number model of `{self.cell.name}` must know what"
                        f" drives every net, but nothing drives {net}."
                    )
                # Of switches that share charge, each starts where the last one ended.
                graph.add(i, *(k for k in before if net not in step.gives or k < i))
        try:
            return [steps[i] for i in graph.static_order()]
        except CycleError as error:
            loop = sorted({net for i in error.args[1] for net in steps[i].gives})
            raise ValueError(
                f"A real-number model of `{self.cell.name}` must give its nets one"
                f" after the other, but {', '.join(loop[:4])} depend on each other."
            ) from error

    def _source_steps(self) -> Iterable[_Step]:
        for net, device in self.sources.items():
            base, law = device.nets[1], device.law or "0"
            reads = frozenset({base, *nets_of(law)}) - {net}
            text = f"{identifier(net)} = {plus(base, expression(law))};"
            yield _Step((net,), reads, (text,))

    def _store_steps(self) -> Iterable[_Step]:
        for net, store in self.stores.items():
            reads, lines, chain = {store.base}, [], ""
            kept, base = f"kept__{net}", store.base
            for device in self._of("switch"):
                a, b, high, low = device.nets
                other = b if a == net else a if b == net else None
                if other is None or other in self.stores:
                    continue
                if other in self.virtual:
                    other = self.virtual[other].nets[4]
                reads |= {other, high, low}
                lines.append(
                    f"{chain}if ({self._closed(device)}) {kept} ="
                    f" {voltage(other, base)};"
                )
                chain = "else "
            lines.append(f"{identifier(net)} = {plus(base, kept)};")
            yield _Step((net,), frozenset(reads), tuple(lines))

    def _share_steps(self) -> list[_Step]:
        """Switches between two nets with capacitors: their charges add up."""
        steps = []
        for device in self._of("switch"):
            a, b, high, low = device.nets
            if not (a in self.stores and b in self.stores):
                continue
            if self.stores[a].moved or self.stores[b].moved:
                raise ValueError(
                    f"A real-number model of `{self.cell.name}` must find no current at"
                    f" capacitors that share charge, but {a} and {b} have one."
                )
            (base_a, base_b) = (self.stores[net].base for net in (a, b))
            sums = [total(self.stores[net].farads) for net in (a, b)]
            mean = (
                f"({sums[0]} * {identifier(a)} + {sums[1]} * {identifier(b)})"
                f" / ({sums[0]} + {sums[1]})"
            )
            lines = (
                f"if ({self._closed(device)}) begin",
                f"  {identifier(a)} = {mean};",
                f"  {identifier(b)} = {identifier(a)};",
                f"  kept__{a} = {voltage(a, base_a)};",
                f"  kept__{b} = {voltage(b, base_b)};",
                "end",
            )
            steps.append(_Step((a, b), frozenset({a, b, high, low}), lines))
        return steps

    def _node_steps(self) -> Iterable[_Step]:
        """Nets with nothing but resistors and current sources."""
        found: dict[str, tuple[list[str], list[str], set[str]]] = {}
        for device in self._of("resistor", "current", "transconductance"):
            for net, sign in zip(device.nets[:2], ("-", ""), strict=True):
                if self._fixed(net) or net in self.stores:
                    if net in self.virtual:
                        raise ValueError(
                            f"A real-number model of `{self.cell.name}` must find only"
                            f" capacitors at the inputs of an amplifier, but"
                            f" `{device.name}` is at {net}."
                        )
                    continue
                flows, siemens, reads = found.setdefault(net, ([], [], set()))
                if device.kind == "resistor":
                    other = device.nets[1] if device.nets[0] == net else device.nets[0]
                    ohm = amount(device, "resistance_ohm")
                    siemens.append(f"1.0 / {ohm}")
                    flows.append(f"{voltage(other)} / {ohm}")
                    reads.add(other)
                else:
                    law = flow(device)
                    flows.append(f"{sign}({expression(law)})")
                    reads |= nets_of(law)
        for net, (flows, siemens, reads) in found.items():
            if not siemens:
                raise ValueError(
                    f"A real-number model of `{self.cell.name}` must find a resistor or"
                    f" a capacitor at every net that currents flow into, but {net} has"
                    " none."
                )
            text = f"{identifier(net)} = ({total(flows)}) / ({total(siemens)});"
            yield _Step((net,), frozenset(reads), (text,))

    def _amplifier_steps(self) -> Iterable[_Step]:
        """An output is what keeps the charge of the input it is fed back to."""
        for out, device in self.amplified.items():
            ref, limit = device.nets[4], amount(device, "limit_V")
            at = lambda net: net if net not in self.virtual else None
            back = next(
                d
                for d in self._of("capacitor")
                if out in d.nets and any(net in self.virtual for net in d.nets)
            )
            summing = next(net for net in back.nets if net in self.virtual)
            reset = [d for d in self._of("switch") if {*d.nets[:2]} == {out, summing}]
            terms, reads = [], {ref}
            for d in self._of("capacitor"):
                if d is back or summing not in d.nets:
                    continue
                plate = next(net for net in d.nets if at(net))
                terms.append(f"{amount(d, 'capacitance_F')} * {voltage(ref, plate)}")
                reads.add(plate)
            y, given, kept = identifier(out), f"given__{summing}", f"kept__{summing}"
            farads = amount(back, "capacitance_F")
            for switch in reset:
                reads |= {*switch.nets[2:]}
            closed = " || ".join(self._closed(switch) for switch in reset) or "1'b0"
            moved = f"clipped(({given} - {kept}) / {farads}, {limit})"
            lines = (
                f"{given} = {total(terms)};",
                f"if ({closed}) {kept} = {given};",
                f"{y} = {plus(ref, moved)};",
            )
            yield _Step((out,), frozenset(reads), lines)

    def rates(self) -> list[str]:
        """d/dt of every kept voltage that currents move."""
        into: dict[str, list[str]] = {n: [] for n, s in self.stores.items() if s.moved}
        for device in self._of("resistor", "current", "transconductance"):
            for net, sign in zip(device.nets[:2], ("-", ""), strict=True):
                if net in into:
                    into[net].append(f"{sign}({expression(flow(device))})")
        return [
            f"rate__{net} = ({total(flows)}) / ({total(self.stores[net].farads)});"
            for net, flows in into.items()
        ]
