"""Sample-and-hold: a voltage kept on a capacitor while a token lasts."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import array
from physnn.export.netlist import Device, Netlist
from physnn.noise import coupled, thermal_noise
from physnn.process import Process

# A bench closes the switch in this part of a slot, and looks at this one.
CLOSED = (0.001, 0.05)


class SampleHold(AbstractMemorylessCircuit):
    """A switch, a capacitor and a buffer per channel: y = x·e^(−g_leak·t/C) + n.

        x ──╱──┬──▷── y        Var n = thermal_noise·kT/C / swing²
               ═ C
               ⏚               g_leak: `node_leakage_S` of the process, t: `hold_s`

    What leaks away is replaced by as much noise of the leak itself, so that the
    variance is kT/C however long it holds.

    Assumes: the sample has settled; the leak ends at the common mode, so a signal
    droops towards zero. Does not model: charge injection, jitter of the clock, offset
    of the buffer.

    Reference: Sarpeshkar et al. 1993, "White noise in MOS transistors and resistors",
    DOI 10.1109/101.261888.
    """

    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    hold_s: float = eqx.field(static=True)
    hold_F: float = eqx.field(static=True)

    def __init__(self, n: int, *, hold_s: float, hold_F: float = 10e-15):
        """`hold_s`: how long a sample is held before it is read [s]."""
        for name, value in (("n", n), ("hold_s", hold_s), ("hold_F", hold_F)):
            if not 0 < value < math.inf:
                raise ValueError(f"Argument `{name}` must be positive, but is {value}.")
        self.n_in = self.n_out = n
        self.hold_s, self.hold_F = hold_s, hold_F

    def droop(self, process: Process):
        """What is left of a sample when it is read: e^(−g_leak·t/C)."""
        return jnp.exp(-process.node_leakage_S * self.hold_s / self.hold_F)

    def apply(self, x, *, process, key):
        variance = process.thermal_variance(self.hold_F)
        y = coupled(x * self.droop(process), process=process)
        return thermal_noise(y, variance, process=process, key=key)

    def events(self, process, *, period_s):
        del period_s
        held_C = self.hold_F * process.swing_V
        buffer_C = process.settling_charge_C(self.hold_F)
        return (
            Event("supply_charge_C", 2 * self.n_out * held_C, "samples"),
            Event("amplifier_charge_C", 2 * self.n_out * buffer_C, "buffers"),
            Event("clock_charge_C", 2 * self.n_out * process.switch_C(), "switches"),
        )

    def netlist(self, process, *, name) -> Netlist:
        devices = []
        for half in "pn":
            x, node, y = f"x{half}", f"held_{half}", f"y{half}"
            devices += [
                cells.switch(f"sample_{half}", x, node, "sample", process),
                Device(
                    half, "capacitor", (node, "ref"), {"capacitance_F": self.hold_F}
                ),
                Device(f"buffer_{half}", "voltage", (y, "ref"), law=f"v({node}, ref)"),
            ]
            if process.node_leakage_S > 0:
                leak = {"resistance_ohm": 1 / process.node_leakage_S}
                devices.append(Device(f"leak_{half}", "resistor", (node, "ref"), leak))
        xs = np.repeat(cells.trial_vectors((8, 1)), self.n_in, axis=1)
        ys = cells.predicted(self, xs, process)
        bench = cells.differential_bench(
            f"{name}_unit_droop",
            {"x": xs[:, 0]},
            {"y": ys[:, 0]},
            process=process,
            slot_s=self.hold_s / (cells.SAMPLE - CLOSED[1]),
            gate="B2",
            absolute=1e-4,
            clocks={"sample": CLOSED},
            sample=cells.SAMPLE,
        )
        unit = Netlist(
            f"{name}_unit",
            (*cells.halves("x", "y"), "sample", "ref"),
            tuple(devices),
            benches=(bench,),
            notes="y is x at the last fall of clock `sample`, and droops from then.",
        )
        return array(name, [(unit, {})] * self.n_in)
