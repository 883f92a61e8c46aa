"""Settling networks whose couplings drive and do not load: what bounds them."""

from functools import partial
from typing import Any

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
from circuits.equilibrium import DRIVE_MIN, SettlingNetwork
from circuits.equilibrium_parts import norm_bound, pull_bound
from evals.verify import verify
from physnn.circuit import run
from physnn.dynamics import Integrated, SolverConfig
from physnn.equilibrium import FixedPointConfig
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import PERIOD_S, PROCESS, QUIET, run_jit, with_process
from tests.systems import lyapunov_covariance

FINE = FixedPointConfig(tolerance=1e-12, max_steps=400)


def network(n=6, *, g=None, **changes):
    arguments = {"period_s": PERIOD_S, "key": jr.key(0), "bits": None, "degree": n}
    circuit = SettlingNetwork(n, coupler="transconductor", **arguments | changes)
    if g is None:
        return circuit
    return eqx.tree_at(lambda c: c.coupling.value, circuit, jnp.asarray(g))


_norm = jax.jit(norm_bound)
_moving = jax.jit(partial(pull_bound, at_rest=False))


@given(
    n=st.sampled_from([1, 7]),
    rank=st.sampled_from([0, 1, 7]),
    size=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=25, deadline=None)
def test_a_bound_is_just_above_what_it_bounds(n, rank, size, seed):
    rng = np.random.default_rng(seed)
    a = size * rng.normal(size=(n, rank)) @ rng.normal(size=(rank, n))
    norm = np.linalg.norm(a, 2)
    largest = max(np.linalg.eigvalsh((a + a.T) / 2)[-1], 0.0)
    with jax.enable_x64(True):
        found = float(_norm(a))
        assert norm * (1 - 1e-9) <= found <= norm * n ** (1 / 128) + 1e-12
        moving = float(_moving(a))
        assert (norm + largest) / 2 * (1 - 1e-9) <= moving
        # The symmetric part is shifted by its norm before it is bounded.
        assert moving <= (norm + largest) / 2 + 2 * norm * (n ** (1 / 64) - 1) + 1e-9
        half = float(_moving(a - a.T))
        np.testing.assert_allclose(half, float(_norm(a - a.T)) / 2, atol=1e-9)


def test_a_bound_is_differentiated_as_the_largest_singular_value_is():
    with jax.enable_x64(True):
        a = jnp.diag(jnp.asarray([3.0, 1.0, 0.1])) + 0.01
        u, _, v = np.linalg.svd(np.asarray(a))
        slope = jax.jit(jax.grad(norm_bound))(a)
        np.testing.assert_allclose(slope, np.outer(u[:, 0], v[0]), atol=1e-6)
        assert np.all(np.asarray(jax.grad(norm_bound)(jnp.zeros((3, 3)))) == 0)


@eqx.filter_jit
def _moved(circuit, x, states):
    rate = lambda v: circuit.drift(v, x, process=QUIET) * PERIOD_S
    nodes = circuit.nodes(QUIET)
    return jax.vmap(rate)(states), nodes.rate, nodes.d, circuit.contraction(QUIET)


@pytest.mark.parametrize("mode", ["equilibrium", "transient"])
@given(size=st.sampled_from([0.1, 1.0, 1000.0]), seed=st.integers(0, 2**31))
@settings(max_examples=15, deadline=None)
def test_two_states_approach_whatever_is_trained(mode, size, seed):
    rng = np.random.default_rng(seed)
    n = 6
    with jax.enable_x64(True):
        circuit = network(
            mode=mode,
            g=size * rng.normal(size=(n, n)),
            strength=3.0,
            longest_memory=2.0,
        )
        circuit = eqx.tree_at(
            lambda c: (c.drive.value, c.offset.value),
            circuit,
            (jnp.asarray(rng.normal(size=n)), jnp.asarray(rng.normal(size=n))),
        )
        # Near the knee of the buffers, where their slopes differ most.
        a, b = states = 0.3 * rng.normal(size=(2, n))
        x = rng.uniform(-1, 1, n)
        (to_a, to_b), rate, d, constant = jax.device_get(_moved(circuit, x, states))
        falls = -np.sum((a - b) * (to_a - to_b) / rate) / np.sum((a - b) ** 2 / rate)
        assert falls >= np.min(rate * d) * (1 - 1e-9)
        assert np.min(d) >= DRIVE_MIN / 2
        assert constant < 1 / (1 + circuit.margin)


