"""Channel synapse: a current limiter and a leak where others multiply."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.full_scale import limited
from physnn.lines import TailLines
from physnn.materialized import materialized
from physnn.noise import coupled, is_zero, noisy, shot_variance
from physnn.process import Process

# Root mean square of the inputs and of the weights at the start, as `AutomaticGain`
# leaves them.
LEVEL = 0.25
# Drawn area of one unit current source.
UNIT_M2 = 0.1e-12
# Area of a weight's stored bits and switches beside its current sources.
CELL_OVERHEAD_M2_PER_BIT = 0.3e-12
# Drawn area of the pair that reads a column: sets its offset.
PAIR_M2 = 4e-12
# Added to the wire of a column to hold its sum.
SUM_F = 10e-15
# Half of a token of 1 µs.
INTEGRATE_S = 0.5e-6

# Terms that are added up before a partial sum goes to memory: on a CPU a loop over 16
# is vectorized and stays in cache, 0.15 ns a synapse; the plain sum takes 60 ns.
UNROLL = 16


class ChannelLayer(AbstractMemorylessCircuit):
    """A matrix of channels that pass a signal up to their limit: no multiplier.

               |w_ij|·I_u  (tail)
                   │                  x_i ──▷ pair ─┬─ straight: w > 0 ─┐
        x_i ──▷──┬─┴─┬── i_ij                       └─ crossed:  w < 0 ─┴── Σ_i ── y_j
                 └ m ┘ (leak)                                              ═ C

        f(x, w) = sgn(w)·(sgn(x)·min(|x|, |w|) + m·x)
        y_j = clip(Σ_i f(x_i, w_ij) / F + offset_j + n_j, ±1),  F = 0.60·√n_in / gain
        Var n_j = shot_noise·q·Σ_i|w_ij| / (2·C·swing·F) + thermal_noise·kT/C / swing²

    A synapse is a linearized differential pair: its current follows x until the tail
    |w|·I_u is used up, and a fixed conductance m beside it leaks on. Limiter and leak
    have two output terminals; a negative weight exchanges them (cross-wiring), so that
    the sign costs nothing and a weight of zero has neither. Of `bits`, one is the sign
    and the rest switch 2^(bits−1) − 1 unit current sources. Columns sum on a wire and
    integrate for a fixed part of the token: a current of F·I_u moves the capacitance of
    the wire and `SUM_F` by full scale, which sets I_u. The limited part of f is
    symmetric in x and w; for normal x and w of equal width σ its spread is
    σ·√(1 − 2/π) = 0.60·σ, which F takes.

    The tails flow whatever the signal, and with them full shot noise, of tail, pair and
    mirror together `shot_noise` times that of the tail.

    The tails of a column return on one wire, whose IR drop takes from those far from
    its foot (`line_ohm_per_m`, `physnn.variation.line`).

    Assumes: tails on only while a column integrates; leaks are passive. Does not model:
    offsets of the single pairs, the soft corner of a real limiter, output resistance.

    References: the synapse, arXiv 2601.02253; shot noise of weak inversion, Sarpeshkar,
    Delbrück & Mead 1993, "White noise in MOS transistors and resistors", DOI
    10.1109/101.261888.
    """

    weight: Bank
    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    leak: float = eqx.field(static=True)
    units: float = eqx.field(static=True)  # F

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        bits: int,
        key: Key[Array, ""],
        gain: float = 1.0,
        leak: float = 0.05,
        integrate_s: float = INTEGRATE_S,
    ):
        """`gain`: rms of the output over that of the input, at the start; `leak`: m;
        `integrate_s`: how long a column integrates [s].
        """
        if n_in < 1 or n_out < 1:
            raise ValueError(
                f"Arguments `n_in` and `n_out` must be positive, but are {n_in} and"
                f" {n_out}."
            )
        if not gain > 0:
            raise ValueError(f"Argument `gain` must be positive, but is {gain}.")
        if not 0 <= leak < 1:
            raise ValueError(f"Argument `leak` must be in [0, 1), but is {leak}.")
        self.n_in, self.n_out, self.leak = n_in, n_out, leak
        self.units = math.sqrt((1 - 2 / math.pi) * n_in) / gain
        self.weight = Bank(
            LEVEL * jr.normal(key, (n_in, n_out)),
            kind="current",
            unit="I/I_u",
            n_units=2 ** (bits - 1) - 1,
            area_m2=UNIT_M2,
            bits=bits,
            low=-1.0,
            high=1.0,
            lines=TailLines(
                2 / self.units,
                SUM_F,
                integrate_s,
                "swing",
                CELL_OVERHEAD_M2_PER_BIT,
                with_wire=True,
            ),
        )
        self.offset = Bank(
            jnp.zeros(n_out),
            kind="threshold",
            unit="full scale",
            area_m2=PAIR_M2,
            low=-1.0,
            high=1.0,
        )

    def apply(self, x, *, process, key):
        w = self.weight.realized()
        x = materialized(x)
        y = channel_sum(x, w) + x @ (self.leak * jnp.sign(w))
        y = process.rate * y / self.units + self.offset.realized()
        y = coupled(y, process=process)
        if not (is_zero(process.thermal_noise) and is_zero(process.shot_noise)):
            y = noisy(y, self.noise_variance(process), key)
        return limited(y)

    def tails(self) -> Float[Array, " n_out"] | float:
        """Σ_i |w_ij| of each column, in unit currents of a full scale."""
        if isinstance(self.weight.value, jax.ShapeDtypeStruct):
            return self.n_in * LEVEL * math.sqrt(2 / math.pi)  # as it starts
        nominal = jax.lax.stop_gradient(self.weight.nominal())
        return jnp.sum(jnp.abs(nominal), axis=0)

    def noise_variance(self, process: Process) -> Float[Array, " n_out"] | float:
        """Variance of each output's noise [full scale²]: shot noise and kT/C."""
        sum_F = self.sum_F(process)
        full_C = 2 * sum_F * process.swing_V
        tails_C = self.tails() * full_C / self.units
        shot = shot_variance(tails_C, full_scale_C=full_C, process=process)
        return shot + process.thermal_variance(sum_F)

    def cell_m2(self) -> float:
        """Area of one synapse: its unit current sources, bits and switches [m²]."""
        bits = self.weight.bits or 8
        return self.weight.n_units * UNIT_M2 + bits * CELL_OVERHEAD_M2_PER_BIT

    def span_m(self, process: Process) -> float:
        """Side of the array of synapses, drawn as a square [m]."""
        del process
        return math.sqrt(self.n_in * self.n_out * self.cell_m2())

    def sum_F(self, process: Process) -> float:
        """Capacitance that a column integrates on: its wire and `SUM_F` [F]."""
        return SUM_F + self.n_in * math.sqrt(self.cell_m2()) * process.wire_F_per_m

    def events(self, process, *, period_s):
        # F·I_u·t = 2·C·swing, so the charge of all tails of a column is that, per F.
        full_C = 2 * self.sum_F(process) * process.swing_V
        tails = self.n_out * jnp.mean(jnp.asarray(self.tails())) * full_C / self.units
        pitch_m = math.sqrt(self.cell_m2())
        gates_F = 2 * process.switch_gate_F  # both transistors of a pair
        line_F = self.n_out * (pitch_m * process.wire_F_per_m + gates_F)
        lines = 2 * self.n_in * line_F * process.swing_V
        drivers = 2 * self.n_in * process.settling_charge_C(line_F)
        buffers = 2 * self.n_out * process.settling_charge_C(self.sum_F(process))
        stored_bits = self.n_in * self.n_out * (self.weight.bits or 8)
        return (
            Event("supply_charge_C", tails, "tails"),
            Event("supply_charge_C", lines, "input lines"),
            Event("amplifier_charge_C", drivers, "input drivers"),
            Event("amplifier_charge_C", buffers, "column buffers"),
            Event("stored_bit_s", stored_bits * period_s, "weights"),
            # An output integrates and is reset on both halves.
            Event("clock_charge_C", 4 * self.n_out * process.switch_C(), "switches"),
            Event("flop_cycle", 2 * 2, "integrate and reset"),
        )

    def diagnose(self, xs, *, process, key):
        """`limited`: share of the channels that are at their limit; `clipped`: outputs.

        Of 64 vectors at most.
        """
        x = xs.reshape(-1, self.n_in)[-64:]
        limits = jnp.abs(self.weight.realized())
        above = jax.lax.map(lambda row: jnp.mean(jnp.abs(row)[:, None] > limits), x)
        y = self.apply(x, process=process, key=key)
        clipped = jnp.mean((jnp.abs(y) >= 1).astype(y.dtype))
        return {"limited": jnp.mean(above), "clipped": clipped}

    def netlist(self, process, *, name) -> Netlist:
        weights = cells.realized(self.weight)
        offsets = cells.realized(self.offset)
        x, number = cells.difference("x", process), cells.number
        # A microampere for a full scale, into a megohm.
        limited = f"max(-tail, min(tail, {x}))"
        law = f"1e-6 * ({limited} + {number(self.leak)} * {x})"
        synapse = Netlist(
            f"{name}_synapse",
            ("xp", "xn", "sum", "ref"),
            (Device("channel", "current", ("ref", "sum"), law=law),),
            parameters={
                "tail": Parameter(0.3, "I/I_u", "trained limit, in unit currents")
            },
            notes="sgn(x) min(|x|, tail) + m x; its sign is given by the order in"
            " which xp, xn are wired.",
        )
        silence = np.zeros((1, self.n_in), np.float32)
        xs = np.concatenate([silence, cells.trial_vectors((4, self.n_in))])
        bench = cells.static_bench(
            f"{name}_column0_sums",
            cells.rows("x", xs),
            {"y": cells.predicted(self, xs, process)[:, 0]},
            process=process,
        )
        ports, y = cells.bus("x", self.n_in), f"v(sum, ref) / {number(self.units)}"
        columns = []
        for j in range(self.n_out):
            wired = tuple(
                Instance(
                    f"w{i}",
                    synapse,
                    (*cells.halves(f"x{i}")[:: 1 if w > 0 else -1], "sum", "ref"),
                    {"tail": abs(float(w))},
                )
                for i, w in enumerate(weights[:, j])
                if w
            )
            column = Netlist(
                f"{name}_column{j}",
                (*ports, "yp", "yn", "ref"),
                (
                    Device("sum", "resistor", ("sum", "ref"), {"resistance_ohm": 1e6}),
                    *cells.differential_voltage(
                        "y", cells.clip(f"{y} + offset"), process
                    ),
                ),
                wired,
                parameters={
                    "offset": Parameter(
                        float(offsets[j]), "full scale", "trained offset of the column"
                    )
                },
                benches=(bench,) if j == 0 else (),
            )
            wires = (*ports, *cells.halves(f"y{j}"), "ref")
            columns.append(Instance(f"column{j}", column, wires))
        return Netlist(
            name,
            (*ports, *cells.bus("y", self.n_out), "ref"),
            instances=tuple(columns),
            notes="A column's integration over a token is drawn as a resistor: a"
            " microampere for a full scale, into a megohm, over F.",
        )


