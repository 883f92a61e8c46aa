"""Diffrax under the circuits: every solver, its noise, its adjoints, its failures."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.parts import AutomaticGain
from circuits.state_space import GatedRC
from physnn.circuit import run
from physnn.dynamics import SOLVERS, Integrated, SolverConfig, integrated
from physnn.network import Chain
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    run_jit,
    signal,
    totals,
)

CELL = GatedRC(3, period_s=PERIOD_S)


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_solver_finds_the_closed_form(name):
    xs = signal("GatedRC")
    expected = run_jit(CELL, xs, process=QUIET, key=jr.key(0))
    solver = SolverConfig(name, steps_per_token=256)
    found = run_jit(Integrated(CELL, solver), xs, process=QUIET, key=jr.key(0))
    # Euler's error falls with the first power of the step.
    np.testing.assert_allclose(found, expected, atol=3e-3 if name == "euler" else 2e-5)


@pytest.mark.parametrize("name", ["euler", "heun", "shark"])
def test_paths_spread_as_the_closed_form_draws(name):
    wide = GatedRC(4, period_s=PERIOD_S, state_F=1e-15)
    xs = jnp.zeros((2, 3000, 8))
    solver = SolverConfig(name, steps_per_token=64)
    noisy = run_jit(Integrated(wide, solver), xs, process=PROCESS, key=jr.key(3))[-1]
    # After a time constant of rate_max/2 per token, and its leak, kT/C is reached.
    rate = wide.rate(jnp.zeros(4), process=PROCESS) + wide.leak(PROCESS)
    stationary = PROCESS.thermal_variance(wide.state_F)
    expected = stationary * (1 - np.exp(-4 * np.asarray(rate, np.float64)))
    # Steps of finite length: Euler's own variance is larger by half a step of decay.
    slack = 1 + float(jnp.max(rate)) / 64 if name == "euler" else 1.0
    assert_variance(noisy, expected * slack, excess=0.0, sigmas=3.5)


@pytest.mark.parametrize("adjoint", ["recursive", "direct", "backsolve"])
def test_every_adjoint_gives_the_gradient_of_the_closed_form(adjoint):
    def loss(cell, xs):
        return jnp.sum(run(cell, xs, process=QUIET, key=jr.key(0)) ** 2)

    xs = signal("GatedRC")
    slope = eqx.filter_jit(eqx.filter_grad(loss))
    solver = SolverConfig("tsit5", adjoint=adjoint, max_steps=64)
    expected = slope(CELL, xs).offset.value
    found = slope(Integrated(CELL, solver), xs).circuit.offset.value
    assert np.all(expected != 0)
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_a_token_that_needs_more_steps_is_counted_and_not_hidden():
    xs = signal("GatedRC")
    hasty = Integrated(CELL, SolverConfig("dopri8", rtol=1e-7, max_steps=1))
    assert np.all(np.isnan(run_jit(hasty, xs, process=QUIET, key=jr.key(0))))
    count = "share of tokens not integrated"
    assert hasty.diagnose(xs, process=QUIET, key=jr.key(0))[count] == 1
    patient = Integrated(CELL, SolverConfig("dopri8"))
    assert patient.diagnose(xs, process=QUIET, key=jr.key(0))[count] == 0


def test_a_network_is_integrated_where_it_is_dynamic():
    network = Chain([AutomaticGain(6), CELL])
    solver = SolverConfig("kvaerno5")
    changed = integrated(network, solver)
    kinds = [type(part) for part in jax.tree.leaves(changed, is_leaf=_is_part)]
    assert kinds == [AutomaticGain, Integrated]
    of = lambda net: totals(net.events(PROCESS, period_s=PERIOD_S))
    assert of(changed) == of(network), "the bill is the circuit's, however simulated"
    xs = signal("GatedRC")
    a, b = (run_jit(n, xs, process=QUIET, key=jr.key(0)) for n in (network, changed))
    np.testing.assert_allclose(a, b, atol=2e-4)
    other = integrated(changed, SolverConfig("tsit5"))
    assert eqx.tree_equal(other, integrated(network, SolverConfig("tsit5")))


def _is_part(node) -> bool:
    return isinstance(node, AutomaticGain | Integrated | GatedRC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "rk4"}, r"`name` must be one of \['dopri8', .*\], but is 'rk4'"),
        ({"adjoint": "none"}, r"`adjoint` must be one of .* but is 'none'"),
        ({"rtol": 0.0}, r"`rtol` must be positive, but is 0\.0"),
        ({"max_steps": 0}, r"`max_steps` must be positive, but is 0"),
        (
            {"name": "heun", "adjoint": "backsolve"},
            r"`adjoint` must be `recursive` or `direct` .* but is `backsolve`",
        ),
    ],
)
def test_an_impossible_solver_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        SolverConfig(**changes)
