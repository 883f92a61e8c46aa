"""Flatten: a cell and all it uses, as one list of devices."""

import dataclasses
from collections.abc import Mapping

from physnn.export.laws import number, render
from physnn.export.netlist import GROUND, Device, Netlist


def flattened(
    cell: Netlist, *, nets: Mapping[str, str] | None = None
) -> tuple[Device, ...]:
    """The devices of a cell and of its instances, on the nets of the cell.

    A net or device inside an instance is called `<instance>_<name>`, a net of the cell
    as `nets` says, else as it is. Parameters that an instance sets, or leaves at their
    default, become numbers; those of the cell itself stay names.
    """
    devices: list[Device] = []

    def place(part: Netlist, path: str, outside: Mapping[str, str], values) -> None:
        def rename(net: str) -> str:
            return net if net == GROUND else outside.get(net, f"{path}{net}")

        for device in part.devices:
            devices.append(moved(device, path, rename, values))
        for instance in part.instances:
            inside = instance.cell
            given = {name: p.value for name, p in inside.parameters.items()}
            wires = map(rename, instance.nets)
            place(
                inside,
                f"{path}{instance.name}_",
                dict(zip(inside.ports, wires, strict=True)),
                given | dict(instance.parameters),
            )

    own = {name: name for name in cell.parameters}
    place(cell, "", nets or {}, own)
    return tuple(devices)


def moved(
    device: Device, path: str, rename, values: Mapping[str, float | str]
) -> Device:
    """A device of an instance, its nets and parameters those of the outermost cell."""
    law = device.law
    if law is not None:
        law = render(
            law,
            name=lambda name: _text(values[name]),
            voltage=lambda *nets: f"v({', '.join(map(rename, nets))})",
        )
    return dataclasses.replace(
        device,
        name=f"{path}{device.name}",
        nets=tuple(map(rename, device.nets)),
        parameters={
            key: values[value] if isinstance(value, str) else value
            for key, value in device.parameters.items()
        },
        law=law,
    )


def _text(value: int | float | str) -> str:
    return value if isinstance(value, str) else f"({number(value)})"