def test_mismatch_takes_little_of_the_margin():
    design = network(40, mode="transient", strength=3.0, bits=6, degree=40)
    worst = max(
        float(fabricate(design, PROCESS, key=jr.key(i)).contraction(PROCESS))
        for i in range(3)
    )
    assert float(design.contraction(PROCESS)) < worst < 0.95


def test_couplings_start_several_times_as_strong_as_those_that_load():
    """At one strength and load: orthogonal and skew, nothing is lost in sums."""

    def feedback(coupler, mode):
        circuit = SettlingNetwork(
            32,
            period_s=PERIOD_S,
            key=jr.key(0),
            mode=mode,
            coupler=coupler,
            degree=32,
            strength=3.0,
            bits=None,
        )
        g, load = circuit.nodes(QUIET).g, circuit.nodes(QUIET).load
        return float(jnp.sqrt(jnp.mean(jnp.sum(g * g, axis=0)))), float(load.mean())

    for mode, times in (("transient", 2.0), ("equilibrium", 1.0)):
        strong, load = feedback("transconductor", mode)
        weak, same = feedback("resistor", mode)
        np.testing.assert_allclose(strong, times * 3.0, rtol=0.04)
        np.testing.assert_allclose(load, same, rtol=0.02)
        assert strong > 5 * weak * times / 2
    g = np.asarray(network(9, mode="transient", degree=4).nodes(QUIET).g)
    np.testing.assert_allclose(g, -g.T, atol=1e-5)
    assert np.all(np.count_nonzero(np.abs(g) > 1e-6, axis=0) <= 3)


def test_couplings_over_the_bound_are_scaled_and_others_left():
    small, large = (network(g=size * np.eye(6), strength=2.0) for size in (1.0, 8.0))
    np.testing.assert_allclose(small.nodes(QUIET).g, np.eye(6), rtol=1e-5)
    found = np.asarray(large.nodes(QUIET).g)
    # Six equal singular values: the bound is 6^(1/128) above them.
    np.testing.assert_allclose(found, 2 / 6 ** (1 / 128) * np.eye(6), rtol=1e-4)


