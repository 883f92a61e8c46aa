"""Transistor-level cells of a converter: a clocked comparator, a binary array."""

from physnn.export.columns import mos, transmission_gate, unit
from physnn.export.netlist import Device, Instance, Netlist

# Input pair of 4 µm²: that of `circuits.converters.COMPARATOR_PAIR_M2`.
PAIR_WIDTH_M, PAIR_LENGTH_M = 8e-6, 0.5e-6
LATCH_WIDTH_M, LENGTH_M = 2e-6, 0.15e-6
# Load of either output: the gates and the wire behind it.
LOAD_F = 5e-15
# Bits of the array that cards and packages hold, that of a converter of one bit more.
ARRAY_BITS = 7


def comparator(name: str = "sar_comparator") -> Netlist:
    """A latch that decides v(inp) against v(inn) while `clk` is high, and rests at vdd.

    Its nodes `xp`, `xn` above the input pair are ports, so that noise can be put there.
    Kobayashi et al. 1993, DOI 10.1109/4.210039.
    """
    W, L = LATCH_WIDTH_M, LENGTH_M
    loads = [
        Device(
            f"load_{half}",
            "capacitor",
            (f"out{half}", "vss"),
            {"capacitance_F": LOAD_F},
        )
        for half in "pn"
    ]
    return Netlist(
        name,
        ("inp", "inn", "outp", "outn", "clk", "xp", "xn", "vdd", "vss"),
        (
            mos("tail", "nmos", "tail clk vss", 4e-6, L),
            mos("inp", "nmos", "xn inp tail", PAIR_WIDTH_M, PAIR_LENGTH_M),
            mos("inn", "nmos", "xp inn tail", PAIR_WIDTH_M, PAIR_LENGTH_M),
            mos("latch_np", "nmos", "outp outn xp", W, L),
            mos("latch_nn", "nmos", "outn outp xn", W, L),
            mos("latch_pp", "pmos", "outp outn vdd", W, L),
            mos("latch_pn", "pmos", "outn outp vdd", W, L),
            mos("rest_outp", "pmos", "outp clk vdd", W, L),
            mos("rest_outn", "pmos", "outn clk vdd", W, L),
            mos("rest_xp", "pmos", "xp clk vdd", W / 2, L),
            mos("rest_xn", "pmos", "xn clk vdd", W / 2, L),
            *loads,
        ),
        notes="Clocked comparator: outp falls where inp is below inn, outn otherwise.",
    )


def driver(name: str = "sar_driver") -> Netlist:
    """A buffer of two inverters from `a` to `y`, the second twice the first."""
    return Netlist(
        name,
        ("a", "y", "vdd", "vss"),
        (
            mos("n0", "nmos", "mid a vss", 0.42e-6, LENGTH_M),
            mos("p0", "pmos", "mid a vdd", 0.84e-6, LENGTH_M),
            mos("n1", "nmos", "y mid vss", 0.84e-6, LENGTH_M),
            mos("p1", "pmos", "y mid vdd", 1.68e-6, LENGTH_M),
        ),
        notes="Buffer in front of a bottom plate.",
    )


def array(name: str, bits: int, *, driver: Netlist, switch: Netlist) -> Netlist:
    """2^`bits` unit capacitors on the node `top`: one half of a converter's array.

    Bit k (0 the largest) drives the bottom plates of 2^(bits−1−k) units between 0 and
    `vdd`; one more unit is tied to `ref`. `top` is held at `ref` while `on` is high.
    Raises `ValueError` for less than one bit.
    """
    if bits < 1:
        raise ValueError(f"Argument `bits` must be at least 1, but is {bits}.")
    names = [f"b{k}" for k in range(bits)]
    plates = [
        unit(f"c{k}", f"plate{k}", "top", 2 ** (bits - 1 - k)) for k in range(bits)
    ]
    return Netlist(
        name,
        (*names, "top", "on", "off", "ref", "vdd", "vss"),
        (*plates, unit("dummy", "ref", "top", 1)),
        (
            *(
                Instance(f"driver{k}", driver, (bit, f"plate{k}", "vdd", "vss"))
                for k, bit in enumerate(names)
            ),
            Instance("reset", switch, ("top", "ref", "on", "off", "vdd", "vss")),
        ),
        notes=f"Half of a binary array of 2^{bits} unit capacitors with drivers.",
    )


def standard_array() -> Netlist:
    """The array that cards and packages hold: one half of a converter of 8 bits."""
    return array(
        "sar_array", ARRAY_BITS, driver=driver(), switch=transmission_gate("sar_switch")
    )
