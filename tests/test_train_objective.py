"""The loss of a batch and its update: closed forms, chips, and what is trained."""

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from physnn.energy import load_prices
from physnn.process import load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig
from train.energy_term import billed_J, unit_sizes
from train.experiment import Experiment, NoiseAware
from train.loop import begin
from train.objective import (
    Measured,
    bits,
    bits_on_chips,
    make_update,
    split,
)
from train.optimizer import OptimizerConfig
from train.tasks import TextConfig

PROCESS = load_process("cmos28")
EXACT = PROCESS.noiseless().matched()
TINY = Experiment(
    steps=50,
    batch=4,
    task=TextConfig(context=12),
    model=physical_config(width=8, n_layers=1, n_states=8, n_hidden=8),
    optimizer=OptimizerConfig(peak_rate=3e-2),
)
DIGITAL = TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=8)
TOKENS = jr.randint(jr.key(5), (4, 13), 0, 256).astype(jnp.uint8)


@pytest.fixture
def plain_promotion():
    """optax counts steps in integers and mixes them with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


# Compiling takes most of the time of these tests; nothing here runs long.
QUICK: Any = {"xla_backend_optimization_level": 0}


def scored_on_chips(model, tokens, *, chips, process, key):
    """`bits_on_chips`, compiled."""
    arrays, static = eqx.partition(model, eqx.is_array)

    def scored(arrays, tokens, key):
        whole = eqx.combine(arrays, static)
        return bits_on_chips(whole, tokens, chips=chips, process=process, key=key)

    return jax.jit(scored, compiler_options=QUICK)(arrays, tokens, key)


def build(config: Any = TINY.model):
    return config.build(vocabulary=256, process=PROCESS, key=jr.key(0))


def test_bits_of_known_distributions():
    targets = jnp.array([3, 0])
    assert bits(jnp.zeros((2, 256)), targets) == pytest.approx([8.0, 8.0])
    # Odds of 7 : 1 for the one target, 1 : 7 for the other.
    logits = jnp.array([[0.0, 0.0, 0.0, 0.0], [-jnp.inf, 0.0, 0.0, 0.0]])
    logits = logits.at[0, 3].set(jnp.log(21.0)).at[1, 0].set(jnp.log(3 / 7))
    expected = [np.log2(8 / 7), 3.0]
    assert bits(logits, targets) == pytest.approx(expected, rel=1e-5)


def test_chips_without_mismatch_and_noise_are_the_design():
    model = build()
    plain = scored_on_chips(model, TOKENS, chips=0, process=EXACT, key=jr.key(1))
    for chips in (1, 4):
        scored = scored_on_chips(
            model, TOKENS, chips=chips, process=EXACT, key=jr.key(1)
        )
        assert np.allclose(scored, plain, atol=2e-3)


def test_every_chip_has_its_own_mismatch_and_every_window_its_own_noise():
    model = build()
    same = jnp.broadcast_to(TOKENS[:1], TOKENS.shape)

    def scored(process):
        return scored_on_chips(model, same, chips=2, process=process, key=jr.key(1))

    mismatched = scored(PROCESS.noiseless())
    assert np.allclose(mismatched[0], mismatched[1], atol=1e-5)  # on one chip
    assert np.allclose(mismatched[2], mismatched[3], atol=1e-5)
    assert not np.allclose(mismatched[1], mismatched[2], atol=1e-3)
    noisy = scored(PROCESS.matched())
    for i in range(4):
        for j in range(i):
            assert not np.allclose(noisy[i], noisy[j], atol=1e-4)


def test_a_batch_that_cannot_be_shared_out_is_refused():
    with pytest.raises(ValueError, match="must hold a multiple of 3 windows"):
        bits_on_chips(build(), TOKENS, chips=3, process=PROCESS, key=jr.key(1))


class Trained(NamedTuple):
    model: Any
    measured: list[Measured]
    sizes: list[float]  # the sum of all after each update


def updated(experiment: Experiment, n: int, *, change=lambda trained: trained):
    """The model after `n` updates on one batch, and what each of them measured."""
    held, static = begin(experiment, vocabulary=256, process=PROCESS)
    rest = eqx.combine(held.fixed, static)
    state = held.state._replace(trained=change(held.state.trained))
    update = make_update(rest, experiment=experiment, process=PROCESS)
    compiled = update.lower(state, TOKENS).compile(compiler_options=QUICK)
    measured, sizes = [], []
    for _ in range(n):
        state, of_step = compiled(state, TOKENS)
        measured.append(of_step)
        sizes.append(float(sum(unit_sizes(state.trained))))
    return Trained(eqx.combine(state.trained, rest), measured, sizes)


@pytest.mark.usefixtures("plain_promotion")
@pytest.mark.parametrize("config", [TINY.model, DIGITAL], ids=["physical", "digital"])
def test_one_batch_can_be_learned_and_unit_capacitors_stay(config):
    model, measured, _ = updated(dataclasses.replace(TINY, model=config), 50)
    assert measured[0].bits_per_byte == pytest.approx(8.0, abs=1.0)
    assert measured[-1].bits_per_byte < measured[0].bits_per_byte - 2.0
    assert measured[0].energy_J == 0.0
    assert len(unit_sizes(model)) == (0 if config is DIGITAL else 5)
    assert not any(unit_sizes(model))


@pytest.mark.usefixtures("plain_promotion")
def test_energy_in_the_loss_shrinks_capacitors_that_were_grown():
    grow = lambda tree: eqx.tree_at(unit_sizes, tree, replace_fn=lambda s: s + 1.0)
    noise = NoiseAware(energy_weight=1e6, sizes_from=0.2, sizes_until=0.6)
    experiment = dataclasses.replace(TINY, steps=20, noise=noise)
    model, measured, sizes = updated(experiment, 20, change=grow)
    prices = load_prices("analog28")
    designed_J = float(billed_J(grow(build()), prices, process=PROCESS))
    assert float(measured[0].energy_J) == pytest.approx(designed_J, rel=0.02, abs=0)
    assert float(measured[-1].energy_J) < 0.9 * float(measured[0].energy_J)
    assert max(unit_sizes(model)) < 1.0
    # Weights settle before and after: sizes move in the steps between, 5 to 12.
    assert sizes[:4] == [5.0] * 4
    assert np.all(np.diff(sizes[3:12]) < 0)
    assert sizes[12:] == sizes[11:-1]


@pytest.mark.usefixtures("plain_promotion")
def test_energy_in_the_loss_takes_bits_from_a_converter():
    model = dataclasses.replace(TINY.model, converters="circuits")
    noise = NoiseAware(energy_weight=1e6, sizes_from=0.0, sizes_until=1.0)
    experiment = dataclasses.replace(TINY, model=model, steps=8, noise=noise)
    model, measured, _ = updated(experiment, 8)
    assert model.readout.bits == 8
    assert model.readout.resolution < 6
    assert float(measured[-1].energy_J) < 0.9 * float(measured[0].energy_J)


def test_only_unit_capacitors_differ_between_the_two_ways_to_split():
    model = build()
    without, _ = split(model, TINY)
    energy = dataclasses.replace(TINY, noise=NoiseAware(energy_weight=1.0))
    with_energy, _ = split(model, energy)
    counts = [len(jax.tree.leaves(tree)) for tree in (without, with_energy)]
    assert counts[1] - counts[0] == len(unit_sizes(model))
    digital = build(DIGITAL)
    trained, _ = split(digital, dataclasses.replace(TINY, model=DIGITAL))
    assert len(jax.tree.leaves(trained)) == len(
        jax.tree.leaves(eqx.filter(digital, eqx.is_array))
    )


@pytest.mark.parametrize("final", [0.1, 0.0])
def test_learning_rate_rises_to_its_peak_and_falls_to_the_part_asked_for(final):
    rate = OptimizerConfig(peak_rate=2.0, warmup=0.1, final_rate=final).schedule(100)
    assert rate(0) == 0.0
    assert rate(5) == pytest.approx(1.0)
    assert rate(10) == pytest.approx(2.0)
    assert rate(55) == pytest.approx(1.0 + final, rel=1e-3)  # half-way down
    assert rate(100) == pytest.approx(2 * final)


@pytest.mark.usefixtures("plain_promotion")
def test_weight_decay_shrinks_matrices_only():
    config = OptimizerConfig(peak_rate=0.5, warmup=0.0, weight_decay=0.1)
    optimizer = config.build(steps=100)
    params = {"matrix": jnp.ones((3, 3)), "vector": jnp.ones(3), "scalar": jnp.ones(())}
    state = optimizer.init(params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    _, state = optimizer.update(zeros, state, params)  # at rate zero
    changes, _ = optimizer.update(zeros, state, params)
    changed = optax.apply_updates(params, changes)
    expected = {"matrix": jnp.full((3, 3), 0.95)} | {
        name: params[name] for name in ("vector", "scalar")
    }
    assert all(jax.tree.leaves(jax.tree.map(np.allclose, changed, expected)))
