"""Transistor-level charge columns: switches, unit capacitors, class-AB amplifiers.

The same column as `physnn.export.cells.charge_column`, drawn: every half of the signal
has a plate per weight, transmission gates and an amplifier of its own. In `phi1` the
weights sample against `ref`, the feedback is emptied, and in the pulse `az` the
amplifier finds its bias; in `phi2` the plates of a weight meet, which moves the
difference of its two charges onto the feedback. `on` is high from before `az` to the
end of `phi2`: else no current flows but that of the bias. `phi1e` opens the summing
node a little before `phi1` opens the sampling switches: the charge they inject then
finds no way onto it.
"""

from collections.abc import Sequence

from physnn.export.cells import halves
from physnn.export.netlist import Device, Instance, Netlist

CLOCKS = ("phi1", "phi1n", "phi1e", "phi1en", "phi2", "phi2n", "az", "azn", "on")
# The smallest switch, and a p transistor twice as wide.
N_WIDTH_M, P_WIDTH_M, LENGTH_M = 0.42e-6, 0.84e-6, 0.15e-6
# The transistors of an amplifier: weak inversion at its current, and small gates
# beside the coupling. Longer ones gain more and load more: 0.5 um was best.
AMPLIFIER_WIDTH_M, AMPLIFIER_LENGTH_M = 0.84e-6, 0.5e-6
# Its p transistor in units, of which the bias is one.
BIAS_RATIO, BIAS_STACK = 4, 3
# Gates see this share of the summing node's swing, 12 units over 12 and their own.
COUPLING_UNITS = 12
REFERENCE_A = 0.14e-6
# Holds `bias` still while both halves are biased.
BIAS_F = 100e-15
# Side of a unit capacitor: the smallest.
UNIT_M = 1e-6
# Weights of the column that cards and packages hold, in unit capacitors.
UNITS, FEEDBACK_UNITS = (7, -5, 3, -1, 6, -4, 2, -7), 8


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
    name: str = "mac_switch", *, p_width_m: float = P_WIDTH_M
) -> Netlist:
    """A switch between `a` and `b`, closed while `on` is high and `off` is low."""
    return Netlist(
        name,
        ("a", "b", "on", "off", "vdd", "vss"),
        (
            mos("n", "nmos", "a on b", N_WIDTH_M, LENGTH_M),
            mos("p", "pmos", "a off b", p_width_m, LENGTH_M),
        ),
        notes="Transmission gate.",
    )


def amplifier(name: str = "mac_amplifier", *, side_m: float = UNIT_M) -> Netlist:
    """A class-AB inverter whose gates hang on `s` by capacitors; `on` lets it draw.

    While `az` is high, `s` being at its reference, the p gate is held at `bias` and the
    n transistor is a diode: both carry the copied current, whatever corner, supply and
    mismatch are, and the capacitors keep it so. Then g_m is that of both transistors
    for one current, and a larger current flows while `s` is far away.

    Biasing a class-AB stage by capacitors sampled in one phase is common practice in
    switched-capacitor circuits; sizes and the order of clocks are ours.
    """
    W, L = AMPLIFIER_WIDTH_M, AMPLIFIER_LENGTH_M
    switch = transmission_gate(f"{name}_switch", p_width_m=N_WIDTH_M)
    clocks = ("az", "azn", "vdd", "vss")
    return Netlist(
        name,
        ("s", "out", "bias", "az", "azn", "on", "vdd", "vss"),
        (
            unit("couple_n", "s", "gate_n", COUPLING_UNITS, side_m),
            unit("couple_p", "s", "gate_p", COUPLING_UNITS, side_m),
            mos("n", "nmos", "out gate_n foot", W, L),
            mos("p", "pmos", "out gate_p vdd", W, L, BIAS_RATIO),
            mos("foot", "nmos", "foot on vss", N_WIDTH_M, LENGTH_M),
        ),
        (
            Instance("diode", switch, ("out", "gate_n", *clocks)),
            Instance("copy", switch, ("bias", "gate_p", *clocks)),
        ),
        notes="Class-AB inverter, biased by capacitors in az. No current unless on.",
    )


def bias(name: str = "mac_bias", *, current_A: float = REFERENCE_A) -> Netlist:
    """The diode that sets the p gates of amplifiers, and its current, always on.

    It stands for one unit of the transistor of which an amplifier has `BIAS_RATIO`, in
    `BIAS_STACK` in series of as many in parallel, which match that much better.
    """
    size = (AMPLIFIER_WIDTH_M, AMPLIFIER_LENGTH_M, BIAS_STACK)
    nets = ["vdd", *(f"stack{k}" for k in range(1, BIAS_STACK)), "bias"]
    return Netlist(
        name,
        ("bias", "vdd", "vss"),
        (
            *(
                mos(f"diode{k}", "pmos", f"{nets[k + 1]} bias {nets[k]}", *size)
                for k in range(BIAS_STACK)
            ),
            Device("reference", "current", ("bias", "vss"), law=f"{current_A!r}"),
            Device("hold", "capacitor", ("bias", "vss"), {"capacitance_F": BIAS_F}),
        ),
        notes="Bias of a column: an ideal reference current out of a diode.",
    )


def unit(name: str, a: str, b: str, count: int, side_m: float = UNIT_M) -> Device:
    """`count` unit capacitors side by side."""
    size = {"width_m": side_m, "length_m": side_m, "multiple": float(count)}
    return Device(name, "mim", (a, b), size)


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
    switch: Netlist,
    amplifier: Netlist,
    bias: Netlist,
    side_m: float = UNIT_M,
) -> Netlist:
    """A column of weights of `units` unit capacitors with a sign, and its amplifiers.

    y = gain·Σ_i units_i·x_i / feedback_units, valid at the end of phi2; in phi1 it is
    zero. The gain is below 1, since the amplifier's own is finite: the card of the cell
    holds it, the same for all weights. Raises `ValueError` for a feedback of no unit.
    """
    if feedback_units < 1:
        raise ValueError(
            "Argument `feedback_units` must be at least 1, but is"
            f" {feedback_units}: the amplifier needs a capacitor."
        )
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
        devices.append(unit(f"feedback_{half}", y, s, feedback_units, side_m))
        for verb, nets, clock in (
            ("hold", (s, "ref"), "phi1e"),
            ("clear", (y, "ref"), "phi1"),
            ("close", (out, y), "phi2"),
        ):
            ends = (*nets, clock, f"{clock}n", "vdd", "vss")
            instances.append(Instance(f"{verb}_{half}", switch, ends))
        ends = (s, out, "bias", "az", "azn", "on", "vdda", "vss")
        instances.append(Instance(f"amplifier_{half}", amplifier, ends))
    instances.append(Instance("bias", bias, ("bias", "vdda", "vss")))
    inputs = tuple(net for i in range(len(units)) for net in halves(f"x{i}"))
    return Netlist(
        name,
        (*inputs, "yp", "yn", *CLOCKS, "ref", "vdda", "vdd", "vss"),
        tuple(devices),
        tuple(instances),
        notes=(
            f"Differential charge column of {len(units)} weights over"
            f" {feedback_units} units of feedback. vdda: amplifiers; vdd: switches."
        ),
    )


def standard() -> Netlist:
    """The column that cards and packages hold: eight weights of four bits."""
    return column(
        "mac_column",
        UNITS,
        feedback_units=FEEDBACK_UNITS,
        switch=transmission_gate(),
        amplifier=amplifier(),
        bias=bias(),
    )
