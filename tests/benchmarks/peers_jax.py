"""Ours, and what runs in JAX beside it, each alone in a process of `make peers`.

python -m tests.benchmarks.peers_jax CASE CONTENDER
"""

import sys
from collections.abc import Callable
from functools import partial

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax

from circuits.lookup import lookup_layer, softened
from circuits.mac import ChargeMac
from circuits.oscillator import PhaseOscillators
from circuits.resonator import Resonator
from physnn.circuit import run
from physnn.environment import Environment
from physnn.fabricate import fabricate
from physnn.materialized import compiler_options
from physnn.process import load_process
from physnn.straight_through import quantize
from tests.benchmarks.peer_process import BATCH, serve
from train.baseline import TransformerConfig
from train.experiment import Experiment
from train.loop import begin
from train.objective import make_update

PROCESS, PERIOD_S = load_process("cmos28"), 1e-6


def gradient(function: Callable, *arrays) -> Callable[[], None]:
    """A step of gradient descent on what `function` gives, with another key each."""
    trained, fixed = eqx.partition(arrays, eqx.is_inexact_array)

    def loss(trained, key):
        y = function(*eqx.combine(trained, fixed), key)
        return jnp.mean(jnp.square(y))

    def update(trained, key):
        key, now = jr.split(key)
        slope = jax.grad(loss)(trained, now)
        return jax.tree.map(lambda p, g: p - 1e-3 * g, trained, slope), key

    compiled = jax.jit(update, donate_argnums=0, compiler_options=compiler_options())
    held = [jax.tree.map(jnp.copy, trained), jr.key(0)]

    def step():
        held[:] = compiled(*held)
        jax.block_until_ready(held)

    return step


def matrix_and_rows():
    return jr.normal(jr.key(0), (512, 512)) / 512**0.5, jr.normal(
        jr.key(1), (BATCH, 512)
    )


def linear():
    w, x = matrix_and_rows()
    return gradient(lambda w, x, key: x @ w, w, x)


def noisy_by_hand():
    """Noise of weights and outputs by `jax.random.normal`, 8 bits in and out."""
    w, x = matrix_and_rows()

    def noisy(w, x, key):
        a, b = jr.split(key)
        largest = jax.lax.stop_gradient(jnp.max(jnp.abs(w), axis=0))
        w = w + 0.02 * largest * jr.normal(a, w.shape)
        y = quantize(x, full_scale=1.0, bits=8) @ w
        y = y + 0.06 * jr.normal(b, y.shape)
        return quantize(y, full_scale=12.0, bits=8)

    return gradient(noisy, w, x)


def charge_mac():
    """Another chip each step: mismatch of every capacitor, kT/C, noise of outputs."""
    there = PROCESS.at(Environment(output_noise=0.06))
    mac = ChargeMac(512, 512, bits=8, process=PROCESS, key=jr.key(0))
    x = jr.uniform(jr.key(1), (BATCH, 512), minval=-1.0, maxval=1.0)

    def noisy(mac, x, key):
        chip, noise = jr.split(key)
        x = quantize(x, full_scale=1.0, bits=8)
        y = fabricate(mac, there, key=chip).apply(x, process=there, key=noise)
        return quantize(y, full_scale=1.0, bits=8)

    return gradient(noisy, mac, x)


def tables(k: int, *, soft: bool):
    """`soft`: the table that others train; ours are read hard, as they are in chips."""
    layer = lookup_layer(1024, 4096, k=k, key=jr.key(0))
    layer = softened(layer) if soft else layer
    x = jr.uniform(jr.key(1), (BATCH, 1024), minval=-1.0, maxval=1.0)
    quiet = PROCESS.noiseless()
    return gradient(lambda f, x, key: f.apply(x, process=quiet, key=key), layer, x)


def rings():
    """16 tokens of one midpoint step, with the jitter of every token."""
    cell = PhaseOscillators(256, period_s=PERIOD_S, key=jr.key(0), n_steps=1, bits=None)
    xs = jnp.zeros((16, 64, cell.n_in))
    return gradient(lambda f, xs, key: run(f, xs, process=PROCESS, key=key), cell, xs)


