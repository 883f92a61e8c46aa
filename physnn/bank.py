"""Bank: many nominally identical devices that hold one array of trained values."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.lines import Lines
from physnn.materialized import materialized
from physnn.straight_through import quantize, quantize_to


class Bank(eqx.Module):
    """An array of devices of one kind: what is trained, fabricated and exported.

    **Fields**

    - `value`: the trained values, in `unit`; `(n_in, n_out)` or `(n,)`. A column (the
      last axis) shares one full scale.
    - `error`: the frozen error of each device, in `unit`. None in a design; drawn by
      `fabricate`. A source that changes in time has leading axes more.
    - `follow`: 1 for a device that holds its value, 0 for one that is stuck at its
      error. None: all follow.
    - `shift`: what a measured chip was found to hold beside its nominal value, in
      `unit`; None: nothing was measured.
    - `unknown`: the share of its spread that a device still has after that, 0 to 1.
      None: all of it.
    - `kind`: the kind of device. The `Process` must know its matching coefficient.
    - `unit`: SI unit of `value`, or what a ratio is of (`"C/C_f"`).
    - `size`: log of the drawn area over that of `n_units` smallest devices, one for the
      bank; None is fixed. Above zero the unit devices grow. Below it fewer of them make
      the largest value, so that a code, its own or that of a converter, has fewer
      levels; a bank of one unit stays at the smallest. It can be trained: charge grows
      with it, noise, mismatch and rounding shrink.
    - `n_units`: how many unit devices in parallel make the largest value, at most.
    - `area_m2`: smallest area of one unit device [m²].
    - `bits`: programmed code, sign included; None is continuous.
    - `clip_sigma`: a coded column ends at this multiple of its root mean square.
    - `low`, `high`: the legal range of a value (inclusive), before it is coded.
    - `programmed`: whether values are written, or drawn once and for all.
    - `lines`: the wires that rows and columns share and what they carry
      (`physnn.lines`); None is no array. Columns of `ChargeLines` add products.

    Raises `ValueError` when the range is empty, the area not positive, `n_units` below
    one or `bits` outside 2..16.
    """

    value: Float[Array, "..."]
    error: Float[Array, "..."] | None = None
    size: Float[Array, ""] | None = None
    kind: str = eqx.field(static=True, kw_only=True)
    unit: str = eqx.field(static=True, kw_only=True)
    area_m2: float = eqx.field(static=True, kw_only=True)
    n_units: int = eqx.field(static=True, default=1, kw_only=True)
    bits: int | None = eqx.field(static=True, default=None, kw_only=True)
    clip_sigma: float = eqx.field(static=True, default=2.5, kw_only=True)
    low: float = eqx.field(static=True, default=-math.inf, kw_only=True)
    high: float = eqx.field(static=True, default=math.inf, kw_only=True)
    follow: Float[Array, "..."] | None = eqx.field(default=None, kw_only=True)
    shift: Float[Array, "..."] | None = eqx.field(default=None, kw_only=True)
    unknown: Float[Array, "..."] | None = eqx.field(default=None, kw_only=True)
    programmed: bool = eqx.field(static=True, default=True, kw_only=True)
    lines: Lines | None = eqx.field(static=True, default=None, kw_only=True)

    def __check_init__(self):
        if self.low >= self.high:
            raise ValueError(
                f"Argument `low` must be below `high`, but they are {self.low} and"
                f" {self.high}."
            )
        if self.bits is not None and not 2 <= self.bits <= 16:
            raise ValueError(
                f"Argument `bits` must be None or from 2 to 16, but is {self.bits}."
            )
        if not self.area_m2 > 0:
            raise ValueError(
                f"Argument `area_m2` must be positive, but is {self.area_m2}."
            )
        if self.n_units < 1:
            raise ValueError(
                f"Argument `n_units` must be at least 1, but is {self.n_units}."
            )

    def area_factor(self) -> Float[Array, ""] | float:
        """Drawn area of a unit device over `area_m2`, at least 1."""
        if self.size is None or isinstance(self.size, jax.ShapeDtypeStruct):
            return 1.0  # known by shapes alone: as it starts
        return jnp.exp(jnp.maximum(self.size, 0.0))

    def units(self) -> Float[Array, ""] | int:
        """Unit devices in parallel that make the largest value: `n_units` or fewer.

        2^b − 1 of them, all that a code of b bits and a sign can tell apart; 2^b where
        nothing is programmed, as in the binary weights of a converter. The gradient
        does not see that b is whole.
        """
        if self.size is None or isinstance(self.size, jax.ShapeDtypeStruct):
            return self.n_units  # known by shapes alone: as it starts
        wanted = self.n_units * jnp.exp(jnp.minimum(self.size, 0.0))
        # Whole bits: a level less would be stored at the same price.
        if not self.programmed:
            whole = jnp.round(2.0 ** jnp.maximum(jnp.round(jnp.log2(wanted)), 0.0))
        else:
            bits = jnp.maximum(jnp.round(jnp.log2(wanted + 1)), 1.0)
            whole = jnp.round(2.0**bits) - 1
        relative = wanted / jax.lax.stop_gradient(wanted) - 1
        return whole + jax.lax.stop_gradient(whole) * relative

    def code_bits(self) -> Float[Array, ""] | int:
        """Bits that are stored for one value, sign included; 8 for an uncoded one.

        The gradient does not see that they are whole.
        """
        units = self.units()
        if self.bits is None or isinstance(units, int):
            return self.bits or 8
        wanted = jnp.log2(units + 1) + 1
        return wanted + jax.lax.stop_gradient(jnp.round(wanted) - wanted)

    def full_scale(self) -> Float[Array, "1 ..."]:
        """The value of a device at its largest code, one per column [`unit`].

        A coded column ends at `clip_sigma` times its root mean square, so that a few
        outliers do not waste the code (Büchel et al. 2025, arXiv 2505.09663, clip so).
        """
        legal = jnp.clip(jax.lax.stop_gradient(self.value), self.low, self.high)
        size = jnp.abs(legal)
        largest = jnp.max(size, axis=0, keepdims=True)
        if self.bits is not None:
            rms = jnp.sqrt(jnp.mean(jnp.square(size), axis=0, keepdims=True))
            largest = jnp.minimum(largest, self.clip_sigma * rms)
        return jnp.maximum(largest, 1e-6)

    def nominal(self) -> Float[Array, "..."]:
        """The value as drawn: clipped to its legal range and coded to `bits`."""
        value = jnp.clip(self.value, self.low, self.high)
        if self.bits is None:
            return value
        if self.size is None:
            return quantize(value, full_scale=self.full_scale(), bits=self.bits)
        return quantize_to(value, full_scale=self.full_scale(), levels=self.units())

    def realized(self) -> Float[Array, "..."]:
        """What a chip holds: the nominal value plus what differs in its devices.

        That is what was measured of it, and the frozen error of what was not.
        """
        value = self.nominal()
        if self.shift is not None:
            value = value + self.shift
        if self.follow is not None:
            value = value * self.follow
        if self.error is not None:
            value = value + self.error
        # Else a vector of devices is drawn and coded again for every sample it acts on.
        return materialized(value)

    @property
    def is_ratio(self) -> bool:
        """Whether it is a ratio of two equal devices, which no corner moves."""
        above, _, below = self.unit.partition("/")
        return self.unit == "full scale" or above[:1] == below.lstrip("0123456789")[:1]

    def mean_fraction(self) -> Float[Array, ""] | float:
        """Mean |value| / full scale: how much of each device is switched in.

        Known from the trained values; from shapes alone (`jax.eval_shape`) it is the
        value for Gaussian weights, √(2/π) / `clip_sigma`.
        """
        if isinstance(self.value, jax.ShapeDtypeStruct):
            return math.sqrt(2 / math.pi) / self.clip_sigma
        size = jnp.abs(jax.lax.stop_gradient(self.value))
        return jnp.mean(jnp.minimum(size / self.full_scale(), 1))
