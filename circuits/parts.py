"""Shared parts: gain control, Gilbert gate, sampled delay line."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit, AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import array
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.full_scale import limited
from physnn.materialized import materialized
from physnn.noise import coupled, thermal_noise
from physnn.process import Process
from physnn.products import scaled, shifted, sum_of_rows
from physnn.time_parts import joined, n_parts, with_past

# Load of a node inside a block: a short wire, a gate, a sampling capacitor.
NODE_F = 10e-15
# Drawn area of a transconductor's pair.
PAIR_M2 = 1e-12


class AutomaticGain(AbstractMemorylessCircuit):
    """A translinear RMS divider: brings a vector to a fixed root mean square.

        x_i ──▷──┬───────────▷ gm·I/I_rms ──┬── y_i = level·x_i / sqrt(mean x² + floor²)
                 └──(·)²──┐                 │
                  others ─┴── I_rms = √Σ ───┘

    The gain of each channel is a trained current ratio (`gain`). `floor` bounds the
    amplification, `bandwidth` is that of the loop's node capacitance.

    Assumes: the loop settles within a stage; its thermal noise is what the capacitors
    it drives sample, counted there (kT/C does not depend on the driver, the process's
    `thermal_noise` holds the excess). Does not model: deviation from the translinear
    law in moderate inversion, lag of the RMS behind the signal.
    Reference: Gilbert 1975, "Translinear circuits: a proposed classification", DOI
    10.1049/el:19750011.
    """

    gain: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    level: float = eqx.field(static=True)
    floor: float = eqx.field(static=True)

    def __init__(self, n: int, *, level: float = 0.25, floor: float = 0.01):
        positive(n=n, level=level, floor=floor)
        self.n_in = self.n_out = n
        self.level, self.floor = level, floor
        self.gain = Bank(
            jnp.ones(n), kind="current", unit="I/I_rms", area_m2=PAIR_M2, low=0.0
        )

    def apply(self, x, *, process, key):
        del process, key
        power = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        scale = self.level * jax.lax.rsqrt(power + self.floor**2)
        return limited(scaled(x * scale, self.gain.realized()))

    def events(self, process, *, period_s):
        del period_s
        # Squarer, divider and output branch of each channel settle one node each.
        charge = 3 * self.n_in * process.settling_charge_C(NODE_F)
        return (Event("amplifier_charge_C", charge, "translinear loop"),)

    def netlist(self, process, *, name) -> Netlist:
        gains = cells.realized(self.gain).tolist()
        x, number = cells.difference("x", process), cells.number
        # The sum of the squares, 1 µA for a full scale in every channel, into 1 Mohm.
        square = Netlist(
            f"{name}_square",
            ("xp", "xn", "sum", "ref"),
            (
                Device(
                    "square",
                    "current",
                    ("ref", "sum"),
                    law=f"{number(1e-6 / self.n_in)} * {x} * {x}",
                ),
            ),
        )
        rms = f"sqrt(max(0, v(sum, ref)) + {number(self.floor**2)})"
        y = cells.clip(f"{number(self.level)} * gain * {x} / {rms}")
        divide = Netlist(
            f"{name}_divide",
            ("xp", "xn", "yp", "yn", "sum", "ref"),
            cells.differential_voltage("y", y, process),
            parameters={"gain": Parameter(1.0, "I/I_rms", "trained current ratio")},
        )
        instances = []
        for i, gain in enumerate(gains):
            xs, ys = cells.halves(f"x{i}"), cells.halves(f"y{i}")
            nets, values = (*xs, *ys, "sum", "ref"), {"gain": gain}
            instances += [
                Instance(f"square{i}", square, (*xs, "sum", "ref")),
                Instance(f"divide{i}", divide, nets, values),
            ]
        xs = cells.trial_vectors((3, self.n_in)) * np.asarray(
            [[1], [0.1], [0.01]], np.float32
        )
        ys = cells.predicted(self, xs, process)
        bench = cells.static_bench(
            f"{name}_levels", cells.rows("x", xs), cells.rows("y", ys), process=process
        )
        return Netlist(
            name,
            (*cells.bus("x", self.n_in), *cells.bus("y", self.n_in), "ref"),
            (Device("sum", "resistor", ("sum", "ref"), {"resistance_ohm": 1e6}),),
            tuple(instances),
            benches=(bench,),
            notes="v(sum, ref) is the mean square of the inputs [full scale^2].",
        )


class GilbertGate(AbstractMemorylessCircuit):
    """A multiplier of two signals, one of them compressed: y = a·tanh(b / 2nU_T).

        a ──▷ gm ──┐
                   ├── (cross-coupled pairs, b) ── y
        b ─────────┘

    Inputs are `(a, b)` concatenated. The steering pair works in weak inversion, so its
    law is tanh(v / 2nU_T); `offset` is that of the steering pair.

    Assumes: the transconductor of a is linearized (degenerated) over full scale;
    thermal noise as in `AutomaticGain`. Does not model: Early effect, drift of the
    common mode.
    Reference: Gilbert 1968, "A precise four-quadrant multiplier", DOI
    10.1109/JSSC.1968.1049925.
    """

    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, n: int):
        positive(n=n)
        self.n_in, self.n_out = 2 * n, n
        self.offset = Bank(
            jnp.zeros(n), kind="threshold", unit="full scale", area_m2=PAIR_M2
        )

    def apply(self, x, *, process, key):
        del key
        a, b = jnp.split(x, 2, axis=-1)
        b = shifted(b, self.offset.realized())
        return a * jnp.tanh(b / process.linear_range())

    def events(self, process, *, period_s):
        del period_s
        # Two stacked pairs share one tail, which must settle the output node.
        charge = 2 * self.n_out * process.settling_charge_C(NODE_F)
        return (Event("amplifier_charge_C", charge, "gates"),)

    def netlist(self, process, *, name) -> Netlist:
        offsets = cells.realized(self.offset).tolist()
        a, b = (cells.difference(signal, process) for signal in "ab")
        law = f"{a} * tanh(({b} + offset) / {cells.number(process.linear_range())})"
        x = cells.trial_vectors((2, 8))
        xs = np.repeat(x.T, self.n_out, axis=1)
        ys = cells.predicted(self, xs, process)
        bench = cells.static_bench(
            f"{name}_unit_products",
            {"a": x[0], "b": x[1]},
            {"y": ys[:, 0]},
            process=process,
        )
        unit = Netlist(
            f"{name}_unit",
            (*cells.halves("a", "b", "y"), "ref"),
            cells.differential_voltage("y", law, process),
            parameters={
                "offset": Parameter(
                    offsets[0], "full scale", "trained offset of the pair"
                )
            },
            benches=(bench,),
            notes="y = a tanh((b + offset) / 2nU_T)",
        )
        channels = [(unit, {"offset": offset}) for offset in offsets]
        return array(name, channels, n_signals_in=2)


class DelayLine(AbstractCircuit[Float[Array, "past *batch n"]]):
    """A short switched-capacitor filter per channel: y_t = clip(Σ_k c_k·x_{t−k}).

        x ──╱──┤├─┬──╱──┤├─┬──╱──┤├── …      samples of the last tokens, held on
                  c_0      c_1      c_2       capacitors and summed by charge

    Assumes: held samples are refreshed once per token. Does not model: droop between
    tokens, charge injection.
    """

    tap: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, n: int, *, n_taps: int, process: Process):
        positive(n=n, n_taps=n_taps)
        self.n_in = self.n_out = n
        first = jnp.zeros((n_taps, n)).at[0].set(1.0)
        self.tap = Bank(
            first,
            kind="capacitor",
            unit="C/C_f",
            n_units=max(1, round(NODE_F / process.capacitor_min_F)),
            area_m2=process.capacitor_min_F / process.capacitor_density_F_per_m2,
        )

    def init_state(self, batch_shape=()):
        return jnp.zeros((self.tap.value.shape[0] - 1, *batch_shape, self.n_in))

    def scan(self, state, xs, *, process, key):
        taps = self.tap.realized()
        if n_parts() > 1:
            held = with_past(state, xs)
            filtered = jax.vmap(tapped, in_axes=(None, 0))
            y, held = joined(filtered(taps, materialized(held))), held[-1]
        else:
            held = jnp.concatenate([state, xs])
            y = tapped(taps, materialized(held))
        y = coupled(y, process=process)
        variance = process.thermal_variance(NODE_F) * (1 + jnp.sum(jnp.abs(taps), 0))
        y = thermal_noise(y, variance, process=process, key=key)
        return held[len(held) - len(state) :], limited(y)

    def step(self, state, x, *, process, key):
        state, ys = self.scan(state, x[None], process=process, key=key)
        return state, ys[0]

    def events(self, process, *, period_s):
        del period_s
        taps = self.tap.value.shape[0]
        hold = taps * self.n_in * NODE_F * process.swing_V * 2
        switches = (3 * taps + 2 * 4) * process.switch_C()
        amplifiers = 2 * self.n_in * process.settling_charge_C((taps + 1) * NODE_F)
        return (
            Event("supply_charge_C", hold, "held samples"),
            Event("amplifier_charge_C", amplifiers, "amplifiers"),
            # A column of taps for each channel, as in a charge MAC.
            Event("clock_charge_C", self.n_in * switches, "switches"),
            Event("flop_cycle", 2 * taps, "clock phases"),
        )

    def netlist(self, process, *, name) -> Netlist:
        taps = cells.realized(self.tap)
        weight = cells.charge_weight(f"{name}_weight", process)
        hold = cells.hold(f"{name}_hold", NODE_F, process)
        total_F = NODE_F * (1 + float(np.sum(np.abs(taps[:, 0]))))
        xs = np.repeat(cells.trial_vectors((8, 1)), self.n_in, axis=1)
        ys = cells.predicted(self, xs, process)
        bench = cells.differential_bench(
            f"{name}_channel0_tokens",
            {"x": xs[:, 0]},
            {"y": ys[:, 0]},
            process=process,
            slot_s=cells.slot_s(total_F),
            gate="B2",
            absolute=1e-4,
            clocks=cells.CLOCKS,
            sample=cells.SAMPLE,
        )
        channels = []
        for j in range(self.n_in):
            column = cells.charge_column(
                f"{name}_column{j}",
                taps[:, j],
                weight=weight,
                feedback_F=NODE_F,
                offset=0.0,
                process=process,
            )
            benches = (bench,) if j == 0 else ()
            channel = cells.delayed(f"{name}_channel{j}", column, hold, benches=benches)
            channels.append((channel, {}))
        return array(name, channels)


@jax.custom_vjp
def tapped(
    taps: Float[Array, "taps n"], held: Float[Array, "past_and_time *batch n"]
) -> Float[Array, "time *batch n"]:
    """Σ_k taps_k·held_{t−k}, whose gradient is the same sum backwards in time."""
    time = len(held) - len(taps) + 1
    y = taps[-1] * held[:time]
    for k in range(1, len(taps)):
        y = y + taps[-1 - k] * held[k : k + time]
    return y


def _tapped_gradient(residuals, g):
    taps, held = residuals
    g, past = materialized(g), len(taps) - 1
    none = jnp.zeros((past, *g.shape[1:]), g.dtype)
    to_held = tapped(taps[::-1], materialized(jnp.concatenate([none, g, none])))
    to_taps = [sum_of_rows(g * held[k : k + len(g)]) for k in range(past, -1, -1)]
    return jnp.stack(to_taps), to_held


tapped.defvjp(lambda taps, held: (tapped(taps, held), (taps, held)), _tapped_gradient)


def positive(**amounts: int | float) -> None:
    """Raises `ValueError` for the first amount that is not above zero and finite."""
    for name, value in amounts.items():
        if not value > 0:
            raise ValueError(f"Argument `{name}` must be positive, but is {value}.")
        _finite(name, value)


def not_negative(**amounts: int | float) -> None:
    """Raises `ValueError` for the first amount that is below zero, or no number."""
    for name, value in amounts.items():
        if not value >= 0:
            raise ValueError(f"Argument `{name}` must not be negative, but is {value}.")
        _finite(name, value)


def _finite(name: str, value: int | float) -> None:
    if value == math.inf:
        raise ValueError(f"Argument `{name}` must be finite, but is {value}.")


def one_of(*known: str, **chosen: str) -> None:
    """Raises `ValueError` for the first choice that is not among those known."""
    for name, value in chosen.items():
        if value not in known:
            raise ValueError(
                f"Argument `{name}` must be {', '.join(known[:-1])} or {known[-1]}, but"
                f" is {value!r}."
            )


def log_spaced_sigmoid_bias(n: int, *, fastest: float, slowest: float):
    """Biases b with sigmoid(b) log-spaced from `fastest` down to `slowest`."""
    target = jnp.exp(jnp.linspace(math.log(fastest), math.log(slowest), n))
    return jnp.log(target) - jnp.log1p(-target)