@jax.custom_vjp
def channel_sum(
    x: Float[Array, "*batch n_in"], w: Float[Array, "n_in n_out"]
) -> Float[Array, "*batch n_out"]:
    """Σ_i sgn(x_i)·sgn(w_ij)·min(|x_i|, |w_ij|), exact, without the array of terms.

    At a corner |x| = |w| the gradient goes to w; where x or w is zero it is that of the
    identity in the other, so that a channel that is off can be switched on.
    """
    rows = x.reshape(-1, x.shape[-1])
    sign, limit = jnp.sign(w), jnp.abs(w)

    def add(y, x, sign, high, low):
        # By selects, one instruction each; XLA's minimum and maximum take three. A NaN
        # stays one.
        limited = jnp.where(x[:, None] > high, high, x[:, None])
        return y + sign * jnp.where(limited < low, low, limited)

    y = jnp.zeros((len(rows), w.shape[1]), jnp.result_type(x, w))
    y = _accumulate(add, y, materialized(rows.T), sign, limit, -limit)
    return y.reshape(*x.shape[:-1], w.shape[1])


def _forward(x, w):
    return channel_sum(x, w), (x, w)


def _backward(residuals, g):
    x, w = residuals
    g = materialized(g)
    rows, g_rows = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
    sign, limit = jnp.sign(w), jnp.abs(w)
    size = jnp.abs(rows)

    def add_x(dx, g, sign, limit):
        return dx + jnp.where(size < limit, sign * g[:, None], 0)

    def add_w(dw, sign, size, g):
        return dw + jnp.where(size[:, None] >= limit, sign[:, None] * g, 0)

    dx = _accumulate(
        add_x, jnp.zeros_like(rows), materialized(g_rows.T), sign.T, limit.T
    )
    dw = _accumulate(add_w, jnp.zeros_like(w), jnp.sign(rows), size, g_rows)
    return dx.reshape(x.shape), dw


channel_sum.defvjp(_forward, _backward)


def _accumulate(add, total, *terms):
    """`add` every row of the terms to `total`, `UNROLL` of them in one pass over it."""
    n = len(terms[0])
    whole = n - n % UNROLL
    for i in range(whole, n):
        total = add(total, *(term[i] for term in terms))
    chunked = [term[:whole].reshape(-1, UNROLL, *term.shape[1:]) for term in terms]

    def body(total, chunk):
        for u in range(UNROLL):
            total = add(total, *(term[u] for term in chunk))
        return total, None

    return jax.lax.scan(body, total, chunked)[0] if whole else total
