"""Settled twins: charge columns as what they hold once their charge has moved.

A network of switched columns costs a simulator hundreds of time steps per token and six
devices per weight. Gate B1 shows that a column ends at the sum of its weights times its
inputs; its settled twin is that sum, one transconductance per weight, so that a whole
network fits into one simulation.
"""

import dataclasses

from physnn.export.cells import clip, number
from physnn.export.flatten import moved
from physnn.export.netlist import GROUND, Device, Instance, Netlist
from physnn.process import Process

# Where a column's currents add up: volts are sums of weight times input.
SUM_OHM = 1.0


def settled(netlist: Netlist, process: Process) -> Netlist:
    """`netlist` in one level: cells of devices, and settled twins of charge columns.

    A column y = clip(Σ ratio·x + offset), with ratio = capacitance / feedback
    capacitance, negative for inputs that are wired in reverse, becomes one
    transconductance per weight into a resistor. Ports stay, the clocks of columns lead
    nowhere. Cells that hold no others are instances, everything else is drawn out:
    simulators limit the ports of a cell. Benches are dropped.
    """
    columns: dict[str, Netlist] = {}
    devices: list[Device] = []
    instances: list[Instance] = []

    def place(
        cell: Netlist, path: str, outside: dict[str, str], values: dict[str, float]
    ) -> None:
        rename = lambda net: outside.get(net, net if net == GROUND else f"{path}{net}")
        for device in cell.devices:
            placed = moved(device, path, rename, values)
            if device.kind == "transconductance":
                placed = against_ground(placed)
            devices.append(placed)
        for instance in cell.instances:
            below = instance.cell
            if _is_column(below):
                if below.name not in columns:
                    columns[below.name] = _twin(below, process)
                below = columns[below.name]
            nets = tuple(map(rename, instance.nets))
            name = f"{path}{instance.name}"
            if below.instances or below is not instance.cell:
                inside = dict(zip(below.ports, nets, strict=True)) | {GROUND: GROUND}
                given = _defaults(below) | dict(instance.parameters)
                place(below, f"{name}_", inside, given)
            else:
                instances.append(dataclasses.replace(instance, name=name, nets=nets))

    differences: dict[tuple[str, ...], str] = {}

    def against_ground(weight: Device) -> Device:
        """A weight on one net: the difference of its input's halves is taken once."""
        pair = tuple(sorted(weight.nets[2:]))
        if pair not in differences:
            net = differences[pair] = f"difference{len(differences)}"
            law = f"v({pair[1]}, {pair[0]})"
            devices.append(Device(net, "voltage", (net, GROUND), law=law))
        value = float(weight.parameters["transconductance_S"])
        signed = value if weight.nets[2] == pair[1] else -value
        return dataclasses.replace(
            weight,
            nets=(*weight.nets[:2], differences[pair], GROUND),
            parameters={"transconductance_S": signed},
        )

    same = {port: port for port in (*netlist.ports, GROUND)}
    whole = _twin(netlist, process) if _is_column(netlist) else netlist
    place(whole, "", same, _defaults(whole))
    return Netlist(
        netlist.name,
        netlist.ports,
        tuple(devices),
        tuple(instances),
        netlist.parameters,
    )


def _defaults(cell: Netlist) -> dict[str, float]:
    """A cell that is drawn out has numbers in place of its parameters."""
    return {name: parameter.value for name, parameter in cell.parameters.items()}


def _is_column(cell: Netlist) -> bool:
    """Whether a cell is what `charge_column` makes: weights around an amplifier."""
    return {device.name for device in cell.devices} >= {"amplifier", "feedback_p"}


def _twin(cell: Netlist, process: Process) -> Netlist:
    by_name = {device.name: device for device in cell.devices}
    feedback_F = float(by_name["feedback_p"].parameters["capacitance_F"])
    devices, offset = [], 0.0
    for instance in cell.instances:
        high, low = instance.nets[:2]
        ratio = instance.parameters["capacitance"] / feedback_F
        if {high, low} == {"fullp", "fulln"}:
            offset = ratio if high == "fullp" else -ratio
            continue
        devices.append(
            Device(
                instance.name,
                "transconductance",
                (GROUND, "sum", high, low),
                {"transconductance_S": ratio / SUM_OHM},
            )
        )
    value = f"v(sum) / {number(2 * process.swing_V)} + {number(offset)}"
    total = {"resistance_ohm": SUM_OHM}
    devices.append(Device("sum", "resistor", ("sum", GROUND), total))
    for half, sign in (("p", ""), ("n", "-")):
        law = f"{sign}{number(process.swing_V)} * {clip(value)}"
        devices.append(Device(f"y{half}", "voltage", (f"y{half}", "ref"), law=law))
    return Netlist(cell.name, cell.ports, tuple(devices))
