"""Fast paths of the dynamic families against a `jax.lax.scan` written by hand.

    make bench

Values and gradients of the same noiseless equation over 256 tokens of 16 texts, in
turns; and, for scale, what Diffrax takes for it.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.equilibrium import SettlingNetwork
from circuits.oscillator import PhaseOscillators
from circuits.resonator import Resonator
from physnn.circuit import run
from physnn.dynamics import Integrated, SolverConfig
from physnn.process import load_process
from tests.benchmarks.interleaved import interleaved, report, time_once

pytestmark = pytest.mark.usefixtures("plain_promotion")

QUIET = load_process("cmos28").noiseless()
SHAPE, N, PERIOD_S = (256, 16), 96, 1e-6


def resonators(cell: Resonator, xs):
    """z ← e^λ·z + drive, in real numbers."""
    damping, turn, gain = cell.rates(QUIET)
    a = damping + cell.leak(QUIET)
    c, s = jnp.exp(-a) * jnp.cos(turn), jnp.exp(-a) * jnp.sin(turn)
    size = gain / (a * a + turn * turn)
    re, im = size * (s * turn - (c - 1) * a), -size * ((c - 1) * turn + s * a)

    def token(z, x):
        p, q = z
        z = (c * p - s * q + re * x, s * p + c * q + im * x)
        return z, jnp.clip(jnp.concatenate(z, axis=-1), -1.0, 1.0)

    zero = jnp.zeros((SHAPE[1], N))
    return jax.lax.scan(token, (zero, zero), xs)[1]


def oscillators(cell: PhaseOscillators, xs):
    """Kuramoto with two products per step, by the midpoint rule."""
    (coupling,), omega = cell.couplings, cell.detuning()
    matrix = coupling.realized()
    off = ~np.eye(N, dtype=bool)
    dense = jnp.zeros((N, N)).at[cell.wired(), np.arange(N)].set(matrix)
    assert dense.shape == off.shape
    h = 1 / cell.n_steps

    def rate(theta, p, q):
        s, c = jnp.sin(theta), jnp.cos(theta)
        return omega + q * c - p * s + c * (s @ dense) - s * (c @ dense)

    def token(theta, x):
        p, q = jnp.split(cell.drive_rate * x, 2, axis=-1)
        for _ in range(cell.n_steps):
            theta = theta + h * rate(theta + h / 2 * rate(theta, p, q), p, q)
        return theta, jnp.concatenate([jnp.sin(theta), jnp.cos(theta)], axis=-1)

    return jax.lax.scan(token, jnp.zeros((SHAPE[1], N)), xs)[1]


def settling(cell: SettlingNetwork, xs):
    """Exponential midpoint steps of a Hopfield network."""
    nodes = cell.nodes(QUIET)
    decay = nodes.rate * nodes.load / cell.n_steps
    whole, half = jnp.exp(-decay), jnp.exp(-decay / 2)
    weight, gain = nodes.g / nodes.load, nodes.d / nodes.load

    def pulled(v, x):
        return nodes.reach * jnp.tanh((v + nodes.offset) / nodes.reach) @ weight + x

    def token(v, x):
        x = x * gain
        for _ in range(cell.n_steps):
            middle = half * v + (1 - half) * pulled(v, x)
            v = whole * v + (1 - whole) * pulled(middle, x)
        return v, v

    return jax.lax.scan(token, jnp.zeros((SHAPE[1], N)), xs)[1]


CASES: dict[str, tuple[Callable, Callable]] = {
    "resonators": (
        lambda: Resonator(N, period_s=PERIOD_S, process=load_process("cmos28")),
        resonators,
    ),
    "oscillators": (
        lambda: PhaseOscillators(
            N, period_s=PERIOD_S, key=jr.key(0), coupling_rate=0.1, drive_rate=1.0
        ),
        oscillators,
    ),
    "settling": (
        lambda: SettlingNetwork(
            N, period_s=PERIOD_S, key=jr.key(0), mode="transient", n_settle=2.0
        ),
        settling,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_fast_path(benchmark, name):
    build, by_hand = CASES[name]
    cell = build()
    xs = jr.uniform(jr.key(1), (*SHAPE, cell.n_in), minval=-0.5, maxval=0.5)
    ours = lambda cell, xs: run(cell, xs, process=QUIET, key=jr.key(0))
    by_diffrax = lambda cell, xs: ours(Integrated(cell, SolverConfig("tsit5")), xs)
    values = [eqx.filter_jit(f)(cell, xs) for f in (ours, by_hand)]
    # Of coupled rings, rounding grows from token to token.
    np.testing.assert_allclose(values[0][:20], values[1][:20], atol=2e-4)

    def gradient(function):
        loss = lambda arrays: jnp.sum(jnp.square(function(*arrays)))
        compiled = eqx.filter_jit(eqx.filter_grad(loss))
        return lambda: compiled((cell, xs))

    functions = {
        "lax.scan by hand": gradient(by_hand),
        f"physnn, {name}": gradient(ours),
        "diffrax, tsit5": gradient(by_diffrax),
    }
    medians = interleaved(functions, rounds=11)
    report(benchmark, medians, floor="lax.scan by hand")
    time_once(benchmark, functions[f"physnn, {name}"])
