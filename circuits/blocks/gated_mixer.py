"""The mixer that all dynamic families share: a window drives a cell behind a gate."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits.blocks.base import Site, events_of, netlists_of
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, GilbertGate
from physnn.circuit import AbstractCircuit
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.keys import stream


class GatedMixer(AbstractCircuit[tuple[Array | None, Array]]):
    """Mixes over time and channels: gain control, a delay line, and a gated cell.

    x ─ AGC ─ delay ─ MAC ┬ u ─ cell ─ AGC ─ v ┐
                          └ z ─────────────────┴ v·tanh z ─ MAC ─ y

    `cell` is any circuit: `cell.n_in` outputs of the first MAC drive it, `cell.n_out`
    more gate what it gives. The delay line and the second AGC may be missing.

    Assumes: the amplifiers of the first MAC hold u and z for a token. Does not model:
    more than its parts do. Noise: of its parts.

    Reference: gating, Shazeer 2020, arXiv 2002.05202.
    """

    agc: AutomaticGain
    delay: DelayLine | None
    inputs: ChargeMac
    cell: AbstractCircuit
    level: AutomaticGain | None
    gate: GilbertGate
    output: ChargeMac
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(
        self,
        cell: AbstractCircuit,
        site: Site,
        *,
        n_taps: int,
        drive: Float[Array, " n_drive"] | None = None,
        windows: Float[Array, "taps width"] | None = None,
        level: Float[Array, " n_out"] | None = None,
    ):
        """How it starts: `drive` is a constant input of the cell beside the signal's,
        `windows` the taps of each channel, `level` the gains behind the cell (None:
        there is no AGC there). At `n_taps` of 1 there is no delay line.
        """
        width = self.n_in = self.n_out = site.width
        mac = {"bits": site.weight_bits, "process": site.process}
        self.agc = AutomaticGain(width)
        self.delay = None
        if n_taps > 1:
            delay = DelayLine(width, n_taps=n_taps, process=site.process)
            if windows is not None:
                delay = eqx.tree_at(lambda line: line.tap.value, delay, windows)
            self.delay = delay
        inputs = ChargeMac(
            width, cell.n_in + cell.n_out, **mac, key=site.stream("inputs")
        )
        if drive is not None:
            offset = inputs.offset.value.at[: cell.n_in].set(drive)
            inputs = eqx.tree_at(lambda each: each.offset.value, inputs, offset)
        self.inputs = inputs
        self.cell = cell
        self.level = None
        if level is not None:
            self.level = eqx.tree_at(
                lambda agc: agc.gain.value, AutomaticGain(cell.n_out), level
            )
        self.gate = GilbertGate(cell.n_out)
        self.output = ChargeMac(
            cell.n_out, width, **mac, key=site.stream("output"), gain=site.output_gain
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
        return held, x[..., : self.cell.n_in], x[..., self.cell.n_in :]

    def _run(self, verb, state, x, *, process, key):
        held, v = state
        held, u, z = self._drive(verb, held, x, process=process, key=key)
        run = getattr(self.cell, verb)
        v, y = run(v, u, process=process, key=stream(key, "cell"))
        if self.level is not None:
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
        driven, read = signals("q", self.cell.n_in), signals("v", n)
        z, g = signals("q", n, start=self.cell.n_in), signals("g", n)
        a = signals("a", self.n_in)
        wires = {"agc": (x, a)}
        if self.delay is not None:
            d = signals("d", self.n_in)
            wires["delay"] = (a, d)
            a = d
        wires["inputs"] = (a, (*driven, *z))
        wires["cell"] = (driven, read)
        if self.level is not None:
            leveled = signals("r", n)
            wires["level"] = (read, leveled)
            read = leveled
        wires |= {"gate": ((*read, *z), g), "output": (g, y)}
        notes = "phi2 of `inputs` lasts a token: its amplifiers hold u and z."
        parts = netlists_of(self, process, name, wires)
        return compose(name, self.n_in, self.n_out, parts, notes=notes)
