"""The oscillator block: phases that settle under what a window of tokens injects."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.mac import ChargeMac
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_parts import SINE, TRIANGLE, Coupling
from circuits.parts import AutomaticGain, DelayLine, GilbertGate, positive
from circuits.restarted import Restarted
from physnn.circuit import AbstractCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.process import Process


@dataclass(frozen=True)
class OscillatorBlock:
    """A mixer on phase oscillators; over channels alone at one tap, not persistent.

    A window of `n_taps` tokens is what such a network has for a context where its
    phases start anew with each token; where they persist, the phases are one, too.
    """

    kind: Literal["oscillator"] = "oscillator"
    n: int = 96  # oscillators, hidden ones and the reference ring included
    n_taps: int = 16  # samples the delay line holds
    persistent: bool = False  # phases last from token to token
    longest_memory: float = 16.0  # of phases that last, at the start [tokens]
    coupling: Coupling = "dense"
    degree: int = 16  # couplers per ring, of local and sparse coupling
    n_hidden: int = 0  # of the oscillators: coupled, but not read
    n_pool: int = 0  # oscillators more, which drive the others and are not driven
    n_segments: int = 1  # times the couplings change within a token, plus one
    n_steps: int = 3  # midpoint steps per token
    coupling_rate: float = 1.0  # rms pull on a ring at the start [rad/token]
    drive_rate: float = 6.0  # pull of a full-scale input [rad/token]
    second_harmonic: float = 0.0  # locking to 0 or pi [rad/token]
    shape: Literal["sine", "triangle"] = "sine"
    reference: Literal["clock", "ring"] = "clock"
    cycles: float = 8.0  # of a ring per token
    ring_F: float = 22e-15  # what a ring switches per cycle: its energy and noise
    wiring_seed: int = 0  # of sparse coupling

    mechanism: ClassVar[str] = "cell"

    def __post_init__(self):
        positive(n=self.n, n_taps=self.n_taps, longest_memory=self.longest_memory)

    def build(self, site: Site) -> "OscillatorMixer":
        cell = PhaseOscillators(
            self.n,
            period_s=site.period_s,
            key=site.stream("cell"),
            coupling=self.coupling,
            degree=self.degree,
            n_hidden=self.n_hidden,
            n_pool=self.n_pool,
            n_segments=self.n_segments,
            n_steps=self.n_steps,
            bits=site.weight_bits,
            coupling_rate=self.coupling_rate,
            drive_rate=self.drive_rate,
            second_harmonic=self.second_harmonic,
            shape=SINE if self.shape == "sine" else TRIANGLE,
            reference=self.reference,
            cycles=self.cycles,
            ring_F=self.ring_F,
            seed=self.wiring_seed,
        )
        return OscillatorMixer(
            site.width,
            cell if self.persistent else Restarted(cell),
            n_taps=self.n_taps,
            hold=self._hold(cell) if self.persistent else None,
            bits=site.weight_bits,
            output_gain=site.output_gain,
            process=site.process,
            key=site.key,
        )

    def _hold(self, cell: PhaseOscillators) -> Float[Array, " n_in"]:
        """A constant injection in phase: what it pulls back to the reference forgets.

        Log-spaced over the rings, so that they remember from half a token to the
        longest memory. Without it a network of random couplings is chaotic.
        """
        rings = cell.n_in // 2
        memory = jnp.exp(
            jnp.linspace(math.log(0.5), math.log(self.longest_memory), rings)
        )
        level = jnp.minimum(1 / (memory * self.drive_rate), 1.0)
        return jnp.concatenate([level, jnp.zeros(rings)])

    def without_mechanism(self) -> "OscillatorBlock | GatedUnitBlock":
        """The same rings without couplings; of those, a gated unit without rings."""
        if self.coupling == "none" and self.n_pool == 0:
            n_read = self.n - self.n_hidden - (self.reference == "ring")
            return GatedUnitBlock(n_hidden=2 * n_read, n_taps=self.n_taps)
        return replace(self, coupling="none", n_pool=0, n_segments=1)


class OscillatorMixer(AbstractCircuit[tuple[Array | None, Array | None]]):
    """Mixes over time and channels: a causal window drives oscillators, gated.

    x ─ AGC ─ delay ─ MAC ┬ (p, q) ─ oscillators ─ (sin, cos) ┐
                          └ z ─────────────────────────────────┴ v·tanh z ─ MAC ─ y

    The window of each channel is learned; at the start it falls with age, at a rate of
    the channel's own between one token and the whole window. `cell` is any circuit that
    takes (p, q); with `Restarted` all tokens settle at once.

    Reference: causal windows under phase oscillators, "KuramotoGPT", by way of
    field.md L2; gating, Shazeer 2020, arXiv 2002.05202.
    """

    agc: AutomaticGain
    delay: DelayLine | None
    inputs: ChargeMac
    cell: AbstractCircuit
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        cell: AbstractCircuit,
        *,
        n_taps: int,
        bits: int,
        output_gain: float,
        process: Process,
        key: Key[Array, ""],
        hold: Float[Array, " n_drive"] | None = None,
    ):
        """`hold`: injection into `cell` at the start beside that of the inputs."""
        self.n_in = self.n_out = width
        self.agc = AutomaticGain(width)
        self.delay = None
        if n_taps > 1:
            delay = DelayLine(width, n_taps=n_taps, process=process)
            self.delay = eqx.tree_at(
                lambda line: line.tap.value, delay, recent_windows(n_taps, width)
            )
        inputs = ChargeMac(
            width,
            cell.n_in + cell.n_out,
            bits=bits,
            process=process,
            key=stream(key, "inputs"),
        )
        if hold is not None:
            offset = inputs.offset.value.at[: cell.n_in].set(hold)
            inputs = eqx.tree_at(lambda mac: mac.offset.value, inputs, offset)
        self.inputs = inputs
        self.cell = cell
        self.gate = GilbertGate(cell.n_out)
        self.output = ChargeMac(
            cell.n_out,
            width,
            bits=bits,
            process=process,
            key=stream(key, "output"),
            gain=output_gain,
        )

    def init_state(self, batch_shape=()):
        held = None if self.delay is None else self.delay.init_state(batch_shape)
        return held, self.cell.init_state(batch_shape)

    def _drive(self, verb, held, x, *, process, key):
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        if self.delay is not None:
            run = getattr(self.delay, verb)
            held, x = run(held, x, process=process, key=stream(key, "delay"))
        x = self.inputs.apply(x, process=process, key=stream(key, "inputs"))
        return held, x[..., : self.cell.n_in], x[..., self.cell.n_in :]

    def _run(self, verb, state, x, *, process, key):
        held, phases = state
        held, drive, z = self._drive(verb, held, x, process=process, key=key)
        run = getattr(self.cell, verb)
        phases, y = run(phases, drive, process=process, key=stream(key, "cell"))
        y = jnp.concatenate([y, z], axis=-1)
        y = self.gate.apply(y, process=process, key=stream(key, "gate"))
        y = self.output.apply(y, process=process, key=stream(key, "output"))
        return (held, phases), y

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def diagnose(self, xs, *, process, key):
        held, _ = self.init_state(xs.shape[1:-1])
        _, drive, _ = self._drive("scan", held, xs, process=process, key=key)
        return self.cell.diagnose(drive, process=process, key=stream(key, "cell"))

    def events(self, process, *, period_s):
        return events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        x, y = signals("x", self.n_in), signals("y", self.n_out)
        a, d = signals("a", self.n_in), signals("d", self.n_in)
        u, z = signals("u", self.cell.n_in), signals("z", self.cell.n_out)
        v, g = signals("v", self.cell.n_out), signals("g", self.cell.n_out)
        wires = {"agc": (x, a)}
        if self.delay is not None:
            wires["delay"] = (a, d)
        wires["inputs"] = (a if self.delay is None else d, (*u, *z))
        wires |= {"cell": (u, v), "gate": ((*v, *z), g), "output": (g, y)}
        notes = "phi2 of `inputs` lasts a token: its amplifiers hold the injection."
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts, notes=notes)


def recent_windows(n_taps: int, n: int) -> Float[Array, "taps n"]:
    """Windows that fall as e^(−age/τ), of unit power; τ from 0.3 to a third of them."""
    age = jnp.arange(float(n_taps))[:, None]
    slowest = max(n_taps / 3, 0.5)
    tau = 0.3 * (slowest / 0.3) ** jnp.linspace(0.0, 1.0, n)
    window = jnp.exp(-age / tau)
    return window / jnp.sqrt(jnp.sum(window**2, axis=0))
