"""Closed forms that the circuits are held against, each with its source.

Written from the physics alone: nothing here imports `physnn`, so a mistake there
cannot hide here.
"""

import diffrax as dfx
import jax
import numpy as np
from scipy.linalg import solve_continuous_lyapunov
from scipy.special import ndtr

BOLTZMANN = 1.380649e-23
CHARGE = 1.602176634e-19


def ktc_variance(capacitance_F, *, temperature_K, swing_V, excess):
    """Nyquist 1928 (DOI 10.1103/PhysRev.32.110): kT/C, as a fraction of full scale²."""
    return excess * BOLTZMANN * temperature_K / capacitance_F / swing_V**2


def rc_step_response(t, *, tau, target, start=0.0):
    """v(t) of an RC low-pass after its input jumps to `target`."""
    return target + (start - target) * np.exp(-t / tau)


def ou_variance(t, *, rate, stationary):
    """Variance of an Ornstein-Uhlenbeck process from a point (Gillespie 1996)."""
    return stationary * (1 - np.exp(-2 * rate * t))


def differential_pair(v, *, slope_factor, temperature_K):
    """I_out / I_tail of a differential pair in weak inversion (Mead 1989)."""
    return np.tanh(v * CHARGE / (2 * slope_factor * BOLTZMANN * temperature_K))


def gated_rc_by_diffrax(rates, inputs, leak, v0):
    """v after each token of dv/dt = a_t·(u_t − v) − b·v, time in tokens, by Tsit5.

    `rates` and `inputs` are `(time, n)` and held over a token. Differentiable.
    """

    def field(t, v, args):
        a, u = args
        return a * (u - v) - leak * v

    def token(v, au):
        solution = dfx.diffeqsolve(
            dfx.ODETerm(field),
            dfx.Tsit5(),
            t0=0.0,
            t1=1.0,
            dt0=None,
            y0=v,
            args=au,
            stepsize_controller=dfx.PIDController(rtol=1e-9, atol=1e-11),
        )
        assert solution.ys is not None
        v = solution.ys[0]
        return v, v

    return jax.lax.scan(token, v0, (rates, inputs))[1]


def recurrence_by_loop(alpha, beta, v0):
    """v_t = α_t·v_{t−1} + β_t, one after another in NumPy."""
    v, vs = np.asarray(v0, float), []
    for a, b in zip(np.asarray(alpha, float), np.asarray(beta, float), strict=True):
        v = a * v + b
        vs.append(v)
    return np.stack(vs)


def delayed_sum(taps, xs):
    """y_t = Σ_k taps[k]·x_{t−k} per channel, by `np.convolve`, from rest."""
    taps, xs = np.asarray(taps, float), np.asarray(xs, float)
    columns = [
        np.convolve(xs[:, c], taps[:, c])[: len(xs)] for c in range(xs.shape[-1])
    ]
    return np.stack(columns, axis=-1)


def uniform_code(x, *, full_scale, bits):
    """The nearest of 2^bits − 1 symmetric levels, by search over all of them."""
    largest = 2 ** (bits - 1) - 1
    levels = full_scale * np.arange(-largest, largest + 1) / largest
    return levels[np.argmin(np.abs(np.asarray(x)[..., None] - levels), axis=-1)]


def thermal_voltage(temperature_K):
    return BOLTZMANN * temperature_K / CHARGE


def softmax_probabilities(logits, *, temperature):
    """The Boltzmann distribution over `logits`, in double precision."""
    shifted = (np.asarray(logits, float) - np.max(logits)) / temperature
    return np.exp(shifted) / np.exp(shifted).sum()


def winner_of_normals(means, *, sigma):
    """P(i is largest) of independent normals of one spread, by quadrature.

    Thurstone's model (1927, DOI 10.1037/h0070288): ∫ φ(z)·Π_j Φ(z + (m_i − m_j)/σ) dz.
    """
    means, z = np.asarray(means, float), np.linspace(-9, 9, 20_001)
    density = np.exp(-np.square(z) / 2) / np.sqrt(2 * np.pi)
    wins = []
    for i, mean in enumerate(means):
        others = np.delete(means, i)
        below = ndtr(z[:, None] + (mean - others) / sigma)
        wins.append(np.trapezoid(density * np.prod(below, axis=1), z))
    return np.asarray(wins)


def adler_beat(detuning, locking):
    """Mean rate of a driven oscillator against its drive (Adler 1946): 0 while locked.

    A pair of couplings K is the same law of its phase difference, with locking 2K.
    """
    outside = np.maximum(np.square(detuning) - np.square(locking), 0)
    return np.sign(detuning) * np.sqrt(outside)


def ring_jitter_variance(cycles, *, capacitance_F, supply_V, temperature_K, excess):
    """Phase variance of a ring after `cycles`, `excess` times the bound of its power.

    Navid, Lee & Dutton 2005 (DOI 10.1109/JSSC.2005.843591): 7.33 kT per energy of a
    cycle, of the squared jitter of a cycle in parts of a cycle.
    """
    cycle_J = capacitance_F * supply_V**2
    jitter = excess * 7.33 * BOLTZMANN * temperature_K / cycle_J
    return (2 * np.pi) ** 2 * jitter * cycles


def binary_phase(t, *, start, locking):
    """θ(t) of dθ/dt = −L·sin 2θ: second-harmonic injection alone."""
    return np.arctan(np.tan(start) * np.exp(-2 * locking * t))


def landau_amplitude(t, *, start, growth):
    """r(t) of dr/dt = g·r·(1 − r²): the start-up of a free oscillator."""
    return start / np.sqrt(start**2 + (1 - start**2) * np.exp(-2 * growth * t))


def pairwise_pulls(theta, K, harmonics):
    """Σ_j K_ji·h(θ_j − θ_i), pair by pair; h = Σ_k a_k·sin kφ + b_k·cos kφ."""
    phi = theta[:, None] - theta[None, :]
    h = sum(
        a * np.sin(k * phi) + b * np.cos(k * phi)
        for k, (a, b) in enumerate(harmonics, start=1)
    )
    return np.sum(K * h, axis=0)


def lyapunov_covariance(A, Q):
    """Stationary covariance of dv = A v dt + noise of intensity Q: AΣ + ΣAᵀ = −Q."""
    return solve_continuous_lyapunov(A, -Q)


def ring_down(t, *, damping, turn, start):
    """p and q of z = p + jq, dz/dt = (jω − a)·z: an RLC ring-down."""
    z = (start[0] + 1j * start[1]) * np.exp((1j * turn - damping) * t)
    return z.real, z.imag
