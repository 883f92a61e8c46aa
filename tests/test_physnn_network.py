"""Networks of circuits: wiring, streams, and the charge of a skip."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, GilbertGate
from physnn.keys import stream
from physnn.network import Chain, Parallel, Residual
from tests.helpers import PERIOD_S, PROCESS, QUIET, analog_C, run_jit, totals

DELAY = eqx.tree_at(
    lambda d: d.tap.value,
    DelayLine(4, n_taps=2, process=PROCESS),
    jnp.asarray([[0.2, 0.1, 0.0, -0.3], [0.5, -0.4, 0.3, 0.2]]),
)
MAC = ChargeMac(4, 3, bits=6, process=PROCESS, key=jr.key(0), gain=0.5)
XS = jr.uniform(jr.key(1), (5, 2, 4), minval=-0.5, maxval=0.5)


def test_a_chain_is_a_composition_with_a_stream_per_part():
    for process in (QUIET, PROCESS):
        y = run_jit(DELAY, XS, process=process, key=stream(jr.key(2), "0"))
        y = run_jit(MAC, y, process=process, key=stream(jr.key(2), "1"))
        chained = run_jit(Chain([DELAY, MAC]), XS, process=process, key=jr.key(2))
        np.testing.assert_allclose(chained, y, rtol=1e-5, atol=1e-7)


def test_parallel_parts_see_the_same_input():
    both = run_jit(Parallel([DELAY, MAC]), XS, process=PROCESS, key=jr.key(2))
    for i, (part, columns) in enumerate(((DELAY, slice(4)), (MAC, slice(4, 7)))):
        alone = run_jit(part, XS, process=PROCESS, key=stream(jr.key(2), str(i)))
        np.testing.assert_allclose(both[..., columns], alone, rtol=1e-5, atol=1e-7)


def test_a_residual_adds_its_input_and_saturates():
    skip = Residual(DELAY, hold_F=1e-15)
    y = run_jit(DELAY, 3 * XS, process=QUIET, key=jr.key(2))
    added = run_jit(skip, 3 * XS, process=QUIET, key=jr.key(2))
    expected = jnp.clip(3 * XS + y, -1, 1)
    np.testing.assert_allclose(added, expected, rtol=1e-5, atol=1e-7)
    assert jnp.max(expected) == 1


def test_every_skip_of_nested_residuals_draws_its_own_noise():
    # With a silent gain of zero inside, y = (x + n₁) + n₂: variances of independent
    # draws add up, where one draw used twice would give four.
    mute = eqx.tree_at(lambda c: c.gain.value, AutomaticGain(4), jnp.zeros(4))
    one = Residual(mute, hold_F=1e-15)
    two = Residual(one, hold_F=1e-15)
    # The inner residual passes twice: on its own and through the outer skip's sum.
    xs = jnp.zeros((1, 50_000, 4))
    a, b = (run_jit(c, xs, process=PROCESS, key=jr.key(3)) for c in (one, two))
    np.testing.assert_allclose(jnp.var(b) / jnp.var(a), 2.0, rtol=0.02)


def test_a_skip_pays_for_its_capacitor():
    hold_F = 7e-15
    of = lambda c: analog_C(c.events(PROCESS, period_s=PERIOD_S))
    extra = of(Residual(DELAY, hold_F=hold_F)) - of(DELAY)
    expected = 2 * 4 * (hold_F * PROCESS.swing_V + PROCESS.settling_charge_C(hold_F))
    np.testing.assert_allclose(extra, expected, rtol=1e-6)


def test_lines_of_the_bill_name_their_part():
    net = Chain([Residual(DELAY, hold_F=1e-15), Parallel([MAC, MAC])])
    parts = {event.part for event in net.events(PROCESS, period_s=PERIOD_S)}
    assert {"0.skip", "0.amplifiers", "1.0.weights", "1.1.weights"} <= parts


def test_a_chain_of_one_circuit_twice_is_two_circuits():
    twice = Chain([AutomaticGain(4), AutomaticGain(4)])
    assert twice.init_state((2,)) == (None, None)
    one = totals(AutomaticGain(4).events(PROCESS, period_s=PERIOD_S))
    both = totals(twice.events(PROCESS, period_s=PERIOD_S))
    assert both == {event: pytest.approx(2 * count) for event, count in one.items()}


def test_netlists_are_wired_as_the_parts_are():
    chain = Chain([DELAY, Parallel([DELAY, MAC])])
    cell = chain.netlist(PROCESS, name="net")
    assert cell.ports[:8] == tuple(f"x{i}{half}" for i in range(4) for half in "pn")
    assert cell.ports[8:22] == tuple(f"y{i}{half}" for i in range(7) for half in "pn")
    first, second = cell.instances
    assert first.nets[8:16] == second.nets[:8], "outputs of part 0 feed part 1"
    twins = second.cell.instances
    assert twins[0].nets[:8] == twins[1].nets[:8] == cell.ports[:8]
    assert twins[1].nets[8:14] == cell.ports[16:22]
    count = lambda circuit: circuit.netlist(PROCESS, name="one").count("capacitor")
    assert cell.count("capacitor") == 2 * count(DELAY) + count(MAC)


def test_a_skip_has_no_netlist_of_its_own():
    with pytest.raises(ValueError, match=r"skip of `net` must be .* a DelayLine"):
        Residual(DELAY, hold_F=1e-15).netlist(PROCESS, name="net")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Chain([]), "`parts` must hold a circuit, but is empty"),
        (lambda: Parallel([]), "`parts` must hold a circuit, but is empty"),
        (lambda: Chain([MAC, DELAY]), "Part 1 .* must take the 3 outputs .* 4 inputs"),
        (lambda: Parallel([MAC, GilbertGate(3)]), r"equally many inputs, .*\[4, 6\]"),
        (lambda: Residual(MAC, hold_F=1e-15), "as many outputs .* has 3 and 4"),
        (lambda: Residual(DELAY, hold_F=-1e-15), "`hold_F` must be positive, .*-1e-15"),
    ],
)
def test_parts_that_do_not_fit_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
