"""The physical sequence model: embedding ROM, residual blocks, head."""

from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from circuits.blocks import BlockConfig
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.state_space import GatedRCBlock
from circuits.converters import Dac, SarConverter
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, positive
from circuits.rom import EmbeddingRom
from circuits.winner import WinnerTakeAll
from physnn.energy.events import Event, adc_event, token_events
from physnn.keys import stream
from physnn.process import Process
from physnn.straight_through import quantize, quantize_learned
from train.correction import Correction
from train.stack import BYTE_LINES, Stack, byte_lines


@dataclass(frozen=True)
class PhysicalConfig:
    """Sizes of a physical sequence model: `layer` is repeated `n_layers` times."""

    kind: Literal["physical"] = "physical"
    width: int = 128  # channels of the residual stream
    n_layers: int = 4
    layer: tuple[BlockConfig, ...] = (GatedRCBlock(), GatedUnitBlock())
    weight_bits: int = 6
    converter_bits: int = 8
    # Ideal ones at the price of a survey, or the ones of circuits/converters.py.
    converters: Literal["surveyed", "circuits"] = "surveyed"
    # An ADC per logit and a digital sampler, or a race that needs neither.
    sampler: Literal["digital", "winner_take_all"] = "digital"
    period_s: float = 1e-6  # time a token takes
    # Ranges of the DACs and of the ADCs are trained, one each; else full scale.
    learned_ranges: bool = False

    def __post_init__(self):
        surveyed = self.converters == "surveyed" and self.sampler == "digital"
        if self.learned_ranges and not surveyed:
            raise ValueError(
                "Argument `learned_ranges` goes with surveyed converters and a digital"
                f" sampler, but they are `{self.converters}` and `{self.sampler}`."
            )
        for name in ("width", "n_layers"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Argument `{name}` must be at least 1, but is"
                    f" {getattr(self, name)}."
                )
        positive(period_s=self.period_s)
        if not self.layer:
            raise ValueError("Argument `layer` must hold a block, but is empty.")

    def build(self, *, vocabulary: int, process: Process, key: Key[Array, ""]):
        return PhysicalModel(self, vocabulary=vocabulary, process=process, key=key)


