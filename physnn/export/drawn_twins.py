"""Twins of drawn rings, columns, converter cells: same name and ports, equations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from physnn.export.cells import clip, number
from physnn.export.netlist import Device, Netlist

# Slope of a decision [1/V] and conductance of a state [S]: ideal, but simulable.
DECIDE_PER_V, STATE_S = 1e4, 1e-6


def ring(cell: Netlist, frequency_Hz: float) -> Netlist:
    """A ring of the frequency of the card: two states that turn, and a node per stage.

    x' = ω·(y + (1 − x² − y²)·x), y' = ω·(−x + (1 − x² − y²)·y), and at node i
    v = vdd/2·(1 + tanh(3·(x·cos α_i + y·sin α_i))), α_i = i·(π + π/n). It takes no
    pull at its nodes and the parameter `tune` does nothing.
    """
    nodes = [port for port in cell.ports if port not in ("vdd", "vss")]
    farad = STATE_S / (2 * math.pi * frequency_Hz)
    grow = "(1 - v(x, vss) * v(x, vss) - v(y, vss) * v(y, vss))"
    g = number(STATE_S)
    # A hundredth of a volt pushes it off its unstable rest.
    laws = {
        "x": f"{g} * (v(y, vss) + 0.01 + {grow} * v(x, vss))",
        "y": f"{g} * ({grow} * v(y, vss) - v(x, vss))",
    }
    devices = []
    for state, law in laws.items():
        devices += [
            Device(f"drive_{state}", "current", ("vss", state), law=law),
            Device(
                f"state_{state}", "capacitor", (state, "vss"), {"capacitance_F": farad}
            ),
        ]
    for i, node in enumerate(nodes):
        angle = i * math.pi * (1 + 1 / len(nodes))
        c, s = number(math.cos(angle)), number(math.sin(angle))
        law = f"v(vdd, vss) / 2 * (1 + tanh(3 * ({c} * v(x, vss) + {s} * v(y, vss))))"
        devices.append(Device(node, "voltage", (node, "vss"), law=law))
    return Netlist(
        cell.name,
        cell.ports,
        tuple(devices),
        parameters=cell.parameters,
        notes="Twin of a ring: its frequency and swing, without pulls and tuning.",
    )


def column(cell: Netlist, units: Sequence[int], table: Mapping[str, Any]) -> Netlist:
    """A column as what it holds at the end of phi2: gain and offset of the card."""
    scale = float(table["gain"]) / int(table["feedback_units"])
    swing = float(table["swing_V"])
    terms = [
        f"{number(scale * u / (2 * swing))} * v(x{i}p, x{i}n)"
        for i, u in enumerate(units)
        if u
    ]
    law = clip(" + ".join([*terms, number(float(table["offset"]))]))
    return Netlist(
        cell.name,
        cell.ports,
        tuple(
            Device(f"y{half}", "voltage", (f"y{half}", "ref"), law=f"{volts} * {law}")
            for half, volts in (("p", number(swing)), ("n", number(-swing)))
        ),
        notes="Twin of a column: y as it stands at the end of phi2. Clocks do nothing.",
    )


def reference(cell: Netlist, table: Mapping[str, Any]) -> Netlist:
    """A reference as the voltage that it holds, from the card."""
    law = number(float(table["reference_V"]))
    return Netlist(
        cell.name,
        cell.ports,
        (Device("nbias", "voltage", ("nbias", "vss"), law=law),),
        notes="Twin of a reference: its voltage.",
    )


def comparator(cell: Netlist) -> Netlist:
    """A comparator without offset, noise and delay."""
    choice = f"tanh({number(DECIDE_PER_V)} * v(inp, inn))"
    devices = []
    for half, sign in (("p", "-"), ("n", "+")):
        law = f"v(vdd, vss) - v(clk, vss) * (1 {sign} {choice}) / 2"
        devices.append(Device(f"out{half}", "voltage", (f"out{half}", "vss"), law=law))
        node = f"x{half}"
        devices.append(Device(node, "voltage", (node, "vss"), law="v(vdd, vss)"))
    return Netlist(
        cell.name,
        cell.ports,
        tuple(devices),
        notes="Twin of a comparator: an ideal decision while clk is high.",
    )


def array(cell: Netlist, bits: int) -> Netlist:
    """An array of ideal weights that was reset at half scale."""
    terms = [f"{number(2.0 ** -(k + 1))} * v(b{k}, vss)" for k in range(bits)]
    law = f"v(ref, vss) + {' + '.join(terms)} - v(vdd, vss) / 2"
    return Netlist(
        cell.name,
        cell.ports,
        (Device("top", "voltage", ("top", "vss"), law=law),),
        notes="Twin of an array, as it stands after a reset at half scale.",
    )
