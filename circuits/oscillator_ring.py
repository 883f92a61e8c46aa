"""Measured rings: what a ring of transistors does, for models of phase oscillators."""

import math

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits.oscillator_parts import coupling_shape
from circuits.parts import positive

# Phases at which a pull is worked out; also the most harmonics it can have, times two.
GRID = 128


class MeasuredRing(eqx.Module):
    """A ring oscillator by its waveform and the response of its phase to charge.

        dφ/dt = f_0·(1 + a·C + b·C²) + Γ(φ)·i(t),   φ in cycles, i into node n0
        H(ψ)  = ⟨Γ(φ)·(v(φ + ψ) − v(φ))⟩ / R         pull of a ring ψ ahead, through R
        two rings:  dψ/dt = Δf + H(−ψ) − H(ψ),  locked while |Δf| ≤ max |H(ψ) − H(−ψ)|
        injection of I·sin(2·2πf_0·t):  locked at two phases while |Δf| ≤ I·|Γ_2|

    with averages over a cycle, and Γ = Σ_k Γ_k·exp(2πi·kφ). A JAX module: every figure
    is differentiable in the fields.

    **Fields**

    - `frequency_Hz`, `cycle_C`: of the free ring; supply charge of a cycle.
    - `response_per_C`: Γ, `(phases,)` [cycles/C], from the rise of v(n0) on.
    - `waveform_V`: v(n0) over the same cycle, `(samples,)`.
    - `tuning`: (a, b), what a capacitance at n0 does to the frequency [1/F, 1/F²].

    Assumes: pulls that are weak against the ring itself (a few percent of its
    frequency), so that the amplitude stays; the second order in the pull is left out,
    which at 0.9 of the lock range moves the locked phase by 0.01 cycle. Does not model:
    the charge a coupler takes from the supply.

    References: Demir, Mehrotra & Roychowdhury 2000, DOI 10.1109/81.847872; Adler 1946,
    DOI 10.1109/JRPROC.1946.229930; Wang & Roychowdhury 2019, DOI
    10.1007/978-3-030-19311-9_19.
    """

    frequency_Hz: Float[Array, ""]
    cycle_C: Float[Array, ""]
    response_per_C: Float[Array, " phases"]
    waveform_V: Float[Array, " samples"]
    tuning: Float[Array, " two"]

    def __init__(self, frequency_Hz, cycle_C, response_per_C, waveform_V, tuning):
        """Raises `ValueError` for a frequency or charge that is not positive."""
        positive(frequency_Hz=frequency_Hz, cycle_C=cycle_C)
        self.frequency_Hz = jnp.asarray(frequency_Hz, jnp.float32)
        self.cycle_C = jnp.asarray(cycle_C, jnp.float32)
        self.response_per_C = jnp.asarray(response_per_C, jnp.float32)
        self.waveform_V = jnp.asarray(waveform_V, jnp.float32)
        self.tuning = jnp.asarray(tuning, jnp.float32)

    def pull(self, resistance_ohm) -> Float[Array, " grid"]:
        """H at `GRID` equally spaced phases, from 0 on [cycles/s]."""
        response, waveform = _spectrum(self.response_per_C), _spectrum(self.waveform_V)
        # The mean of a product of periodic functions, for all shifts at once.
        shifted = jnp.fft.irfft(jnp.conj(response) * waveform, GRID) * GRID
        return (shifted - shifted[0]) / resistance_ohm

    def drift(self, resistance_ohm) -> Float[Array, " grid"]:
        """dψ/dt of two equal rings of which the second is ψ ahead [cycles/s]."""
        pull = self.pull(resistance_ohm)
        return jnp.roll(pull[::-1], 1) - pull

    def lock_range_Hz(self, resistance_ohm) -> Float[Array, ""]:
        """The largest difference of frequency at which two coupled rings still lock."""
        return jnp.max(jnp.abs(self.drift(resistance_ohm)))

    def injection_range_Hz(self, current_A) -> Float[Array, ""]:
        """How far half of an injected 2·f may be from the ring's own frequency."""
        return current_A * jnp.abs(_spectrum(self.response_per_C)[2])

    def ahead(
        self, detuning_Hz: float, resistance_ohm: float, times, *, start: float = 0.0
    ) -> np.ndarray:
        """ψ at `times` of two rings whose second is `detuning_Hz` faster [cycles].

        It is `start` at the first of the times, which must rise.
        """
        drift = np.append(np.asarray(self.drift(resistance_ohm), float), 0.0)
        drift[-1] = drift[0]
        grid = np.linspace(0, 1, GRID + 1)
        rate = lambda psi: detuning_Hz + np.interp(psi % 1, grid, drift)
        times = np.asarray(times, float)
        limit_s = 0.02 / max(abs(detuning_Hz), float(np.abs(drift).max()))
        psi, found = start, [start]
        for span_s in np.diff(times):
            n = max(1, math.ceil(span_s / limit_s))
            for _ in range(n):
                psi += span_s / n * rate(psi + span_s / n / 2 * rate(psi))
            found.append(psi)
        return np.asarray(found)

    def arguments(
        self,
        *,
        period_s: float,
        resistance_ohm: float,
        supply_V: float,
        n_harmonics: int = 3,
    ) -> dict:
        """Arguments of `PhaseOscillators` of such rings, coupled by such resistors.

        `cycles` per token of `period_s`, `ring_F` that takes the measured charge,
        `coupling_rate` of one coupler [rad/token] and its `shape`.
        """
        pull = np.asarray(self.pull(resistance_ohm), float)
        first = 2 * abs(np.fft.rfft(pull)[1]) / GRID
        return {
            "period_s": period_s,
            "cycles": float(self.frequency_Hz) * period_s,
            "ring_F": float(self.cycle_C) / supply_V,
            "coupling_rate": 2 * math.pi * first * period_s,
            "shape": coupling_shape(pull, n_harmonics=n_harmonics),
        }


def _spectrum(samples: Float[Array, " n"]) -> Array:
    """Fourier coefficients 0 to GRID/2 of one cycle, the missing ones zero."""
    found = jnp.fft.rfft(samples)[: GRID // 2] / len(samples)
    return jnp.pad(found, (0, GRID // 2 + 1 - len(found)))
