"""The mixing unit: gated units of separate groups that share charge beforehand."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.mac import ChargeMac
from circuits.mixing import PassiveMixing
from circuits.parts import AutomaticGain, GilbertGate, not_negative, positive
from physnn.circuit import AbstractCircuit, AbstractMemorylessCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.process import Process


@dataclass(frozen=True)
class MixingUnitBlock:
    """A gated unit in `n_groups` parts, which see each other by passive mixing only."""

    kind: Literal["mixing_unit"] = "mixing_unit"
    n_hidden: int = 768
    n_groups: int = 4  # a power of two that divides width and n_hidden
    n_rounds: int = 1  # butterflies of the mixing; 0: the groups never meet

    mechanism: ClassVar[str] = "mixing"
    cut_in_time: ClassVar[bool] = True

    def __post_init__(self):
        positive(n_hidden=self.n_hidden)
        if self.n_groups < 2 or self.n_groups & (self.n_groups - 1):
            raise ValueError(
                "Argument `n_groups` must be a power of two from 2 on, but is"
                f" {self.n_groups}."
            )
        if self.n_hidden % self.n_groups:
            raise ValueError(
                "Argument `n_hidden` must be a multiple of `n_groups`, but they are"
                f" {self.n_hidden} and {self.n_groups}."
            )
        not_negative(n_rounds=self.n_rounds)

    def build(self, site: Site) -> AbstractCircuit:
        return MixingUnit(
            site.width,
            self.n_hidden,
            n_groups=self.n_groups,
            n_rounds=self.n_rounds,
            bits=site.weight_bits,
            output_gain=site.output_gain,
            process=site.process,
            key=site.key,
        )

    def without_mechanism(self) -> "MixingUnitBlock | None":
        """The same groups, without mixing between them."""
        return dataclasses.replace(self, n_rounds=0) if self.n_rounds else None


class GroupedMac(AbstractMemorylessCircuit):
    """A `ChargeMac` per group of channels, side by side: a block-diagonal matrix.

    x = (x_0, x_1, …) ── y = (W_0 x_0, W_1 x_1, …)
    """

    parts: tuple[ChargeMac, ...]
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, parts: Sequence[ChargeMac]):
        self.parts = tuple(parts)
        self.n_in = sum(part.n_in for part in parts)
        self.n_out = sum(part.n_out for part in parts)

    def apply(self, x, *, process, key):
        xs = jnp.split(x, len(self.parts), axis=-1)
        ys = [
            part.apply(x, process=process, key=stream(key, str(i)))
            for i, (part, x) in enumerate(zip(self.parts, xs, strict=True))
        ]
        return jnp.concatenate(ys, axis=-1)

    def events(self, process, *, period_s):
        return tuple(
            event.under(str(i))
            for i, part in enumerate(self.parts)
            for event in part.events(process, period_s=period_s)
        )

    def netlist(self, process, *, name) -> Netlist:
        wired, start_in, start_out = [], 0, 0
        for i, part in enumerate(self.parts):
            cell = part.netlist(process, name=f"{name}_group{i}")
            x = signals("x", part.n_in, start=start_in)
            wired.append(
                (f"group{i}", cell, x, signals("y", part.n_out, start=start_out))
            )
            start_in, start_out = start_in + part.n_in, start_out + part.n_out
        return compose(name, self.n_in, self.n_out, wired)


class MixingUnit(AbstractMemorylessCircuit):
    """Mixes over channels: streams share charge, then a gated unit works in each.

        x ─ AGC ─ passive mixing ┬ MAC ─ a·tanh b ─ MAC ┬ y        (one per group)
                                 └ MAC ─ a·tanh b ─ MAC ┘

    The channels of the residual stream are `n_groups` streams, one after another. The
    MACs of all groups have 1/n_groups of the weights of whole ones, and shorter lines;
    what the groups know of each other is what their capacitors shared. With no rounds
    of mixing there is none, and `mixing` is None.

    Raises `ValueError` when the groups do not divide the width.
    """

    agc: AutomaticGain
    mixing: PassiveMixing | None
    inputs: GroupedMac
    gate: GilbertGate
    output: GroupedMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        width: int,
        n_hidden: int,
        *,
        n_groups: int,
        n_rounds: int,
        bits: int,
        output_gain: float,
        process: Process,
        key: Key[Array, ""],
    ):
        if width % n_groups or n_hidden % n_groups:
            raise ValueError(
                f"Argument `n_groups` must divide the width of {width} and the"
                f" {n_hidden} hidden units, but is {n_groups}."
            )
        self.n_in = self.n_out = width
        per_group, hidden = width // n_groups, n_hidden // n_groups
        self.agc = AutomaticGain(width)
        self.mixing = None
        if n_rounds:
            self.mixing = PassiveMixing(
                n_groups, per_group, n_rounds=n_rounds, process=process
            )

        def macs(name, n_in, n_out, gain):
            keys = (stream(key, f"{name}{i}") for i in range(n_groups))
            return [
                ChargeMac(n_in, n_out, bits=bits, process=process, key=k, gain=gain)
                for k in keys
            ]

        self.inputs = GroupedMac(macs("inputs", per_group, 2 * hidden, 1.0))
        self.gate = GilbertGate(n_hidden)
        self.output = GroupedMac(macs("output", hidden, per_group, output_gain))

    def apply(self, x, *, process, key):
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        if self.mixing is not None:
            x = self.mixing.apply(x, process=process, key=stream(key, "mixing"))
        h = self.inputs.apply(x, process=process, key=stream(key, "inputs"))
        # Each group gives its (a, b): all of a before all of b.
        shape = (*h.shape[:-1], len(self.inputs.parts), 2, -1)
        h = jnp.moveaxis(h.reshape(shape), -2, -3).reshape(h.shape)
        h = self.gate.apply(h, process=process, key=stream(key, "gate"))
        return self.output.apply(h, process=process, key=stream(key, "output"))

    def events(self, process, *, period_s):
        return events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        n, groups = self.gate.n_out, len(self.inputs.parts)
        x, y = signals("x", self.n_in), signals("y", self.n_out)
        c, d = signals("c", self.n_in), signals("d", self.n_in)
        a, b, h = signals("a", n), signals("b", n), signals("h", n)
        of = n // groups
        pairs = [
            net
            for i in range(groups)
            for nets in (a, b)
            for net in nets[i * of : (i + 1) * of]
        ]
        wires = {"agc": (x, c)}
        if self.mixing is not None:
            wires["mixing"] = (c, d)
        wires["inputs"] = (d if self.mixing is not None else c, tuple(pairs))
        wires |= {"gate": ((*a, *b), h), "output": (h, y)}
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts)
