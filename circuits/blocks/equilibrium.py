"""Equilibrium blocks: a network that settles under what a window of tokens drives."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.equilibrium import SettlingNetwork
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, GilbertGate, positive
from physnn.circuit import AbstractCircuit
from physnn.equilibrium import FixedPointConfig
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream


@dataclass(frozen=True)
class EquilibriumBlock:
    """A settling network behind a gate: mixes channels, and what its taps hold.

    In mode `transient` the network is a mixer of its own: a token lasts `n_settle` of
    its fastest time constants, and its nodes remember up to `longest_memory` tokens.
    """

    kind: Literal["equilibrium"] = "equilibrium"
    n: int = 128  # nodes
    n_taps: int = 4  # samples the delay line holds; 1: there is none
    mode: Literal["equilibrium", "transient"] = "equilibrium"
    n_settle: float = 12.0  # time constants of the fastest node in a token
    longest_memory: float = 0.0  # of the slowest node at the start [tokens]; 0: none
    n_steps: int = 2  # steps per token in mode transient
    degree: int = 4  # couplings of a node that are not zero at the start; 0: none
    strength: float = 2.0  # of all couplings of a node at the start, over its input
    margin: float = 0.1  # load beside a coupling, over the coupling
    adjoint: Literal["exact", "one_term"] = "exact"
    tolerance: float = 1e-6  # of the fixed point [full scale]
    max_steps: int = 64  # iterations to it

    mechanism: ClassVar[str] = "cell"

    def __post_init__(self):
        positive(n=self.n, n_taps=self.n_taps)
        self.solver()

    def solver(self) -> FixedPointConfig:
        return FixedPointConfig(self.tolerance, self.max_steps, self.adjoint)

    def build(self, site: Site) -> "EquilibriumMixer":
        return EquilibriumMixer(self, site)

    def without_mechanism(self) -> "EquilibriumBlock | GatedUnitBlock":
        """The same nodes without couplings; of those, a gated unit without nodes."""
        if self.degree == 0:
            return GatedUnitBlock(n_hidden=self.n, n_taps=self.n_taps)
        return replace(self, degree=0)


class EquilibriumMixer(AbstractCircuit[tuple[Array | None, Array]]):
    """Mixes over channels and short times: a window drives a network that settles.

    x ─ AGC ─ delay ─ MAC ┬ u ─ network ─ AGC ─ v ┐
                          └ z ────────────────────┴ v·tanh z ─ MAC ─ y

    A second AGC makes up for what a node shares its load with, and for the small swing
    of the slow ones.

    References: Bai, Kolter & Koltun 2019, "Deep equilibrium models", arXiv 1909.01377;
    gating, Shazeer 2020, arXiv 2002.05202.
    """

    agc: AutomaticGain
    delay: DelayLine | None
    inputs: ChargeMac
    cell: SettlingNetwork
    level: AutomaticGain
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, config: EquilibriumBlock, site: Site):
        width, n, process = site.width, config.n, site.process
        self.n_in = self.n_out = width
        self.agc = AutomaticGain(width)
        self.delay = None
        if config.n_taps > 1:
            self.delay = DelayLine(width, n_taps=config.n_taps, process=process)
        self.inputs = ChargeMac(
            width,
            2 * n,
            bits=site.weight_bits,
            process=process,
            key=site.stream("inputs"),
        )
        self.cell = SettlingNetwork(
            n,
            period_s=site.period_s,
            key=site.stream("cell"),
            mode=config.mode,
            degree=config.degree,
            strength=config.strength,
            margin=config.margin,
            bits=site.weight_bits,
            n_settle=config.n_settle,
            longest_memory=config.longest_memory,
            n_steps=config.n_steps,
            solver=config.solver(),
        )
        spread = self.cell.start_spread()
        self.level = eqx.tree_at(
            lambda agc: agc.gain.value,
            AutomaticGain(n),
            jnp.sqrt(jnp.mean(spread**2)) / spread,
        )
        self.gate = GilbertGate(n)
        self.output = ChargeMac(
            n,
            width,
            bits=site.weight_bits,
            process=process,
            key=site.stream("output"),
            gain=site.output_gain,
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
        u, z = jnp.split(x, 2, axis=-1)
        return held, u, z

    def _run(self, verb, state, x, *, process, key):
        held, v = state
        held, u, z = self._drive(verb, held, x, process=process, key=key)
        run = getattr(self.cell, verb)
        v, y = run(v, u, process=process, key=stream(key, "cell"))
        y = self.level.apply(y, process=process, key=stream(key, "level"))
        y = jnp.concatenate([y, z], axis=-1)
        y = self.gate.apply(y, process=process, key=stream(key, "gate"))
        y = self.output.apply(y, process=process, key=stream(key, "output"))
        return (held, v), y

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
        n = self.cell.n_out
        x, y = signals("x", self.n_in), signals("y", self.n_out)
        a, d = signals("a", self.n_in), signals("d", self.n_in)
        v, r, g = (signals(name, n) for name in "vrg")
        u, z = (signals("q", n, start=i * n) for i in range(2))
        wires = {"agc": (x, a)}
        if self.delay is not None:
            wires["delay"] = (a, d)
        wires["inputs"] = (a if self.delay is None else d, (*u, *z))
        wires |= {
            "cell": (u, v),
            "level": (v, r),
            "gate": ((*r, *z), g),
            "output": (g, y),
        }
        notes = "phi2 of `inputs` lasts a token: its amplifiers hold u and z."
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts, notes=notes)
