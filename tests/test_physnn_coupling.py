"""Coupling between cells: its formula, in rings, and which circuits have it."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.equilibrium import SettlingNetwork
from circuits.mac import ChargeMac
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_parts import RING_Q
from circuits.resonator import Resonator
from circuits.state_space import GatedRC
from circuits.stuart_landau import StuartLandau
from physnn.circuit import run
from physnn.deploy import active_sources
from physnn.dynamics import Integrated, SolverConfig
from physnn.environment import Environment
from physnn.noise import coupled
from tests.helpers import (
    CATALOGUE,
    PERIOD_S,
    PROCESS,
    QUIET,
    member,
    run_jit,
    signal,
)

IDEAL = Environment.ideal()
SHARED = IDEAL.replace(substrate=0.1, droop_V=0.5)
# Their nodes are sampled, and counted, by what reads them; a capacitor of a SAR or of
# passive mixing is no node of a row, a race has none; the last is no circuit of ours.
DEAF = {
    "AutomaticGain",
    "GilbertGate",
    "SarConverter",
    "PassiveMixing",
    "WinnerTakeAll",
    "HostileTwins",
}


def test_nodes_share_their_mean_and_the_mean_of_their_sizes():
    x = jnp.asarray([[1.0, -0.5, 0.25, 0.0], [0.0, 0.0, 0.0, 0.8]])
    y = coupled(x, process=PROCESS.at(SHARED))
    let_through = PROCESS.operating["supply_rejection"] / PROCESS.swing_V
    alone = np.asarray(x, np.float64)
    fallen_V = 0.5 * np.abs(alone).mean(axis=1, keepdims=True)
    expected = alone + 0.1 * alone.mean(axis=1, keepdims=True) - let_through * fallen_V
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert coupled(x, process=PROCESS) is x


def test_columns_of_a_mac_add_what_the_others_carry():
    mac = ChargeMac(3, 4, bits=6, process=PROCESS, key=jr.key(0))
    x = jnp.asarray([0.3, -0.2, 0.1])
    there = QUIET.at(IDEAL.replace(substrate=0.05))
    alone = run(mac, x[None], process=QUIET, key=jr.key(0))[0]
    together = run(mac, x[None], process=there, key=jr.key(0))[0]
    np.testing.assert_allclose(together, alone + 0.05 * jnp.mean(alone), atol=1e-6)


@pytest.mark.parametrize("kind", [PhaseOscillators, StuartLandau])
def test_free_rings_pull_each_other_into_phase_through_the_substrate(kind):
    # Two rings, each with half the mean: the difference δ follows δ' = -K sin δ.
    rings = kind(2, period_s=PERIOD_S, key=jr.key(0), coupling="none", n_steps=64)
    there = QUIET.at(IDEAL.replace(substrate=0.04))
    K = 0.04 * math.pi * rings.cycles / RING_Q
    before = 2.0
    theta = jnp.asarray([before, 0.0])
    amplitudes = kind is StuartLandau
    state = jnp.concatenate([jnp.cos(theta), jnp.sin(theta)]) if amplitudes else theta
    state, _ = rings.step(state, jnp.zeros(4), process=there, key=jr.key(0))
    if amplitudes:
        real, imaginary = jnp.split(state, 2)
        state = jnp.arctan2(imaginary, real)
    after = 2 * math.atan(math.tan(before / 2) * math.exp(-K))
    # Amplitudes give way a little while they are pulled.
    tolerance = 0.02 if amplitudes else 1e-4
    assert float(state[0] - state[1]) == pytest.approx(after, rel=tolerance)
    assert before - after > 0.5


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("amount", ["substrate", "droop_V"])
def test_every_circuit_with_nodes_honors_it_and_says_so(name, amount):
    circuit, xs = member(name), signal(name)
    e = IDEAL.replace(**{amount: getattr(SHARED, amount)})
    found = active_sources(circuit, PROCESS, e, strict=False)
    acts = {source.name: bool(source.acts_on) for source in found}[amount]
    assert acts == (name not in DEAF)
    before = run(circuit, xs, process=QUIET, key=jr.key(0))
    moved = run(circuit, xs, process=PROCESS.at(e), key=jr.key(0))
    assert bool(np.any(moved != before)) <= acts


RINGS = {"period_s": PERIOD_S, "key": jr.key(0), "n_steps": 32}
CELLS = {
    "GatedRC": lambda: GatedRC(3, period_s=PERIOD_S),
    "Resonator": lambda: Resonator(3, period_s=PERIOD_S, process=PROCESS, longest=9.0),
    "PhaseOscillators": lambda: PhaseOscillators(3, **RINGS),
    "StuartLandau": lambda: StuartLandau(3, **RINGS),
    "SettlingNetwork": lambda: SettlingNetwork(
        3, degree=2, mode="transient", period_s=PERIOD_S, key=jr.key(0), n_steps=32
    ),
}


@pytest.mark.parametrize("name", CELLS)
def test_the_differential_equation_has_it_too(name):
    cell = CELLS[name]()
    xs = jr.uniform(jr.key(8), (4, 2, cell.n_in), minval=-0.5, maxval=0.5)
    there = QUIET.at(IDEAL.replace(substrate=0.01, droop_V=5.0))
    solver = SolverConfig("tsit5", rtol=1e-6, atol=1e-8, max_steps=4096)
    fast = run_jit(cell, xs, process=there, key=jr.key(0))
    slow = run_jit(Integrated(cell, solver), xs, process=there, key=jr.key(0))
    without = run_jit(cell, xs, process=QUIET, key=jr.key(0))
    far = np.max(np.abs(fast - without))
    assert far > 1e-3
    assert np.max(np.abs(fast - slow)) < far / 10


def test_a_gradient_passes_to_what_is_shared():
    mac = ChargeMac(3, 4, bits=6, process=PROCESS, key=jr.key(0))
    xs = jnp.asarray([[0.3, -0.2, 0.1]])

    def loss(substrate):
        there = QUIET.at(IDEAL.replace(substrate=substrate))
        return jnp.sum(run(mac, xs, process=there, key=jr.key(0)) ** 2)

    h = 1e-2
    slope = jax.grad(loss)(0.1)
    numeric = (loss(0.1 + h) - loss(0.1 - h)) / (2 * h)
    assert float(slope) == pytest.approx(float(numeric), rel=1e-3)
