"""A classifier of lookup tables: comparators, tables, sums of bits."""

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Key

from circuits.lookup import LookupLayer, lookup_layer, softened
from circuits.lookup_encoders import (
    BinaryEncoder,
    Thermometer,
    binary_encoder,
    thermometer,
)
from circuits.lookup_logic import on_bits
from circuits.lookup_readout import GroupSum
from circuits.lookup_wiring import learned_wiring
from circuits.parts import not_negative
from physnn.circuit import AbstractMemorylessCircuit
from physnn.export.compose import compose, signals
from physnn.export.logic import Logic, chained
from physnn.export.netlist import Netlist
from physnn.keys import stream

if TYPE_CHECKING:  # the blocks import the families
    from circuits.blocks.base import Site


class LookupNetwork(AbstractMemorylessCircuit):
    """Pixels to bits, through layers of tables, to a count per class.

        x ══[ encoder ]══[ learned wires, tables ]══[ wires, tables ]══ …
                                                          … ══[ sum ]══ y

    Pixels are fractions of full scale from 0 to 1. The pins of the first layer choose
    their bits in training, those of the later ones are wired at random. Each output is
    the charge of its group of the last tables.

    Assumes and does not model: as its parts. Noise: of the comparators, bit flips of
    the tables, kT/C of the sums.

    References: as `LookupLayer`.
    """

    encoder: Thermometer | BinaryEncoder
    layers: tuple[LookupLayer, ...]
    readout: GroupSum
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def apply(self, x, *, process, key):
        return _through(self._parts(), x, process=process, key=key)

    def _parts(self):
        layers = [(f"layer{i}", layer) for i, layer in enumerate(self.layers)]
        return [("encoder", self.encoder), *layers, ("readout", self.readout)]

    def diagnose(self, xs, *, process, key):
        hard, soft = (
            jnp.argmax(net.apply(xs, process=process, key=key), axis=-1)
            for net in (self, softened(self))
        )
        return {"soft_hard_disagreement": jnp.mean(hard != soft)}

    def events(self, process, *, period_s):
        return tuple(
            event.under(name)
            for name, part in self._parts()
            for event in part.events(process, period_s=period_s)
        )

    def netlist(self, process, *, name) -> Netlist:
        parts = self._parts()
        nets = [signals("x", self.n_in)]
        nets += [
            signals(f"n{i}_", part.n_out) for i, (_, part) in enumerate(parts[:-1])
        ]
        nets.append(signals("y", self.n_out))
        wired = [
            (
                part_name,
                part.netlist(process, name=f"{name}_{part_name}"),
                before,
                after,
            )
            for (part_name, part), (before, after) in zip(
                parts, pairwise(nets), strict=True
            )
        ]
        return compose(name, self.n_in, self.n_out, wired)

    def logic(self, process) -> Logic:
        # The encoder is comparators, the readout charge.
        parts = [layer.logic(process) for layer in self.layers]
        model = on_bits(_through, self._parts()[1:-1], process=process)
        return chained(parts, model)


def _through(parts, x, *, process, key):
    for name, part in parts:
        x = part.apply(x, process=process, key=stream(key, name))
    return x


@dataclass(frozen=True)
class LookupNetworkLayer:
    """The config of a `LookupNetwork`."""

    kind: Literal["lookup_network"] = "lookup_network"
    n_tables: int = 3000  # of the first layer
    n_later: int = 0  # tables of each later layer
    n_later_layers: int = 0
    n_classes: int = 10
    k: int = 6
    encoder: Literal["thermometer", "binary"] = "thermometer"
    levels: int = 4  # bits per pixel: comparators, or digits of a converter
    n_candidates: int = 128  # bits that a pin of the first layer chooses from
    group: int = 60  # pins that share candidates
    basis: Literal["multilinear", "walsh"] = "multilinear"
    start: Literal["pass", "random"] = "random"  # of the first layer; later ones pass
    blur: float = 0.25
    gumbel: float = 0.0  # noise of the reads in training [logits]
    tau: float = 8.0  # tables per nat
    width: float = 0.1  # of the comparators' gradient [full scale]
    seed: int = 0  # of the wiring

    mechanism: ClassVar[str] = "trained"

    def __post_init__(self):
        not_negative(n_later=self.n_later, n_later_layers=self.n_later_layers)
        if (self.n_later > 0) != (self.n_later_layers > 0):
            raise ValueError(
                "Arguments `n_later` and `n_later_layers` must both be positive or both"
                f" be 0, but are {self.n_later} and {self.n_later_layers}."
            )

    def build(self, n_in: int, site: "Site") -> LookupNetwork:
        return lookup_network(self, n_in, key=site.key)


def lookup_network(
    config: LookupNetworkLayer, n_in: int, *, key: Key[Array, ""]
) -> LookupNetwork:
    """The network of `config` on `n_in` pixels.

    Raises `ValueError` for sizes that do not fit together, as the parts do.
    """
    c = config
    if c.encoder == "thermometer":
        encoder = thermometer(n_in, c.levels, low=0.0, high=1.0, width=c.width)
    else:
        encoder = binary_encoder(n_in, c.levels, low=0.0, high=1.0)
    wiring = learned_wiring(
        encoder.n_out,
        c.n_tables * c.k,
        group=c.group,
        n_candidates=c.n_candidates,
        seed=c.seed,
        key=stream(key, "wiring"),
    )
    common = {"k": c.k, "basis": c.basis, "blur": c.blur, "gumbel": c.gumbel}
    first = lookup_layer(
        encoder.n_out,
        c.n_tables,
        wiring=wiring,
        start=c.start,
        key=stream(key, "layer0"),
        **common,
    )
    layers = [first]
    for i in range(1, c.n_later_layers + 1):
        layers.append(
            lookup_layer(
                layers[-1].n_out,
                c.n_later,
                seed=c.seed + i,
                key=stream(key, f"layer{i}"),
                **common,
            )
        )
    return LookupNetwork(
        encoder=encoder,
        layers=tuple(layers),
        readout=GroupSum(layers[-1].n_out, c.n_classes, c.tau),
        n_in=n_in,
        n_out=c.n_classes,
    )
