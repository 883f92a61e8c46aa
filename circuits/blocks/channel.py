"""Channel blocks: limiters in place of multipliers, over channels and short times."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.channel import ChannelLayer
from circuits.parts import AutomaticGain, DelayLine, positive
from physnn.circuit import AbstractCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.network import Chain


@dataclass(frozen=True)
class ChannelLayerConfig:
    """One layer of channels, for a classifier without a multiplier."""

    kind: Literal["channel_layer"] = "channel_layer"
    n_out: int = 256
    gain: float = 1.0  # output over input, root mean square, at the start
    leak: float = 0.05  # conductance beside a limiter, of that of its pair

    def __post_init__(self):
        positive(n_out=self.n_out, gain=self.gain)

    def build(self, n_in: int, site: Site) -> Chain:
        """Gain control and the layer, for `n_in` inputs."""
        layer = ChannelLayer(
            n_in,
            self.n_out,
            bits=site.weight_bits,
            key=site.key,
            gain=self.gain,
            leak=self.leak,
        )
        return Chain([AutomaticGain(n_in), layer])


@dataclass(frozen=True)
class ChannelBlock:
    """Two layers of channels; behind a delay line, if it has several taps, a mixer."""

    kind: Literal["channel"] = "channel"
    n_hidden: int = 256
    n_taps: int = 1  # samples the delay line holds; 1: there is none
    leak: float = 0.05  # conductance beside a limiter, of that of its pair

    mechanism: ClassVar[str] = "synapses"

    def __post_init__(self):
        positive(n_hidden=self.n_hidden, n_taps=self.n_taps)

    def build(self, site: Site) -> "ChannelUnit":
        return ChannelUnit(self, site)

    def without_mechanism(self) -> GatedUnitBlock:
        """No limits: a gated unit of charge MACs with as many weights."""
        n_hidden = max(1, round(2 * self.n_hidden / 3))
        return GatedUnitBlock(n_hidden=n_hidden, n_taps=self.n_taps)


class ChannelUnit(AbstractCircuit):
    """Mixes over channels, and over the last tokens behind a delay line.

        x ─ AGC ─ delay ─ channels ─ AGC ─ channels ─ y

    A channel is its own non-linearity: it saturates where |x| passes its limit. What
    is multiplied is the common gain of a vector and the taps of a channel's delay line,
    never a weight.

    Reference: the synapse, arXiv 2601.02253.
    """

    inputs: Chain
    synapses: Chain
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, config: ChannelBlock, site: Site):
        width, hidden = site.width, config.n_hidden
        self.n_in = self.n_out = width
        inputs: list[AbstractCircuit] = [AutomaticGain(width)]
        if config.n_taps > 1:
            delay = DelayLine(width, n_taps=config.n_taps, process=site.process)
            inputs.append(delay)
        self.inputs = Chain(inputs)

        def layer(n_in: int, n_out: int, name: str, gain: float):
            return ChannelLayer(
                n_in,
                n_out,
                bits=site.weight_bits,
                key=site.stream(name),
                gain=gain,
                leak=config.leak,
            )

        self.synapses = Chain(
            [
                layer(width, hidden, "first", 1.0),
                AutomaticGain(hidden),
                layer(hidden, width, "second", site.output_gain),
            ]
        )

    def init_state(self, batch_shape=()):
        return tuple(
            part.init_state(batch_shape) for part in (self.inputs, self.synapses)
        )

    def _run(self, verb, state, x, *, process, key):
        after = []
        for name, before in zip(("inputs", "synapses"), state, strict=True):
            run = getattr(getattr(self, name), verb)
            now, x = run(before, x, process=process, key=stream(key, name))
            after.append(now)
        return tuple(after), x

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def events(self, process, *, period_s):
        return events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        x, a, y = (signals(s, self.n_in) for s in "xay")
        wires = {"inputs": (x, a), "synapses": (a, y)}
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts)
