"""Lookup tables with state bits as a residual block: bits between analog ends."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.lookup import LookupLayer, lookup_layer
from circuits.lookup_encoders import Thermometer, thermometer
from circuits.lookup_logic import on_bits, reading_logic
from circuits.lookup_state import LookupState, lookup_state
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, positive
from physnn.circuit import AbstractCircuit
from physnn.export.compose import compose, signals
from physnn.export.logic import Logic
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.process import Process


@dataclass(frozen=True)
class LookupBlock:
    """A mixer on state bits that tables write and read."""

    kind: Literal["lookup"] = "lookup"
    n_states: int = 128
    n_tables: int = 256  # that read states and input bits
    k: int = 6
    n_taps: int = 4  # samples the delay line holds
    longest_memory: float = 64.0  # tokens between a slowest bit's writes, at start
    basis: Literal["multilinear", "walsh"] = "multilinear"
    blur: float = 0.0
    gumbel: float = 0.0  # noise of the reads in training [logits]
    width: float = 0.25  # of the comparators' gradient [full scale]
    seed: int = 0  # of the wiring

    mechanism: ClassVar[str] = "trained"  # of the state and of the tables

    def __post_init__(self):
        positive(
            n_states=self.n_states,
            n_tables=self.n_tables,
            n_taps=self.n_taps,
            width=self.width,
            longest_memory=self.longest_memory,
        )
        if not self.longest_memory > 1:
            raise ValueError(
                "Argument `longest_memory` must be above 1 token, but is"
                f" {self.longest_memory}."
            )

    def build(self, site: Site) -> "LookupMixer":
        return LookupMixer(self, site)

    def without_mechanism(self) -> None:
        """None: frozen random tables are the control."""
        return


class LookupMixer(AbstractCircuit[tuple[Array, Array]]):
    """Mixes over time with bits: comparators, state bits, and tables that read both.

    x ─ AGC ─ delay ─ MAC ─ comparators ┬ (data, enable) ─[ state ]─ s ─┐
                                        └ data, enable ─────────────[ tables ]
                                                                        └─ MAC ─ y

    The enable lines start with thresholds that let each state bit be written in its own
    share of tokens, from 1/2 down to 1/`longest_memory`.
    """

    agc: AutomaticGain
    delay: DelayLine
    inputs: ChargeMac
    comparators: Thermometer
    state: LookupState
    tables: LookupLayer
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, config: LookupBlock, site: Site):
        c, process = config, site.process
        self.n_in = self.n_out = site.width
        self.agc = AutomaticGain(site.width)
        self.delay = DelayLine(site.width, n_taps=c.n_taps, process=process)
        self.inputs = ChargeMac(
            site.width,
            2 * c.n_states,
            bits=site.weight_bits,
            process=process,
            key=site.stream("inputs"),
        )
        comparators = thermometer(2 * c.n_states, 1, width=c.width)
        thresholds = enable_thresholds(c.n_states, c.longest_memory, self.agc.level)
        self.comparators = eqx.tree_at(
            lambda part: part.threshold.value, comparators, thresholds
        )
        self.state = lookup_state(
            c.n_states, k=c.k, basis=c.basis, blur=c.blur, gumbel=c.gumbel, seed=c.seed
        )
        self.tables = lookup_layer(
            3 * c.n_states,
            c.n_tables,
            k=c.k,
            basis=c.basis,
            blur=c.blur,
            gumbel=c.gumbel,
            seed=c.seed + 1,
            key=site.stream("tables"),
        )
        self.output = ChargeMac(
            c.n_tables,
            site.width,
            bits=site.weight_bits,
            process=process,
            # Bits have an rms of full scale, where other blocks have that of the AGC.
            gain=site.output_gain * self.agc.level,
            key=site.stream("output"),
        )

    def init_state(self, batch_shape=()):
        return self.delay.init_state(batch_shape), self.state.init_state(batch_shape)

    def _run(self, verb, state, x, *, process, key):
        held, bits = state
        x = self.agc.apply(x, process=process, key=stream(key, "agc"))
        held, x = getattr(self.delay, verb)(
            held, x, process=process, key=stream(key, "delay")
        )
        x = self.inputs.apply(x, process=process, key=stream(key, "inputs"))
        x = self.comparators.apply(x, process=process, key=stream(key, "comparators"))
        bits, x = self._bits(verb, bits, x, process=process, key=key)
        y = self.output.apply(x, process=process, key=stream(key, "output"))
        return (held, bits), y

    def _bits(self, verb, bits, x, *, process, key):
        """What lies between the comparators and the output column."""
        bits, s = getattr(self.state, verb)(
            bits, x, process=process, key=stream(key, "state")
        )
        x = jnp.concatenate([s, x], axis=-1)
        x = self.tables.apply(x, process=process, key=stream(key, "tables"))
        return bits, x

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def events(self, process: Process, *, period_s: float):
        return events_of(self, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        n = self.state.n_out
        x, y = signals("x", self.n_in), signals("y", self.n_out)
        a, d = signals("a", self.n_in), signals("d", self.n_in)
        u, b = signals("u", 2 * n), signals("b", 2 * n)
        s, t = signals("s", n), signals("t", self.tables.n_out)
        wires = {
            "agc": (x, a),
            "delay": (a, d),
            "inputs": (d, u),
            "comparators": (u, b),
            "state": (b, s),
            "tables": ((*s, *b), t),
            "output": (t, y),
        }
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts)

    def logic(self, process) -> Logic:
        def bits_after(mixer, xs, *, process, key):
            start = mixer.state.init_state(xs.shape[1:-1])
            return mixer._bits("scan", start, xs, process=process, key=key)[1]

        model = on_bits(bits_after, self, process=process)
        state, tables = (part.logic(process) for part in (self.state, self.tables))
        return reading_logic(state, tables, model)


def enable_thresholds(n: int, longest: float, rms: float) -> Array:
    """Thresholds `(2·n, 1)` of data lines (0) and of enable lines, graded.

    A Gaussian of `rms` exceeds enable threshold i in a share of 1/2 … 1/`longest`.
    """
    share = jnp.exp(jnp.linspace(jnp.log(0.5), -jnp.log(longest), n))
    enable = rms * jax.scipy.stats.norm.isf(share)
    return jnp.concatenate([jnp.zeros(n), enable])[:, None]
