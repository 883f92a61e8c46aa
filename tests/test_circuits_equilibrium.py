"""Settling networks: contraction, fixed points and their gradients, noise, time."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks.base import Site
from circuits.blocks.equilibrium import EquilibriumBlock
from circuits.blocks.gated_mixer import GatedMixer
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.equilibrium import DRIVE_MIN, SettlingNetwork
from evals.verify import verify
from physnn.circuit import run
from physnn.dynamics import Integrated, SolverConfig
from physnn.equilibrium import FixedPointConfig
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    run_jit,
    totals,
    with_process,
)
from tests.systems import lyapunov_covariance

FINE = FixedPointConfig(tolerance=1e-12, max_steps=400)


def network(n=5, *, key=0, g=None, **changes):
    arguments = {"period_s": PERIOD_S, "key": jr.key(key), "bits": None} | changes
    circuit = SettlingNetwork(n, **arguments)
    if g is None:
        return circuit
    return eqx.tree_at(lambda c: c.coupling.value, circuit, jnp.asarray(g))


def dense(n, *, key=1, size=0.6):
    return size * jr.normal(jr.key(key), (n, n))


def linear():
    """A process in which no buffer saturates: 2nU_T far above full scale."""
    return with_process(slope_factor=1e4, thermal_noise=0.0)


def wild(circuit, rng, size):
    """The circuit with any values and any errors, far beyond a process's."""

    def perturb(leaf):
        return jnp.asarray(rng.normal(size=leaf.shape) * size)

    def spoil(bank):
        value, error = perturb(bank.value), perturb(bank.value)
        return dataclasses.replace(bank, value=value, error=error)

    where = lambda c: (c.coupling, c.drive, c.offset)
    return eqx.tree_at(where, circuit, tuple(map(spoil, where(circuit))))


@eqx.filter_jit
def _rates(circuit, x, states):
    rate = lambda v: circuit.drift(v, x, process=PROCESS) * PERIOD_S
    return circuit.contraction(PROCESS), states, jax.vmap(rate)(states)


def contraction_of(circuit, rng):
    """The constant of its map, two states, and how fast each moves [1/token]."""
    x = rng.uniform(-1, 1, circuit.n_in)
    states = rng.normal(size=(2, circuit.n_in))
    return jax.device_get(_rates(circuit, jnp.asarray(x), jnp.asarray(states)))


