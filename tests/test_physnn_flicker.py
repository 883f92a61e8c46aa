"""Flicker of circuits that run in time: rings and settling networks."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.equilibrium import PAIR_M2, SettlingNetwork
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_parts import GATE_F_PER_M2
from circuits.stuart_landau import StuartLandau
from physnn.deploy import active_sources
from physnn.disturbance import disturbed
from physnn.environment import Environment
from physnn.noise.flicker import pole_rates
from tests.helpers import PERIOD_S, PROCESS, QUIET, assert_variance, member, run_jit

FLICKER = Environment.ideal().replace(flicker_V2m2=1e-22)
BAND = math.log(1 / (2 * PERIOD_S) / FLICKER.flicker_low_Hz)
N = 4000


def wandered(n_tokens):
    """Variance of a sum of tokens of 1/f noise of unit variance: from its poles."""
    rates = np.asarray(pole_rates(FLICKER.flicker_low_Hz, 1 / (2 * PERIOD_S)))
    rho = np.exp(-2 * math.pi * rates * PERIOD_S)
    gaps = np.abs(np.subtract.outer(np.arange(n_tokens), np.arange(n_tokens)))
    return np.mean([(r**gaps).sum() for r in rho])


@pytest.mark.parametrize("family", [PhaseOscillators, StuartLandau])
def test_phase_of_a_free_ring_wanders_as_one_over_f(family):
    cell = family(2, period_s=PERIOD_S, key=jr.key(0), coupling="none")
    cell = disturbed(cell, QUIET, FLICKER, period_s=PERIOD_S)
    n_tokens = 12
    ys = run_jit(
        cell, jnp.zeros((n_tokens, N, cell.n_in)), process=QUIET, key=jr.key(1)
    )
    s, c = np.split(np.asarray(ys, np.float64), 2, axis=-1)
    phases = np.arctan2(s, c)
    # A token turns a ring 2π·cycles; each edge is as fast as one gate of all its area.
    area_m2 = 22e-15 / GATE_F_PER_M2
    token = 2 * math.pi * 8 * PROCESS.operating["gm_per_I"]
    variance = token**2 * FLICKER.flicker_V2m2 / area_m2 * BAND
    for n in (1, n_tokens):
        # Poles are sums of white draws: their excess is less than one draw's.
        assert_variance(phases[n - 1], variance * wandered(n), excess=0.0)
    # Low frequencies: a dozen tokens drift together, not as a random walk.
    assert wandered(n_tokens) > 0.5 * n_tokens**2
    # Each ring has its own.
    assert abs(np.corrcoef(phases[-1].T)[0, 1]) < 4 / math.sqrt(N)


@pytest.mark.parametrize("mode", ["equilibrium", "transient"])
def test_offsets_of_a_settling_network_wander(mode):
    cell = SettlingNetwork(4, period_s=PERIOD_S, key=jr.key(0), mode=mode, n_settle=3.0)

    def last(offset):
        moved = eqx.tree_at(
            lambda c: c.offset.error, cell, offset, is_leaf=lambda x: x is None
        )
        xs = jnp.zeros((1, cell.n_in))
        return run_jit(moved, xs, process=QUIET, key=jr.key(0))[0]

    slope = np.asarray(jax.jacobian(last)(jnp.zeros(4)))
    sigma2 = 2 * FLICKER.flicker_V2m2 / PAIR_M2 * BAND / PROCESS.swing_V**2
    assert sigma2**0.5 < 0.2  # where buffers are as good as linear
    small = FLICKER.replace(flicker_V2m2=1e-25)
    chip = disturbed(cell, QUIET, small, period_s=PERIOD_S)
    ys = run_jit(chip, jnp.zeros((3, N, 4)), process=QUIET, key=jr.key(1))
    assert_variance(ys[0], 1e-3 * sigma2 * (slope**2).sum(axis=1), excess=0.0)
    assert np.all(np.std(ys[2], axis=0) > 0)


def test_settling_in_time_sees_the_offsets_of_its_moment():
    cell = SettlingNetwork(3, period_s=PERIOD_S, key=jr.key(0), degree=2)
    offsets = 0.02 * jr.normal(jr.key(1), (2, 3))
    moved = eqx.tree_at(
        lambda c: c.offset, cell, dataclasses.replace(cell.offset, error=offsets)
    )
    x, late = jnp.zeros((2, 3)), jnp.asarray([PERIOD_S])
    (end,) = moved.settle(x, late, process=QUIET)
    for i in (0, 1):
        alone = eqx.tree_at(
            lambda c: c.offset, cell, dataclasses.replace(cell.offset, error=offsets[i])
        )
        (own,) = alone.settle(x[i], late, process=QUIET)
        np.testing.assert_allclose(end[i], own, atol=1e-5)
    assert np.any(np.abs(end) > 1e-4)


@pytest.mark.parametrize(
    "name", ["PhaseOscillators", "StuartLandau", "SettlingNetwork"]
)
def test_no_flicker_is_the_circuit_itself(name):
    assert disturbed(member(name), QUIET, Environment(), period_s=PERIOD_S) is member(
        name
    )
    (source,) = [
        each
        for each in active_sources(member(name), PROCESS, FLICKER)
        if each.name == "flicker_V2m2"
    ]
    # No loop over time is deaf any more.
    assert not source.deaf


def test_a_ring_follows_the_ripple_of_its_supply():
    rings = PhaseOscillators(2, period_s=PERIOD_S, key=jr.key(0), coupling="none")
    noisy = Environment.ideal().replace(supply_noise_V=1e-3)
    cell = disturbed(rings, QUIET, noisy, period_s=PERIOD_S)
    ys = run_jit(cell, jnp.zeros((1, N, rings.n_in)), process=QUIET, key=jr.key(1))
    phases = np.arcsin(np.asarray(ys[0, :, :2], np.float64))
    pushed = PROCESS.operating["ring_per_supply"] * 1e-3 / PROCESS.supply_V
    assert_variance(phases, (2 * math.pi * 8 * pushed) ** 2)
    # One supply for all rings.
    np.testing.assert_allclose(phases[:, 0], phases[:, 1], rtol=1e-5)
