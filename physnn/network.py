"""Networks of circuits are circuits: `Chain`, `Parallel`, `Residual`."""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp

from physnn.circuit import AbstractCircuit
from physnn.energy.events import Event
from physnn.export.compose import compose, signals
from physnn.export.netlist import Netlist
from physnn.full_scale import limited
from physnn.keys import stream
from physnn.noise import coupled, thermal_noise
from physnn.process import Process


class Chain(AbstractCircuit[tuple]):
    """Circuits one after another: y = f_k(… f_2(f_1(x))).

        x ──[ 0 ]──[ 1 ]── … ──[ k−1 ]── y

    The state is the tuple of the parts' states; part i draws its noise from the stream
    named `"i"`. Assumes: each stage has settled when the next one samples it.

    Raises `ValueError` for an empty chain and for two neighbors that do not fit.
    """

    parts: tuple[AbstractCircuit, ...]
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, parts: Sequence[AbstractCircuit]):
        self.parts = _at_least_one(parts)
        for i, (a, b) in enumerate(zip(self.parts, self.parts[1:], strict=False)):
            if a.n_out != b.n_in:
                raise ValueError(
                    f"Part {i + 1} of a chain must take the {a.n_out} outputs of part"
                    f" {i}, but it has {b.n_in} inputs."
                )
        self.n_in, self.n_out = self.parts[0].n_in, self.parts[-1].n_out

    def init_state(self, batch_shape=()):
        return tuple(part.init_state(batch_shape) for part in self.parts)

    def _run(self, verb, state, x, *, process, key):
        after = []
        for i, (part, before) in enumerate(zip(self.parts, state, strict=True)):
            s, x = getattr(part, verb)(
                before, x, process=process, key=stream(key, str(i))
            )
            after.append(s)
        return tuple(after), x

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def events(self, process, *, period_s):
        return _events_of_all(self.parts, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        last = len(self.parts) - 1
        nets = [
            signals("y" if i == last else f"n{i}_", part.n_out)
            for i, part in enumerate(self.parts)
        ]
        before = [signals("x", self.n_in), *nets]
        wired = [
            (f"part{i}", part.netlist(process, name=f"{name}_part{i}"), a, b)
            for i, (part, a, b) in enumerate(
                zip(self.parts, before, nets, strict=False)
            )
        ]
        return compose(name, self.n_in, self.n_out, wired)


class Parallel(AbstractCircuit[tuple]):
    """Circuits on the same input lines, their outputs side by side.

            ┌──[ 0 ]── y_0
        x ──┼──[ 1 ]── y_1          y = (y_0, y_1, …)
            └── …

    The state is the tuple of the parts' states; part i draws its noise from the stream
    named `"i"`. Assumes: the source of x drives the inputs of all parts.

    Raises `ValueError` for no parts and for parts of different numbers of inputs.
    """

    parts: tuple[AbstractCircuit, ...]
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, parts: Sequence[AbstractCircuit]):
        self.parts = _at_least_one(parts)
        inputs = [part.n_in for part in self.parts]
        if len(set(inputs)) > 1:
            raise ValueError(
                f"The parts of `Parallel` must have equally many inputs, but have"
                f" {inputs}."
            )
        self.n_in, self.n_out = inputs[0], sum(part.n_out for part in self.parts)

    def init_state(self, batch_shape=()):
        return tuple(part.init_state(batch_shape) for part in self.parts)

    def _run(self, verb, state, x, *, process, key):
        pairs = [
            getattr(part, verb)(before, x, process=process, key=stream(key, str(i)))
            for i, (part, before) in enumerate(zip(self.parts, state, strict=True))
        ]
        states, ys = zip(*pairs, strict=True)
        return states, jnp.concatenate(ys, axis=-1)

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def events(self, process, *, period_s):
        return _events_of_all(self.parts, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        wired, start = [], 0
        for i, part in enumerate(self.parts):
            cell = part.netlist(process, name=f"{name}_part{i}")
            outputs = signals("y", part.n_out, start=start)
            wired.append((f"part{i}", cell, signals("x", self.n_in), outputs))
            start += part.n_out
        return compose(name, self.n_in, self.n_out, wired)


class Residual(AbstractCircuit):
    """A circuit with a skip: one more capacitor on each output adds the input.

        x ──┬──[ inner ]──┐
            └─────┤├──────┴── y = clip(x + inner(x) + n, ±1)
                hold_F                Var n = thermal_noise·kT/hold_F / swing²

    The state is that of `inner`, which draws its noise from the stream `"inner"`; the
    skip draws its own from `"skip"`. Charge: hold_F of both differential halves swings
    full scale and loads the amplifier that settles it.

    Its events are those of `inner`, and `skip`.

    `inner` may read `n_side` inputs more, the last of x, which the skip does not add.

    Assumes: the skip capacitor is charged in the same phase as those of `inner`. Does
    not model: its mismatch.

    Raises `ValueError` unless `inner` has `n_side` inputs more than outputs and
    `hold_F` [F] is positive. Has no netlist of its own, and says so.
    """

    inner: AbstractCircuit
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    hold_F: float = eqx.field(static=True)

    def __init__(self, inner: AbstractCircuit, *, hold_F: float, n_side: int = 0):
        if inner.n_in != inner.n_out + n_side:
            beside = f" and the {n_side} beside them" if n_side else ""
            raise ValueError(
                f"Argument `inner` must have as many outputs as inputs{beside}, but has"
                f" {inner.n_out} and {inner.n_in}."
            )
        if not hold_F > 0:
            raise ValueError(f"Argument `hold_F` must be positive, but is {hold_F}.")
        self.inner, self.hold_F = inner, hold_F
        self.n_in, self.n_out = inner.n_in, inner.n_out

    def init_state(self, batch_shape=()):
        return self.inner.init_state(batch_shape)

    def _run(self, verb, state, x, *, process, key):
        state, y = getattr(self.inner, verb)(
            state, x, process=process, key=stream(key, "inner")
        )
        y = thermal_noise(
            coupled(x[..., : self.n_out] + y, process=process),
            process.thermal_variance(self.hold_F),
            process=process,
            key=stream(key, "skip"),
        )
        return state, limited(y)

    def step(self, state, x, *, process, key):
        return self._run("step", state, x, process=process, key=key)

    def scan(self, state, xs, *, process, key):
        return self._run("scan", state, xs, process=process, key=key)

    def events(self, process, *, period_s):
        swing = self.hold_F * process.swing_V
        settling = process.settling_charge_C(self.hold_F)
        return (
            *self.inner.events(process, period_s=period_s),
            Event("supply_charge_C", 2 * self.n_out * swing, "skip"),
            Event("amplifier_charge_C", 2 * self.n_out * settling, "skip"),
        )

    def netlist(self, process, *, name) -> Netlist:
        # An adder behind `inner` would be another circuit, with three times the noise.
        raise ValueError(
            f"The skip of `{name}` must be drawn into the output columns of its inner"
            f" circuit, a {type(self.inner).__name__}, but its summing nodes are no"
            " ports: export the inner circuit, and add the capacitors there."
        )


def _at_least_one(parts: Sequence[AbstractCircuit]) -> tuple[AbstractCircuit, ...]:
    if not parts:
        raise ValueError("Argument `parts` must hold a circuit, but is empty.")
    return tuple(parts)


def _under(name: str, part: AbstractCircuit, process: Process, period_s: float):
    events = part.events(process, period_s=period_s)
    return tuple(event.under(name) for event in events)


def _events_of_all(parts, process, period_s):
    named = enumerate(parts)
    return sum((_under(str(i), part, process, period_s) for i, part in named), ())
