"""Gated RC state space: a capacitor behind a steered transconductor, per state."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from circuits.parts import positive
from physnn.bank import Bank
from physnn.dynamics import AbstractDynamicCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import array
from physnn.export.netlist import Device, Netlist, Parameter
from physnn.noise import coupled, rms, thermal_noise
from physnn.process import Process
from physnn.products import shifted
from physnn.recurrence import linear_recurrence

# Drawn area of the steering pair.
PAIR_M2 = 1e-12


class GatedRC(AbstractDynamicCircuit):
    """A leaky integrator whose conductance the input steers: a selective state space.

                 g(s)
        u ──▷──/\\/\\──┬── v          C dv/dt = g(s)·(u − v) − g_leak·v + i_n
                      ═ C
                      ⏚

        a_t = rate_max·sigmoid((s_t + offset) / nU_T),  b = g_leak·T/C
        v_t = v_{t−1}·e^{−(a_t+b)} + u_t·(1 − e^{−(a_t+b)})·a_t/(a_t+b) + n_t
        Var n_t = thermal_noise·kT/C·(1 − e^{−2(a_t+b)}) / swing²

    Inputs are `(u, s)` concatenated. The step is the exact solution for inputs held
    over the token. A bias pair steers a tail current between the transconductor and a
    dummy, so the tail is always drawn. Leakage bounds the memory: no state remembers
    longer than C/g_leak, whatever was trained.

    Assumes: a linearized transconductor (|u − v| inside its range) with a PTAT bias,
    which makes g independent of temperature. Does not model: slewing, output
    resistance, coupling between states.

    References: exact Ornstein–Uhlenbeck step, Gillespie 1996, DOI
    10.1103/PhysRevE.54.2084; the selective recurrence, Gu & Dao 2023, arXiv
    2312.00752.
    """

    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    state_F: float = eqx.field(static=True)
    rate_max: float = eqx.field(static=True)
    period_s: float = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        *,
        period_s: float,
        state_F: float = 50e-15,
        rate_max: float = 4.0,
    ):
        """`rate_max`: time constants C/g of the open gate per token."""
        positive(n=n, state_F=state_F, rate_max=rate_max, period_s=period_s)
        self.n_in, self.n_out = 2 * n, n
        self.state_F, self.rate_max, self.period_s = state_F, rate_max, period_s
        self.offset = Bank(
            jnp.zeros(n), kind="threshold", unit="full scale", area_m2=PAIR_M2
        )

    def init_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.n_out))

    def leak(self, process: Process):
        """b = g_leak·T/C: what a state loses in a token with its gate closed."""
        return process.node_leakage_S * self.period_s / self.state_F

    def rate(self, s, *, process: Process):
        """a = g(s)·T/C: time constants of the steered gate in a token."""
        steer = 2 * shifted(s, self.offset.realized()) / process.linear_range()
        return process.rate * self.rate_max * jax.nn.sigmoid(steer)

    def coefficients(self, x, *, process: Process):
        """(α, target) of v ← α·v + (1 − α)·target for inputs `(u, s)`."""
        u, s = jnp.split(x, 2, axis=-1)
        u = coupled(u, process=process)
        rate = self.rate(s, process=process)
        total = rate + self.leak(process)
        return jnp.exp(-total), u * (rate / total)

    def _drive(self, x, *, process, key):
        alpha, target = self.coefficients(x, process=process)
        lost = jax.lax.stop_gradient(1 - jnp.square(alpha))
        variance = process.thermal_variance(self.state_F) * lost
        drive = (1 - alpha) * target
        return alpha, thermal_noise(drive, variance, process=process, key=key)

    def drift(self, v, x, *, process):
        u, s = jnp.split(x, 2, axis=-1)
        u = coupled(u, process=process)
        rate = self.rate(s, process=process)
        return (rate * (u - v) - self.leak(process) * v) / self.period_s

    def diffusion(self, v, x, *, process):
        rate = self.rate(jnp.split(x, 2, axis=-1)[1], process=process)
        total = (rate + self.leak(process)) / self.period_s
        # Fluctuation-dissipation: the stationary variance is kT/C at any conductance.
        return rms(2 * total * process.thermal_variance(self.state_F))

    def read(self, v, x, *, process):
        return v

    def step(self, state, x, *, process, key):
        alpha, drive = self._drive(x, process=process, key=key)
        v = alpha * state + drive
        return v, v

    def scan(self, state, xs, *, process, key):
        alpha, drive = self._drive(xs, process=process, key=key)
        vs = linear_recurrence(alpha, drive, state)
        return vs[-1], vs

    def events(self, process, *, period_s):
        del period_s
        # The tail I = g_max·2nU_T flows all the time: I·T = rate_max·C·2nU_T.
        tail = self.rate_max * self.state_F * process.linear_range() * process.swing_V
        return (Event("supply_charge_C", 2 * self.n_out * tail, "steered tails"),)

    def netlist(self, process, *, name) -> Netlist:
        offsets = cells.realized(self.offset).tolist()
        steer = f"({cells.difference('s', process)} + offset)"
        gate = f"1 + exp(-2 * {steer} / {cells.number(process.linear_range())})"
        devices = []
        for half in "pn":
            u, v = f"u{half}", f"v{half}"
            law = f"conductance / ({gate}) * v({u}, {v})"
            devices += [
                Device(half, "capacitor", (v, "ref"), {"capacitance_F": self.state_F}),
                Device(f"steered_{half}", "current", ("ref", v), law=law),
            ]
            if process.node_leakage_S > 0:
                leak = {"resistance_ohm": 1 / process.node_leakage_S}
                devices.append(Device(f"leak_{half}", "resistor", (v, "ref"), leak))
        u, s = cells.trial_vectors((2, 12)) * np.asarray([[1.0], [0.3]], np.float32)
        xs = np.repeat(np.stack([u, s], 1), self.n_out, axis=1)
        bench = cells.differential_bench(
            f"{name}_state_tokens",
            {"u": u, "s": s},
            {"v": cells.predicted(self, xs, process)[:, 0]},
            process=process,
            slot_s=self.period_s,
            gate="B2",
            absolute=1e-4,
            max_step=1 / (100 * max(self.rate_max, 1.0)),
        )
        state = Netlist(
            f"{name}_state",
            (*cells.halves("u", "s", "v"), "ref"),
            tuple(devices),
            parameters={
                "conductance": Parameter(
                    self.rate_max * self.state_F / self.period_s,
                    "S",
                    "of the open gate: rate_max C / T",
                ),
                "offset": Parameter(
                    offsets[0], "full scale", "trained steering offset"
                ),
            },
            benches=(bench,),
            notes="C dv/dt = g(s) (u - v) - g_leak v, in both halves. The inputs are"
            f" held over a token of {cells.number(self.period_s)} s.",
        )
        channels = [(state, {"offset": offset}) for offset in offsets]
        return array(name, channels, n_signals_in=2)
