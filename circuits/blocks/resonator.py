"""Resonator mixer: a bank of gm-C biquads between two MACs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, GilbertGate, positive
from circuits.resonator import Resonator
from physnn.circuit import AbstractCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream


@dataclass(frozen=True)
class ResonatorBlock:
    """A mixer on an oscillatory state space."""

    kind: Literal["resonator"] = "resonator"
    n: int = 96  # resonators: each has two states
    n_taps: int = 4  # samples the delay line holds
    shortest: float = 3.0  # period of the fastest resonator at the start [tokens]
    longest: float = 256.0  # of the slowest
    state_F: float = 50e-15  # each of the two capacitors of a resonator

    mechanism: ClassVar[str] = "cell"

    def __post_init__(self):
        positive(n=self.n, n_taps=self.n_taps)

    def build(self, site: Site) -> "ResonatorMixer":
        return ResonatorMixer(self, site)

    def without_mechanism(self) -> GatedUnitBlock:
        """No states: what is left is a gated unit behind the short convolution."""
        return GatedUnitBlock(n_hidden=2 * self.n, n_taps=self.n_taps)


class ResonatorMixer(AbstractCircuit[tuple[Array, Array]]):
    """Mixes over time: gain control, delay line, and resonators read behind gates.

    x ─ AGC ─ delay ─ MAC ┬ u ─ resonators ─ (p, q) ┐
                          └ z ──────────────────────┴ (p, q)·tanh z ─ MAC ─ y
    """

    agc: AutomaticGain
    delay: DelayLine
    inputs: ChargeMac
    cell: Resonator
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, config: ResonatorBlock, site: Site):
        n, width = config.n, site.width
        mac = {"bits": site.weight_bits, "process": site.process}
        self.n_in = self.n_out = width
        self.agc = AutomaticGain(width)
        self.delay = DelayLine(width, n_taps=config.n_taps, process=site.process)
        self.inputs = ChargeMac(width, 3 * n, **mac, key=stream(site.key, "inputs"))
        self.cell = Resonator(
            n,
            period_s=site.period_s,
            process=site.process,
            state_F=config.state_F,
            shortest=config.shortest,
            longest=config.longest,
        )
        self.gate = GilbertGate(2 * n)
        self.output = ChargeMac(
            2 * n,
            width,
            **mac,
            key=stream(site.key, "output"),
            gain=site.output_gain,
        )

    def init_state(self, batch_shape=()):
        return self.delay.init_state(batch_shape), self.cell.init_state(batch_shape)

    def _run(self, verb, state, x, *, process, key):
        held, v = state
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        held, x = getattr(self.delay, verb)(
            held, x, process=process, key=stream(key, "delay")
        )
        uz = self.inputs.apply(x, process=process, key=stream(key, "inputs"))
        u, z = uz[..., : self.cell.n_in], uz[..., self.cell.n_in :]
        v, y = getattr(self.cell, verb)(v, u, process=process, key=stream(key, "cell"))
        y = jnp.concatenate([y, z], axis=-1)
        y = self.gate.apply(y, process=process, key=stream(key, "gate"))
        y = self.output.apply(y, process=process, key=stream(key, "output"))
        return (held, v), y

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def events(self, process, *, period_s):
        return events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        n = self.cell.n_in
        x, y = signals("x", self.n_in), signals("y", self.n_out)
        a, d = signals("a", self.n_in), signals("d", self.n_in)
        v, g = signals("v", 2 * n), signals("g", 2 * n)
        u, z = signals("q", n), signals("q", 2 * n, start=n)
        wires = {
            "agc": (x, a),
            "delay": (a, d),
            "inputs": (d, (*u, *z)),
            "cell": (u, v),
            "gate": ((*v, *z), g),
            "output": (g, y),
        }
        notes = "phi2 of `inputs` lasts a token: its amplifiers hold u and z."
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts, notes=notes)
