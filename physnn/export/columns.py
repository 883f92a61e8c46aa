"""Transistor-level charge columns: switches, unit capacitors, class-AB amplifiers.

The same column as `physnn.export.cells.charge_column`, drawn: every half of the signal
has a plate per weight, transmission gates and an amplifier of its own. In `phi1` the
weights sample against `ref`, the feedback is emptied, and in the pulse `az` the
amplifier finds its bias; in `phi2` the plates of a weight meet, which moves the
difference of its two charges onto the feedback. `on` is high from before `az` to the
end of `phi2`, and the bias of the column flows in `phi1` alone: else no current does.
`phi1e` opens the summing node a little before `phi1` opens the sampling switches: the
charge they inject then finds no way onto it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from physnn.export.cells import halves
from physnn.export.netlist import Device, Instance, Netlist

CLOCKS = ("phi1", "phi1n", "phi1e", "phi1en", "phi2", "phi2n", "az", "azn", "on")
# The smallest switch, and a p transistor twice as wide.
N_WIDTH_M, P_WIDTH_M, LENGTH_M = 0.42e-6, 0.84e-6, 0.15e-6
# The transistors of an amplifier: weak inversion at its current, and small gates
# beside the coupling. Longer ones gain more and load more: 0.5 um was best.
AMPLIFIER_WIDTH_M, AMPLIFIER_LENGTH_M = 0.84e-6, 0.5e-6
# Its p transistor in units, of which the bias is one.
BIAS_RATIO, BIAS_STACK = 4, 2
# The mirror of the reference: long, since its spread is that of all currents.
MIRROR_WIDTH_M, MIRROR_LENGTH_M = 0.42e-6, 4e-6
# Keeps `bias` while nothing flows. Waking kicks it, and phi1 is there to let that
# decay: a larger one is kicked less and recovers slower.
BIAS_F = 45e-15
# Holds `nbias` still beside the columns that wake.
REFERENCE_F = 1e-12
# Side of a unit capacitor: the smallest.
UNIT_M = 1e-6
# A plate is as much larger than drawn: SkyWater's 2 fF/µm² are of (side + 0.15 µm)².
GROWN_M = 0.15e-6
# Weights of the column that cards and packages hold, in unit capacitors.
UNITS, FEEDBACK_UNITS = (7, -5, 3, -1, 6, -4, 2, -7), 8


@dataclass(frozen=True)
class Sizing:
    """Sizes of the amplifiers of a column; as they stand for a slot of 240 ns.

    - `width`: all their transistors over those of `STANDARD`.
    - `coupling_units`: of each of its two couplings. Gates see this many over as many
      and their own.
    - `reference_A`: what the chip's reference gives each column; an amplifier has
      `BIAS_RATIO` times that.
    """

    width: int = 1
    coupling_units: int = 24
    reference_A: float = 0.14e-6


STANDARD = Sizing()


@dataclass(frozen=True)
class OpenLoop:
    """The amplifier that the feedback of a column makes up for, as it was measured.

    - `gain`: A, without feedback.
    - `gate_units`: what its gates load the summing node with, in unit capacitors.
    """

    gain: float
    gate_units: float

    @staticmethod
    def of(card: Mapping[str, Any]) -> "OpenLoop":
        """That of a card of cells (`configs/cells`), which has a table `mac_sweep`."""
        table = card["mac_sweep"]
        return OpenLoop(float(table["open_gain"]), float(table["gate_units"]))

    def feedback(self, total, wanted):
        """What C_f must be for weights of `total` to count as `wanted`, all in units.

        With an open-loop gain A and gates that load s by C_g the column gives
        y = Σ C_i·x_i / (C_f + (C_Σ + C_f + C_g)/A), C_Σ = Σ|C_i|. So it is smaller:
        C_f = (C_wanted − (C_Σ + C_g)/A) / (1 + 1/A), and the gain is 1 for all columns.
        """
        return (wanted - (total + self.gate_units) / self.gain) / (1 + 1 / self.gain)


# What a column is drawn for where nothing was measured yet.
IDEAL = OpenLoop(math.inf, 0.0)


def mos(
    name: str,
    kind: str,
    nets: str,
    width_m: float,
    length_m: float,
    multiple: float | int = 1,
) -> Device:
    """A transistor between drain, gate, source; `nets` names them with a blank between.

    Its bulk is `vss` for n and `vdd` for p.
    """
    bulk = "vss" if kind.startswith("nmos") else "vdd"
    size = {"width_m": width_m, "length_m": length_m, "multiple": float(multiple)}
    return Device(name, kind, (*nets.split(), bulk), size)


def transmission_gate(
    name: str = "mac_switch",
    *,
    n_width_m: float = N_WIDTH_M,
    p_width_m: float = P_WIDTH_M,
) -> Netlist:
    """A switch between `a` and `b`, closed while `on` is high and `off` is low."""
    return Netlist(
        name,
        ("a", "b", "on", "off", "vdd", "vss"),
        (
            mos("n", "nmos", "a on b", n_width_m, LENGTH_M),
            mos("p", "pmos", "a off b", p_width_m, LENGTH_M),
        ),
        notes="Transmission gate.",
    )


def _small_switch(name: str, width: int = 1) -> Netlist:
    """A transmission gate of two transistors alike, `width` times the smallest."""
    side = width * N_WIDTH_M
    return transmission_gate(name, n_width_m=side, p_width_m=side)


def amplifier(
    sizing: Sizing = STANDARD, name: str = "mac_amplifier", *, side_m: float = UNIT_M
) -> Netlist:
    """A class-AB inverter whose gates hang on `s` by capacitors; `on` lets it draw.

    While `az` is high, `s` being at its reference, the p gate is held at `bias` and the
    n transistor is a diode: both carry the copied current, whatever corner, supply and
    mismatch are, and the capacitors keep it so. Then g_m is that of both transistors
    for one current, and a larger current flows while `s` is far away.

    Biasing a class-AB stage by capacitors sampled in one phase is common practice in
    switched-capacitor circuits; sizes and the order of clocks are ours.
    """
    W, L = AMPLIFIER_WIDTH_M, AMPLIFIER_LENGTH_M
    switch = _small_switch(f"{name}_switch", sizing.width)
    clocks = ("az", "azn", "vdd", "vss")
    return Netlist(
        name,
        ("s", "out", "bias", "az", "azn", "on", "vdd", "vss"),
        (
            unit("couple_n", "s", "gate_n", sizing.coupling_units, side_m),
            unit("couple_p", "s", "gate_p", sizing.coupling_units, side_m),
            mos("n", "nmos", "out gate_n foot", W, L, sizing.width),
            mos("p", "pmos", "out gate_p vdd", W, L, BIAS_RATIO * sizing.width),
            mos("foot", "nmos", "foot on vss", N_WIDTH_M, LENGTH_M, sizing.width),
        ),
        (
            Instance("diode", switch, ("out", "gate_n", *clocks)),
            Instance("copy", switch, ("bias", "gate_p", *clocks)),
        ),
        notes="Class-AB inverter, biased by capacitors in az. No current unless on.",
    )


def reference(sizing: Sizing = STANDARD, name: str = "mac_reference") -> Netlist:
    """What sets `nbias` of all columns of a chip: an ideal current into a diode.

    Always on. The bias of a column has the same transistor.
    """
    size, hold = (MIRROR_WIDTH_M, MIRROR_LENGTH_M), {"capacitance_F": REFERENCE_F}
    law = f"{sizing.reference_A!r}"
    return Netlist(
        name,
        ("nbias", "vdd", "vss"),
        (
            Device("source", "current", ("vdd", "nbias"), law=law),
            mos("diode", "nmos", "nbias nbias vss", *size),
            Device("hold", "capacitor", ("nbias", "vss"), hold),
        ),
        notes="Reference of a chip: an ideal current into the diode of its mirrors.",
    )


def bias(sizing: Sizing = STANDARD, name: str = "mac_bias") -> Netlist:
    """The diode that sets the p gates of the amplifiers of a column, and its current.

    It stands for one unit of the transistor of which an amplifier has `BIAS_RATIO`, in
    `BIAS_STACK` in series of as many in parallel, which match that much better. While
    `wake` is low the mirror is cut from ground and `bias` from the diode: no current
    flows, and the capacitor keeps `bias`. The diode is not cut from `vdd`: its gates
    would kick `bias` by 160 mV when they are charged again.
    """
    size = (AMPLIFIER_WIDTH_M, AMPLIFIER_LENGTH_M, BIAS_STACK * sizing.width)
    nets = ["vdd", *(f"stack{k}" for k in range(1, BIAS_STACK)), "drain"]
    mirror = (MIRROR_WIDTH_M, MIRROR_LENGTH_M)
    keep = ("drain", "bias", "wake", "waken", "vdd", "vss")
    return Netlist(
        name,
        ("bias", "nbias", "wake", "waken", "vdd", "vss"),
        (
            *(
                mos(f"diode{k}", "pmos", f"{nets[k + 1]} bias {nets[k]}", *size)
                for k in range(BIAS_STACK)
            ),
            mos("mirror", "nmos", "drain nbias foot", *mirror),
            mos("foot", "nmos", "foot wake vss", N_WIDTH_M, LENGTH_M),
            Device("hold", "capacitor", ("bias", "vss"), {"capacitance_F": BIAS_F}),
        ),
        (Instance("keep", _small_switch(f"{name}_switch"), keep),),
        notes="Bias of a column. No current unless wake is high; bias is kept.",
    )


def unit(name: str, a: str, b: str, count: int, side_m: float = UNIT_M) -> Device:
    """`count` unit capacitors side by side."""
    size = {"width_m": side_m, "length_m": side_m, "multiple": float(count)}
    return Device(name, "mim", (a, b), size)


def drawn_feedback(
    units: Sequence[int], feedback_units: int, open_loop: OpenLoop
) -> float:
    """`OpenLoop.feedback` of a column of weights of `units` with a sign.

    Raises `ValueError` where the amplifier has not enough gain for so many units.
    """
    found = float(open_loop.feedback(sum(map(abs, units)), feedback_units))
    if found < 1:
        raise ValueError(
            "A column must leave its feedback one unit capacitor, but"
            f" {sum(map(abs, units))} units over {feedback_units} leave {found:.2g}"
            f" at an amplifier's gain of {open_loop.gain:g}: split the column."
        )
    return found


def weight(
    name: str, count: int, *, switch: Netlist, side_m: float = UNIT_M
) -> Netlist:
    """Both halves of one weight of `count` unit capacitors, with their switches."""
    devices, instances = [], []
    for half in "pn":
        plate = f"plate_{half}"
        devices.append(unit(half, plate, f"s{half}", count, side_m))
        sample = (f"x{half}", plate, "phi1", "phi1n", "vdd", "vss")
        instances.append(Instance(f"sample_{half}", switch, sample))
    # Onto each other and not onto `ref`: what both halves have in common, which no
    # amplifier of a half removes, then stays behind.
    meet = ("plate_p", "plate_n", "phi2", "phi2n", "vdd", "vss")
    instances.append(Instance("meet", switch, meet))
    return Netlist(
        name,
        ("xp", "xn", "sp", "sn", "phi1", "phi1n", "phi2", "phi2n", "vdd", "vss"),
        tuple(devices),
        tuple(instances),
        notes=f"A weight of {count} units. Its sign is the order of xp and xn.",
    )


def column(
    name: str,
    units: Sequence[int],
    *,
    feedback_units: int,
    open_loop: OpenLoop,
    switch: Netlist,
    amplifier: Netlist,
    bias: Netlist,
    side_m: float = UNIT_M,
) -> Netlist:
    """A column of weights of `units` unit capacitors with a sign, and its amplifiers.

    y = Σ_i units_i·x_i / feedback_units, valid at the end of phi2; in phi1 it is zero.
    The feedback is as many units, each a little larger than `side_m` or smaller by one,
    as make up for the finite gain of the amplifier, `open_loop`: `drawn_feedback`,
    which says when `ValueError` is raised.
    """
    feedback = drawn_feedback(units, feedback_units, open_loop)
    count = int(feedback)
    feedback_m = (side_m + GROWN_M) * math.sqrt(feedback / count) - GROWN_M
    cells = {
        count: weight(f"{name}_weight{count}", count, switch=switch, side_m=side_m)
        for count in sorted({abs(u) for u in units if u})
    }
    clocks = ("phi1", "phi1n", "phi2", "phi2n", "vdd", "vss")
    instances = [
        Instance(
            f"w{i}",
            cells[abs(u)],
            (*halves(f"x{i}")[:: 1 if u > 0 else -1], "sp", "sn", *clocks),
        )
        for i, u in enumerate(units)
        if u
    ]
    devices = []
    for half in "pn":
        s, y, out = f"s{half}", f"y{half}", f"out{half}"
        devices.append(unit(f"feedback_{half}", y, s, count, feedback_m))
        for verb, nets, clock in (
            ("hold", (s, "ref"), "phi1e"),
            ("clear", (y, "ref"), "phi1"),
            ("close", (out, y), "phi2"),
        ):
            ends = (*nets, clock, f"{clock}n", "vdd", "vss")
            instances.append(Instance(f"{verb}_{half}", switch, ends))
        ends = (s, out, "bias", "az", "azn", "on", "vdda", "vss")
        instances.append(Instance(f"amplifier_{half}", amplifier, ends))
    wake = ("bias", "nbias", "phi1", "phi1n", "vdda", "vss")
    instances.append(Instance("bias", bias, wake))
    inputs = tuple(net for i in range(len(units)) for net in halves(f"x{i}"))
    return Netlist(
        name,
        (*inputs, "yp", "yn", *CLOCKS, "nbias", "ref", "vdda", "vdd", "vss"),
        tuple(devices),
        tuple(instances),
        notes=(
            f"Differential charge column of {len(units)} weights over"
            f" {feedback_units} units of feedback. vdda: amplifiers; vdd: switches."
        ),
    )


def standard(
    units: Sequence[int] = UNITS,
    *,
    open_loop: OpenLoop,
    feedback_units: int = FEEDBACK_UNITS,
    sizing: Sizing = STANDARD,
) -> Netlist:
    """The column that cards and packages hold: eight weights of four bits."""
    return column(
        "mac_column",
        units,
        feedback_units=feedback_units,
        open_loop=open_loop,
        switch=transmission_gate(),
        amplifier=amplifier(sizing),
        bias=bias(sizing),
    )
