"""Into lookup tables: comparators and codes."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event, adc_event
from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.materialized import materialized
from physnn.noise import coupled, thermal_noise
from physnn.process import Process

# Drawn area of a comparator's input pair: 1.4 mV of offset at 28 nm.
PAIR_M2 = 2e-12
# Load of each internal node of a comparator; sets its noise and its charge.
COMPARATOR_F = 10e-15


@jax.custom_vjp
def sign_of(u: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """±1, the sign of `u`, with the gradient of tanh(u)."""
    return jnp.where(u > 0, 1.0, -1.0).astype(u.dtype)


sign_of.defvjp(
    lambda u: (sign_of(u), u),
    lambda u, g: (materialized(g) * (1 - jnp.square(jnp.tanh(u))),),
)


class Thermometer(AbstractMemorylessCircuit):
    """A flash of comparators on each input: as many bits are high as x is high.

        x ─┬─▷ x > θ_0 ── b_0        b_j = sgn(x − θ_j − offset_j + n_j)
           ├─▷ x > θ_1 ── b_1        Var n = thermal_noise·kT / comparator_F / swing²
           └─ …                      offset: mismatch A_VT/√area of the pair

    Output i·levels + j is threshold j of input i, ± full scale. The thresholds are
    trained: the gradient is that of tanh((x − θ)/width), which `soft` evaluates.

    Assumes: a clocked comparator decides within its phase. Does not model: kickback,
    hysteresis, the reference ladder that holds the thresholds, metastability (a noisy
    decision is one side or the other).

    References: thermometer code as the input of weightless networks, Susskind et al.
    2023, DOI 10.1145/3629522; comparator noise, Nuzzo et al. 2008, DOI
    10.1109/TCSI.2008.917991.
    """

    threshold: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    width: float = eqx.field(static=True)
    comparator_F: float = eqx.field(static=True)
    soft: bool = eqx.field(static=True)

    @property
    def levels(self) -> int:
        """Comparators on each input."""
        return self.n_out // self.n_in

    def apply(self, x, *, process, key):
        x = coupled(x, process=process)
        over = x[..., None] - self.threshold.realized()
        # The draw has one row of comparators: (…, n_in·levels).
        over = over.reshape(*x.shape[:-1], self.n_out)
        over = thermal_noise(over, self.variance(process), process=process, key=key)
        u = materialized(over / self.width)
        return jnp.tanh(u) if self.soft else sign_of(u)

    def variance(self, process: Process):
        """Variance of a comparator's noise, referred to its input [full scale²]."""
        return process.thermal_variance(self.comparator_F)

    def diagnose(self, xs, *, process, key):
        high = jnp.mean(self.apply(xs, process=process, key=key) > 0, range_of(xs))
        return {"stuck_share": jnp.mean((high == 0) | (high == 1))}

    def events(self, process, *, period_s):
        del period_s
        # Both halves' internal nodes are reset and decide once.
        charge = 2 * self.n_out * self.comparator_F * process.supply_V
        return (
            Event("supply_charge_C", charge, "comparators"),
            Event("flop_cycle", self.n_out, "comparators"),
        )

    def netlist(self, process, *, name) -> Netlist:
        thresholds = cells.realized(self.threshold)
        x = cells.difference("x", process)
        gain = cells.number(1e6)
        law = cells.clip(f"{gain} * ({x} - threshold)")
        # Both sides of the first threshold, by a tenth of full scale.
        first = float(thresholds[0, 0])
        xs = np.asarray([first - 0.1, first + 0.1, first - 0.01, first + 0.01])
        bench = cells.static_bench(
            f"{name}_comparator_sides",
            {"x": xs},
            {"y": np.sign(xs - first)},
            process=process,
        )
        comparator = Netlist(
            f"{name}_comparator",
            (*cells.halves("x", "y"), "ref"),
            cells.differential_voltage("y", law, process),
            parameters={
                "threshold": Parameter(first, "full scale", "trained threshold")
            },
            benches=(bench,),
            notes="y is plus full scale where x is above the threshold, else minus.",
        )
        instances = tuple(
            Instance(
                f"comparator{i}_{j}",
                comparator,
                (*cells.halves(f"x{i}", f"y{i * self.levels + j}"), "ref"),
                {"threshold": float(thresholds[i, j])},
            )
            for i in range(self.n_in)
            for j in range(self.levels)
        )
        ports = (*cells.bus("x", self.n_in), *cells.bus("y", self.n_out), "ref")
        return Netlist(name, ports, instances=instances)


def range_of(xs) -> tuple[int, ...]:
    """All axes of a sequence but the last."""
    return tuple(range(xs.ndim - 1))


def thermometer(
    n_in: int,
    levels: int,
    *,
    low: float = -1.0,
    high: float = 1.0,
    width: float = 0.1,
    comparator_F: float = COMPARATOR_F,
) -> Thermometer:
    """Comparators with thresholds evenly inside `low`..`high` [full scale].

    `width`: distance from a threshold at which its gradient fades [full scale].
    Raises `ValueError` for an empty range and sizes that are not positive.
    """
    for name, value in (
        ("n_in", n_in),
        ("levels", levels),
        ("width", width),
        ("comparator_F", comparator_F),
    ):
        if not value > 0:
            raise ValueError(f"Argument `{name}` must be positive, but is {value}.")
    if not low < high:
        raise ValueError(
            f"Argument `low` must be below `high`, but they are {low} and {high}."
        )
    inside = jnp.asarray((np.arange(levels) + 0.5) / levels, jnp.float32)
    return Thermometer(
        threshold=Bank(
            jnp.broadcast_to(low + (high - low) * inside, (n_in, levels)),
            kind="threshold",
            unit="full scale",
            area_m2=PAIR_M2,
        ),
        n_in=n_in,
        n_out=n_in * levels,
        width=width,
        comparator_F=comparator_F,
        soft=False,
    )