def kuramoto_by_diffrax():
    omega, coupling = (
        jr.normal(jr.key(0), (256,)),
        jr.normal(jr.key(1), (256, 256)) / 256,
    )
    theta = jr.uniform(jr.key(2), (64, 256))

    def solved(omega, coupling, theta, key):
        def drift(t, y, args):
            s, c = jnp.sin(y), jnp.cos(y)
            return omega + c * (s @ coupling) - s * (c @ coupling)

        path = diffrax.VirtualBrownianTree(0.0, 1.0, 1 / 32, theta.shape, key)
        diffusion = lambda t, y, args: lineax.DiagonalLinearOperator(
            0.05 * jnp.ones_like(y)
        )
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(drift), diffrax.ControlTerm(diffusion, path)
        )
        save = diffrax.SaveAt(ts=jnp.linspace(0.0, 1.0, 17))
        found = diffrax.diffeqsolve(
            terms, diffrax.Euler(), 0.0, 1.0, 1 / 16, theta, saveat=save
        )
        assert found.ys is not None
        return jnp.sin(found.ys)

    return gradient(solved, omega, coupling, theta)


def resonators():
    cell = Resonator(128, period_s=PERIOD_S, process=PROCESS)
    xs = jr.uniform(jr.key(1), (1024, 16, 128), minval=-0.5, maxval=0.5)
    return gradient(lambda f, xs, key: run(f, xs, process=PROCESS, key=key), cell, xs)


def oscillatory_states():
    """Implicit oscillatory states by a parallel prefix of 2x2 blocks, with their
    dense input and output matrices, in the equations of Rusch & Rus 2025
    (arXiv 2410.03943)."""
    keys = jr.split(jr.key(0), 5)
    a = jnp.abs(jr.normal(keys[0], (128,)))
    dt = jr.uniform(keys[1], (128,))
    b, c = (jr.normal(key, (128, 128)) / 128**0.5 for key in keys[2:4])
    xs = jr.normal(keys[4], (1024, 16, 128))

    def states(a, dt, b, c, xs, key):
        del key
        a, dt = jax.nn.relu(a), jax.nn.sigmoid(dt)
        s = 1 / (1 + dt * dt * a)
        m = (s, -dt * a * s, dt * s, s)  # of (z, y) ← m·(z, y) + f
        u = xs @ b
        f = jnp.stack([dt * s * u, dt * dt * s * u])
        shape = u.shape
        m = [jnp.broadcast_to(v, shape) for v in m]

        def combine(left, right):
            (p, q, r, t), (x, y) = left[:4], left[4:]
            (e, g, h, i), (v, w) = right[:4], right[4:]
            return (
                e * p + g * r, e * q + g * t, h * p + i * r, h * q + i * t,
                e * x + g * y + v, h * x + i * y + w,
            )  # fmt: skip

        y = jax.lax.associative_scan(combine, (*m, f[0], f[1]))[5]
        return y @ c

    return gradient(states, a, dt, b, c, xs)


def transformer():
    experiment = Experiment(model=TransformerConfig(), batch=16)
    held, static = begin(experiment, vocabulary=256, process=PROCESS)
    update = make_update(
        eqx.combine(held.fixed, static),
        experiment=experiment,
        process=PROCESS,
        mesh=experiment.mesh.build(batch=16),
        device=None,
    )
    tokens = jr.randint(jr.key(0), (16, experiment.task.context + 1), 0, 256)
    state = [held.state]

    def step():
        state[0], measured = update(state[0], tokens)
        jax.block_until_ready(measured)

    return step


CONTENDERS = {
    ("mac", "JAX product, no noise"): linear,
    ("mac", "JAX, noise by hand"): noisy_by_hand,
    ("mac", "physnn, ChargeMac"): charge_mac,
    **{
        (f"lookup {k}", f"physnn, {how} tables"): partial(tables, k, soft=how == "soft")
        for k in (2, 4, 6)
        for how in ("soft", "hard")
    },
    ("kuramoto", "physnn, PhaseOscillators"): rings,
    ("kuramoto", "Diffrax, Euler, VirtualBrownianTree"): kuramoto_by_diffrax,
    ("states", "physnn, Resonator"): resonators,
    ("states", "oscillatory, associative scan"): oscillatory_states,
    ("transformer", "JAX (train.baseline)"): transformer,
}

if __name__ == "__main__":
    serve(CONTENDERS[sys.argv[1], sys.argv[2]]())
