"""Constraints: which parts must match in layout, and clocks of the digital part.

`matching.json` holds, per cell, what ALIGN takes as `<cell>.const.json` (align/schema/
constraint.py at github.com/ALIGN-analoglayout/ALIGN-public): symmetric pairs of devices
and nets, arrays of identical units. Instances carry the names of the SPICE cells.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from physnn.export.laws import number
from physnn.export.netlist import Device, Netlist
from physnn.export.tables import to_json
from physnn.process import Process

# Elements of a deck by kind; what is only behavior has no place in a layout.
_LETTERS = {"capacitor": "c", "resistor": "r", "switch": "s"}


def matching(cells: Iterable[Netlist], process: Process) -> dict[str, Any]:
    """The constraints of every cell that has any, by its name."""
    unit_F = float(process.capacitor_min_F)
    found = {cell.name: _of_cell(cell, unit_F) for cell in cells}
    return {
        "format": "per cell, the list that ALIGN reads as <cell>.const.json",
        "unit_capacitor_F": unit_F,
        "cells": {name: rules for name, rules in found.items() if rules},
    }


def _of_cell(cell: Netlist, unit_F: float) -> list[dict[str, Any]]:
    named = [(_element(device), device) for device in cell.devices]
    names = {name: device for name, device in named if name}
    pairs = [
        [name, other]
        for name in names
        if name.endswith("p") and (other := f"{name[:-1]}n") in names
        if _alike(names[name], names[other])
    ]
    rules: list[dict[str, Any]] = []
    if pairs:
        rules.append(
            {"constraint": "SymmetricBlocks", "pairs": pairs, "direction": "V"}
        )
    nets = {*cell.ports}
    for port in cell.ports:
        other = f"{port[:-1]}n"
        if pairs and port.endswith("p") and other in nets:
            rules.append(
                {
                    "constraint": "SymmetricNets",
                    "net1": port,
                    "net2": other,
                    "direction": "V",
                }
            )
    arrays: dict[str, list[str]] = defaultdict(list)
    for instance in cell.instances:
        arrays[instance.cell.name].append(f"x_{instance.name}")
    units = {f"x_{i.name}": i.parameters.get("capacitance") for i in cell.instances}
    for name, instances in arrays.items():
        if len(instances) < 2:
            continue
        rules.append({"constraint": "SameTemplate", "instances": instances})
        sizes = [units[instance] for instance in instances]
        if all(size is not None for size in sizes):
            # A weight is as many unit capacitors in parallel, in each half.
            rules.append(
                {
                    "constraint": "GroupCaps",
                    "name": f"{name}_array",
                    "instances": instances,
                    "unit_cap": number(unit_F),
                    "num_units": [round((size or 0.0) / unit_F) for size in sizes],
                    "dummy": True,
                }
            )
    return rules


def _element(device: Device) -> str | None:
    letter = _LETTERS.get(device.kind)
    if letter is None:
        return f"xm_{device.name}" if "width_m" in device.parameters else None
    return f"{letter}_{device.name}"


def _alike(a: Device, b: Device) -> bool:
    return a.kind == b.kind and dict(a.parameters) == dict(b.parameters)


def sdc(index: Mapping[str, Any], period_s: float | None) -> str:
    """Clocks of the logic of `rtl/index.json`: one edge of `clk` per token."""
    period = f"{number(period_s * 1e9)}" if period_s else "1000"
    outside = number(0.25 * float(period))
    known = "" if period_s else " (assumed: no circuit says how long it is)"
    lines = [
        f"# One rising edge of clk per token of {period} ns{known}.",
        "# Every module stands for itself: read the section of the one you build.",
    ]
    for part in index["parts"]:
        lines += [
            "",
            f"# {part['name']}_clocked, {part['kind']}: {part['n_in']} inputs,"
            f" {part['n_out']} outputs, {part['n_registers']} registers",
            f"create_clock -name clk -period {period} [get_ports clk]",
            "# A choice, not measured [ns]:",
            "set_clock_uncertainty 0.1 [get_clocks clk]",
            f"set_input_delay {outside} -clock clk [get_ports x*]",
            f"set_output_delay {outside} -clock clk [get_ports y*]",
            "set_false_path -from [get_ports reset]",
        ]
    return "\n".join(lines) + "\n"


def files(
    cells: Iterable[Netlist],
    process: Process,
    *,
    digital: Mapping[str, Any] | None,
    period_s: float | None,
) -> dict[str, bytes]:
    """`constraints/`: matching always, clocks where there is logic (`digital`)."""
    found = {"constraints/matching.json": to_json(matching(cells, process))}
    if digital is not None:
        found["constraints/digital.sdc"] = sdc(digital, period_s).encode()
    return found
