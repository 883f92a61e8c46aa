"""Phase oscillators: injection-locked rings that pull each other into phase."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from circuits import oscillator_cells, oscillator_regime
from circuits.oscillator_parts import (
    SINE,
    Coupling,
    coupler_bank,
    jitter_variance,
    moved,
    puller,
    ring_bank,
    ring_events,
    sincos,
    sources,
    substrate_rate,
    with_all,
    wrapped,
)
from circuits.parts import NODE_F, not_negative, one_of, positive
from physnn.bank import Bank
from physnn.dynamics import AbstractDynamicCircuit
from physnn.energy.events import Event
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.noise import coupled, is_zero, rms, thermal_noise, white
from physnn.process import Process

# (phases, inputs) ↦ dθ/dt [rad/token]
Rate = Callable[[Float[Array, "*batch rings"], Float[Array, "*batch n_in"]], Array]


class PhaseOscillators(AbstractDynamicCircuit):
    """A network of coupled, injection-locked ring oscillators, read in quadrature.

          ┌▷o▷o▷o┐ i          ┌▷o▷o▷o┐ j      reference ─┐
        ──┴──────┴──[K_ij]────┴──────┴──────── phase ────┴── sin θ_j
        injection (p, q)·(cos, sin) of the reference detector     cos θ_j

        dθ_i/dt = ω_i + Σ_j K_ij·h(θ_j − θ_i) + q_i·cos θ_i − p_i·sin θ_i
                  − L·sin 2θ_i + jitter,      h = sin unless `shape` is another
        Var jitter = (2π)²·7.33·excess·kT/E_cycle per cycle

    in rad per token and in the frame of the reference, which turns `cycles` times per
    token. Inputs `(p, q)` are in phase and in quadrature with it, `drive_rate` rad per
    token at full scale. With two matrix products per evaluation, as Σ_j K_ij·sin(θ_j −
    θ_i) = cos θ_i·(K sin θ)_i − sin θ_i·(K cos θ)_i. Outputs are `(sin, cos)` of the
    phases that are read, relative to the reference or to the last ring.

    One size of all rings sets energy per cycle, jitter and spread of frequency. A pool
    of `n_pool` more rings has its own couplings, sees inputs of its own and drives the
    others, which do not act back; the last `n_hidden` of the others are not read. With
    several segments the couplings change in equal parts of a token.

    Steps are midpoint steps (error of order 1/n_steps², `diagnose` says how large).

    Assumes: weak injection (`diagnose`: injection ratio), so that amplitudes are
    constant; a coupler of either sign, and of a reach that is short against a cycle; a
    clean reference. Does not model: harmonics of a ring beyond `shape`, flicker noise
    within a token, amplitude (see `StuartLandau`), start-up.

    References: Adler 1946, DOI 10.1109/JRPROC.1946.229930; Acebrón et al. 2005, "The
    Kuramoto model", DOI 10.1103/RevModPhys.77.137; Hajimiri, Limotyrakis & Lee 1999,
    "Jitter and phase noise in ring oscillators", DOI 10.1109/4.766813; Wang &
    Roychowdhury 2019, second-harmonic locking, DOI 10.1007/978-3-030-19311-9_19.
    """

    ring: Bank
    couplings: tuple[Bank, ...]
    pool: Bank | None
    pool_drive: Bank | None
    substrate_rate: Float[Array, ""] | float | None  # of a chip at an operating point
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    n: int = eqx.field(static=True)
    n_pool: int = eqx.field(static=True)
    coupling: Coupling = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    reference: Literal["clock", "ring"] = eqx.field(static=True)
    n_steps: int = eqx.field(static=True)
    drive_rate: float = eqx.field(static=True)
    second_harmonic: float = eqx.field(static=True)
    shape: tuple[tuple[float, float], ...] = eqx.field(static=True)
    cycles: float = eqx.field(static=True)
    ring_F: float = eqx.field(static=True)
    period_s: float = eqx.field(static=True)
    seed: int = eqx.field(static=True)

    limits: ClassVar = oscillator_regime.REGIME

    def __init__(
        self,
        n: int,
        *,
        period_s: float,
        key: Key[Array, ""],
        coupling: Coupling = "dense",
        degree: int = 16,
        n_hidden: int = 0,
        n_pool: int = 0,
        n_segments: int = 1,
        n_steps: int = 3,
        bits: int | None = 6,
        coupling_rate: float = 1.0,
        drive_rate: float = 6.0,
        second_harmonic: float = 0.0,
        shape: tuple[tuple[float, float], ...] = SINE,
        reference: Literal["clock", "ring"] = "clock",
        cycles: float = 8.0,
        ring_F: float = 22e-15,
        seed: int = 0,
    ):
        """`degree`: couplers per ring, of local and sparse coupling.

        `coupling_rate`: rms pull of all couplers of a ring at the start [rad/token];
        `drive_rate`: pull of an input at full scale [rad/token]; `second_harmonic`:
        L [rad/token]; `ring_F`: what a ring of size 1 switches per cycle [F]; `bits`:
        of a coupler; `seed`: of the wiring of sparse coupling.
        """
        positive(period_s=period_s, drive_rate=drive_rate, coupling_rate=coupling_rate)
        positive(n_segments=n_segments, n_steps=n_steps)
        n_read = n - n_hidden - (reference == "ring")
        if min(n_hidden, n_pool) < 0 or n_read < 1:
            raise ValueError(
                "Arguments `n_hidden` and `n_pool` must not be negative and leave an"
                f" oscillator of the {n} to read, but are {n_hidden} and {n_pool}."
            )
        if n_steps % n_segments:
            raise ValueError(
                f"Argument `n_steps` must be a multiple of the {n_segments} segments,"
                f" but is {n_steps}."
            )
        not_negative(second_harmonic=second_harmonic)
        one_of("dense", "local", "sparse", "none", coupling=coupling)
        one_of("clock", "ring", reference=reference)
        if not shape or not any(shape[0]) or not np.all(np.isfinite(shape)):
            raise ValueError(
                f"Argument `shape` must be finite, its first not 0, but is {shape}."
            )
        if n == 1:
            coupling = "none"
        wired = sources(coupling, n, degree, seed)
        self.n, self.n_pool = n, n_pool
        self.n_in, self.n_out = 2 * (n + n_pool), 2 * n_read
        self.coupling, self.degree, self.seed = coupling, degree, seed
        self.reference, self.shape = reference, shape
        self.n_steps, self.drive_rate = n_steps, drive_rate
        self.second_harmonic, self.period_s = second_harmonic, period_s
        self.cycles, self.ring_F = cycles, ring_F
        self.substrate_rate = None
        self.ring = ring_bank(n + n_pool, cycles=cycles, ring_F=ring_F)

        def couplers(name, shape):
            spread = coupling_rate / math.sqrt(max(shape[0], 1))
            value = spread * jr.normal(stream(key, name), shape)
            return coupler_bank(value, bits=bits, ring_F=ring_F, period_s=period_s)

        self.couplings = tuple(
            couplers(f"couplings{i}", wired.shape)
            for i in range(n_segments if len(wired) else 0)
        )
        self.pool = couplers("pool", (n_pool - 1, n_pool)) if n_pool > 1 else None
        self.pool_drive = couplers("pool_drive", (n_pool, n)) if n_pool else None

    @property
    def n_read(self) -> int:
        """How many phases are read."""
        return self.n_out // 2

    @property
    def n_segments(self) -> int:
        """How many sets of couplings a token goes through."""
        return max(len(self.couplings), 1)

    def wired(self) -> np.ndarray:
        """Who pulls each ring outside the pool: indices `(couplers, n)`."""
        return sources(self.coupling, self.n, self.degree, self.seed)

    def parts(self) -> tuple["PhaseOscillators", ...]:
        """The network with the couplings of each segment, one after the other."""
        alone = lambda bank: eqx.tree_at(lambda cell: cell.couplings, self, (bank,))
        return tuple(map(alone, self.couplings)) or (self,)

    def at(self, process: Process) -> "PhaseOscillators":
        """The network at an operating point: rings and couplers run at its rates."""
        couplers = lambda cell: (cell.couplings, cell.pool, cell.pool_drive)
        move = lambda bank: moved(bank, process.rate)
        is_bank = lambda node: isinstance(node, Bank)
        new = (
            *jax.tree.map(move, couplers(self), is_leaf=is_bank),
            moved(self.ring, process.ring_rate),
            substrate_rate(process, cycles=self.cycles),
        )
        places = lambda cell: (*couplers(cell), cell.ring, cell.substrate_rate)
        return eqx.tree_at(places, self, new, is_leaf=lambda node: node is None)

    def detuning(self) -> Float[Array, "*moving rings"]:
        """ω: how far each ring runs ahead of the reference [rad/token]."""
        return self.ring.realized() - 2 * math.pi * self.cycles

    def pulls(self, index: int):
        """v ↦ Σ_j K_ij·v_j [rad/token] in one segment, with the pool."""
        main = jnp.zeros_like
        if self.couplings:
            main = puller(self.couplings[index].realized(), self.wired())
        if self.pool_drive is None:
            return with_all(main, self.substrate_rate)
        drive = self.pool_drive.realized()
        wired = sources("dense", self.n_pool, 0, 0)
        empty = jnp.zeros((0, self.n_pool))
        within = puller(empty if self.pool is None else self.pool.realized(), wired)

        def pull(v):
            others, pool = v[..., : self.n], v[..., self.n :]
            return jnp.concatenate([main(others) + pool @ drive, within(pool)], axis=-1)

        return with_all(pull, self.substrate_rate)

    def rates(self) -> tuple[Rate, ...]:
        """dθ/dt [rad/token] of phases and inputs, one function for each segment."""
        omega = self.detuning()
        return tuple(self.rate_of(omega, self.pulls(i)) for i in range(self.n_segments))

    def rate_of(self, omega, pull) -> Rate:
        """dθ/dt of rings of detuning `omega` that pull each other by `pull`.

        `omega` is that of all rings, or of every sequence.
        """
        shape, alone = self.shape, self.substrate_rate is None
        if alone and self.coupling == "none" and not self.n_pool:
            shape = ()

        def rate(theta, x):
            s, c = sincos(theta)
            p, q = jnp.split(self.drive_rate * x, 2, axis=-1)
            total = omega + q * c - p * s
            if self.second_harmonic > 0:
                total = total - 2 * self.second_harmonic * s * c
            sk, ck = s, c
            for k, (odd, even) in enumerate(shape):
                if k:
                    sk, ck = sk * c + ck * s, ck * c - sk * s
                if odd == 0 and even == 0:
                    continue
                field_s, field_c = pull(sk), pull(ck)
                if odd:
                    total = total + odd * (ck * field_s - sk * field_c)
                if even:
                    total = total + even * (ck * field_c + sk * field_s)
            return total

        return rate

    def settle(
        self,
        theta: Float[Array, "*batch rings"],
        x: Float[Array, "*batch n_in"],
        jitter: Float[Array, "steps *batch rings"] | None = None,
        *,
        rates: Sequence[Rate] | None = None,
        n_steps: int | None = None,
    ) -> Float[Array, "*batch rings"]:
        """Phases a token later; `jitter` is what each step adds [rad]."""
        rates = rates or self.rates()
        n_steps = n_steps or self.n_steps
        each, h = n_steps // len(rates), 1 / n_steps
        for i, rate in enumerate(rates):

            def body(theta, noise, rate=rate):
                half = theta + h / 2 * rate(theta, x)
                theta = theta + h * rate(half, x)
                return (theta if noise is None else theta + noise), None

            noise = None if jitter is None else jitter[i * each : (i + 1) * each]
            theta, _ = jax.lax.scan(
                body, theta, noise, length=each, unroll=min(each, 8)
            )
        return theta

    def _jitter(self, shape, *, process, key):
        """What each of the steps adds, `(*shape, rings)` [rad]; None at zero noise."""
        if is_zero(process.thermal_noise):
            return None
        each = self.jitter_variance(process) / self.n_steps
        shape = (*shape, self.n + self.n_pool)
        return rms(each) * white(stream(key, "jitter"), shape)

    def jitter_variance(self, process: Process):
        """Variance of a free phase after a token [rad²]."""
        return jitter_variance(
            self.ring, process, cycles=self.cycles, ring_F=self.ring_F
        )

    def init_state(self, batch_shape=()):
        """All rings in phase with the reference."""
        return jnp.zeros((*batch_shape, self.n + self.n_pool))

    def drift(self, v, x, *, process):
        if len(self.couplings) > 1:
            raise ValueError(
                "A network must have one segment to be one differential equation, but"
                f" has {len(self.couplings)}: take one of its `parts`."
            )
        return self.at(process).rates()[0](v, process.rate * x) / self.period_s

    def diffusion(self, v, x, *, process):
        del x
        spread = rms(self.jitter_variance(process) / self.period_s)
        return jnp.broadcast_to(spread, v.shape).astype(v.dtype)

    def read(self, v, x, *, process):
        del x
        s, c = sincos(v)
        n = self.n_read
        if self.reference == "ring":
            last = slice(self.n - 1, self.n)
            turn_s, turn_c = s[..., last], c[..., last]
            s, c = s * turn_c - c * turn_s, c * turn_c + s * turn_s
        y = jnp.concatenate([s[..., :n], c[..., :n]], axis=-1)
        return coupled(y, process=process)

    def _read_noisy(self, v, x, *, process, key):
        y = self.read(v, x, process=process)
        # Each detector's output is sampled on a node.
        key, variance = stream(key, "detectors"), process.thermal_variance(NODE_F)
        return thermal_noise(y, variance, process=process, key=key)

    def step(self, state, x, *, process, key):
        shape = (self.n_steps, *x.shape[:-1])
        jitter = self._jitter(shape, process=process, key=key)
        theta = self.at(process).settle(state, process.rate * x, jitter)
        y = self._read_noisy(theta, x, process=process, key=key)
        return wrapped(theta), y

    def scan(self, state, xs, *, process, key):
        last, thetas = self._phases(state, xs, process=process, key=key)
        return last, self._read_noisy(thetas, xs, process=process, key=key)

    def _phases(self, state, xs, *, process, key):
        """Phases at the end of every token, not yet wrapped."""
        # All at once: a draw for each step would cost more than the step.
        shape = (len(xs), self.n_steps, *xs.shape[1:-1])
        jitter = self._jitter(shape, process=process, key=key)

        cell, xs = self.at(process), process.rate * xs
        pulls = [cell.pulls(i) for i in range(cell.n_segments)]
        omega = cell.detuning()  # where flicker moves the rings, one for every token
        moving = omega if omega.ndim > 1 else None

        def token(theta, inputs):
            x, noise, own = inputs
            here = omega if own is None else own
            rates = [cell.rate_of(here, pull) for pull in pulls]
            theta = cell.settle(theta, x, noise, rates=rates)
            return wrapped(theta), theta

        return jax.lax.scan(token, state, (xs, jitter, moving))

    def diagnose(self, xs, *, process, key):
        """Is it in its computing regime? The limits are in `oscillator_regime`."""
        state = self.init_state(xs.shape[1:-1])
        _, thetas = self._phases(state, xs, process=process, key=key)
        return oscillator_regime.figures(self, thetas, xs, process=process)

    def events(self, process, *, period_s):
        total = self.n + self.n_pool
        banks = [b for b in (*self.couplings[:1], self.pool, self.pool_drive) if b]
        couplers = sum(bank.value.size for bank in banks)
        counts = {
            "couplers": couplers,
            "injection": 2 * total,
            "second harmonic": total if self.second_harmonic > 0 else 0,
        }
        stored = sum(
            bank.value.size * (bank.bits or 8)
            for bank in (*self.couplings, self.pool, self.pool_drive)
            if bank is not None
        )
        detectors = 2 * self.n_out * process.settling_charge_C(NODE_F)
        return (
            *ring_events(
                self.ring, counts, process, cycles=self.cycles, ring_F=self.ring_F
            ),
            Event("amplifier_charge_C", detectors, "phase detectors"),
            Event("stored_bit_s", stored * period_s, "couplings"),
        )

    def netlist(self, process, *, name) -> Netlist:
        return oscillator_cells.network(self, process, name)
