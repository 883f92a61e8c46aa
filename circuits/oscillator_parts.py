"""What every oscillator family shares: rings and their noise, couplers, sincos."""

import dataclasses
import math
from functools import cache
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits.parts import positive
from physnn.bank import Bank
from physnn.energy.events import Event
from physnn.lines import TailLines
from physnn.materialized import materialized
from physnn.noise import is_zero
from physnn.process import Process
from physnn.units import thermal_energy_J

# Least (rms jitter of a cycle / cycle)² of a ring, times its energy per cycle over kT:
# Navid, Lee & Dutton 2005, DOI 10.1109/JSSC.2005.843591; after Hajimiri et al. 1999.
RING_JITTER = 7.33
# Gate capacitance by area: what a ring switches is the gates of its stages.
GATE_F_PER_M2 = 30e-3
# Energy of one coupler over that of one ring. A chip with 8 neighbors per ring spends
# 20 times its bare rings (Moy et al. 2022, DOI 10.1038/s41928-022-00749-3; section 3.4
# of energy.md); all that is no ring is billed to the couplers.
COUPLER_PER_RING = 19 / 8
# Smallest coupler cell, one unit of current.
COUPLER_M2 = 1e-12
# A ring forgets a disturbance within a cycle or so: its quality factor in Adler's law
# K = (ω/2Q)·ratio of currents.
RING_Q = 1.0
# More phases than this are coupled by wires, never by a dense matrix.
DENSE_MAX = 4096

Coupling = Literal["dense", "local", "sparse", "none"]


def ring_bank(n: int, *, cycles: float, ring_F: float) -> Bank:
    """`n` rings that turn `cycles` times per token and switch `ring_F` per cycle.

    The value is the phase a free ring covers in a token; its error is the spread of
    frequency that the trim leaves. Energy per cycle ring_F·V², jitter and spread all
    follow from the one size of the bank: none can be set without the others.
    """
    positive(n=n, cycles=cycles, ring_F=ring_F)
    return Bank(
        jnp.full((n,), 2 * math.pi * cycles),
        kind="ring_frequency",
        unit="rad/token",
        area_m2=ring_F / GATE_F_PER_M2,
        size=jnp.zeros(()),
        low=0.0,
        programmed=False,
    )


def jitter_variance(ring: Bank, process: Process, *, cycles: float, ring_F: float):
    """Variance of a free ring's phase after a token [rad²].

    (2π)²·cycles·7.33·excess·kT/E, E = ring_F·V² the energy of a cycle: the phase
    diffuses, the slower the more power the ring takes.
    """
    excess = process.ring_excess * process.thermal_noise
    cycle_J = ring_F * process.supply_V**2
    # Ratios of the smallest amounts first: joules squared would leave float32.
    ratio = thermal_energy_J(process.temperature_K) / cycle_J
    return (
        (2 * math.pi) ** 2 * cycles * RING_JITTER * excess * ratio / ring.area_factor()
    )


def coupler_bank(
    value: Float[Array, "sources n"],
    *,
    bits: int | None,
    ring_F: float,
    period_s: float,
) -> Bank:
    """Couplers of `value` [rad/token], a column for each oscillator that they pull.

    A pull K takes the current ring_F·V·Q·K/(π·period) (Adler's law, a ring takes ring_F
    of charge times V each cycle): its tails return on one wire for each oscillator.
    """
    n_units = 1 if bits is None else 2 ** (bits - 1) - 1
    return Bank(
        value,
        kind="current",
        unit="rad/token",
        area_m2=COUPLER_M2,
        n_units=n_units,
        bits=bits,
        lines=TailLines(RING_Q / math.pi, ring_F, period_s, "supply"),
    )


def moved(bank: Bank | None, factor) -> Bank | None:
    """The bank of an absolute rate at another operating point: `factor` times it."""
    if bank is None or (isinstance(factor, int | float) and factor == 1):
        return bank
    shift = (factor - 1) * bank.realized()
    error = shift if bank.error is None else bank.error + shift
    return dataclasses.replace(bank, error=error)


def ring_events(
    ring: Bank,
    couplers: dict[str, int],
    process: Process,
    *,
    cycles: float,
    ring_F: float,
) -> tuple[Event, ...]:
    """Supply charge of a token: all rings, and by name so many couplers on them.

    A coupler is as strong as the ring it pulls, so it grows with the size of the rings.
    """
    charge_C = cycles * ring_F * process.supply_V * ring.area_factor()
    rows = [Event("supply_charge_C", ring.value.shape[0] * charge_C, "rings")]
    for part, count in couplers.items():
        if count:
            each = COUPLER_PER_RING * charge_C
            rows.append(Event("supply_charge_C", count * each, part))
    return tuple(rows)


@cache
def sources(coupling: Coupling, n: int, degree: int, seed: int) -> np.ndarray:
    """Who pulls oscillator i: `(degree, n)` indices, never i itself.

    `dense`: all others; `local`: the nearest on a ring, half on either side; `sparse`:
    others drawn once from `seed`. Raises `ValueError` for a degree that is impossible
    and for dense coupling of more than `DENSE_MAX` oscillators.
    """
    if coupling == "none":
        return np.zeros((0, n), np.int32)
    if coupling == "dense":
        if n > DENSE_MAX:
            raise ValueError(
                f"Argument `n` must be at most {DENSE_MAX} for dense coupling, but is"
                f" {n}: choose `local` or `sparse`."
            )
        degree = n - 1
    elif not 1 <= degree < n:
        raise ValueError(
            f"Argument `degree` must be from 1 to below the {n} oscillators, but is"
            f" {degree}."
        )
    column = np.arange(n)
    if coupling == "sparse":
        rng = np.random.default_rng(seed)
        steps = 1 + np.argsort(rng.random((n - 1, n)), axis=0)[:degree]
    elif coupling == "local":
        near = [d for k in range(1, n) for d in (k, -k)][:degree]
        steps = np.asarray(near)[:, None]
    else:
        steps = np.arange(1, n)[:, None]
    return ((column + steps) % n).astype(np.int32)