class PhysicalModel(eqx.Module):
    """Bytes in, logits out; everything between embedding ROM and head is analog.

    The embedding is a ROM row of `converter_bits` per channel turned into voltages by
    DACs. The skip of each residual is one more capacitor on the output column, with
    its own kT/C noise. The head is a `ChargeMac` whose outputs are digitized by one ADC
    each and sampled digitally, or drive the race that draws the token: then the logits
    are those of the race, its offsets included.
    """

    embedding: Float[Array, "vocabulary width"]
    stack: Stack
    agc: AutomaticGain
    head: ChargeMac
    dac: Dac | None
    readout: SarConverter | WinnerTakeAll | None
    # Logs of the learned ranges of DACs and ADCs [full scale]; None: they are 1.
    input_range: Float[Array, ""] | None
    output_range: Float[Array, ""] | None
    correction: Correction | None  # of the digitized logits of one measured chip
    config: PhysicalConfig = eqx.field(static=True)
    vocabulary: int = eqx.field(static=True)

    # One full scale of the head is this many nats.
    LOGIT_RANGE = 16.0

    def __init__(self, config, *, vocabulary, process, key):
        self.config, self.vocabulary = config, vocabulary
        c = config
        # A row is stored at the spread at which the residual stream starts.
        self.embedding = 0.1 * jr.normal(
            stream(key, "embedding"), (vocabulary, c.width)
        )
        self.stack = Stack.build(
            c.layer,
            n_layers=c.n_layers,
            width=c.width,
            period_s=c.period_s,
            weight_bits=c.weight_bits,
            process=process,
            key=stream(key, "stack"),
        )
        reads = [b for b in self.stack.blocks if b.n_in > b.n_out]
        if reads and vocabulary > 2**BYTE_LINES:
            raise ValueError(
                "A block that reads the token itself must have a vocabulary of at most"
                f" {2**BYTE_LINES}, but it is {vocabulary}: leave the memory out, or"
                " prepare the text as bytes."
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
        own = {"bits": c.converter_bits, "process": process}
        in_circuits = c.converters == "circuits"
        self.dac = Dac(c.width, **own) if in_circuits else None
        self.input_range = jnp.zeros(()) if c.learned_ranges else None
        self.output_range = jnp.zeros(()) if c.learned_ranges else None
        self.readout = self.correction = None
        if c.sampler == "winner_take_all":
            self.readout = WinnerTakeAll(
                vocabulary, process=process, nats=self.LOGIT_RANGE
            )
        elif in_circuits:
            self.readout = SarConverter(vocabulary, **own)

    @property
    def rom(self) -> EmbeddingRom:
        """The embedding as the circuit that is read."""
        return EmbeddingRom(
            self.embedding, self.input_range, bits=self.config.converter_bits
        )

    def roms(self) -> dict[str, EmbeddingRom]:
        """Circuits made of arrays of the model itself, by the path of these."""
        return {".embedding": self.rom}

    def with_roms(self, roms: dict[str, EmbeddingRom]) -> "PhysicalModel":
        """The model with what these hold."""
        return eqx.tree_at(lambda m: m.embedding, self, roms[".embedding"].rows)

    def init_state(self, batch_shape: tuple[int, ...] = ()):
        return self.stack.init_state(batch_shape)

    def _run(self, verb, state, tokens, *, process, key):
        x = self.rom.read(tokens, process=process, key=stream(key, "embedding"))
        if self.dac is not None:
            x = self.dac.apply(x, process=process, key=stream(key, "dac"))
        state, x = self.stack.run(
            verb,
            state,
            x,
            side=byte_lines(tokens),
            process=process,
            key=stream(key, "stack"),
        )
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        y = self.head.apply(x, process=process, key=stream(key, "head"))
        if isinstance(self.readout, WinnerTakeAll):
            return state, self.readout.logits(y, process=process)
        if self.readout is None:
            y = self._digitized(y)
        else:
            y = self.readout.apply(y, process=process, key=stream(key, "readout"))
        y = self.LOGIT_RANGE * y
        return state, y if self.correction is None else self.correction(y)

    def _digitized(self, y):
        bits = self.config.converter_bits
        if self.output_range is None:
            return quantize(y, full_scale=1.0, bits=bits)
        return quantize_learned(y, full_scale=jnp.exp(self.output_range), bits=bits)

    def draw(
        self,
        logits: Float[Array, "*batch vocabulary"],
        *,
        temperature: float,
        process: Process,
        key: Key[Array, ""],
    ) -> Int[Array, "*batch"]:
        """The next token, as the sampler of this chip draws it."""
        if isinstance(self.readout, WinnerTakeAll):
            return self.readout.race(logits / temperature, process=process, key=key)
        return jr.categorical(key, logits / temperature)

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
        races = isinstance(self.readout, WinnerTakeAll)
        events = [
            *(
                event.under("embedding")
                for event in self.rom.events(process, period_s=period_s)
            ),
            *token_events(self.vocabulary, sampled=not races),
            *self.stack.events(process, period_s=period_s),
        ]
        if self.dac is None:
            events.append(Event("dac_conversion", c.width, "embedding"))
        if self.readout is None:
            events.append(Event(adc_event(c.converter_bits), self.vocabulary, "head"))
        if self.correction is not None:
            events += self.correction.events()
        for name in ("agc", "head", "dac", "readout"):
            circuit = getattr(self, name)
            if circuit is None:
                continue
            events += [
                event.under(name)
                for event in circuit.events(process, period_s=period_s)
            ]
        return tuple(events)


def embedded(
    model: PhysicalModel, tokens: Int[np.ndarray, " time"]
) -> Float[Array, "time width"]:
    """What the converters of a model give for tokens: the start of its stream."""
    return model.rom.codes()[jnp.asarray(tokens)]
