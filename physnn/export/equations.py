"""Equations: what every device of a behavioral cell does to its nets, as laws.

Languages of equations (Verilog-A) write these; SPICE has elements of its own for most.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from physnn.export.laws import evaluate, nets_of, number
from physnn.export.netlist import GROUND, Device, Netlist

# A switch turns on over some of these around its threshold [V]: a jump has no slope
# that Newton's method could follow. Far from it the conductance is exact.
SWITCH_EDGE_V = 0.01
# Transconductance inside the amplifiers [S]: only its ratios to the pole matter.
AMPLIFIER_S = 1e-3

Kind = Literal["current", "charge", "voltage"]
Branch = tuple[str, ...]  # one net against ground, or two


@dataclass(frozen=True)
class Contribution:
    """What a device adds to a branch: a current, a charge whose rate flows, a voltage.

    Positive currents flow from the first net through the device to the second.
    """

    kind: Kind
    branch: Branch
    law: str


def branch(a: str, b: str) -> Branch:
    """The branch from `a` to `b`; ground is left out."""
    if a == GROUND:
        raise ValueError(f"A branch must start at a net, but starts at ground to {b}.")
    return (a,) if b == GROUND else (a, b)


def across(a: str, b: str) -> str:
    """The voltage of a branch, as a law."""
    return f"v({', '.join(branch(a, b))})"


def _amount(value: int | float | str) -> str:
    return value if isinstance(value, str) else number(value)


def equations(device: Device) -> tuple[Contribution, ...]:
    """What a device of a behavioral cell contributes.

    Raises `ValueError` for a transistor, whose equations are those of a PDK.
    """
    p = {key: _amount(value) for key, value in device.parameters.items()}
    a, b = device.nets[:2]
    match device.kind:
        case "capacitor":
            law = f"{p['capacitance_F']} * {across(a, b)}"
            return (Contribution("charge", branch(a, b), law),)
        case "resistor":
            law = f"{across(a, b)} / {p['resistance_ohm']}"
            return (Contribution("current", branch(a, b), law),)
        case "switch":
            off = f"1 / {p['off_ohm']}"
            more = f"(1 / {p['on_ohm']} - {off})"
            edge = f"({across(*device.nets[2:])} - {p['threshold_V']})"
            edge += f" / {number(SWITCH_EDGE_V)}"
            law = f"{across(a, b)} * ({off} + {more} * 0.5 * (1 + tanh({edge})))"
            return (Contribution("current", branch(a, b), law),)
        case "transconductance":
            law = f"{p['transconductance_S']} * {across(*device.nets[2:])}"
            return (Contribution("current", branch(a, b), law),)
        case "amplifier":
            return _amplifier(device, p)
        case "voltage" | "current" as kind:
            return (Contribution(kind, branch(a, b), device.law or "0"),)
        case kind:
            raise ValueError(
                f"A language of equations must know what a device does, but"
                f" `{device.name}` is a {kind}, whose equations are those of a PDK."
            )


def _amplifier(device: Device, p: Mapping[str, str]) -> tuple[Contribution, ...]:
    """A transconductor into a pole, clamped outside the limit, and a limited buffer."""
    out_p, out_n, in_p, in_n, ref = device.nets
    siemens, found = number(AMPLIFIER_S), []
    laws: tuple[tuple[Kind, Branch, str], ...]
    for half, out, sign in (("p", out_p, ""), ("n", out_n, "-")):
        pole = pole_of(device, half)
        v, limit = across(pole, ref), p["limit_V"]
        over = f"(max(0, {v} - {limit}) + min(0, {v} + {limit}))"
        drive = f"0.5 * {siemens} * {across(in_p, in_n)}"
        laws = (
            ("current", (ref, pole), f"{sign}{drive} - {over}"),
            ("current", (pole, ref), f"{v} * {siemens} / {p['gain']}"),
            ("charge", (pole, ref), f"{p['unity_s']} * {siemens} * {v}"),
            ("voltage", (out, ref), f"max(-{limit}, min({limit}, {v}))"),
        )
        found += [Contribution(kind, branch(*nets), law) for kind, nets, law in laws]
    return tuple(found)


def pole_of(device: Device, half: str) -> str:
    """The net inside an amplifier that holds its pole."""
    return f"pole_{device.name}_{half}"


def contributions(cell: Netlist) -> tuple[Contribution, ...]:
    """Of all devices of a cell, without those of the cells it uses, in order."""
    return tuple(found for device in cell.devices for found in equations(device))


def internal_nets(cell: Netlist) -> tuple[str, ...]:
    """Nets that are no port: those of the netlist, then the poles of amplifiers."""
    wired = cell.nets() - {GROUND, *cell.ports}
    amplifiers = [device for device in cell.devices if device.kind == "amplifier"]
    return (
        *sorted(wired),
        *(pole_of(device, half) for device in amplifiers for half in "pn"),
    )


def reference(
    cell: Netlist, volts: Mapping[str, np.ndarray], names: Mapping[str, np.ndarray]
) -> np.ndarray:
    """What the devices of a cell contribute, `(bias, contribution)` [A, C or V].

    Computed from what a device is, not from the text of its equations, in the order of
    `contributions`: two ways to one number, for gate B3.
    """
    columns: list[np.ndarray | float] = []
    at = lambda net: 0.0 if net == GROUND else volts[net]
    for device in cell.devices:
        nets = device.nets
        p = {
            key: names[value] if isinstance(value, str) else float(number(value))
            for key, value in device.parameters.items()
        }
        v = at(nets[0]) - at(nets[1])
        match device.kind:
            case "capacitor":
                columns.append(p["capacitance_F"] * v)
            case "resistor":
                columns.append(v / p["resistance_ohm"])
            case "switch":
                edge = (at(nets[2]) - at(nets[3]) - p["threshold_V"]) / SWITCH_EDGE_V
                # Logistic of twice the edge, written so that nothing overflows.
                part = 1 / (1 + np.exp(np.minimum(-2 * edge, 700.0)))
                columns.append(v * (part / p["on_ohm"] + (1 - part) / p["off_ohm"]))
            case "transconductance":
                columns.append(p["transconductance_S"] * (at(nets[2]) - at(nets[3])))
            case "amplifier":
                drive = AMPLIFIER_S / 2 * (at(nets[2]) - at(nets[3]))
                for half, sign in (("p", 1.0), ("n", -1.0)):
                    pole = volts[pole_of(device, half)] - at(nets[4])
                    limited = np.clip(pole, -p["limit_V"], p["limit_V"])
                    columns += [
                        sign * drive - (pole - limited),
                        pole * AMPLIFIER_S / p["gain"],
                        p["unity_s"] * AMPLIFIER_S * pole,
                        limited,
                    ]
            case _:
                columns.append(evaluate(device.law or "0", volts, names))
    n = len(next(iter(volts.values())))
    return np.stack([np.broadcast_to(column, (n,)) for column in columns], axis=-1)


def biases(
    cell: Netlist, count: int, *, supply_V: float, swing_V: float
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """`count` voltages of every net that the devices read, and values of parameters.

    Nets go 0.75 swings around half the supply, what controls a switch over the whole
    supply; a parameter goes 20 % around its default, 0.1 around a default of zero. The
    same on every machine: a golden-ratio sequence, as of `cells.trial_vectors`.
    """
    found = contributions(cell)
    read = sorted({net for f in found for net in {*f.branch, *nets_of(f.law)}})
    controls = {d.nets[2] for d in cell.devices if d.kind == "switch"}
    n = len(read) + len(cell.parameters)
    index = np.arange(1, count * n + 1)
    golden = (math.sqrt(5) - 1) / 2
    x = np.round(2 * ((0.5 + (index**2 % 104729) * golden) % 1) - 1, 4)
    columns = iter(x.reshape(count, n).T)
    volts = {
        net: supply_V / 2
        + (supply_V / 2 if net in controls else 0.75 * swing_V) * next(columns)
        for net in read
    }
    names = {
        name: (p.value * (1 + 0.2 * c) if p.value else 0.1 * c)
        for (name, p), c in zip(cell.parameters.items(), columns, strict=True)
    }
    return volts, names
