"""State-space mixers: a bank of states between two MACs, behind a short convolution."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.mac import ChargeMac
from circuits.parts import (
    AutomaticGain,
    DelayLine,
    GilbertGate,
    log_spaced_sigmoid_bias,
    positive,
)
from circuits.state_space import GatedRC
from physnn.circuit import AbstractCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.process import Process


@dataclass(frozen=True)
class GatedRCBlock:
    """A mixer on gated RC states."""

    kind: Literal["gated_rc"] = "gated_rc"
    n_states: int = 128
    n_taps: int = 4  # samples the delay line holds
    longest_memory: float = 512.0  # slowest state at the start [tokens]

    mechanism: ClassVar[str] = "cell"

    def __post_init__(self):
        positive(
            n_states=self.n_states,
            n_taps=self.n_taps,
            longest_memory=self.longest_memory,
        )

    def build(self, site: Site) -> "RCMixer":
        return RCMixer(
            site.width,
            self.n_states,
            n_taps=self.n_taps,
            bits=site.weight_bits,
            output_gain=site.output_gain,
            period_s=site.period_s,
            longest_memory=self.longest_memory,
            process=site.process,
            key=site.key,
        )

    def without_mechanism(self) -> GatedUnitBlock:
        """No states: what is left is a gated unit behind the short convolution."""
        return GatedUnitBlock(n_hidden=self.n_states, n_taps=self.n_taps)


class RCMixer(AbstractCircuit[tuple[Array, Array]]):
    """Mixes over time: gain control, delay line, and a gated RC state space.

    x ─ AGC ─ delay ─ MAC ┬ (u, s) ─ RC ─ v ┐
                          └ z ──────────────┴ v·tanh z ─ MAC ─ y
    """

    agc: AutomaticGain
    delay: DelayLine
    inputs: ChargeMac
    cell: GatedRC
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        n_states: int,
        *,
        n_taps: int,
        bits: int,
        output_gain: float,
        period_s: float,
        longest_memory: float,
        process: Process,
        key: Key[Array, ""],
    ):
        """`longest_memory`: slowest time constant at the start [tokens]."""
        self.n_in = self.n_out = width
        self.agc = AutomaticGain(width)
        self.delay = DelayLine(width, n_taps=n_taps, process=process)
        inputs = ChargeMac(
            width, 3 * n_states, bits=bits, process=process, key=stream(key, "inputs")
        )
        cell = GatedRC(n_states, period_s=period_s)
        steer = log_spaced_sigmoid_bias(
            n_states,
            fastest=0.3,
            slowest=1 / (cell.rate_max * longest_memory),
        )
        offset = jnp.zeros(3 * n_states)
        offset = offset.at[n_states : 2 * n_states].set(
            steer * process.linear_range() / 2
        )
        self.inputs = eqx.tree_at(lambda mac: mac.offset.value, inputs, offset)
        self.cell = cell
        self.gate = GilbertGate(n_states)
        self.output = ChargeMac(
            n_states,
            width,
            bits=bits,
            process=process,
            key=stream(key, "output"),
            gain=output_gain,
        )

    def init_state(self, batch_shape=()):
        return self.delay.init_state(batch_shape), self.cell.init_state(batch_shape)

    def _run(self, verb, state, x, *, process, key):
        held, v = state
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        held, x = getattr(self.delay, verb)(
            held, x, process=process, key=stream(key, "delay")
        )
        usz = self.inputs.apply(x, process=process, key=stream(key, "inputs"))
        us, z = usz[..., : self.cell.n_in], usz[..., self.cell.n_in :]
        v, y = getattr(self.cell, verb)(v, us, process=process, key=stream(key, "cell"))
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
        n = self.cell.n_out
        x, y = signals("x", self.n_in), signals("y", self.n_out)
        a, d = signals("a", self.n_in), signals("d", self.n_in)
        v, g = signals("v", n), signals("g", n)
        u, s, z = (signals("q", n, start=i * n) for i in range(3))
        wires = {
            "agc": (x, a),
            "delay": (a, d),
            "inputs": (d, (*u, *s, *z)),
            "cell": ((*u, *s), v),
            "gate": ((*v, *z), g),
            "output": (g, y),
        }
        notes = "phi2 of `inputs` lasts a token: its amplifiers hold u, s and z."
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts, notes=notes)
