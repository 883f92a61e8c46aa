"""The loss of a batch in bits per byte, and one update, pure and jitted."""

import re
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, Integer, Key, PyTree, UInt32

from circuits.lookup import exploring
from physnn.bank import Bank
from physnn.energy import supply_energy_J
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.process import Process
from train.experiment import Experiment

# Anything with `.logits(tokens, process=, key=)`.
Model = Any


class TrainState(NamedTuple):
    """What an update changes. `step` is also the position in the data."""

    trained: PyTree  # the trained arrays of the model, None elsewhere
    optimizer: PyTree
    step: Int[Array, ""]
    # The run's key, of which each step folds in its number; as raw words, because
    # checkpoints hold plain arrays.
    key: UInt32[Array, " words"]


class Measured(NamedTuple):
    """What one update measured."""

    bits_per_byte: Float[Array, ""]
    supply_J: Float[Array, ""]  # supply energy per byte; 0 unless it is in the loss


def bits(
    logits: Float[Array, "*batch vocabulary"], targets: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Bits that it takes to code each target: -log2 of its probability."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - chosen) / jnp.log(2.0)


def bits_on_chips(
    model: Model,
    tokens: Integer[Array, "batch time_and_one"],
    *,
    chips: int,
    process: Process,
    key: Key[Array, ""],
) -> Float[Array, "batch targets"]:
    """Bits of every target with temporal noise, the batch shared out among `chips`.

    Each chip is fabricated from `key`; 0 chips run a digital model as it is. Raises
    `ValueError` when the batch cannot be shared out.
    """
    tokens = tokens.astype(jnp.int32)
    inputs = tokens[:, :-1]
    noise_key = stream(key, "noise")
    if chips == 0:
        logits = model.logits(inputs, process=process, key=noise_key)
        return bits(logits, targets_of(tokens, logits))
    if len(tokens) % chips:
        raise ValueError(
            f"Argument `tokens` must hold a multiple of {chips} windows, one share for"
            f" each chip, but holds {len(tokens)}."
        )

    def on_chip(chip_key, noise_key, inputs):
        chip = fabricate(model, process, key=chip_key)
        return chip.logits(inputs, process=process, key=noise_key)

    shares = inputs.reshape(chips, -1, inputs.shape[1])
    chip_keys = jr.split(stream(key, "chips"), chips)
    logits = jax.vmap(on_chip)(chip_keys, jr.split(noise_key, chips), shares)
    logits = logits.reshape(len(tokens), *logits.shape[2:])
    return bits(logits, targets_of(tokens, logits))


def targets_of(
    tokens: Int[Array, "batch time_and_one"],
    logits: Float[Array, "batch targets vocabulary"],
) -> Int[Array, "batch targets"]:
    """The tokens that logits predict: the last ones, as many as there are logits.

    A text has logits after every token, an image only after its last pixel.
    """
    return tokens[:, -logits.shape[1] :]


def unit_sizes(model: Model) -> list:
    """The `size` leaves of all banks that have one: log areas of their unit devices."""
    banks = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Bank))
    return [b.size for b in banks if isinstance(b, Bank) and b.size is not None]


def is_trained(model: Model, *, sizes: bool) -> PyTree[bool]:
    """Which leaves are trained: all real arrays; unit devices only with `sizes`."""
    spec = jax.tree.map(eqx.is_inexact_array, model)
    if sizes or not unit_sizes(spec):
        return spec
    return eqx.tree_at(unit_sizes, spec, replace_fn=lambda _: False)


def split(model: Model, experiment: Experiment) -> tuple[PyTree, PyTree]:
    """The trained arrays of a model, and the rest of it."""
    trained = is_trained(model, sizes=experiment.noise.energy_weight > 0)
    if experiment.frozen is not None:
        held = re.compile(experiment.frozen)
        trained = jtu.tree_map_with_path(
            lambda path, yes: yes and not held.search(jtu.keystr(path)), trained
        )
    return eqx.partition(model, trained)


def make_update(
    rest: PyTree, *, experiment: Experiment, process: Process
) -> jax.stages.Wrapped:
    """The jitted update `(state, tokens) -> (state, measured)` of one batch.

    It reuses the buffers of the state it is given.
    """
    optimizer = experiment.optimizer.build(steps=experiment.steps)
    weight = experiment.noise.energy_weight if experiment.chips else 0.0

    def loss(trained, tokens, key):
        model = exploring(eqx.combine(trained, rest))
        scored = bits_on_chips(
            model, tokens, chips=experiment.chips, process=process, key=key
        )
        bits_per_byte = jnp.mean(scored)
        supply_J = supply_energy_J(model, process) if weight else jnp.zeros(())
        measured = Measured(bits_per_byte, supply_J)
        return bits_per_byte + weight * 1e9 * supply_J, measured

    @partial(jax.jit, donate_argnums=0)
    def update(state: TrainState, tokens):
        key = jr.fold_in(jr.wrap_key_data(state.key), state.step)
        gradient, measured = jax.grad(loss, has_aux=True)(state.trained, tokens, key)
        changes, optimizer_state = optimizer.update(
            gradient, state.optimizer, state.trained
        )
        trained = eqx.apply_updates(state.trained, changes)
        following = TrainState(trained, optimizer_state, state.step + 1, state.key)
        return following, measured

    return update


def make_score(rest: PyTree, *, chips: int, process: Process) -> jax.stages.Wrapped:
    """The jitted `(trained, tokens, scored, key) -> sum of bits` of scored targets."""

    @jax.jit
    def score(
        trained: PyTree,
        tokens: Integer[Array, "batch time_and_one"],
        scored: Bool[Array, "batch targets"],
        key: Key[Array, ""],
    ):
        model = eqx.combine(trained, rest)
        each = bits_on_chips(model, tokens, chips=chips, process=process, key=key)
        return jnp.sum(jnp.where(scored, each, 0.0))

    return score
