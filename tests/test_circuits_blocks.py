"""Blocks: wired as drawn."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from tests.helpers import PERIOD_S, PROCESS, QUIET, analog_C, member, run_jit, signal


def test_a_gated_unit_is_its_schematic():
    unit, x = member("GatedUnit"), signal("GatedUnit")[0]
    level = 0.25 * x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 0.01**2)
    ab = jnp.clip(level @ unit.inputs.weight.nominal(), -1, 1)
    a, b = jnp.split(ab, 2, axis=-1)
    hidden = a * jnp.tanh(b / PROCESS.linear_range())
    expected = hidden @ unit.output.weight.nominal()
    y = run_jit(unit, x, process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-6)


def test_a_mixer_is_its_schematic():
    mixer, xs = member("GatedRCBlock"), signal("GatedRCBlock")
    level = 0.25 * xs / jnp.sqrt(jnp.mean(xs**2, axis=-1, keepdims=True) + 0.01**2)
    usz = level @ mixer.inputs.weight.nominal() + mixer.inputs.offset.value
    u, s, z = jnp.split(jnp.clip(usz, -1, 1), 3, axis=-1)
    v, vs = jnp.zeros_like(u[0]), []
    leak = PROCESS.node_leakage_S * PERIOD_S / mixer.cell.state_F
    for u_t, s_t in zip(u, s, strict=True):
        rate = mixer.cell.rate_max * jax.nn.sigmoid(2 * s_t / PROCESS.linear_range())
        kept = jnp.exp(-rate - leak)
        v = kept * v + (1 - kept) * u_t * rate / (rate + leak)
        vs.append(v)
    y = jnp.stack(vs) * jnp.tanh(z / PROCESS.linear_range())
    expected = y @ mixer.output.weight.nominal()
    ys = run_jit(mixer, xs, process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(ys, expected, rtol=1e-4, atol=1e-6)


def test_memories_start_log_spaced_up_to_the_longest():
    mixer = member("GatedRCBlock")
    x = jnp.concatenate([jnp.zeros(3), mixer.inputs.offset.value[3:6]])
    alpha, _ = mixer.cell.coefficients(x, process=PROCESS)
    memory = -1 / np.log(alpha)
    assert abs(memory[-1] - 8.0) < 0.05
    np.testing.assert_allclose(memory[1] / memory[0], memory[2] / memory[1], rtol=0.01)


def test_the_bill_of_a_block_is_that_of_its_parts():
    for name, parts in (
        ("GatedRCBlock", ("agc", "delay", "inputs", "cell", "gate", "output")),
        ("GatedUnit", ("agc", "inputs", "gate", "output")),
    ):
        block = member(name)
        events = block.events(PROCESS, period_s=PERIOD_S)
        assert {event.part.split(".")[0] for event in events} == set(parts)
        expected = sum(
            analog_C(getattr(block, part).events(PROCESS, period_s=PERIOD_S))
            for part in parts
        )
        np.testing.assert_allclose(analog_C(events), expected, rtol=1e-6)
