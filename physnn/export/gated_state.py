"""Gated state: a drawn cell of the state-space block, with the switches it is fed by.

    u ──╱ phi ──┬──▷ gm(s) ──┬── v        the tail of the transconductor is what the
                ═ hold       ═ C          steering pair leaves it of `bias`
    s ──╱ phi ──┬── steers ──┘
                ═ hold

It is one half of a differential state: u and v around `ref`, s around `refs`. The same
cell takes twins of its two parts, switch and steered transconductor, in their place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from physnn.export.cells import OFF_OHM, ON_OHM
from physnn.export.columns import mos, transmission_gate
from physnn.export.laws import number
from physnn.export.netlist import Device, Instance, Netlist

CORE_PORTS = ("inp", "inn", "out", "sp", "sn", "bias", "vdd", "vss")
PORTS = ("u", "s", "v", "phi", "phin", "bias", "vdd", "vss", "ref", "refs")
# What signals move around, the supply, and a full scale of u and v [V].
REF_V, REFS_V, SUPPLY_V, SWING_V = 1.3, 0.6, 1.8, 0.04
# The tail [A]: weak inversion in a pair of 4 um / 1 um. The state, and what holds an
# input [F]; the leak of the state is that of a switch.
BIAS_A, STATE_F, HOLD_F, LEAK_OHM = 0.3e-6, 1e-12, 0.5e-12, 6.25e11
# Small loads: their gates' charge lands in the state whenever it is steered anew.
LOAD_M = (1e-6, 1e-6)
# A token, and the part of it in which inputs are sampled [s].
PERIOD_s, SAMPLE_s = 1e-6, 50e-9
# How long a switch without leak stays closed after its clock [s].
LATE_s = 5e-9


def steered(name: str = "steered_ota") -> Netlist:
    """A five-transistor OTA whose tail current a steering pair shares with vdd."""
    return Netlist(
        name,
        CORE_PORTS,
        (
            mos("tail", "nmos", "e bias vss", 2e-6, 2e-6),
            mos("steer_p", "nmos", "t sp e", 4e-6, 1e-6),
            mos("steer_n", "nmos", "vdd sn e", 4e-6, 1e-6),
            mos("pair_p", "nmos", "x inp t", 4e-6, 1e-6),
            mos("pair_n", "nmos", "out inn t", 4e-6, 1e-6),
            mos("load_p", "pmos_lvt", "x x vdd", *LOAD_M),
            mos("load_n", "pmos_lvt", "out x vdd", *LOAD_M),
        ),
        notes="Steered OTA: i_out = gm(sp - sn) (inp - inn) into `out`. bias: the gate"
        " of a diode-connected copy of the tail (cell mirror).",
    )


@dataclass(frozen=True)
class SteeredCard:
    """The static behavior of a steered OTA.

        share = sigmoid((v_s − center)/slope)
        i_out = share·(open·range·tanh((v_in − offset)/range) + shift
                       − output·(v_out − ref))

    `open_S` and `output_S` [S] are those of the open gate; voltages in V, shift in A.
    """

    open_S: float
    range_V: float
    slope_V: float
    center_V: float
    offset_V: float
    shift_A: float
    output_S: float

    @staticmethod
    def of(table: Mapping[str, Any]) -> "SteeredCard":
        """The twin in the table `token` of a card of cells."""
        names = SteeredCard.__dataclass_fields__
        return SteeredCard(**{name: float(table["twin"][name]) for name in names})

    def current(self, v_in, v_s, v_out: ArrayLike = REF_V):
        """i_out [A] for arrays of voltages [V]."""
        share = 1 / (1 + np.exp(-(v_s - self.center_V) / self.slope_V))
        pulled = np.tanh((v_in - self.offset_V) / self.range_V)
        open_A = self.open_S * self.range_V * pulled + self.shift_A
        return share * (open_A - self.output_S * (np.asarray(v_out) - REF_V))


def steered_twin(card: SteeredCard, *, name: str = "steered_ota") -> Netlist:
    """The twin of `steered`; with an infinite `range_V` it is linear."""
    n = number
    pulled = f"(v(inp, inn) - {n(card.offset_V)})"
    if np.isfinite(card.range_V):
        pulled = f"{n(card.range_V)} * tanh({pulled} / {n(card.range_V)})"
    law = (
        f"({n(card.open_S)} * {pulled} + {n(card.shift_A)}"
        f" - {n(card.output_S)} * (v(out, vss) - {n(REF_V)}))"
        f" / (1 + exp(-(v(sp, sn) - {n(card.center_V)}) / {n(card.slope_V)}))"
    )
    return Netlist(
        name,
        CORE_PORTS,
        (
            Device("out", "current", ("vss", "out"), law=law),
            # No input of a real one is without a path to ground either.
            Device("bias", "resistor", ("bias", "vss"), {"resistance_ohm": 1e6}),
            Device("supply", "resistor", ("vdd", "vss"), {"resistance_ohm": 1e12}),
        ),
        notes="Behavioral twin of the steered OTA at its nominal bias.",
    )


def ideal_switch(name: str = "mac_switch") -> Netlist:
    """The twin of a transmission gate: no charge, no leak."""
    return Netlist(
        name,
        transmission_gate().ports,
        (_closed("ideal", "a", "b", "on"),),
        notes="Ideal switch.",
    )


def late_switch(name: str = "mac_switch") -> Netlist:
    """A transmission gate that is cut off once its charge is injected: no leak."""
    gate = transmission_gate(f"{name}_inside")
    nets = ("a", "inside", "on", "off", "vdd", "vss")
    return Netlist(
        name,
        gate.ports,
        (
            Device("late", "resistor", ("on", "late"), {"resistance_ohm": 1e6}),
            Device(
                "late", "capacitor", ("late", "vss"), {"capacitance_F": LATE_s / 1e6}
            ),
            # Closed with the clock, or a little longer.
            Device(
                "either",
                "voltage",
                ("either", "vss"),
                law="max(v(on, vss), v(late, vss))",
            ),
            _closed("cut", "inside", "b", "either"),
        ),
        (Instance("gate", gate, nets),),
        notes="Transmission gate with an ideal switch behind it that opens later.",
    )


def _closed(name: str, a: str, b: str, control: str) -> Device:
    values = {"on_ohm": ON_OHM, "off_ohm": OFF_OHM, "threshold_V": SUPPLY_V / 2}
    return Device(name, "switch", (a, b, control, "vss"), values)


def gated_state(
    core: Netlist | None = None,
    sampler: Netlist | None = None,
    *,
    name: str = "gated_state",
) -> Netlist:
    """The cell from a steered transconductor and a switch; drawn ones by default."""
    core, sampler = core or steered(), sampler or transmission_gate()
    farads = {"held_u": HOLD_F, "held_s": HOLD_F, "v": STATE_F}
    devices = [
        Device(
            net, "capacitor", (net, "refs" if net == "held_s" else "ref"), _farad(farad)
        )
        for net, farad in farads.items()
    ]
    devices.append(
        Device("leak", "resistor", ("v", "ref"), {"resistance_ohm": LEAK_OHM})
    )
    clocks = ("phi", "phin", "vdd", "vss")
    nets = ("held_u", "v", "v", "held_s", "refs", "bias", "vdd", "vss")
    return Netlist(
        name,
        PORTS,
        tuple(devices),
        (
            Instance("sample_u", sampler, ("u", "held_u", *clocks)),
            Instance("sample_s", sampler, ("s", "held_s", *clocks)),
            Instance("ota", core, nets),
        ),
        notes="State of the state-space block: C dv/dt = g(s) (u - v). u and s are"
        " sampled while phi is high, at the start of a token. u, v: 40 mV around ref"
        " are full scale; s around refs.",
    )


def _farad(value: float) -> dict[str, float]:
    return {"capacitance_F": value}