@given(
    n=st.sampled_from([1, 2, 5, 9]),
    size=st.floats(0.01, 1000.0),
    margin=st.sampled_from([0.01, 0.1, 2.0]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_it_contracts_whatever_is_trained_and_drawn(n, size, margin, seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        circuit = wild(network(n, degree=n, margin=margin), rng, size)
        constant, (a, b), (to_a, to_b) = contraction_of(circuit, rng)
        assert constant < 1 / (1 + margin)
        # The largest difference falls at the rate of the input conductance at least.
        i = np.argmax(np.abs(a - b))
        falls = -(to_a - to_b)[i] / (a - b)[i]
        assert falls >= circuit.n_settle * DRIVE_MIN / 2 * (1 - 1e-9)


@pytest.mark.parametrize("mode", ["equilibrium", "transient"])
def test_a_token_brings_any_two_states_together(mode):
    circuit = wild(network(6, mode=mode, n_settle=2.0), np.random.default_rng(3), 3.0)
    x, states = jr.normal(jr.key(0), (6,)), 2 * jr.normal(jr.key(1), (2, 6))
    after = [
        circuit.step(state, x, process=QUIET, key=jr.key(0))[0] for state in states
    ]
    gap = lambda pair: jnp.max(jnp.abs(pair[0] - pair[1]))
    assert gap(after) <= gap(states) * jnp.exp(-2.0 * DRIVE_MIN / 2)


def test_a_linear_equilibrium_is_that_of_its_equations():
    n = 6
    with jax.enable_x64(True):
        circuit = network(n, g=dense(n), solver=FINE, degree=n)
        process = linear()
        xs = jr.uniform(jr.key(2), (4, n), minval=-1.0)
        weights = jr.normal(jr.key(3), (4, n))

        def ours(g, xs):
            built = eqx.tree_at(lambda c: c.coupling.value, circuit, g)
            return run(built, xs, process=process, key=jr.key(0))

        def theirs(g, xs):
            leak = process.node_leakage_S * PERIOD_S / (circuit.state_F * 12.0)
            load = 1 + 1.1 * jnp.abs(g).sum(0) + leak
            return jnp.linalg.solve(jnp.diag(load) - g.T, xs.T).T

        def with_slopes(f):
            assert circuit.coupling is not None
            loss = lambda g, xs: jnp.sum(weights * f(g, xs))
            both = lambda *args: (f(*args), jax.grad(loss, argnums=(0, 1))(*args))
            return jax.tree.leaves(jax.jit(both)(circuit.coupling.value, xs))

        for a, b in zip(with_slopes(ours), with_slopes(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)


def test_a_coupling_that_is_off_has_the_slope_of_its_difference_quotient():
    with jax.enable_x64(True):
        circuit = network(3, g=jnp.asarray(np.eye(3)), degree=3, solver=FINE)
        xs = jr.normal(jr.key(0), (2, 3))

        def loss(off):
            g = jnp.eye(3).at[0, 1].set(off)
            built = eqx.tree_at(lambda c: c.coupling.value, circuit, g)
            return jnp.sum(run(built, xs, process=QUIET, key=jr.key(0)) ** 2)

        value, slope = jax.jit(loss), jax.jit(jax.grad(loss))(0.0)
        quotient = (value(1e-6) - value(-1e-6)) / 2e-6
        np.testing.assert_allclose(slope, quotient, rtol=1e-4)


def test_it_settles_in_time_to_its_fixed_point_at_the_guaranteed_rate():
    n = 6
    with jax.enable_x64(True):
        circuit = network(n, g=dense(n), degree=n, solver=FINE)
        xs = jr.uniform(jr.key(0), (3, n), minval=-1.0)
        there = circuit.equilibrium(xs, process=QUIET, key=jr.key(0))
        times_s = PERIOD_S / circuit.n_settle * jnp.asarray([0.5, 1.0, 2.0, 4.0, 8.0])
        settle = jax.jit(lambda xs: circuit.settle(xs, times_s, process=QUIET))
        left = np.max(np.abs(settle(xs) - there), axis=-1)
        start = np.max(np.abs(there), axis=-1)
        bound = start * np.exp(-np.asarray([0.5, 1.0, 2.0, 4.0, 8.0]))[:, None]
        assert np.all(left <= bound + 1e-6)
        assert np.all(np.diff(left, axis=0) < 0)
        # And a node without couplings falls at exactly that rate.
        alone = network(2, degree=0)
        settled = np.asarray(alone.settle(xs[:, :2], times_s, process=QUIET))
        expected = (
            xs[:, :2] * (1 - np.exp(-np.asarray([0.5, 1, 2, 4, 8])))[:, None, None]
        )
        np.testing.assert_allclose(settled, expected, rtol=1e-4)


def test_thinking_and_its_gradient_are_those_of_the_differential_equation():
    n = 4
    with jax.enable_x64(True):
        circuit = network(
            n,
            g=dense(n),
            degree=n,
            mode="transient",
            n_settle=3.0,
            longest_memory=2.0,
            n_steps=256,
        )
        xs = jr.uniform(jr.key(1), (3, n), minval=-1.0)
        referee = Integrated(circuit, SolverConfig("dopri8", rtol=1e-9, atol=1e-10))
        weights = jr.normal(jr.key(2), (3, n))

        def loss(arrays, circuit_of):
            circuit, xs = arrays
            ys = run(circuit_of(circuit), xs, process=QUIET, key=jr.key(0))
            return jnp.sum(weights * ys), ys

        found = []
        for of in (
            lambda c: c,
            lambda c: eqx.tree_at(lambda r: r.circuit, referee, c),
        ):
            solve = eqx.filter_value_and_grad(
                lambda arrays, of=of: loss(arrays, of), has_aux=True
            )
            (_, ys), slopes = eqx.filter_jit(solve)((circuit, xs))
            found.append([ys, *jax.tree.leaves(slopes)])
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_half_a_step_leaves_a_quarter_of_the_error():
    circuit = network(8, mode="transient", n_settle=4.0, strength=1.0)
    nodes, xs = circuit.nodes(QUIET), jr.normal(jr.key(0), (40, 8))
    start = jr.normal(jr.key(1), (40, 8))
    think = lambda k: np.asarray(circuit.think(start, xs, None, nodes, n_steps=k))
    errors = [np.abs(think(k) - think(512)).mean() for k in (16, 32)]
    assert 3.3 < errors[0] / errors[1] < 4.9


def test_a_network_given_long_enough_is_at_its_equilibrium():
    key, xs = jr.key(3), jr.uniform(jr.key(0), (2, 3, 6), minval=-1.0)
    settled, timed = (
        network(6, key=3, mode=mode, n_steps=64)
        for mode in ("equilibrium", "transient")
    )
    a, b = (run_jit(c, xs, process=QUIET, key=key) for c in (settled, timed))
    np.testing.assert_allclose(a, b, atol=1e-5)


def linear_noise(n, g):
    """M of dv = −D(v − Mv) dt + noise, in tokens, and the variance kT/C of a node."""
    circuit = network(n, g=g, degree=n, n_settle=4.0, mode="transient", n_steps=64)
    process = with_process(slope_factor=1e4)
    nodes = circuit.nodes(process)
    M = np.asarray(nodes.g / nodes.load, np.float64).T
    decay = np.asarray(nodes.rate * nodes.load, np.float64)
    kT = 1.380649e-23 * PROCESS.temperature_K
    kTC = PROCESS.thermal_noise * kT / circuit.state_F / PROCESS.swing_V**2
    A = -decay[:, None] * (np.eye(n) - M)
    return circuit, process, lyapunov_covariance(A, np.diag(2 * decay * kTC)), kTC


def assert_covariance(samples, expected):
    """Each entry is the expected one within 4 standard errors, of all of them."""
    measured = np.cov(np.asarray(samples, np.float64).T)
    spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + expected**2)
    assert np.all(np.abs(measured - expected) < 4 * spread / len(samples) ** 0.5)


@pytest.mark.parametrize("path", ["fast", "diffrax"])
def test_noise_in_time_is_the_covariance_of_lyapunov(path):
    g = jnp.asarray([[0.0, 3.0, 0.0], [3.0, 0.0, -1.0], [0.0, 2.0, 0.0]])
    circuit, process, expected, kTC = linear_noise(3, g)
    assert abs(expected[0, 1]) > 0.3 * kTC, "the nodes are correlated"
    if path == "diffrax":
        circuit = Integrated(circuit, SolverConfig("heun", steps_per_token=96))
    # Two tokens of 4 and more time constants: nothing is left of the start.
    ys = run_jit(circuit, jnp.zeros((2, 4000, 3)), process=process, key=jr.key(0))
    assert_covariance(ys[-1], expected)


def test_noise_of_an_equilibrium_is_that_of_lyapunov_to_first_order():
    g = jnp.asarray([[0.0, 0.2, 0.0], [0.1, 0.0, -0.2], [0.0, 0.15, 0.0]])
    circuit, process, expected, kTC = linear_noise(3, g)
    circuit = network(3, g=g, degree=3)
    ys = run_jit(circuit, jnp.zeros((1, 40_000, 3)), process=process, key=jr.key(0))
    assert_covariance(ys[0], expected)
    assert np.abs(expected - kTC * np.eye(3)).max() > 0.05 * kTC
    # Without couplings it is kT/C exactly.
    ys = run_jit(
        network(3, degree=0), jnp.zeros((1, 40_000, 3)), process=PROCESS, key=jr.key(1)
    )
    assert_variance(ys[0], kTC)


def test_noise_is_frozen_in_a_solve():
    circuit, x = network(5), jr.normal(jr.key(0), (7, 5))
    settle = lambda key: circuit.equilibrium(x, process=PROCESS, key=key)
    np.testing.assert_array_equal(settle(jr.key(1)), settle(jr.key(1)))
    assert np.all(settle(jr.key(1)) != settle(jr.key(2)))


@pytest.mark.parametrize(("max_steps", "share"), [(1, 1.0), (64, 0.0)])
def test_what_does_not_settle_is_counted(max_steps, share):
    circuit = network(8, solver=FixedPointConfig(max_steps=max_steps), strength=8.0)
    xs = jr.normal(jr.key(0), (3, 4, 8))
    figures = circuit.diagnose(xs, process=PROCESS, key=jr.key(0))
    assert figures["not settled"] == share
    assert figures["iterations"] <= max_steps
    assert (figures["residual"] > 1e-6) == (share > 0)
    ys = run_jit(circuit, xs, process=PROCESS, key=jr.key(0))
    assert np.all(np.isfinite(ys))


def test_what_is_not_a_number_is_not_settled():
    xs = jnp.zeros((1, 4, 3)).at[0, 0, 0].set(jnp.nan)
    circuit = network(3, degree=2)
    figures = circuit.diagnose(xs, process=QUIET, key=jr.key(0))
    assert figures["not settled"] == 0.25
    circuit = network(3, degree=2, mode="transient")
    figures = circuit.diagnose(xs, process=QUIET, key=jr.key(0))
    assert figures["not a number"] == 0.25


def test_energy_is_that_of_its_conductances():
    circuit = network(4, strength=2.0, degree=4, n_settle=5.0)
    charge = {
        event.part: float(event.count)
        for event in circuit.events(PROCESS, period_s=PERIOD_S)
    }
    # A node of 1 + 1.1·2 units G = 5·C/T, each with a tail of G·2nU_T, in both halves.
    volts = 2 * PROCESS.slope_factor * 1.380649e-23 * 300 / 1.602176634e-19
    expected = 2 * 4 * (1 + 1.1 * 2) * 5.0 * circuit.state_F * volts
    np.testing.assert_allclose(charge["conductances"], expected, rtol=1e-4)
    nodes = 2 * 4 * 50e-15 * PROCESS.swing_V
    np.testing.assert_allclose(charge["nodes"], nodes, rtol=1e-6)
    slower = network(4, strength=2.0, degree=4, n_settle=10.0)
    counts = totals(slower.events(PROCESS, period_s=PERIOD_S))
    assert counts["supply_charge_C"] > charge["conductances"] + charge["nodes"]
    assert "buffers" not in {
        e.part for e in network(4, degree=0).events(PROCESS, period_s=PERIOD_S)
    }


def test_nodes_that_are_slower_remember_for_longer():
    circuit = network(3, mode="transient", n_settle=2.0, longest_memory=8.0, degree=0)
    state, _ = circuit.scan(
        jnp.ones(3), jnp.zeros((4, 3)), process=QUIET, key=jr.key(0)
    )
    np.testing.assert_allclose(-np.log(state) / 4, [2.0, 0.5, 0.125], rtol=1e-3)


def test_controls_take_away_one_thing_each():
    config = EquilibriumBlock(n=12, n_taps=3)
    uncoupled = config.without_mechanism()
    assert uncoupled == dataclasses.replace(config, degree=0)
    assert uncoupled.without_mechanism() == GatedUnitBlock(n_hidden=12, n_taps=3)
    block = uncoupled.build(Site(4, PROCESS, jr.key(0)))
    assert isinstance(block, GatedMixer)
    assert isinstance(block.cell, SettlingNetwork)
    assert block.cell.coupling is None
    # Uncoupled, an equilibrium is its input.
    x = jr.normal(jr.key(0), (12,))
    _, y = block.cell.step(0 * x, x, process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(y, x, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 0}, "`n` must be positive and finite, but is 0"),
        ({"margin": 0.0}, "`margin` must be positive and finite, but is 0.0"),
        ({"n_settle": float("nan")}, "`n_settle` must be positive and finite"),
        ({"state_F": -1.0}, "`state_F` must be positive and finite, but is -1.0"),
        ({"degree": 6}, "`degree` must be from 0 to the 5 nodes, but is 6"),
        ({"longest_memory": 1e-3}, "`longest_memory` must be 0 or at least"),
    ],
)
def test_an_impossible_network_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        network(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 0}, "`max_steps` must be at least 1, but is 0"),
        ({"n": 0}, "`n` must be positive, but is 0"),
        ({"n_taps": 0}, "`n_taps` must be positive, but is 0"),
    ],
)
def test_an_impossible_block_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EquilibriumBlock(**changes)


@pytest.mark.needs_ngspice
@pytest.mark.parametrize("mode", ["equilibrium", "transient"])
def test_exported_networks_simulate_as_modeled(mode, tmp_path):
    # More nodes than the bench simulates, so that the tile is a part.
    design = network(8, mode=mode, n_settle=3.0, longest_memory=2.0, bits=6)
    offset = 0.1 * jr.normal(jr.key(1), (8,))
    design = eqx.tree_at(lambda c: c.offset.value, design, offset)
    chip = fabricate(design, PROCESS, key=jr.key(2))
    block = EquilibriumBlock(n=3, n_taps=2, degree=2, mode=mode)
    built = block.build(Site(2, PROCESS, jr.key(0)))
    folder = export((chip, built), PROCESS, tmp_path / "package", provenance={})
    verification = verify(folder, gates=("B1", "B2"))
    assert verification.passed, str(verification)
    checked = [c.name for c in verification.checks if "tile_settling: y" in c.name]
    assert len(checked) == 6 * 6
