"""Stuart-Landau oscillators: rings with an amplitude, from start-up to readout."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from circuits import oscillator_cells
from circuits.oscillator_parts import (
    Coupling,
    coupler_bank,
    jitter_variance,
    moved,
    puller,
    ring_bank,
    ring_events,
    sources,
    substrate_rate,
    with_all,
)
from circuits.parts import NODE_F, positive
from physnn.bank import Bank
from physnn.dynamics import AbstractDynamicCircuit
from physnn.energy.events import Event
from physnn.export.netlist import Netlist
from physnn.full_scale import limited
from physnn.keys import stream
from physnn.noise import coupled, is_zero, rms, thermal_noise, white
from physnn.process import Process


class StuartLandau(AbstractDynamicCircuit):
    """Coupled oscillators with amplitude and phase, as they are near their onset.

          ┌──┬──[−R]──┐ i
          ⌇L ═ C      ├──[K_ij]── j        z = x + i·y, |z| = 1 in free oscillation
          └──┴────────┘

        dz_i/dt = (g·(1 − |z_i|²) + iω_i)·z_i + Σ_j K_ij·z_j + p_i + i·q_i + noise

    in units of 1/token, in the frame of the reference. Rings start at `start` of their
    amplitude and grow as e^(g·t): the start-up that phases alone leave out. As g grows,
    phases follow `PhaseOscillators` with the same couplings. Inputs `(p, q)` inject as
    there, outputs are `(y, x)`, sine before cosine; full scale is twice the amplitude
    of free oscillation.

    A step is half a step of free oscillation, a midpoint step of what couples and
    drives, and the other half (Strang 1968, DOI 10.1137/0705041; error 1/n_steps²).
    Free oscillation is exact: r ← r/√(r² + (1 − r²)·e^(−2gh)), θ ← θ + ωh.

    Noise of either quadrature is that which gives a free phase the jitter of a ring.
    Assumes: weak nonlinearity. Does not model: a period that depends on amplitude
    (shear), harmonics, flicker noise.

    Reference: Aranson & Kramer 2002, DOI 10.1103/RevModPhys.74.99; jitter as in
    `PhaseOscillators`.
    """

    ring: Bank
    coupling: Bank | None
    substrate_rate: Float[Array, ""] | float | None  # of a chip at an operating point
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    n: int = eqx.field(static=True)
    kind: Coupling = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    n_steps: int = eqx.field(static=True)
    growth: float = eqx.field(static=True)
    start: float = eqx.field(static=True)
    drive_rate: float = eqx.field(static=True)
    cycles: float = eqx.field(static=True)
    ring_F: float = eqx.field(static=True)
    period_s: float = eqx.field(static=True)
    seed: int = eqx.field(static=True)

    AMPLITUDE_RANGE = 2.0

    def __init__(
        self,
        n: int,
        *,
        period_s: float,
        key: Key[Array, ""],
        coupling: Coupling = "dense",
        degree: int = 16,
        n_steps: int = 4,
        bits: int | None = 6,
        growth: float = 4.0,
        start: float = 0.1,
        coupling_rate: float = 1.0,
        drive_rate: float = 6.0,
        cycles: float = 8.0,
        ring_F: float = 22e-15,
        seed: int = 0,
    ):
        """`growth`: g [1/token]; the others as of `PhaseOscillators`."""
        positive(period_s=period_s, growth=growth, n_steps=n_steps)
        positive(coupling_rate=coupling_rate, drive_rate=drive_rate)
        if not 0 <= start <= 1:
            raise ValueError(
                f"Argument `start` must be from 0 to 1 amplitude, but is {start}."
            )
        self.ring = ring_bank(n, cycles=cycles, ring_F=ring_F)
        self.n_in = self.n_out = 2 * n
        self.n, self.kind = n, "none" if n == 1 else coupling
        self.degree, self.seed = degree, seed
        self.n_steps, self.growth, self.start = n_steps, growth, start
        self.drive_rate, self.period_s = drive_rate, period_s
        self.cycles, self.ring_F = cycles, ring_F
        shape = self.wired().shape
        self.coupling = self.substrate_rate = None
        if shape[0]:
            spread = coupling_rate / math.sqrt(shape[0])
            value = spread * jr.normal(stream(key, "coupling"), shape)
            sizes = {"ring_F": ring_F, "period_s": period_s}
            self.coupling = coupler_bank(value, bits=bits, **sizes)

    def wired(self) -> np.ndarray:
        """Who pulls each oscillator: indices `(couplers, n)`."""
        return sources(self.kind, self.n, self.degree, self.seed)

    def init_state(self, batch_shape=()):
        """All in phase with the reference at the amplitude of the start: `(x, y)`."""
        level = jnp.full((*batch_shape, self.n), self.start)
        return jnp.concatenate([level, jnp.zeros_like(level)], axis=-1)

    def at(self, process: Process) -> "StuartLandau":
        """The same at an operating point: rings and couplers run at its rates."""
        places = lambda cell: (cell.ring, cell.coupling, cell.substrate_rate)
        new = (
            moved(self.ring, process.ring_rate),
            moved(self.coupling, process.rate),
            substrate_rate(process, cycles=self.cycles),
        )
        return eqx.tree_at(places, self, new, is_leaf=lambda node: node is None)

    def detuning(self) -> Float[Array, "*moving n"]:
        """ω: how far each oscillator runs ahead of the reference [rad/token]."""
        return self.ring.realized() - 2 * math.pi * self.cycles

    def couplings(self) -> Float[Array, "n n"]:
        """What each oscillator (row) does to each (column) [rad/token]."""
        eye = jnp.eye(self.n)
        return self._pull()(jnp.concatenate([eye, 0 * eye], axis=-1))[:, : self.n]

    def _pull(self):
        one = jnp.zeros_like
        if self.coupling is not None:
            one = puller(self.coupling.realized(), self.wired())
        one = with_all(one, self.substrate_rate)

        def pull(v):
            x, y = jnp.split(v, 2, axis=-1)
            return jnp.concatenate([one(x), one(y)], axis=-1)

        return pull

    def _variance(self, process: Process):
        """Variance that a quadrature gains in a token."""
        return jitter_variance(
            self.ring, process, cycles=self.cycles, ring_F=self.ring_F
        )

    def settle(
        self,
        v: Float[Array, "*batch parts"],
        x: Float[Array, "*batch n_in"],
        noise: Float[Array, "steps *batch parts"] | None = None,
        *,
        n_steps: int | None = None,
    ) -> Float[Array, "*batch parts"]:
        """State a token later; `noise` is what each step adds."""
        turn, pull = self.detuning(), self._pull()
        return self.settled(v, self.drive_rate * x, noise, turn, pull, n_steps)

    def settled(self, v, drive, noise, omega, pull, n_steps: int | None = None):
        """`settle` of oscillators of detuning `omega` that `pull` each other."""
        n_steps = n_steps or self.n_steps
        h = 1 / n_steps
        turn_c, turn_s = jnp.cos(omega * h / 2), jnp.sin(omega * h / 2)
        decay = math.exp(-self.growth * h)

        def free(v):
            x, y = jnp.split(v, 2, axis=-1)
            power = x * x + y * y
            gain = jax.lax.rsqrt(power + (1 - power) * decay)
            x, y = x * gain, y * gain
            turned = (x * turn_c - y * turn_s, x * turn_s + y * turn_c)
            return jnp.concatenate(turned, axis=-1)

        def body(v, noise):
            v = free(v)
            half = v + h / 2 * (pull(v) + drive)
            v = free(v + h * (pull(half) + drive))
            return (v if noise is None else v + noise), None

        unroll = min(n_steps, 8)
        return jax.lax.scan(body, v, noise, length=n_steps, unroll=unroll)[0]

    def _noise(self, shape, *, process, key):
        if is_zero(process.thermal_noise):
            return None
        spread = rms(self._variance(process) / self.n_steps)
        return spread * white(stream(key, "noise"), (*shape, 2 * self.n))

    def drift(self, v, x, *, process):
        cell, x = self.at(process), process.rate * x
        re, im = jnp.split(v, 2, axis=-1)
        omega = cell.detuning()
        gain = self.growth * (1 - re * re - im * im)
        free = (gain * re - omega * im, gain * im + omega * re)
        total = jnp.concatenate(free, axis=-1) + cell._pull()(v) + self.drive_rate * x
        return total / self.period_s

    def diffusion(self, v, x, *, process):
        del x
        spread = rms(self._variance(process) / self.period_s)
        return jnp.broadcast_to(spread, v.shape).astype(v.dtype)

    def read(self, v, x, *, process):
        del x
        re, im = jnp.split(v, 2, axis=-1)
        y = jnp.concatenate([im, re], axis=-1) / self.AMPLITUDE_RANGE
        y = coupled(y, process=process)
        return limited(y)

    def _read_noisy(self, v, x, *, process, key):
        y = self.read(v, x, process=process)
        key, variance = stream(key, "detectors"), process.thermal_variance(NODE_F)
        return thermal_noise(y, variance, process=process, key=key)

    def step(self, state, x, *, process, key):
        noise = self._noise((self.n_steps, *x.shape[:-1]), process=process, key=key)
        v = self.at(process).settle(state, process.rate * x, noise)
        return v, self._read_noisy(v, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        shape = (len(xs), self.n_steps, *xs.shape[1:-1])
        noise = self._noise(shape, process=process, key=key)

        cell, xs = self.at(process), process.rate * xs
        turn, pull = cell.detuning(), cell._pull()
        moving = turn if turn.ndim > 1 else None  # by flicker, from token to token

        def token(v, inputs):
            drive, jitter, own = inputs
            here = turn if own is None else own
            v = self.settled(v, drive, jitter, here, pull)
            return v, v

        last, vs = jax.lax.scan(token, state, (self.drive_rate * xs, noise, moving))
        return last, self._read_noisy(vs, xs, process=process, key=key)

    def diagnose(self, xs, *, process, key):
        """Amplitudes at the end of a token, and the share not yet half grown."""
        state = self.init_state(xs.shape[1:-1])
        _, ys = self.scan(state, xs, process=process, key=key)
        y, x = jnp.split(ys, 2, axis=-1)
        amplitude = self.AMPLITUDE_RANGE * jnp.sqrt(x * x + y * y)
        late = (amplitude < 0.5).astype(amplitude.dtype)
        return {
            "mean amplitude": jnp.mean(amplitude),
            "share not started": jnp.mean(late),
        }

    def events(self, process, *, period_s):
        bank = self.coupling
        count = 0 if bank is None else bank.value.size
        counts = {"couplers": count, "injection": 2 * self.n}
        sizes = {"cycles": self.cycles, "ring_F": self.ring_F}
        detectors = 2 * self.n_out * process.settling_charge_C(NODE_F)
        stored = 0 if bank is None else count * (bank.bits or 8)
        return (
            *ring_events(self.ring, counts, process, **sizes),
            Event("amplifier_charge_C", detectors, "phase detectors"),
            Event("stored_bit_s", stored * period_s, "couplings"),
        )

    def netlist(self, process, *, name) -> Netlist:
        return oscillator_cells.amplitudes(self, process, name)