def matrix(value: Float[Array, "sources n"], wired: np.ndarray) -> Float[Array, "n n"]:
    """Couplers as a matrix: row j, column i is what j does to i; its diagonal is 0."""
    n = wired.shape[1]
    columns = np.broadcast_to(np.arange(n), wired.shape)
    return jnp.zeros((n, n), value.dtype).at[wired, columns].set(value)


def puller(value: Float[Array, "sources n"], wired: np.ndarray):
    """v ↦ Σ_j K_ij·v_j, wire by wire where a matrix would be too large."""
    if len(wired) == 0:
        return jnp.zeros_like
    if wired.shape[1] <= DENSE_MAX:
        K = matrix(value, wired)
        return lambda v: materialized(v @ K)

    def pull(v):
        total = value[0] * v[..., wired[0]]
        for row, index in zip(value[1:], wired[1:], strict=True):
            total = total + row * v[..., index]
        return total

    return pull


def substrate_rate(process: Process, *, cycles: float):
    """What the mean of all rings pulls each by, through the substrate [rad/token].

    Adler's law K = (ω/2Q)·s of a ring that picks up s = `substrate` when all the others
    swing together. None at zero.
    """
    none = is_zero(process.substrate)
    return None if none else process.substrate * math.pi * cycles / RING_Q


def with_all(pull, rate):
    """v ↦ `pull(v)` and `rate` times the mean of v on top; `pull` where it is None."""
    if rate is None:
        return pull
    return lambda v: pull(v) + rate * jnp.mean(v, axis=-1, keepdims=True)


@jax.custom_jvp
def sincos(
    theta: Float[Array, "..."],
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """`(sin, cos)` by two Taylor polynomials within ±π/4, to 6e-7 in float32.

    25 times as fast as `jnp.sin` and `jnp.cos`, which XLA does not vectorize on a CPU.
    Past some 1e4 rad the reduction loses digits; phases are kept within a few turns.
    """
    quarter = jnp.round(theta * (2 / math.pi))
    # π/2 in two parts, the first short enough that its multiples are exact.
    y = (theta - quarter * 1.5703125) - quarter * (math.pi / 2 - 1.5703125)
    z = y * y
    sine, cosine = jnp.zeros_like(z), jnp.zeros_like(z)
    for k in range(6, -1, -1):
        sine = sine * z + (-1.0) ** k / math.factorial(2 * k + 1)
        cosine = cosine * z + (-1.0) ** k / math.factorial(2 * k)
    sine = sine * y
    turn = quarter.astype(jnp.int32)
    odd = (turn & 1) == 1
    s, c = jnp.where(odd, cosine, sine), jnp.where(odd, sine, cosine)
    s = jnp.where((turn & 2) != 0, -s, s)
    return s, jnp.where(((turn + 1) & 2) != 0, -c, c)


@sincos.defjvp
def _sincos_jvp(primals, tangents):
    (theta,), (way,) = primals, tangents
    s, c = sincos(theta)
    return (s, c), (c * way, -s * way)


def wrapped(theta: Float[Array, "..."]) -> Float[Array, "..."]:
    """The same phases within ±π."""
    turns = jax.lax.stop_gradient(jnp.round(theta / (2 * math.pi)))
    return theta - 2 * math.pi * turns


def coupling_shape(
    rates: np.ndarray, *, n_harmonics: int
) -> tuple[tuple[float, float], ...]:
    """A measured coupling as Fourier series: `((a_1, b_1), (a_2, b_2), ...)`.

    `rates[m]` is how fast a ring is pulled by one that is ahead by 2π·m/len(rates);
    h(φ) = Σ_k a_k·sin kφ + b_k·cos kφ, scaled to a_1² + b_1² = 1. The mean, a change of
    frequency that every coupled ring sees, is left to the trim. Raises `ValueError`
    for too few samples or no first harmonic.
    """
    rates = np.asarray(rates, float)
    if rates.ndim != 1 or len(rates) <= 2 * n_harmonics or n_harmonics < 1:
        raise ValueError(
            "Argument `rates` must be one row of more than twice `n_harmonics` samples,"
            f" but has shape {rates.shape} for {n_harmonics} harmonics."
        )
    spectrum = 2 * np.fft.rfft(rates)[1 : n_harmonics + 1] / len(rates)
    size = abs(spectrum[0])
    if not size > 1e-9 * (1e-300 + np.max(np.abs(rates))):
        raise ValueError(
            "Argument `rates` must have a first harmonic, or nothing pulls into phase,"
            " but has none."
        )
    return tuple((float(-z.imag / size), float(z.real / size)) for z in spectrum)


SINE = ((1.0, 0.0),)
# A square wave into a ring that is sensitive during half of its cycle: their
# correlation is a triangle, of which two harmonics are kept.
TRIANGLE = ((1.0, 0.0), (0.0, 0.0), (-1 / 9, 0.0))
