"""The physical sequence model: embed, residual mixers and channels, head."""

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Int, Key

from circuits.blocks import GatedUnit, RCMixer
from circuits.mac import ChargeMac
from circuits.parts import NODE_F, AutomaticGain
from physnn.energy.events import Event, adc_event, token_events
from physnn.keys import stream
from physnn.network import Residual
from physnn.process import Process
from physnn.straight_through import quantize


@dataclass(frozen=True)
class PhysicalConfig:
    """Sizes of a physical sequence model."""

    kind: Literal["physical"] = "physical"
    width: int = 128  # channels of the residual stream
    n_blocks: int = 4
    n_states: int = 128  # RC states per block
    n_hidden: int = 256  # hidden units of the channel block
    n_taps: int = 4  # samples the delay line holds
    weight_bits: int = 6
    converter_bits: int = 8
    period_s: float = 1e-6  # time a token takes
    longest_memory: float = 512.0  # slowest state at the start [tokens]

    def build(self, *, vocabulary: int, process: Process, key: Key[Array, ""]):
        return PhysicalModel(self, vocabulary=vocabulary, process=process, key=key)


class PhysicalModel(eqx.Module):
    """Bytes in, logits out; everything between embedding ROM and head is analog.

    The embedding is a ROM row of `converter_bits` per channel turned into voltages by
    DACs. The skip of each residual is one more capacitor on the output column, with
    its own kT/C noise. The head is a `ChargeMac` whose outputs are digitized by one ADC
    each; the token is sampled digitally.
    """

    embedding: Float[Array, "vocabulary width"]
    mixers: tuple[Residual, ...]
    channels: tuple[Residual, ...]
    agc: AutomaticGain
    head: ChargeMac
    config: PhysicalConfig = eqx.field(static=True)
    vocabulary: int = eqx.field(static=True)

    # One full scale of the head is this many nats.
    LOGIT_RANGE = 16.0

    def __init__(self, config, *, vocabulary, process, key):
        self.config, self.vocabulary = config, vocabulary
        c = config
        output_gain = 1 / (2 * c.n_blocks) ** 0.5
        # A row is stored at the spread at which the residual stream starts.
        self.embedding = 0.1 * jr.normal(
            stream(key, "embedding"), (vocabulary, c.width)
        )
        self.mixers = tuple(
            Residual(
                RCMixer(
                    c.width,
                    c.n_states,
                    n_taps=c.n_taps,
                    bits=c.weight_bits,
                    output_gain=output_gain,
                    period_s=c.period_s,
                    longest_memory=c.longest_memory,
                    process=process,
                    key=stream(key, f"mixer{i}"),
                ),
                hold_F=NODE_F,
            )
            for i in range(c.n_blocks)
        )
        self.channels = tuple(
            Residual(
                GatedUnit(
                    c.width,
                    c.n_hidden,
                    bits=c.weight_bits,
                    output_gain=output_gain,
                    process=process,
                    key=stream(key, f"channel{i}"),
                ),
                hold_F=NODE_F,
            )
            for i in range(c.n_blocks)
        )
        self.agc = AutomaticGain(c.width)
        self.head = ChargeMac(
            c.width,
            vocabulary,
            bits=c.weight_bits,
            process=process,
            key=stream(key, "head"),
            gain=0.2,
        )

    def init_state(self, batch_shape: tuple[int, ...] = ()):
        return tuple(mixer.init_state(batch_shape) for mixer in self.mixers)

    def _run(self, verb, state, tokens, *, process, key):
        bits = self.config.converter_bits
        x = quantize(self.embedding, full_scale=1.0, bits=bits)[tokens]
        after = []
        blocks = zip(self.mixers, self.channels, state, strict=True)
        for i, (mixer, channel, before) in enumerate(blocks):
            for name, block, block_state in (
                (f"mixer{i}", mixer, before),
                (f"channel{i}", channel, None),
            ):
                block_state, x = getattr(block, verb)(
                    block_state, x, process=process, key=stream(key, name)
                )
                if block is mixer:
                    after.append(block_state)
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        y = self.head.apply(x, process=process, key=stream(key, "head"))
        return tuple(after), self.LOGIT_RANGE * quantize(y, full_scale=1.0, bits=bits)

    def step(
        self,
        state,
        token: Int[Array, "*batch"],
        *,
        process: Process,
        key: Key[Array, ""],
    ) -> tuple[tuple, Float[Array, "*batch vocabulary"]]:
        """One token in, the logits of the next one out."""
        return self._run("step", state, token, process=process, key=key)

    def logits(
        self, tokens: Int[Array, "batch time"], *, process: Process, key: Key[Array, ""]
    ) -> Float[Array, "batch time vocabulary"]:
        """Logits after every token of a batch of texts."""
        state = self.init_state(tokens.shape[:1])
        # Time first: the recurrences run along the leading axis without a transpose.
        _, ys = self._run("scan", state, tokens.T, process=process, key=key)
        return jnp.swapaxes(ys, 0, 1)

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What one token makes happen, from the embedding ROM to the sampler.

        Raises `ValueError` for converters of more than 8 bits, which have no price.
        """
        c = self.config
        events = [
            Event("rom_bit", c.width * c.converter_bits, "embedding"),
            Event("dac_conversion", c.width, "embedding"),
            Event(adc_event(c.converter_bits), self.vocabulary, "head"),
            *token_events(self.vocabulary),
        ]
        for i, pair in enumerate(zip(self.mixers, self.channels, strict=True)):
            for name, block in zip((f"mixer{i}", f"channel{i}"), pair, strict=True):
                events += [
                    event.under(name)
                    for event in block.events(process, period_s=period_s)
                ]
                # The residual stream runs past the block: the wires of both halves of
                # a channel swing full scale, and an amplifier settles them.
                span_m = sum(array.span_m(process) for array in _arrays(block))
                wire_F = process.wire_F_per_m * span_m
                settling_C = process.settling_charge_C(wire_F)
                charge_C = 2 * c.width * (wire_F * process.swing_V + settling_C)
                events.append(Event("supply_charge_C", charge_C, f"{name}.wires"))
        for name, circuit in (("agc", self.agc), ("head", self.head)):
            events += [
                event.under(name)
                for event in circuit.events(process, period_s=period_s)
            ]
        return tuple(events)


def _arrays(block: Residual) -> list[ChargeMac]:
    leaves = jax.tree.leaves(block, is_leaf=lambda node: isinstance(node, ChargeMac))
    return [leaf for leaf in leaves if isinstance(leaf, ChargeMac)]
