"""Residual blocks of a sequence model, wired from the families."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from circuits.mac import ChargeMac
from circuits.parts import (
    AutomaticGain,
    DelayLine,
    GilbertGate,
    log_spaced_sigmoid_bias,
)
from circuits.state_space import GatedRC
from physnn.circuit import AbstractCircuit, AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.process import Process


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
        return _events_of(self, process, period_s)

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
        return compose(
            name, self.n_in, self.n_out, _parts(self, process, name, wires), notes=notes
        )


class GatedUnit(AbstractMemorylessCircuit):
    """Mixes over channels: gain control and a gated linear unit.

        x ─ AGC ─ MAC ┬ a ─┐
                      └ b ─┴ a·tanh b ─ MAC ─ y

    Reference: Shazeer 2020, "GLU variants improve transformer", arXiv 2002.05202.
    """

    agc: AutomaticGain
    inputs: ChargeMac
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        n_hidden: int,
        *,
        bits: int,
        output_gain: float,
        process: Process,
        key: Key[Array, ""],
    ):
        self.n_in = self.n_out = width
        self.agc = AutomaticGain(width)
        self.inputs = ChargeMac(
            width, 2 * n_hidden, bits=bits, process=process, key=stream(key, "inputs")
        )
        self.gate = GilbertGate(n_hidden)
        self.output = ChargeMac(
            n_hidden,
            width,
            bits=bits,
            process=process,
            key=stream(key, "output"),
            gain=output_gain,
        )

    def apply(self, x, *, process, key):
        for name in ("agc", "inputs", "gate", "output"):
            part = getattr(self, name)
            x = part.apply(x, process=process, key=stream(key, name))
        return x

    def events(self, process, *, period_s):
        return _events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        x, a = signals("x", self.n_in), signals("a", self.n_in)
        h, g = signals("h", self.gate.n_in), signals("g", self.gate.n_out)
        y = signals("y", self.n_out)
        wires = {"agc": (x, a), "inputs": (a, h), "gate": (h, g), "output": (g, y)}
        return compose(name, self.n_in, self.n_out, _parts(self, process, name, wires))


def _parts(block, process: Process, name: str, wires):
    return [
        (part, getattr(block, part).netlist(process, name=f"{name}_{part}"), *nets)
        for part, nets in wires.items()
    ]


def _events_of(block, process: Process, period_s: float) -> tuple[Event, ...]:
    return tuple(
        event.under(name)
        for name, part in vars(block).items()
        if isinstance(part, AbstractCircuit)
        for event in part.events(process, period_s=period_s)
    )
