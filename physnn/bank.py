"""Bank: many nominally identical devices that hold one array of trained values."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnn.straight_through import quantize


class Bank(eqx.Module):
    """An array of devices of one kind: what is trained, fabricated and exported.

    **Fields**

    - `value`: the trained values, in `unit`; `(n_in, n_out)` or `(n,)`. A column (the
      last axis) shares one full scale.
    - `error`: the frozen error of each device, in `unit`. None in a design; drawn by
      `fabricate`.
    - `kind`: the kind of device. The `Process` must know its matching coefficient.
    - `unit`: SI unit of `value`, or what a ratio is of (`"C/C_f"`).
    - `size`: log of the drawn area over `area_m2`, one for the bank; None is fixed. It
      can be trained: charge grows with it, noise and mismatch shrink.
    - `n_units`: how many unit devices in parallel make the largest value.
    - `area_m2`: smallest area of one unit device [m²].
    - `bits`: programmed code, sign included; None is continuous.
    - `clip_sigma`: a coded column ends at this multiple of its root mean square.
    - `low`, `high`: the legal range of a value (inclusive), before it is coded.

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
        return quantize(value, full_scale=self.full_scale(), bits=self.bits)

    def realized(self) -> Float[Array, "..."]:
        """What a chip holds: the nominal value plus the frozen error of its devices."""
        nominal = self.nominal()
        return nominal if self.error is None else nominal + self.error

    def mean_fraction(self) -> Float[Array, ""] | float:
        """Mean |value| / full scale: how much of each device is switched in.

        Known from the trained values; from shapes alone (`jax.eval_shape`) it is the
        value for Gaussian weights, √(2/π) / `clip_sigma`.
        """
        if isinstance(self.value, jax.ShapeDtypeStruct):
            return math.sqrt(2 / math.pi) / self.clip_sigma
        size = jnp.abs(jax.lax.stop_gradient(self.value))
        return jnp.mean(jnp.minimum(size / self.full_scale(), 1))