def test_an_equilibrium_and_its_gradient_are_those_of_its_equations():
    n = 6
    with jax.enable_x64(True):
        g = 0.5 * jr.normal(jr.key(1), (n, n))
        circuit = network(n, g=g, solver=FINE, strength=2.0)
        process = with_process(slope_factor=1e4, thermal_noise=0.0)
        xs = jr.uniform(jr.key(2), (4, n), minval=-1.0)
        weights = jr.normal(jr.key(3), (4, n))

        def ours(g, xs):
            built = eqx.tree_at(lambda c: c.coupling.value, circuit, g)
            return run(built, xs, process=process, key=jr.key(0))

        def theirs(g, xs):
            leak = process.node_leakage_S * PERIOD_S / (circuit.state_F * 12.0)
            # The norm by its definition: here the couplings are over the bound.
            power = jnp.sum(jnp.linalg.svd(g, compute_uv=False) ** 128) ** (1 / 128)
            load = 1 + 1.1 * 2.0 + leak
            return jnp.linalg.solve(load * jnp.eye(n) - 2.0 / power * g.T, xs.T).T

        assert float(norm_bound(g)) > 2.0

        def with_slopes(f):
            loss = lambda g, xs: jnp.sum(weights * f(g, xs))
            both = lambda *args: (f(*args), jax.grad(loss, argnums=(0, 1))(*args))
            return jax.tree.leaves(jax.jit(both)(g, xs))

        for a, b in zip(with_slopes(ours), with_slopes(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)


def test_thinking_and_its_gradient_are_those_of_the_differential_equation():
    with jax.enable_x64(True):
        circuit = network(
            4, mode="transient", n_settle=1.0, longest_memory=2.0, n_steps=256
        )
        xs = jr.uniform(jr.key(1), (3, 4), minval=-1.0)
        referee = Integrated(circuit, SolverConfig("dopri8", rtol=1e-9, atol=1e-10))
        weights = jr.normal(jr.key(2), (3, 4))

        def loss(circuit, of):
            ys = run(of(circuit), xs, process=QUIET, key=jr.key(0))
            return jnp.sum(weights * ys), ys

        found = []
        for of in (lambda c: c, lambda c: eqx.tree_at(lambda r: r.circuit, referee, c)):
            solve = eqx.filter_value_and_grad(
                lambda c, of=of: loss(c, of), has_aux=True
            )
            (_, ys), slopes = eqx.filter_jit(solve)(circuit)
            found.append([ys, *jax.tree.leaves(slopes)])
        for ours, theirs in zip(*found, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_noise_is_that_of_all_currents_into_a_node():
    g = jnp.asarray([[0.0, 2.0, 0.0], [-2.0, 0.0, 0.5], [0.0, 0.0, 0.0]])
    circuit = network(3, g=g, n_settle=2.0, mode="transient", n_steps=64)
    process = with_process(slope_factor=1e4)
    nodes = circuit.nodes(process)
    g, load, rate = (np.asarray(x, float) for x in (nodes.g, nodes.load, nodes.rate))
    kT = 1.380649e-23 * PROCESS.temperature_K
    kTC = PROCESS.thermal_noise * kT / circuit.state_F / PROCESS.swing_V**2
    heat = rate * (load + np.abs(g).sum(0))
    expected = lyapunov_covariance(
        -rate[:, None] * (np.diag(load) - g.T), np.diag(2 * heat * kTC)
    )
    assert expected[0, 0] > 1.2 * kTC
    ys = run_jit(circuit, jnp.zeros((2, 4000, 3)), process=process, key=jr.key(0))
    measured = np.cov(np.asarray(ys[-1], np.float64).T)
    spread = np.sqrt(np.outer(np.diag(expected), np.diag(expected)) + expected**2)
    assert np.all(np.abs(measured - expected) < 4 * spread / 4000**0.5)


def test_couplings_are_billed_beside_the_load_they_do_not_bring():
    count = lambda circuit: {
        event.part: float(event.count)
        for event in circuit.events(PROCESS, period_s=PERIOD_S)
    }["conductances"]
    resting = network(4, g=np.zeros((4, 4)), strength=2.0)
    driven = network(4, g=np.eye(4), strength=2.0)
    loads = 1 + 1.1 * 2
    np.testing.assert_allclose(
        count(driven) / count(resting), (loads + 1) / loads, rtol=1e-3
    )
    # By shapes alone: as it starts.
    start = network(32, mode="transient", degree=32)
    known = eqx.filter_eval_shape(lambda: start)
    np.testing.assert_allclose(count(known), count(start), rtol=0.05)


def test_without_couplings_the_load_stays():
    config = EquilibriumBlock(n=6, coupler="transconductor", mode="transient", degree=6)
    blocks: Any = [
        each.build(Site(4, PROCESS, jr.key(0)))
        for each in (config, config.without_mechanism())
    ]
    built, alone = (block.cell for block in blocks)
    assert alone.coupling is None
    np.testing.assert_allclose(
        alone.nodes(PROCESS).load, built.nodes(PROCESS).load, rtol=1e-6
    )


def test_one_node_alone_turns_nothing():
    with pytest.raises(ValueError, match="must be 0, or 2 or more nodes"):
        network(mode="transient", degree=1)


@pytest.mark.needs_ngspice
@pytest.mark.parametrize("mode", ["equilibrium", "transient"])
def test_exported_networks_simulate_as_modeled(mode, tmp_path):
    design = network(8, mode=mode, n_settle=1.5, longest_memory=2.0, bits=6)
    chip = fabricate(design, PROCESS, key=jr.key(2))
    folder = export(chip, PROCESS, tmp_path / "package", provenance={})
    verification = verify(folder, gates=("B1", "B2"))
    assert verification.passed, str(verification)
    checked = [c.name for c in verification.checks if "tile_settling: y" in c.name]
    assert len(checked) == 6 * 6
