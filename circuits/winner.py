"""Winner-take-all sampler: draws a token with the noise of its own transistors."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from circuits.parts import NODE_F
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.process import Process
from physnn.units import thermal_voltage_V

# Drawn area of a cell's input transistor: 1 mV of threshold mismatch at 28 nm.
INPUT_M2 = 4e-12
# Pitch of a cell along the line that all cells share.
PITCH_M = 5e-6
# Standard deviation of a Gumbel variable: of log-waiting times of a Poisson process.
GUMBEL_SIGMA = math.pi / math.sqrt(6)


class WinnerTakeAll(AbstractMemorylessCircuit):
    """A race of N noisy cells, one per token: the first to fire silences the others.

        V_i = drive_V·x_i + offset_i ──┤ M_i: I_i = I_0·exp(V_i/nU_T)
                                       │
             common line ──────────────┴── first event at i: y_i = 1, all others 0

    `"shot"`: M_i works in weak inversion, and carries single events (carriers) as a
    Poisson process of rate I_i/q. The first event of all falls at i with probability

        p_i = I_i / Σ_j I_j = softmax(logits / τ),   τ = nats·nU_T / drive_V,

    *exactly*, for any N: waiting times are exponential, so −log of them is Gumbel. A
    full scale of x stands for `nats` of logit. τ is a design quantity, set by
    `drive_V`; with a fixed drive it is proportional to absolute temperature.

    `"thermal"`: comparators without gain at a single carrier see V_i plus the kT/C of
    their node, and the highest wins. That is a probit, not a softmax: its τ is stated
    by equal variance, σ = τ·π/√6, its tails are too short (tested), and at the same
    area its mismatch weighs more, because √(kT/C) is smaller than nU_T.

    Mismatch of thresholds adds offset·swing/(nU_T) nats to a logit at τ = 1: 0.03. A
    noiseless process (`thermal_noise` zero) has no race: the largest x wins. The
    gradient is that of softmax(logits / τ), straight-through.

    It replaces an ADC per logit and the digital sampler (`compare`, `random_bit`, `exp`
    from ROM). Bills: drivers of the gates, latches, the line, the address.

    Assumes: a detector with gain at a single event (an avalanche or a trap) in
    `"shot"`; counting k events before firing would narrow the race to a τ of 1/√k. Does
    not model: leakage under I_i (logits 14 below the top), latency of the race,
    metastability.

    References: Lazzaro et al. 1989, "Winner-take-all networks of O(n) complexity",
    NeurIPS 1; shot noise in weak inversion: Sarpeshkar et al. 1993, DOI
    10.1109/101.261888; Gumbel race: Yellott 1977, DOI 10.1016/0022-2496(77)90026-8;
    matching: Pelgrom et al. 1989, DOI 10.1109/JSSC.1989.572629.
    """

    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    nats: float = eqx.field(static=True)
    drive_V: float = eqx.field(static=True)
    clock: str = eqx.field(static=True)
    node_F: float = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        *,
        process: Process,
        temperature: float = 1.0,
        nats: float = 16.0,
        clock: str = "shot",
        node_F: float = NODE_F,
    ):
        """`temperature`: τ of the sampled softmax, at the temperature of `process`.

        `nats`: logit of a full scale. `node_F`: load of a comparator in `"thermal"`.
        Raises `ValueError` for less than two cells, an amount that is not positive, an
        unknown clock, and a thermal clock in a process without noise.
        """
        if n < 2:
            raise ValueError(f"Argument `n` must be at least 2, but is {n}.")
        amounts = {"temperature": temperature, "nats": nats, "node_F": node_F}
        for name, value in amounts.items():
            if not 0 < value < math.inf:
                raise ValueError(f"Argument `{name}` must be positive, but is {value}.")
        if clock not in ("shot", "thermal"):
            raise ValueError(
                f'Argument `clock` must be "shot" or "thermal", but is {clock!r}.'
            )
        self.n_in = self.n_out = n
        self.nats, self.clock, self.node_F = nats, clock, node_F
        scale_V = float(self.scale_V(process))
        if scale_V == 0:
            raise ValueError(
                f"Process `{process.name}` must have thermal noise for a thermal"
                " clock, but has none: a temperature of zero has no drive."
            )
        self.drive_V = nats * scale_V / temperature
        self.offset = Bank(
            jnp.zeros(n), kind="threshold", unit="full scale", area_m2=INPUT_M2
        )

    def scale_V(self, process: Process):
        """The gate voltage of one nat: nU_T, or √(kT/C)·√6/π [V]."""
        if self.clock == "shot":
            return process.slope_factor * thermal_voltage_V(process.temperature_K)
        sigma = jnp.sqrt(process.thermal_variance(self.node_F)) * process.swing_V
        return sigma / GUMBEL_SIGMA

    def temperature(self, process: Process):
        """τ of the softmax that is drawn from; in `"thermal"` of equal variance."""
        return self.nats * self.scale_V(process) / self.drive_V

    def logits(
        self, x: Float[Array, "*batch n"], *, process: Process
    ) -> Float[Array, "*batch n"]:
        """log I_i + constant: how far each cell is ahead, offsets included [nats]."""
        scale_V = self.scale_V(process)
        gate_V = self.drive_V * x + process.swing_V * self.offset.realized()
        return gate_V / scale_V

    def shares(
        self, x: Float[Array, "*batch n"], *, process: Process
    ) -> Float[Array, "*batch n"]:
        """I_i / Σ I of a shot race: the probability that cell i fires first."""
        return jax.nn.softmax(self.logits(x, process=process), axis=-1)

    def race(
        self,
        ahead: Float[Array, "*batch n"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> Int[Array, "*batch"]:
        """The cell that fires first, for currents of which `ahead` is the log."""
        if _is_silent(process):
            # No event ever falls early: the largest current.
            return jnp.argmax(ahead, axis=-1)
        if self.clock == "thermal":
            normal = jr.normal(key, ahead.shape, ahead.dtype)
            return jnp.argmax(ahead + GUMBEL_SIGMA * normal, axis=-1)
        # log of the waiting time of each cell, up to the same constant for all.
        waiting = jnp.log(jr.exponential(key, ahead.shape, ahead.dtype)) - ahead
        return jnp.argmin(waiting, axis=-1)

    def _winner(self, x, *, process, key):
        # A thermal clock without noise has no scale, but a largest voltage.
        drive_V = self.drive_V * x + process.swing_V * self.offset.realized()
        scale_V = 1.0 if _is_silent(process) else self.scale_V(process)
        ahead = jax.lax.stop_gradient(drive_V / scale_V)
        return self.race(ahead, process=process, key=key)

    def apply(self, x, *, process, key):
        """One-hot: 1 at the cell that fired first."""
        winner = self._winner(x, process=process, key=key)
        hot = jax.nn.one_hot(winner, self.n_out, dtype=x.dtype)
        if _is_silent(process) and self.clock == "thermal":
            return hot  # at a temperature of zero nothing has a gradient
        soft = self.shares(x, process=process)
        return soft + jax.lax.stop_gradient(hot - soft)

    def sample(
        self,
        logits: Float[Array, "*batch n"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> Int[Array, "*batch"]:
        """The token that wins, for logits of which `nats` are a full scale of x."""
        if logits.shape[-1] != self.n_in:
            raise ValueError(
                f"Argument `logits` must end in {self.n_in} cells, but has shape"
                f" {logits.shape}."
            )
        return self._winner(logits / self.nats, process=process, key=key)

    def events(self, process, *, period_s):
        del period_s
        n = self.n_in
        gates_C, settling_C = (
            n * NODE_F * self.drive_V,
            process.settling_charge_C(NODE_F),
        )
        latches_C = 2 * n * self.node_F * process.supply_V
        line_C = n * PITCH_M * process.wire_F_per_m * process.supply_V
        return (
            Event("supply_charge_C", 2 * gates_C, "gates"),
            Event("amplifier_charge_C", 2 * n * settling_C, "drivers"),
            Event("supply_charge_C", latches_C, "latches"),
            Event("supply_charge_C", line_C, "line"),
            # The winner pulls the lines of the ones in its address.
            Event("supply_charge_C", math.ceil(math.log2(n)) * line_C, "address lines"),
            Event("flop_cycle", math.ceil(math.log2(n)), "address"),
        )

    def diagnose(self, xs, *, process, key):
        del key
        shares = self.shares(xs, process=process)
        entropy = -jnp.sum(jnp.where(shares > 0, shares * jnp.log(shares), 0), -1)
        ideal = jax.nn.softmax(self.nats * xs / self.temperature(process), axis=-1)
        moved = jnp.sum(jnp.abs(shares - ideal), -1) / 2
        return {
            "temperature": jnp.asarray(self.temperature(process)),
            "entropy_bits": jnp.mean(entropy) / math.log(2),
            # Total variation between what this chip draws from and the softmax.
            "mismatch_distance": jnp.mean(moved),
        }

    def netlist(self, process, *, name) -> Netlist:
        if self.clock == "thermal":
            raise ValueError(
                f"The comparators of `{name}` decide by their own thermal noise, which"
                " a netlist does not hold: export a sampler with a shot clock."
            )
        scale_V, number = float(self.scale_V(process)), cells.number
        offsets = cells.realized(self.offset).tolist()
        x = cells.difference("x", process)
        gate_V = f"({number(self.drive_V)} * {x} + {number(process.swing_V)} * offset)"
        # The common source follows the gates: its voltage is what makes Σ I the tail.
        current = f"1e-6 * exp(({gate_V} - v(line, ref)) / {number(scale_V)})"
        y = "v(drain, ref)"
        cell = Netlist(
            f"{name}_cell",
            ("xp", "xn", "yp", "yn", "line", "ref"),
            (
                Device("drain", "current", ("ref", "drain"), law=current),
                Device("load", "resistor", ("drain", "ref"), {"resistance_ohm": 1e6}),
                Device("source", "current", ("ref", "line"), law=current),
                *cells.differential_voltage("y", y, process),
            ),
            parameters={"offset": Parameter(0.0, "full scale", "threshold mismatch")},
        )
        instances = tuple(
            Instance(
                f"cell{i}",
                cell,
                (*cells.halves(f"x{i}", f"y{i}"), "line", "ref"),
                {"offset": offset},
            )
            for i, offset in enumerate(offsets)
        )
        # A spread of some nats, so that every share can be measured.
        xs = cells.trial_vectors((5, self.n_in)) * np.float32(2 / self.nats)
        ys = np.asarray(self.shares(jnp.asarray(xs), process=process))
        bench = cells.static_bench(
            f"{name}_shares", cells.rows("x", xs), cells.rows("y", ys), process=process
        )
        return Netlist(
            name,
            (*cells.bus("x", self.n_in), *cells.bus("y", self.n_out), "ref"),
            (Device("tail", "current", ("line", "ref"), law="1e-6"),),
            instances,
            benches=(bench,),
            notes="The currents without their shot noise: y is the share of the tail"
            " (1 uA) in each cell, which is the probability that it fires first.",
        )


def _is_silent(process: Process) -> bool:
    noise = process.thermal_noise
    return isinstance(noise, int | float) and noise == 0
