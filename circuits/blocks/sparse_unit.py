"""The sparse unit: a gated unit of which only what exceeds a threshold acts."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.event_gate import EventGate
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, GilbertGate, positive
from physnn.bank import Bank
from physnn.circuit import AbstractCircuit, AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import array, compose, signals
from physnn.export.netlist import Netlist, Parameter
from physnn.keys import stream
from physnn.materialized import materialized
from physnn.process import Process
from physnn.products import shifted

# A drive of this part of full scale switches a tail of the netlist fully on.
SWITCHED_AT = 1e-6
# What is left of the hidden units is small: gain of their output at the start. Making
# up for all of it (6 at an inhibition of 1.25) costs 0.03 bits/byte, in a trial.
OUTPUT_GAIN = 1.5


@dataclass(frozen=True)
class SparseUnitBlock:
    """A gated unit behind an event gate; of Gaussian drives Q(inhibition) act."""

    kind: Literal["sparse_unit"] = "sparse_unit"
    n_hidden: int = 768
    inhibition: float = 1.3  # threshold in rms of the drives

    mechanism: ClassVar[str] = "event"
    cut_in_time: ClassVar[bool] = True

    def __post_init__(self):
        positive(n_hidden=self.n_hidden, inhibition=self.inhibition)

    def build(self, site: Site) -> AbstractCircuit:
        return SparseUnit(
            site.width,
            self.n_hidden,
            inhibition=self.inhibition,
            bits=site.weight_bits,
            output_gain=site.output_gain,
            process=site.process,
            key=site.key,
        )

    def without_mechanism(self) -> GatedUnitBlock:
        """The same unit without the gate: every unit acts."""
        return GatedUnitBlock(n_hidden=self.n_hidden)


class SparseUnit(AbstractMemorylessCircuit):
    """Mixes over channels with few of its hidden units at a time.

        x ─ AGC ─ MAC ┬ a ───────────────────┐
                      └ b ─ event gate ─ g ──┴ a·tanh g where fired, else 0 ─ MAC ─ y

    A silent unit costs its comparator and the amplifier of b. The amplifier of its a,
    the tail of its gate, and its line into the output MAC with the drivers and switches
    on it are not used, and are billed by the measured activity of the gate
    (`measure_activity`); before a measurement all units are billed.

    The units should be many: with 768 at a width of 64 the gate costs nothing, with 256
    it costs 0.07 bits/byte (a million bytes of WikiText-2, one seed, a trial).

    References: sparse gated units, Mirzadeh et al. 2023, "ReLU strikes back", arXiv
    2310.04564; Shazeer 2020, arXiv 2002.05202.
    """

    agc: AutomaticGain
    inputs: ChargeMac
    event: EventGate
    gate: "SwitchedGate"
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        n_hidden: int,
        *,
        inhibition: float,
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
        self.event = EventGate(n_hidden, inhibition=inhibition)
        self.gate = SwitchedGate(n_hidden)
        self.output = ChargeMac(
            n_hidden,
            width,
            bits=bits,
            process=process,
            key=stream(key, "output"),
            gain=OUTPUT_GAIN * output_gain,
        )

    def _hidden(self, x, *, process, key):
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        h = self.inputs.apply(x, process=process, key=stream(key, "inputs"))
        # Read by the inhibition line, the events and the gates.
        return jnp.split(materialized(h), 2, axis=-1)

    def apply(self, x, *, process, key):
        a, b = self._hidden(x, process=process, key=key)
        g = self.event.apply(b, process=process, key=stream(key, "event"))
        h = jnp.concatenate([a, g], axis=-1)
        h = self.gate.apply(h, process=process, key=stream(key, "gate"))
        return self.output.apply(h, process=process, key=stream(key, "output"))

    def diagnose(self, xs, *, process, key):
        _, b = self._hidden(xs, process=process, key=key)
        return self.event.diagnose(b, process=process, key=stream(key, "event"))

    def events(self, process, *, period_s):
        active = self.event.activity()
        # The part of each line that silent units do not spend.
        used = {
            "inputs.amplifiers": (1 + active) / 2,
            "gate.gates": active,
            "output.input lines": active,
            "output.input drivers": active,
            # Phases run along the rows, each behind its unit's event.
            "output.switches": active,
            "output.clock wires": active,
        }
        return tuple(
            Event(event.name, event.count * used.get(event.part, 1.0), event.part)
            for event in events_of(self, process, period_s)
        )

    def netlist(self, process, *, name) -> Netlist:
        n = self.event.n_in
        x, c = signals("x", self.n_in), signals("c", self.n_in)
        a, b, g = signals("a", n), signals("b", n), signals("g", n)
        h, y = signals("h", n), signals("y", self.n_out)
        wires = {
            "agc": (x, c),
            "inputs": (c, (*a, *b)),
            "event": (b, g),
            "gate": ((*a, *g), h),
            "output": (h, y),
        }
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts)


class SwitchedGate(AbstractMemorylessCircuit):
    """A Gilbert gate whose tail an event switches: y = a·tanh(g / 2nU_T), 0 at g = 0.

    Inputs are `(a, g)` concatenated. Without its tail a unit is silent whatever the
    offset of its pair. Assumes and leaves out what `GilbertGate` does.
    """

    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, n: int):
        self.offset = GilbertGate(n).offset
        self.n_in, self.n_out = 2 * n, n

    def apply(self, x, *, process, key):
        del key
        a, g = jnp.split(x, 2, axis=-1)
        u = shifted(g, self.offset.realized()) / process.linear_range()
        return a * _switched_tanh(u, g)

    def events(self, process, *, period_s):
        return GilbertGate(self.n_out).events(process, period_s=period_s)

    def netlist(self, process, *, name) -> Netlist:
        offsets = cells.realized(self.offset).tolist()
        a, g = (cells.difference(signal, process) for signal in "ag")
        tail = f"min(1, {cells.number(1 / SWITCHED_AT)} * abs({g}))"
        steer = f"tanh(({g} + offset) / {cells.number(process.linear_range())})"
        # Silent, and fired by 0.02 to 1 of full scale.
        x = cells.trial_vectors((2, 8))
        x[1] = np.where(np.arange(8) % 4 == 0, 0, 0.02 + 0.98 * np.abs(x[1]))
        xs = np.repeat(x.T, self.n_out, axis=1)
        ys = cells.predicted(self, xs, process)
        bench = cells.static_bench(
            f"{name}_unit_products",
            {"a": x[0], "g": x[1]},
            {"y": ys[:, 0]},
            process=process,
        )
        unit = Netlist(
            f"{name}_unit",
            (*cells.halves("a", "g", "y"), "ref"),
            cells.differential_voltage("y", f"{tail} * {a} * {steer}", process),
            parameters={
                "offset": Parameter(offsets[0], "full scale", "offset of the pair")
            },
            benches=(bench,),
            notes="y = a tanh((g + offset) / 2nU_T), and 0 at g = 0.",
        )
        channels = [(unit, {"offset": offset}) for offset in offsets]
        return array(name, channels, n_signals_in=2)


@jax.custom_jvp
def _switched_tanh(u: Float[Array, "..."], g: Float[Array, "..."]) -> Array:
    """tanh(u) where a tail is on, at g ≠ 0; its slope is taken from the result."""
    return jnp.where(g != 0, jnp.tanh(u), 0.0)


@_switched_tanh.defjvp
def _switched_tanh_jvp(primals, tangents):
    y = _switched_tanh(*primals)
    return y, jnp.where(y != 0, 1 - y * y, 0.0) * tangents[0]
