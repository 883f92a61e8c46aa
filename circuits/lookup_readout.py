"""Out of lookup tables: the bits of each group, counted by charge."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.netlist import Instance, Netlist
from physnn.full_scale import limited
from physnn.noise import coupled, thermal_noise

# One full scale of a model's head is this many nats.
FULL_SCALE_NATS = 16.0


class GroupSum(AbstractMemorylessCircuit):
    """Counts the bits of each group by charge: one unit capacitor per bit.

        b_0 ──┤├──┐          ┌──┤├──┐ C_f       y_c = clip(gain·mean_group(b) + n, ±1)
        b_1 ──┤├──┼──────────┴──▷───┴── y_c     gain = group / (2·tau·16)
         …  ──┤├──┘    Var n = thermal_noise·kT·(C_Σ + C_f)/C_f²/swing², C_f = C_Σ/gain

    `tau` is how many bits make one nat of the softmax that follows, whose full scale is
    16 nats (`FULL_SCALE_NATS`): logit = count/tau.

    Assumes: complete settling, as a `ChargeMac`. Does not model: mismatch of the unit
    capacitors (1 % of each is 1 %/√group of a sum of some hundred: below its noise).

    Reference: group sum, Petersen et al. 2022, arXiv 2210.08277; the circuit as
    `ChargeMac`. Raises `ValueError` for groups that do not add up.
    """

    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    tau: float = eqx.field(static=True)

    def __check_init__(self):
        if self.n_out < 1 or self.n_in < self.n_out or self.n_in % self.n_out:
            raise ValueError(
                f"A group sum must have as many bits for each of its {self.n_out}"
                f" outputs, but has {self.n_in} bits."
            )
        if not self.tau > 0:
            raise ValueError(f"Argument `tau` must be positive, but is {self.tau}.")

    @property
    def group(self) -> int:
        """Bits of a group."""
        return self.n_in // self.n_out

    @property
    def gain(self) -> float:
        """Output, in full scales, when all bits of a group are high."""
        return self.group / (2 * self.tau * FULL_SCALE_NATS)

    def apply(self, x, *, process, key):
        groups = x.reshape(*x.shape[:-1], self.n_out, self.group)
        y = coupled(self.gain * jnp.mean(groups, axis=-1), process=process)
        unit = process.thermal_variance(process.capacitor_min_F)
        variance = unit * (self.gain + 1) * self.gain / self.group
        return limited(thermal_noise(y, variance, process=process, key=key))

    def events(self, process, *, period_s):
        del period_s
        unit_F = process.capacitor_min_F
        load_F = self.group * unit_F * (2 + 1 / self.gain)
        inputs_C = 2 * self.n_in * unit_F * process.swing_V
        amplifiers_C = 2 * self.n_out * process.settling_charge_C(load_F)
        return (
            Event("supply_charge_C", inputs_C, "bits"),
            Event("amplifier_charge_C", amplifiers_C, "amplifiers"),
            Event("flop_cycle", 2 * 4, "clock phases"),
        )

    def netlist(self, process, *, name) -> Netlist:
        weight = cells.charge_weight(f"{name}_weight", process)
        feedback_F = self.group * process.capacitor_min_F / self.gain
        total_F = feedback_F * (1 + self.gain)
        x = np.sign(cells.trial_vectors((3, self.group))).astype(np.float32)
        y = np.clip(self.gain * x.mean(axis=1), -1, 1)
        bench = cells.differential_bench(
            f"{name}_group_charge",
            cells.rows("x", x),
            {"y": y},
            process=process,
            slot_s=cells.slot_s(total_F),
            gate="B1",
            absolute=1e-5,
            clocks=cells.CLOCKS,
            sample=cells.SAMPLE,
        )
        column = cells.charge_column(
            f"{name}_column",
            np.full(self.group, self.gain / self.group),
            weight=weight,
            feedback_F=feedback_F,
            offset=0.0,
            process=process,
            benches=(bench,),
        )
        clocks = ("phi1", "phi2", "ref")
        instances = tuple(
            Instance(
                f"group{c}",
                column,
                (
                    *cells.halves(
                        *(f"x{c * self.group + i}" for i in range(self.group)), f"y{c}"
                    ),
                    *clocks,
                ),
            )
            for c in range(self.n_out)
        )
        ports = (*cells.bus("x", self.n_in), *cells.bus("y", self.n_out), *clocks)
        return Netlist(name, ports, instances=instances)