class BinaryEncoder(AbstractMemorylessCircuit):
    """A converter on each input: its code in offset binary, the lowest bit first.

        x ──[ SAR ]── b_0 … b_{bits−1}     code = ⌊2^bits·u⌋
                                           u = (x + offset + n − low)/(high − low)
                                           Var n = thermal_noise·kT/sample_F/swing²

    Bit j is −sgn sin(2π·2^{bits−1−j}·u), which holds from `low` to `high`; an input
    outside is clipped. Its gradient is that of tanh(−2·sin), which `soft` evaluates.

    Assumes: an ideal converter behind the sampling capacitor. Does not model: its own
    linearity. A thermometer trains better (neighboring inputs differ in one bit); a
    code is what fewer wires cost.
    """

    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    bits: int = eqx.field(static=True)
    low: float = eqx.field(static=True)
    high: float = eqx.field(static=True)
    sample_F: float = eqx.field(static=True)
    soft: bool = eqx.field(static=True)

    def apply(self, x, *, process, key):
        x = coupled(x + self.offset.realized(), process=process)
        variance = process.thermal_variance(self.sample_F)
        x = thermal_noise(x, variance, process=process, key=key)
        # A hair inside, so that `high` itself is the highest code.
        turns = jnp.clip((x - self.low) / (self.high - self.low), 0.0, 1 - 2.0**-21)
        octaves = 2.0 ** np.arange(self.bits - 1, -1, -1)
        phase = 2 * jnp.pi * turns[..., None] * octaves.astype(x.dtype)
        u = -2 * jnp.sin(phase).reshape(*x.shape[:-1], self.n_out)
        if self.soft:
            return jnp.tanh(u)
        code = jnp.floor(turns * 2**self.bits).astype(jnp.int32)
        high = (code[..., None] >> jnp.arange(self.bits)) & 1
        exact = 2 * high.reshape(u.shape).astype(x.dtype) - 1
        # The value is that of the integer code, the gradient that of the sine.
        return exact + (sign_of(u) - jax.lax.stop_gradient(sign_of(u)))

    def events(self, process, *, period_s):
        del period_s
        charge = 2 * self.n_in * self.sample_F * process.swing_V
        return (
            Event(adc_event(self.bits), self.n_in, "converters"),
            Event("supply_charge_C", charge, "sampling"),
        )

    def netlist(self, process, *, name) -> Netlist:
        offsets = cells.realized(self.offset)
        x = cells.difference("x", process)
        low, span = cells.number(self.low), cells.number(self.high - self.low)
        # Successive approximation: what is left after the higher bits decides the next.
        devices = [
            Device(
                "rest",
                "voltage",
                ("r0", "ref"),
                law=f"max(0, min(0.999999, ({x} + offset - {low}) / {span}))",
            )
        ]
        for step in range(self.bits):
            weight = cells.number(2.0 ** -(step + 1))
            bit, rest = f"d{step}", f"v(r{step}, ref)"
            devices.append(
                Device(
                    bit,
                    "voltage",
                    (bit, "ref"),
                    law=f"max(0, min(1, 0.5 + 1e6 * ({rest} - {weight})))",
                )
            )
            if step < self.bits - 1:
                devices.append(
                    Device(
                        f"rest{step}",
                        "voltage",
                        (f"r{step + 1}", "ref"),
                        law=f"{rest} - {weight} * v({bit}, ref)",
                    )
                )
            devices += cells.differential_voltage(
                f"y{self.bits - 1 - step}", f"2 * v({bit}, ref) - 1", process
            )
        xs = cells.trial_vectors((6, 1))[:, 0]
        ys = cells.predicted(self, np.repeat(xs[:, None], self.n_in, axis=1), process)
        bench = cells.static_bench(
            f"{name}_codes",
            {"x": xs},
            cells.rows("y", ys[:, : self.bits]),
            process=process,
        )
        converter = Netlist(
            f"{name}_converter",
            (*cells.halves("x"), *cells.bus("y", self.bits), "ref"),
            tuple(devices),
            parameters={
                "offset": Parameter(float(offsets[0]), "full scale", "trained offset")
            },
            benches=(bench,),
        )
        instances = tuple(
            Instance(
                f"converter{i}",
                converter,
                (
                    *cells.halves(f"x{i}"),
                    *cells.halves(*(f"y{i * self.bits + j}" for j in range(self.bits))),
                    "ref",
                ),
                {"offset": float(offset)},
            )
            for i, offset in enumerate(offsets)
        )
        ports = (*cells.bus("x", self.n_in), *cells.bus("y", self.n_out), "ref")
        return Netlist(name, ports, instances=instances)


def binary_encoder(
    n_in: int, bits: int, *, low: float = -1.0, high: float = 1.0
) -> BinaryEncoder:
    """Converters of 1 to 8 `bits` on `n_in` inputs from `low` to `high` [full scale].

    Raises `ValueError` for an empty range and other sizes.
    """
    if not low < high:
        raise ValueError(
            f"Argument `low` must be below `high`, but they are {low} and {high}."
        )
    if n_in < 1:
        raise ValueError(f"Argument `n_in` must be positive, but is {n_in}.")
    if not 1 <= bits <= 8:
        raise ValueError(f"Argument `bits` must be from 1 to 8, but is {bits}.")
    return BinaryEncoder(
        offset=Bank(
            jnp.zeros(n_in), kind="threshold", unit="full scale", area_m2=PAIR_M2
        ),
        n_in=n_in,
        n_out=n_in * bits,
        bits=bits,
        low=low,
        high=high,
        sample_F=COMPARATOR_F,
        soft=False,
    )
