"""Gated RC: exact steps, held against the differential equation itself."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks.base import Site
from circuits.blocks.state_space import GatedRCBlock
from circuits.state_space import GatedRC
from physnn.circuit import run
from tests.helpers import PERIOD_S, PROCESS, QUIET, run_jit, totals
from tests.systems import gated_rc_by_diffrax, rc_step_response


def test_step_response_of_an_rc():
    cell = GatedRC(2, period_s=PERIOD_S)
    # With s at 0 the gate is half open: rate_max / 2 time constants per token.
    x = jnp.concatenate([jnp.asarray([0.5, -0.8]), jnp.zeros(2)])
    ys = run_jit(cell, jnp.broadcast_to(x, (10, 4)), process=QUIET, key=jr.key(0))
    leak = PROCESS.node_leakage_S * PERIOD_S / cell.state_F
    rate = cell.rate_max / 2
    for column, u in enumerate((0.5, -0.8)):
        expected = rc_step_response(
            np.arange(1, 11), tau=1 / (rate + leak), target=u * rate / (rate + leak)
        )
        np.testing.assert_allclose(ys[:, column], expected, rtol=1e-5)


def test_values_and_gradients_are_those_of_the_differential_equation():
    time, n = 4, 2
    with jax.enable_x64(True):
        # A leak as strong as the gate, so that a mistake in either shows.
        cell = GatedRC(n, period_s=1.0, state_F=1e-12 / 0.5, rate_max=3.0)
        cell = eqx.tree_at(lambda c: c.offset.value, cell, jnp.asarray([0.02, -0.05]))
        assert cell.leak(PROCESS) == pytest.approx(0.5)
        a, b, c = jr.split(jr.key(0), 3)
        us = jr.uniform(a, (time, n), minval=-1.0)
        ss = 0.1 * jr.normal(b, (time, n))
        v0, weights = jr.normal(c, (2, n))

        def ours(us, ss, v0):
            xs = jnp.concatenate([us, ss], axis=-1)
            return cell.scan(v0, xs, process=QUIET, key=jr.key(0))[1]

        def theirs(us, ss, v0):
            # The pair's law: a current share of 1/(1 + e^(−v/nU_T)).
            n_ut = PROCESS.slope_factor * 1.380649e-23 * 300 / 1.602176634e-19
            volts = (ss + jnp.asarray([0.02, -0.05])) * PROCESS.swing_V
            rates = 3.0 / (1 + jnp.exp(-volts / n_ut))
            return gated_rc_by_diffrax(rates, us, 0.5, v0)

        of = lambda f: jax.jit(
            lambda *args: (
                f(*args),
                jax.grad(lambda *a: jnp.sum(f(*a) @ weights), argnums=(0, 1, 2))(*args),
            )
        )
        for a, b in zip(
            jax.tree.leaves(of(ours)(us, ss, v0)),
            jax.tree.leaves(of(theirs)(us, ss, v0)),
            strict=True,
        ):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8)


def test_leakage_bounds_the_memory_at_c_over_g():
    period_s, state_F = 1e-6, 50e-15
    cell = GatedRC(1, period_s=period_s, state_F=state_F)
    # Both the steering and its offset far below: the gate itself passes 1e-10.
    cell = eqx.tree_at(lambda c: c.offset.value, cell, -jnp.ones(1))
    shut = jnp.broadcast_to(jnp.asarray([0.9, -1.0]), (3000, 2))
    state, _ = cell.scan(jnp.ones(1), shut, process=QUIET, key=jr.key(0))
    longest = state_F / PROCESS.node_leakage_S / period_s
    assert longest == pytest.approx(50_000)
    np.testing.assert_allclose(-np.log(state[0]), 3000 / longest, rtol=0.02)


def test_a_state_never_leaves_the_range_of_its_input():
    xs = jr.uniform(jr.key(0), (200, 5, 8), minval=-1.0)
    ys = run_jit(GatedRC(4, period_s=PERIOD_S), xs, process=QUIET, key=jr.key(0))
    assert jnp.max(jnp.abs(ys)) <= 1.0


def test_time_rescaled_with_its_leak_changes_nothing():
    # Ten times slower at ten times less leakage is the same computation.
    xs = jr.uniform(jr.key(0), (20, 4), minval=-1.0)
    slow = eqx.tree_at(lambda p: p.node_leakage_S, QUIET, QUIET.node_leakage_S / 10)
    a = run(GatedRC(2, period_s=1e-3), xs, process=QUIET, key=jr.key(0))
    b = run(GatedRC(2, period_s=1e-2), xs, process=slow, key=jr.key(0))
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_its_tail_charges_the_capacitor_rate_max_times():
    cell = GatedRC(3, period_s=PERIOD_S)
    counts = totals(cell.events(PROCESS, period_s=PERIOD_S))
    # g = I / 2nU_T must move C rate_max times per token, in both halves.
    volts = PROCESS.linear_range() * PROCESS.swing_V
    expected = 2 * 3 * cell.rate_max * cell.state_F * volts
    assert counts == {"supply_charge_C": pytest.approx(expected, rel=1e-6, abs=0)}


def test_a_memory_shorter_than_an_open_gate_is_refused():
    site = Site(4, PROCESS, jr.key(0))
    with pytest.raises(ValueError, match=r"above the 0.25 tokens of an open gate"):
        GatedRCBlock(n_states=2, longest_memory=0.25).build(site)
    steer = GatedRCBlock(n_states=2, longest_memory=0.26).build(site).inputs.offset
    assert np.all(np.isfinite(steer.value))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_F": -1e-15}, "`state_F` must be positive, but is -1e-15"),
        ({"state_F": float("nan")}, "`state_F` must be positive, but is nan"),
        ({"rate_max": 0.0}, "`rate_max` must be positive, but is 0.0"),
        ({"rate_max": float("inf")}, "`rate_max` must be finite, but is inf"),
        ({"period_s": 0.0}, "`period_s` must be positive, but is 0.0"),
        ({"n": 0}, "`n` must be positive, but is 0"),
    ],
)
def test_an_impossible_cell_is_refused(changes, message):
    arguments = {"n": 2, "period_s": 1e-6} | changes
    with pytest.raises(ValueError, match=message):
        GatedRC(arguments.pop("n"), **arguments)
