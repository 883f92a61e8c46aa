"""The gated unit: what mixes over channels in a transformer, built from MACs."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
from jaxtyping import Array, Key

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, GilbertGate, positive
from physnn.circuit import AbstractCircuit, AbstractMemorylessCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.network import Chain
from physnn.process import Process


@dataclass(frozen=True)
class GatedUnitBlock:
    """A gated linear unit, behind a short convolution when it has several taps."""

    kind: Literal["gated_unit"] = "gated_unit"
    n_hidden: int = 256
    n_taps: int = 1  # samples the delay line holds; 1: there is none

    mechanism: ClassVar[str] = "gate"
    cut_in_time: ClassVar[bool] = True

    def __post_init__(self):
        positive(n_hidden=self.n_hidden, n_taps=self.n_taps)

    def build(self, site: Site) -> AbstractCircuit:
        unit = GatedUnit(
            site.width,
            self.n_hidden,
            bits=site.weight_bits,
            output_gain=site.output_gain,
            process=site.process,
            key=site.key,
        )
        if self.n_taps == 1:
            return unit
        delay = DelayLine(site.width, n_taps=self.n_taps, process=site.process)
        return Chain([delay, unit])

    def without_mechanism(self) -> None:
        """It is itself the conventional layer."""


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
        return events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        x, a = signals("x", self.n_in), signals("a", self.n_in)
        h, g = signals("h", self.gate.n_in), signals("g", self.gate.n_out)
        y = signals("y", self.n_out)
        wires = {"agc": (x, a), "inputs": (a, h), "gate": (h, g), "output": (g, y)}
        return compose(
            name, self.n_in, self.n_out, netlists_of(self, process, name, wires)
        )
