"""Transistor-level charge columns: switches, unit capacitors, two-stage amplifiers.

The same column as `physnn.export.cells.charge_column`, drawn: every half of the signal
has a plate per weight, transmission gates and an amplifier of its own whose other input
is `ref`. `phi1e` opens the reset a little before `phi1` opens the sampling switches:
the charge they inject then finds no way onto the summing node.
"""

from collections.abc import Sequence

from physnn.export.cells import halves
from physnn.export.netlist import Device, Instance, Netlist

CLOCKS = ("phi1", "phi1n", "phi1e", "phi1en", "phi2", "phi2n")
# The smallest switch, and a p transistor twice as wide.
N_WIDTH_M, P_WIDTH_M, LENGTH_M = 0.42e-6, 0.84e-6, 0.15e-6
# Length of the transistors of an amplifier, whose gain it sets.
AMPLIFIER_LENGTH_M = 0.5e-6
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


def transmission_gate(name: str = "mac_switch") -> Netlist:
    """A switch between `a` and `b`, closed while `on` is high and `off` is low."""
    return Netlist(
        name,
        ("a", "b", "on", "off", "vdd", "vss"),
        (
            mos("n", "nmos", "a on b", N_WIDTH_M, LENGTH_M),
            mos("p", "pmos", "a off b", P_WIDTH_M, LENGTH_M),
        ),
        notes="Transmission gate.",
    )


def amplifier(
    name: str = "mac_amplifier",
    *,
    pair_width_m: float = 8e-6,
    compensation_F: float = 80e-15,
    zero_ohm: float = 6e3,
) -> Netlist:
    """A two-stage amplifier of one output; `bias` is the gate of its current sources.

    An n pair with a p mirror drives a p transistor; a capacitor from the output and a
    resistor in series split the poles.
    """
    L = AMPLIFIER_LENGTH_M
    return Netlist(
        name,
        ("inp", "inn", "out", "bias", "vdd", "vss"),
        (
            mos("tail", "nmos", "tail bias vss", 2e-6, L),
            mos("inn", "nmos", "mirror inn tail", pair_width_m, L),
            mos("inp", "nmos", "first inp tail", pair_width_m, L),
            mos("diode", "pmos", "mirror mirror vdd", 4e-6, L),
            mos("mirror", "pmos", "first mirror vdd", 4e-6, L),
            mos("drive", "pmos", "out first vdd", 4e-6, L, 4),
            mos("sink", "nmos", "out bias vss", 2e-6, L, 2),
            Device("zero", "resistor", ("first", "zero"), {"resistance_ohm": zero_ohm}),
            Device(
                "compensation",
                "capacitor",
                ("zero", "out"),
                {"capacitance_F": compensation_F},
            ),
        ),
        notes="Two-stage amplifier, class A output, Miller compensation.",
    )


def bias(name: str = "mac_bias", *, current_A: float = 10e-6) -> Netlist:
    """The diode that sets the gate of all current sources, and its current."""
    return Netlist(
        name,
        ("bias", "vdd", "vss"),
        (
            mos("diode", "nmos", "bias bias vss", 2e-6, AMPLIFIER_LENGTH_M),
            Device("reference", "current", ("vdd", "bias"), law=f"{current_A!r}"),
        ),
        notes="Bias of a column: an ideal reference current into a diode.",
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
        empty = (plate, "ref", "phi2", "phi2n", "vdd", "vss")
        instances.append(Instance(f"sample_{half}", switch, sample))
        instances.append(Instance(f"empty_{half}", switch, empty))
    return Netlist(
        name,
        ("xp", "xn", "sp", "sn", "phi1", "phi1n", "phi2", "phi2n", "ref", "vdd", "vss"),
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

    y = Σ_i units_i·x_i / feedback_units, valid at the end of phi2. Raises `ValueError`
    for a feedback of no unit.
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
    clocks = ("phi1", "phi1n", "phi2", "phi2n", "ref", "vdd", "vss")
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
        s, y = f"s{half}", f"y{half}"
        devices.append(unit(f"feedback_{half}", y, s, feedback_units, side_m))
        reset = (s, y, "phi1e", "phi1en", "vdd", "vss")
        instances.append(Instance(f"reset_{half}", switch, reset))
        instances.append(
            Instance(
                f"amplifier_{half}", amplifier, ("ref", s, y, "bias", "vdda", "vss")
            )
        )
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
