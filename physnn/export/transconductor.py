"""Transconductor: drawn cells around a five-transistor OTA, and what stands for them.

Of each cell there is a drawn one (`nmos`, `pmos_lvt`, ... of neutral sizes) and a
behavioral twin with the same name and ports. Signals are single-ended around `ref`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from physnn.export.cells import trial_vectors
from physnn.export.laws import number
from physnn.export.netlist import Device, Instance, Netlist, Parameter

PORTS = ("inp", "inn", "out", "bias", "vdd", "vss")
# The standard cell: sizes (width, length) [m] and reference current [A].
PAIR_M, TAIL_M, LOAD_M = (4e-6, 1e-6), (2e-6, 2e-6), (2e-6, 2e-6)
BIAS_A = 2e-6
STATE_F = 1e-12
# A settling network: its leak and capacitor per node, and the resistor that turns the
# current of an OTA into a voltage that weights can read.
N_SETTLING, LEAK_OHM, NODE_F, SENSE_OHM = 16, 60e3, 0.2e-12, 10e3
# Σ|w| of a row and the largest input current: a contraction, and near full scale.
WEIGHT, INPUT_A = 0.8, 2.5e-6


@dataclass(frozen=True)
class OtaCard:
    """The static behavior of an OTA: what its twin is made of.

        i_out = swing·tanh((v_in − offset)/range) + shift − g_out·(v_out − center)

    `supply_A` is drawn from vdd, without the bias.
    """

    swing_A: float
    range_V: float
    offset_V: float
    shift_A: float
    output_S: float
    center_V: float
    supply_A: float

    @staticmethod
    def of(table: Mapping[str, Any]) -> "OtaCard":
        """The twin in the table of the OTA in a card of cells."""
        names = OtaCard.__dataclass_fields__
        return OtaCard(**{name: float(table["twin"][name]) for name in names})

    @property
    def gm_S(self) -> float:
        """The slope at the offset."""
        return self.swing_A / self.range_V

    def current(self, v_in, v_out):
        """i_out [A] for arrays of voltages [V]."""
        saturated = np.tanh((np.asarray(v_in) - self.offset_V) / self.range_V)
        leak = self.output_S * (np.asarray(v_out) - self.center_V)
        return self.swing_A * saturated + self.shift_A - leak


def _mos(
    kind: str, name: str, nets: tuple[str, ...], size, multiple: int = 1
) -> Device:
    sizes = {"width_m": size[0], "length_m": size[1], "multiple": multiple}
    return Device(name, kind, nets, sizes)


def ota(pair=PAIR_M, tail=TAIL_M, load=LOAD_M, *, name: str = "ota") -> Netlist:
    """A five-transistor OTA: i_out(inp − inn) into `out`, its tail set by `bias`.

    vdd ─┬────────┬─        pair and tail nMOS, load low-threshold pMOS: the long
         ⊢ load   ⊢         standard pMOS has 0.95 V and leaves no room at 1.8 V.
         x        out
    inp ⊢          ⊣ inn    Sizes are (width, length) [m].
         └── t ──┘
       bias ⊢ tail
    """
    n, p = partial(_mos, "nmos"), partial(_mos, "pmos_lvt")
    return Netlist(
        name,
        PORTS,
        (
            n("tail", ("t", "bias", "vss", "vss"), tail),
            n("pair_p", ("x", "inp", "t", "vss"), pair),
            n("pair_n", ("out", "inn", "t", "vss"), pair),
            p("load_p", ("x", "x", "vdd", "vdd"), load),
            p("load_n", ("out", "x", "vdd", "vdd"), load),
        ),
        notes="Five-transistor OTA. bias: the gate of a diode-connected copy of the"
        " tail (cell mirror) that carries the reference current.",
    )


def mirror(tail=TAIL_M, *, name: str = "mirror") -> Netlist:
    """The diode that turns a reference current into `bias`, once for many OTAs."""
    device = _mos("nmos", "diode", ("bias", "bias", "vss", "vss"), tail)
    return Netlist(name, ("bias", "vss"), (device,), notes="Bias of the OTAs' tails.")


def mirror_twin(bias_V: float, *, name: str = "mirror") -> Netlist:
    """The twin of `mirror`: a resistor with the same voltage at the nominal bias."""
    resistance = {"resistance_ohm": bias_V / BIAS_A}
    device = Device("diode", "resistor", ("bias", "vss"), resistance)
    return Netlist(
        name, ("bias", "vss"), (device,), notes="At its nominal current only."
    )


def ota_twin(card: OtaCard, *, name: str = "ota") -> Netlist:
    """The behavioral twin of `ota`, with the same ports; `bias` is not looked at."""
    n = number
    law = (
        f"{n(card.swing_A)} * tanh((v(inp, inn) - {n(card.offset_V)})"
        f" / {n(card.range_V)}) + {n(card.shift_A)}"
        f" - {n(card.output_S)} * (v(out, vss) - {n(card.center_V)})"
    )
    return Netlist(
        name,
        PORTS,
        (
            Device("out", "current", ("vss", "out"), law=law),
            Device("supply", "current", ("vdd", "vss"), law=n(card.supply_A)),
            # No input of a real one is without a path to ground either.
            Device("bias", "resistor", ("bias", "vss"), {"resistance_ohm": 1e12}),
        ),
        notes="Behavioral twin of the five-transistor OTA at its nominal bias.",
    )


def state(transconductor: Netlist, *, name: str = "state") -> Netlist:
    """A gm-C state: C dv/dt = i_out(u − v) − v/leak, v around `ref`.

    `transconductor` is `ota()` or `ota_twin(card)`.
    """
    return Netlist(
        name,
        ("u", "v", "bias", "vdd", "vss", "ref"),
        (
            Device(
                "state", "capacitor", ("v", "ref"), {"capacitance_F": "capacitance"}
            ),
            Device("leak", "resistor", ("v", "ref"), {"resistance_ohm": "leak"}),
        ),
        (Instance("ota", transconductor, ("u", "v", "v", "bias", "vdd", "vss")),),
        parameters={
            "capacitance": Parameter(STATE_F, "F", "of the state"),
            "leak": Parameter(
                6.25e11, "ohm", "of a switch: 1/node_leakage_S of sky130"
            ),
        },
        notes="An OTA as a follower into a capacitor: a leaky integrator.",
    )


def settling_weights(n: int = N_SETTLING) -> tuple[np.ndarray, np.ndarray]:
    """Weights `(n, n)` with Σ|w| = 0.8 in a row, and input currents `(n,)` [A]."""
    drawn = trial_vectors((n + 1, n)).astype(np.float64)
    weights = drawn[:-1] / np.abs(drawn[:-1]).sum(1, keepdims=True) * WEIGHT
    return np.round(weights, 6), np.round(drawn[-1] * INPUT_A, 10)


def settling(
    transconductor: Netlist, *, n: int = N_SETTLING, name: str = "settling"
) -> Netlist:
    """A network of n nodes that pull each other through OTAs to a fixed point.

        C dv_i/dt = Σ_j w_ij·a_j/r_sense + b_i − v_i/r_leak
        a_j = r_sense·i_out(v_j, a_j)

    The OTAs are activations; weights and inputs are ideal transconductances here.
    """
    weights, inputs = settling_weights(n)
    devices, instances = [], []
    for i in range(n):
        pulled = " + ".join(
            f"{number(w / SENSE_OHM)} * v(a{j}, ref)" for j, w in enumerate(weights[i])
        )
        law = f"{pulled} + {number(inputs[i])}".replace("+ -", "- ")
        devices += [
            Device(f"pull{i}", "current", ("ref", f"v{i}"), law=law),
            Device(
                f"leak{i}", "resistor", (f"v{i}", "ref"), {"resistance_ohm": LEAK_OHM}
            ),
            Device(
                f"node{i}", "capacitor", (f"v{i}", "ref"), {"capacitance_F": NODE_F}
            ),
            Device(
                f"sense{i}", "resistor", (f"a{i}", "ref"), {"resistance_ohm": SENSE_OHM}
            ),
        ]
        nets = (f"v{i}", "ref", f"a{i}", "bias", "vdd", "vss")
        instances.append(Instance(f"ota{i}", transconductor, nets))
    ports = (*(f"v{i}" for i in range(n)), "bias", "vdd", "vss", "ref")
    return Netlist(
        name,
        ports,
        tuple(devices),
        tuple(instances),
        notes="Settling network: OTAs as activations, ideal weights.",
    )


def settled(current, *, n: int = N_SETTLING, n_steps: int = 400) -> np.ndarray:
    """The fixed point [V around ref] of `settling` with i_out = current(v, a).

    `a` is the voltage of the sense resistor, around ref.
    """
    weights, inputs = settling_weights(n)
    v, a = np.zeros(n), np.zeros(n)
    for _ in range(n_steps):
        a = SENSE_OHM * current(v, a)
        v = 0.5 * v + 0.5 * LEAK_OHM * (weights @ a / SENSE_OHM + inputs)
    return v
