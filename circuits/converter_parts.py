"""What an ADC and a DAC of binary capacitors share."""

import math

import jax
import jax.numpy as jnp
from jax.core import Tracer

from physnn.bank import Bank
from physnn.process import Process


def check_sizes(n: int, bits: int, **capacitors: float) -> None:
    """`ValueError` for no channel, bits outside 2..14 or a capacitor not positive."""
    if n < 1:
        raise ValueError(f"Argument `n` must be positive, but is {n}.")
    if not 2 <= bits <= 14:
        raise ValueError(f"Argument `bits` must be from 2 to 14, but is {bits}.")
    for name, value in capacitors.items():
        if not value > 0:
            raise ValueError(f"Argument `{name}` must be positive, but is {value}.")


def drawn_unit_F(unit_F: float | None, process: Process) -> float:
    """The unit capacitor [F]: as asked, or the smallest of the process.

    Raises `ValueError` for one that the process cannot draw.
    """
    least = process.capacitor_min_F
    if unit_F is not None and not least <= unit_F < math.inf:
        raise ValueError(
            f"Argument `unit_F` must be at least the {least} F that process"
            f" `{process.name}` can draw, but is {unit_F}."
        )
    return unit_F or least


def fixed_bank(
    units: list[float], n: int, unit_F: float, process: Process, *, sized: bool = False
) -> Bank:
    """Capacitors of the same `units` in every channel, as one vector.

    A vector, because an optimizer decays matrices: these values are not trained, only
    their `size` if they are `sized`.
    """
    return Bank(
        jnp.repeat(jnp.asarray(units), n),
        kind="capacitor",
        unit="C/C_unit",
        n_units=round(max(units)),
        programmed=False,
        size=jnp.zeros(()) if sized else None,
        # The units of both halves err together.
        area_m2=2 * unit_F / process.capacitor_density_F_per_m2,
    )


def straight_through(x, y):
    """y with the gradient of x inside ±1, and none outside."""
    inside = jnp.where(jnp.abs(x) <= 1, x, jax.lax.stop_gradient(jnp.sign(x)))
    return inside + jax.lax.stop_gradient(y - inside)


def resolved(x, y, *, noise, step):
    """`straight_through`, and how the error grows with `noise` and with the `step`.

    What is sampled beside x passes; what is left of the error is in proportion to the
    step of the code (as `physnn.straight_through.quantize_to`).
    """
    held = jax.lax.stop_gradient
    # Nothing is added but slopes: both sums are zero.
    growth = step / held(step) - 1
    return straight_through(x, y) + (noise - held(noise)) + held(y - x - noise) * growth


def plain(value):
    """A number where it is known, so that a bill keeps all digits of its counts."""
    return value if isinstance(value, Tracer) else float(value)
