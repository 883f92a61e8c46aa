"""The least that a converter is billed: what has been measured."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

# Bits, and Joules that the best converters of so many were measured at, at any node:
# `adc.clamp.*` of configs/hardware/energy_facts.csv.
FLOORS_J = {6: 0.3e-12, 8: 1.0e-12}


def floor_J(bits: Float[Array, ""] | float | int) -> Float[Array, ""] | float:
    """The least that one conversion of `bits` is billed, without its logic [J].

        floor = 0.3 pJ up to 6 bits, 1.0 pJ from 8 on, 0.55 pJ (geometric mean) at 7

    A circuit that adds up its own capacitors can undercut every converter built to do
    its work: clock, references and layout are not among its parts. Of the converters
    measured from 1997 to 2025 that take a million samples per second or more, the best
    of 6 bits spend 0.3 pJ on each and of 8 bits 1.1 pJ, and those in 5 nm no less: so
    fewer bits and smaller nodes get no credit (Murmann, ADC performance survey,
    github.com/bmurmann/ADC-survey). Nor does a slower one: 0.19 pJ was measured for 9
    bits below that rate.

    The floor belongs to the converter, not to a price list: a list prices one event at
    a time and cannot know which of them make a converter, and what was measured holds
    on every list and process. Without the logic, because a price of logic has corners:
    with it on top no corner of a bill falls below what was measured.
    """
    (few, low_J), (many, high_J) = FLOORS_J.items()
    share = (bits - few) / (many - few)
    if isinstance(share, jax.Array):
        share = jnp.clip(share, 0.0, 1.0)
    else:
        share = min(1.0, max(0.0, share))
    return low_J * (high_J / low_J) ** share


# The best measured digital-to-analog converter of 8 bits, at any node: `dac.clamp.8b`.
DAC_FLOOR_J = 0.29e-12


def dac_floor_J(bits: int) -> float:
    """The least that one digital-to-analog conversion is billed, without its logic [J].

        floor = 0.29 pJ·bits/8

    Three of 8 bits are among the facts as measured, 0.29 (40 nm, inside a converter),
    0.79 (65 nm) and 3.6 pJ (16 nm), all of them of a billion samples per second: a
    slower one may take less, but none was seen. Energy in proportion to bits is the
    rule fitted to the rows of in-memory multipliers (`dac.zigzag`: 50 fF·V² for each
    bit, 0.32 pJ for 8 at 0.9 V).
    """
    return DAC_FLOOR_J * bits / 8
