"""Resonator bank: gm-C biquads, an oscillatory state space with learned damping."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from circuits.parts import positive
from physnn import recurrence
from physnn.bank import Bank
from physnn.dynamics import AbstractDynamicCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import bus, halves
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.full_scale import limited
from physnn.keys import stream
from physnn.noise import coupled, thermal_noise
from physnn.process import Process
from physnn.time_parts import n_parts

# Drawn area of the pair that sets a bias: 2 mV·µm leave 0.5 mV, 1.5 % of a rate.
PAIR_M2 = 16e-12
# Rates that a bias can reach [1/token]: from leakage to where a token aliases.
SLOWEST, FASTEST = 1e-5, math.pi
GMS = ("damping", "turn", "gain")


class Resonator(AbstractDynamicCircuit):
    """Two capacitors and five transconductors that ring when they are driven.

             g_u·u          g_ω                C dp/dt = g_u·u − g_a·p − g_ω·q
              │        ┌──▷────┐               C dq/dt =         g_ω·p − g_a·q
              p ──┬────┤       ├────┬── q
              C  g_a   └───◁───┘   C  g_a     z = p + jq:  dz/dt = (jω − a)·z + b·u

    In rates per token, a = g_a·T/C + leak, ω = g_ω·T/C, b = g_u·T/C, and with the input
    held over a token the step is exact:

        z' = e^λ·z + b·u·(e^λ − 1)/λ + n,   λ = jω − a
        Var n = thermal_noise·kT/C·(a + ω + b)/a·(1 − e^−2a) / swing²,  in p and in q

    All transconductors are noisy, so the stationary variance is kT/C times (a+ω+b)/a,
    about the quality factor: high Q costs dynamic range. That of g_u is counted in q
    too, which it does not reach: noise that is alike and independent in p and q stays
    so under rotation, which makes the variance of a step exact, and never too small.

    Each g is that of a pair in weak inversion, g = (C/T)·exp(2·bias / linear range):
    the biases are trained (`damping`, `turn`, `gain`), mismatched, and the three
    numbers that a resonator gives to the netlist. No bias makes it unstable.

    Inputs are `(u,)`, outputs `(p, q)` concatenated, clipped at full scale by their
    readers; `diagnose` says how often that is. Tails are billed: I = g·2nU_T.

    On accelerators a sequence is solved in the frame that turns with each resonator,
    where the bank is one of RCs and its solution an associative scan: y_t = e^−jωt·z_t,
    y_t = e^−a·y_(t−1) + e^−jωt·drive_t.

    Assumes: transconductors are linear over full scale; biases are fixed in volts, so a
    rate r at T_0 is r^(T_0/T) at T. Does not model: their parasitic poles, saturation
    of the states themselves, biases that follow temperature.

    References: noise of gm-C resonators, Groenewold 1991, IEEE Transactions on Circuits
    and Systems 38 (8), 838; oscillatory state space, Rusch & Rus 2024, arXiv
    2410.03943; linear recurrent units, Orvieto et al. 2023, arXiv 2303.06349.
    """

    damping: Bank
    turn: Bank
    gain: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    state_F: float = eqx.field(static=True)
    period_s: float = eqx.field(static=True)
    shortest: float = eqx.field(static=True)
    longest: float = eqx.field(static=True)

    def __init__(
        self,
        n: int,
        *,
        period_s: float,
        process: Process,
        state_F: float = 50e-15,
        shortest: float = 3.0,
        longest: float = 256.0,
    ):
        """`shortest`, `longest`: period of the fastest and slowest resonator [tokens].

        Each starts with a memory of about one period, that is a Q of about 3.
        """
        positive(n=n, period_s=period_s, state_F=state_F)
        positive(longest=longest)
        if not 2 < shortest <= longest:
            raise ValueError(
                "Arguments `shortest` and `longest` must be periods above 2 tokens, in"
                f" this order, but are {shortest} and {longest}."
            )
        self.n_in, self.n_out = n, 2 * n
        self.state_F, self.period_s = state_F, period_s
        self.shortest, self.longest = shortest, longest
        scale = process.linear_range() / 2
        banks = [
            Bank(
                (scale * jnp.log(rate)).astype(jnp.float32),
                kind="threshold",
                unit="full scale",
                area_m2=PAIR_M2,
                low=float(scale) * math.log(SLOWEST),
                high=float(scale) * math.log(FASTEST),
            )
            for rate in self._start()
        ]
        self.damping, self.turn, self.gain = banks

    def _start(self):
        """(a, ω, b) at the start [1/token]."""
        n = self.n_in
        periods = np.geomspace(self.shortest, self.longest, n)
        turn = 2 * math.pi / periods
        damping = 1 / periods
        # White drives of 0.3 leave a state at 0.15.
        return damping, turn, 0.5 * np.sqrt(2 * damping)

    def rates(self, process: Process):
        """(a, ω, b) of this chip [1/token], without leakage."""
        scale = process.linear_range() / 2
        speed = process.rate
        return [speed * jnp.exp(getattr(self, name).realized() / scale) for name in GMS]

    def leak(self, process: Process):
        """What a state loses in a token with all transconductors off."""
        return process.node_leakage_S * self.period_s / self.state_F

    def quality(self, process: Process):
        """Q = ω/2a of every resonator."""
        damping, turn, _ = self.rates(process)
        return turn / (2 * (damping + self.leak(process)))

    def _kernel(self, process: Process):
        """(a, ω, drive gain re, im): b·(e^λ − 1)/λ by real numbers."""
        damping, turn, gain = self.rates(process)
        a = damping + self.leak(process)
        # e^λ − 1 with no difference of numbers near 1: slow rates would drown in it.
        re = jnp.expm1(-a) * jnp.cos(turn) - 2 * jnp.square(jnp.sin(turn / 2))
        im = jnp.exp(-a) * jnp.sin(turn)
        size = gain / (a * a + turn * turn)
        return a, turn, size * (im * turn - re * a), -size * (re * turn + im * a)

    def variance(self, process: Process):
        """What a token adds to the variance of p and of q [full scale²]."""
        damping, turn, gain = jax.lax.stop_gradient(self.rates(process))
        a = damping + self.leak(process)
        stationary = process.thermal_variance(self.state_F) * (a + turn + gain) / a
        return stationary * -jnp.expm1(-2 * a)

    def _drive(self, x, *, process, key):
        """(a, ω, what a token adds to p, and to q)."""
        x = coupled(x, process=process)
        a, turn, re, im = self._kernel(process)
        noise = {"variance": self.variance(process), "process": process}
        p = thermal_noise(re * x, **noise, key=stream(key, "p"))
        q = thermal_noise(im * x, **noise, key=stream(key, "q"))
        return a, turn, p, q

    def init_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.n_out))

    def step(self, state, x, *, process, key):
        a, turn, p, q = self._drive(x, process=process, key=key)
        shrink = jnp.exp(-a)
        c, s = shrink * jnp.cos(turn), shrink * jnp.sin(turn)
        turned = _rotated(jnp.split(state, 2, axis=-1), c, s)
        v = jnp.concatenate([turned[0] + p, turned[1] + q], axis=-1)
        return v, self.read(v, x, process=process)

    def scan(self, state, xs, *, process, key):
        a, turn, *drive = self._drive(xs, process=process, key=key)
        start = jnp.split(state, 2, axis=-1)
        # On a CPU the turning frame takes three times as long as turning every state.
        one_by_one = recurrence.kernel_here() == "sequential" and n_parts() == 1
        solve = _turned if one_by_one else _in_turning_frame
        vs = jnp.concatenate(solve(a, turn, drive, start), axis=-1)
        return vs[-1], self.read(vs, xs, process=process)

    def drift(self, v, x, *, process):
        x = coupled(x, process=process)
        damping, turn, gain = self.rates(process)
        a = damping + self.leak(process)
        p, q = jnp.split(v, 2, axis=-1)
        dv = [gain * x - a * p - turn * q, turn * p - a * q]
        return jnp.concatenate(dv, axis=-1) / self.period_s

    def diffusion(self, v, x, *, process):
        del x
        total = sum(self.rates(process)) + self.leak(process)
        each = jnp.sqrt(
            2 * total / self.period_s * process.thermal_variance(self.state_F)
        )
        return jnp.broadcast_to(jnp.tile(each, 2), v.shape)

    def read(self, v, x, *, process):
        del x, process
        return limited(v)

    def diagnose(self, xs, *, process, key):
        _, ys = self.scan(self.init_state(xs.shape[1:-1]), xs, process=process, key=key)
        quality = self.quality(process)
        return {
            "rms": jnp.sqrt(jnp.mean(jnp.square(ys))),
            "share at full scale": jnp.mean((jnp.abs(ys) >= 1).astype(ys.dtype)),
            "median Q": jnp.median(quality),
            "highest Q": jnp.max(quality),
        }

    def events(self, process, *, period_s):
        del period_s
        if isinstance(self.damping.value, jax.ShapeDtypeStruct):
            rates = self._start()  # known by shapes alone: as it starts
        else:
            rates = jax.lax.stop_gradient(self.rates(process))
        # Two nodes are damped and turned, one is driven; both halves of each.
        a, turn, gain = (jnp.sum(jnp.asarray(rate, jnp.float32)) for rate in rates)
        volts = process.linear_range() * process.swing_V
        tails = 2 * (2 * a + 2 * turn + gain) * self.state_F * volts
        return (Event("supply_charge_C", tails, "transconductors"),)

    def netlist(self, process, *, name) -> Netlist:
        u = cells.trial_vectors((1, 16))[0]
        xs = np.repeat(u[:, None], self.n_in, axis=1)
        ys = cells.predicted(self, xs, process)
        rates = np.stack([np.asarray(rate, float) for rate in self.rates(process)])
        siemens = rates * self.state_F / self.period_s
        devices = []
        for half in "pn":
            p, q = f"v{half}", f"w{half}"
            laws = {
                p: f"gain * v(u{half}, ref) - damping * v({p}, ref)"
                f" - turn * v({q}, ref)",
                q: f"turn * v({p}, ref) - damping * v({q}, ref)",
            }
            for node, law in laws.items():
                farads = {"capacitance_F": self.state_F}
                devices += [
                    Device(node, "capacitor", (node, "ref"), farads),
                    Device(f"gm_{node}", "current", ("ref", node), law=law),
                ]
                if process.node_leakage_S > 0:
                    leak = {"resistance_ohm": 1 / process.node_leakage_S}
                    devices.append(
                        Device(f"leak_{node}", "resistor", (node, "ref"), leak)
                    )
        bench = cells.differential_bench(
            f"{name}_biquad_tokens",
            {"u": u},
            {"v": ys[:, 0], "w": ys[:, self.n_in]},
            process=process,
            slot_s=self.period_s,
            gate="B2",
            absolute=1e-4,
            # A part of the fastest time constant: ringing adds up its errors.
            max_step=1 / (200 * max(1.0, float(rates[:, 0].max()))),
        )
        biquad = Netlist(
            f"{name}_biquad",
            (*halves("u", "v", "w"), "ref"),
            tuple(devices),
            parameters={
                gm: Parameter(float(value[0]), "S", f"of the trained bias `{gm}`")
                for gm, value in zip(GMS, siemens, strict=True)
            },
            benches=(bench,),
            notes="C dv/dt = gain u - damping v - turn w, C dw/dt = turn v - damping w,"
            f" in both halves. u is held over a token of"
            f" {cells.number(self.period_s)} s.",
        )
        n = self.n_in
        instances = tuple(
            Instance(
                f"channel{j}",
                biquad,
                (*halves(f"x{j}", f"y{j}", f"y{n + j}"), "ref"),
                dict(zip(GMS, map(float, siemens[:, j]), strict=True)),
            )
            for j in range(n)
        )
        ports = (*bus("x", n), *bus("y", 2 * n), "ref")
        return Netlist(name, ports, instances=instances)


def _turned(a, turn, drive, start):
    """All states of z_t = e^(jω − a)·z_(t−1) + drive_t, one after the other."""
    c, s = jnp.exp(-a) * jnp.cos(turn), jnp.exp(-a) * jnp.sin(turn)

    def token(z, drive):
        p, q = _rotated(z, c, s)
        z = (p + drive[0], q + drive[1])
        return z, z

    return jax.lax.scan(token, tuple(start), tuple(drive))[1]


def _in_turning_frame(a, turn, drive, start):
    """The same by real recurrences of e^−jωt·z_t, which a parallel prefix solves."""
    time, rank = len(drive[0]), drive[0].ndim
    t = jnp.arange(1, time + 1, dtype=drive[0].dtype)
    phase = (t[:, None] * turn).reshape(time, *(1,) * (rank - 2), -1)
    c, s = jnp.cos(phase), jnp.sin(phase)
    alpha = jnp.broadcast_to(jnp.exp(-a), drive[0].shape)
    turning = [
        recurrence.linear_recurrence(alpha, *each)
        for each in zip(_rotated(drive, c, -s), start, strict=True)
    ]
    return _rotated(turning, c, s)


def _rotated(z, c, s):
    """z·(c + js) of z = p + jq, as real numbers `(p, q)`."""
    p, q = z
    return c * p - s * q, s * p + c * q
