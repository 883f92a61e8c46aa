"""Charge MAC: columns of switched capacitors that multiply by sharing charge."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.netlist import Netlist
from physnn.full_scale import limited
from physnn.lines import ChargeLines
from physnn.materialized import materialized
from physnn.noise import coupled, thermal_noise
from physnn.process import Process
from physnn.products import by_rows, shifted

# Drawn area of an amplifier's input pair: sets its offset. 4 µm² keeps a 28 nm pair
# at 1 mV.
AMPLIFIER_PAIR_M2 = 4e-12
# Causes of charge that amplifiers draw, and those that a clock does.
SETTLED = ("input drivers", "amplifiers")
CLOCKED = ("switches", "clock wires")
# The two phases that reach every cell, each with its complement.
CLOCK_WIRES = 4
# Area of a weight's stored bits and switches beside its capacitor.
CELL_OVERHEAD_M2_PER_BIT = 0.3e-12
# A fiftieth of a token of 1 µs: the gated RC model of WikiText-2 has 13 MACs one after
# another and as many other stages, of two phases each.
SETTLE_S = 20e-9


class ChargeMac(AbstractMemorylessCircuit):
    """A matrix of signed capacitance ratios: charge W x, read by amplifiers.

        x_0 ──╱ φ1 ──┤├──┐          ┌──┤├──┐ C_f
        x_1 ──╱ φ1 ──┤├──┼──╱ φ2 ──┴──▷───┴── y     (one of two
        x_2 ──╱ φ1 ──┤├──┘                            differential halves)

        y_j = clip(Σ_i (C_ij / C_fj)·x_i + offset_j + n_j, ±1)
        Var n_j = thermal_noise · kT·(C_Σj + C_fj) / C_fj² / swing²,  C_Σj = Σ_i |C_ij|

    A weight of `bits` is a number of unit capacitors switched in by bits stored beside
    them, negative when the two halves are exchanged. The largest weight of a column has
    2^(bits−1) − 1 units, which sets C_fj. The unit is `capacitor_min_F` times the area
    factor of the bank. Its trainable `size` buys signal-to-noise and matching with
    charge; below zero it gives levels of the code away for charge and stored bits.

    Assumes: amplifiers that settle within a stage and are biased only so long; lines
    that do, unless `line_ohm_per_m` of an environment says how resistive they are;
    every switched-in capacitor swings full scale each step (an upper bound of the
    charge); a gain of one, which the drawn column reaches with a smaller feedback
    capacitor. Does not model: charge injection, dependence of the noise on β, leakage
    between the two clock phases.

    References: Lee & Wong 2016, "Analysis and design of a passive switched-capacitor
    matrix multiplier", DOI 10.1109/JSSC.2016.2599536; Murmann 2021, "Mixed-signal
    computing for deep neural network inference", DOI 10.1109/TVLSI.2020.3020286.
    """

    weight: Bank
    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bits: int,
        process: Process,
        key: Key[Array, ""],
        gain: float = 1.0,
        settle_s: float = SETTLE_S,
    ):
        """`gain`: rms of the output over that of the input, at the start.

        `settle_s`: what rows and columns have to settle, in each of the two phases [s].
        """
        if n_in < 1 or n_out < 1:
            raise ValueError(
                f"Arguments `n_in` and `n_out` must be positive, but are {n_in} and"
                f" {n_out}."
            )
        self.n_in, self.n_out = n_in, n_out
        self.weight = Bank(
            gain / math.sqrt(n_in) * jr.normal(key, (n_in, n_out)),
            kind="capacitor",
            unit="C/C_f",
            n_units=2 ** (bits - 1) - 1,
            area_m2=process.capacitor_min_F / process.capacitor_density_F_per_m2,
            bits=bits,
            size=jnp.zeros(()),
            lines=ChargeLines(settle_s, CELL_OVERHEAD_M2_PER_BIT),
        )
        self.offset = Bank(
            jnp.zeros(n_out),
            kind="threshold",
            unit="full scale",
            area_m2=AMPLIFIER_PAIR_M2,
            low=-1.0,
            high=1.0,
        )

    def unit_F(self, process: Process) -> Float[Array, ""] | float:
        """The unit capacitor [F]; never below the smallest that can be drawn."""
        return process.capacitor_min_F * self.weight.area_factor()

    def feedback_units(self) -> Float[Array, " n_out"] | float:
        """C_f of each column in unit capacitors; the largest weight sets it."""
        if isinstance(self.weight.value, jax.ShapeDtypeStruct):
            # At the spread of trained weights: a column's full scale is clip·rms.
            return self.weight.n_units * math.sqrt(self.n_in) / self.weight.clip_sigma
        return self.weight.units() / self.weight.full_scale()[0]

    def noise_variance(self, process: Process) -> Float[Array, " n_out"]:
        """Variance of each output's noise [full scale²]."""
        # Differentiable in `size` alone: what the weights' gradient would add is far
        # below its own noise and costs a second pass over every draw.
        nominal = jax.lax.stop_gradient(self.weight.nominal())
        ratios = jnp.sum(jnp.abs(nominal), axis=0)
        # The smallest unit first: femtofarads squared would leave float32.
        variance = process.thermal_variance(process.capacitor_min_F)
        units = self.feedback_units() * self.weight.area_factor()
        return variance * (ratios + 1) / units

    def apply(self, x, *, process, key):
        y = materialized(by_rows(materialized(x), self.weight.realized()))
        y = coupled(shifted(y, self.offset.realized()), process=process)
        y = thermal_noise(y, self.noise_variance(process), process=process, key=key)
        return limited(y)

    def cell_m2(self, process: Process) -> Float[Array, ""] | float:
        """Area of one weight: both halves' capacitors, its bits and switches [m²]."""
        full_F = self.unit_F(process) * self.weight.units()
        capacitors_m2 = 2 * full_F / process.capacitor_density_F_per_m2
        return capacitors_m2 + self.weight.code_bits() * CELL_OVERHEAD_M2_PER_BIT

    def span_m(self, process: Process) -> Float[Array, ""]:
        """Side of the array of weights, drawn as a square [m]."""
        return jnp.sqrt(self.n_in * self.n_out * self.cell_m2(process))

    def charge_C(self, process: Process) -> dict[str, Float[Array, ""]]:
        """Supply charge of one step by cause [C], both differential halves.

        Of the causes in `SETTLED` it is that of ideal amplifiers.
        """
        cells = float(self.n_in * self.n_out)  # more than an int32 holds
        unit_F = self.unit_F(process)
        full_F = unit_F * self.weight.units()
        switched_F = full_F * self.weight.mean_fraction()
        pitch_m = jnp.sqrt(self.cell_m2(process))
        line_F = self.n_out * (switched_F + pitch_m * process.wire_F_per_m)
        summing_F = self.n_in * (switched_F + pitch_m * process.wire_F_per_m)
        feedback_F = unit_F * jnp.mean(jnp.asarray(self.feedback_units()))
        return {
            "input lines": 2 * self.n_in * line_F * process.swing_V,
            "input drivers": 2 * self.n_in * process.settling_charge_C(line_F),
            # As drawn (physnn/export/columns.py): a cell samples on both halves and
            # joins them, a column holds, clears, closes and biases on either.
            "switches": jnp.asarray(
                (3 * cells + 2.0 * 4 * self.n_out) * process.switch_C()
            ),
            "clock wires": cells
            * CLOCK_WIRES
            * pitch_m
            * process.wire_F_per_m
            * process.supply_V,
            "amplifiers": 2
            * self.n_out
            * process.settling_charge_C(2 * summing_F + feedback_F),
        }

    def events(self, process, *, period_s):
        charges = self.charge_C(process)
        stored_bits = self.n_in * self.n_out * self.weight.code_bits()
        return (
            *(Event(_charged(part), q, part) for part, q in charges.items()),
            Event("stored_bit_s", stored_bits * period_s, "weights"),
            Event("flop_cycle", 2 * 4, "clock phases"),
        )

    def netlist(self, process, *, name) -> Netlist:
        ratios = cells.realized(self.weight)
        offsets = cells.realized(self.offset)
        units = np.broadcast_to(np.asarray(self.feedback_units()), self.n_out)
        feedback_F = (units * float(self.unit_F(process))).tolist()
        # Zero, three at random, and one that saturates the first column.
        x = np.zeros((5, self.n_in), np.float32)
        x[1:4] = cells.trial_vectors((3, self.n_in))
        x[4] = np.where(ratios[:, 0] < 0, -1, 1)
        total_F = feedback_F[0] * (1 + float(np.sum(np.abs(ratios[:, 0]))))
        bench = cells.differential_bench(
            f"{name}_column0_charge",
            {f"x{i}": x[:, i] for i in range(self.n_in)},
            {"y": cells.predicted(self, x, process)[:, 0]},
            process=process,
            slot_s=cells.slot_s(total_F),
            gate="B1",
            absolute=1e-5,
            clocks=cells.CLOCKS,
            sample=cells.SAMPLE,
        )
        weight = cells.charge_weight(f"{name}_weight", process)
        columns = [
            cells.charge_column(
                f"{name}_column{j}",
                ratios[:, j],
                weight=weight,
                feedback_F=feedback_F[j],
                offset=float(offsets[j]),
                process=process,
                benches=(bench,) if j == 0 else (),
            )
            for j in range(self.n_out)
        ]
        return cells.matrix(name, self.n_in, columns)


def _charged(part: str) -> str:
    """The event that the charge of a cause is."""
    if part in SETTLED:
        return "amplifier_charge_C"
    return "clock_charge_C" if part in CLOCKED else "supply_charge_C"
