"""The loss of a batch in bits per byte, and one update, pure and jitted."""

import math
import re
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Integer, Key, PyTree, UInt32

from circuits.lookup import softened
from circuits.lookup_bits import exploring
from physnn.energy import load_prices
from physnn.keys import stream
from physnn.materialized import compiler_options
from physnn.process import Process
from train.devices import Device
from train.energy_term import at_pace, billed_J, size_pace, unit_sizes
from train.experiment import Experiment
from train.hardware import in_the_loop
from train.noise_aware import clip_channels, distilled_bits
from train.schedules import schedule_of
from train.sharding import along_time, batches_cut, everywhere, gathered, kept
from train.surroundings import ChipOf, Surroundings, nominal, nominal_chip

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
    energy_J: Float[Array, ""]  # billed for a byte; 0 unless it is in the loss
    # Updates skipped, as their gradient was not finite: all, and those up to this one
    # in a row; None where none may be (`recovery.skip`).
    skipped: Int[Array, ""] | None = None
    skipped_in_a_row: Int[Array, ""] | None = None


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
    chip_of: ChipOf = nominal_chip,
) -> Float[Array, "batch targets"]:
    """Bits of every target with temporal noise, the batch shared out among `chips`.

    Each chip is made by `chip_of`, with a key of its own; 0 chips run a digital model
    as it is. Raises `ValueError` when the batch cannot be shared out.
    """
    tokens = tokens.astype(jnp.int32)
    logits = logits_on_chips(
        model, tokens, chips=chips, process=process, key=key, chip_of=chip_of
    )
    return bits(logits, targets_of(tokens, logits))


def logits_on_chips(
    model: Model,
    tokens: Int[Array, "batch time_and_one"],
    *,
    chips: int,
    process: Process,
    key: Key[Array, ""],
    chip_of: ChipOf = nominal_chip,
    part: int | Int[Array, ""] = 0,
    parts: int = 1,
) -> Float[Array, "batch targets vocabulary"]:
    """Logits of every target: what `bits_on_chips` takes the bits of.

    `tokens` may be one of several equal `parts` of a batch, in order. It is computed on
    the chips, of all `chips`, that its windows have in the whole.
    """
    inputs = tokens[:, :-1]
    noise_key = stream(key, "noise")
    if chips == 0:
        if parts > 1:
            noise_key = jr.fold_in(noise_key, part)
        return model.logits(inputs, process=process, key=noise_key)
    chip_keys = jr.split(stream(key, "chips"), chips)
    noise_keys = jr.split(noise_key, chips)
    if parts > 1:
        first, chips = part * chips // parts, max(1, chips // parts)
        own = lambda keys: jax.lax.dynamic_slice_in_dim(keys, first, chips)
        pieces = max(1, parts // len(chip_keys))
        chip_keys, noise_keys = own(chip_keys), own(noise_keys)
        if pieces > 1:  # of the windows of one chip, which has other noise in each
            piece = part % pieces
            noise_keys = jax.vmap(lambda each: jr.fold_in(each, piece))(noise_keys)
    if len(tokens) % chips:
        raise ValueError(
            f"Argument `tokens` must hold a multiple of {chips} windows, one share for"
            f" each chip, but holds {len(tokens)}."
        )

    def on_chip(chip_key, noise_key, inputs):
        chip, there = chip_of(model, process, chip_key)
        return chip.logits(inputs, process=there, key=noise_key)

    shares = inputs.reshape(chips, -1, inputs.shape[1])
    logits = jax.vmap(on_chip)(chip_keys, noise_keys, shares)
    return logits.reshape(len(tokens), *logits.shape[2:])


def targets_of(
    tokens: Int[Array, "batch time_and_one"],
    logits: Float[Array, "batch targets vocabulary"],
) -> Int[Array, "batch targets"]:
    """The tokens that logits predict: the last ones, as many as there are logits.

    A text has logits after every token, an image only after its last pixel.
    """
    return tokens[:, -logits.shape[1] :]


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
    rest: PyTree,
    *,
    experiment: Experiment,
    process: Process,
    mesh: Mesh | None = None,
    surroundings: Surroundings | None = None,
    teacher: Model | None = None,
    device: Device | None = None,
    bytes_per_token: float = 1.0,
) -> jax.stages.Wrapped:
    """The jitted update `(state, tokens) -> (state, measured)` of one batch.

    It reuses the buffers of the state it is given. `mesh`: what `experiment.mesh`
    builds, over which the state is kept cut; `surroundings`: of `surroundings_of`, for
    an experiment that asks for some; `teacher`: the digital model of
    `experiment.distillation`; `device`: what `experiment.hardware` builds;
    `bytes_per_token`: of the training split, by which bits and Joules of tokens become
    those of bytes.

    Raises `ValueError` for a `teacher` without a distillation, or that without it.
    """
    mesh = mesh or experiment.mesh.build(batch=experiment.batch)
    steps, schedules = experiment.steps, experiment.schedules
    multiple = lambda amount: schedule_of(schedules, amount, steps=steps)
    surroundings = surroundings or nominal(experiment)
    skip, parts = experiment.recovery.skip, experiment.accumulate
    compute = experiment.compute
    rate = experiment.optimizer.schedule(steps)
    optimizer = experiment.optimizer.build(
        steps=steps,
        decay=multiple("weight_decay"),
        sharpness=multiple("sharpness"),
        skip=skip,
    )
    lesson, noise = experiment.distillation, experiment.noise
    if (lesson is None) != (teacher is None):
        alone = "a teacher" if lesson is None else "a distillation"
        raise ValueError(
            "A distillation of the experiment and argument `teacher` must come"
            f" together, but there is {alone} alone."
        )
    weight = noise.energy_weight if experiment.chips else 0.0
    prices = load_prices(noise.energy_prices) if weight else None

    def at(amount: float, name: str, step) -> Any:
        """An amount at a step; a plain number unless it is scheduled."""
        change = multiple(name)
        return amount if change is None else amount * change(step)

    def loss(trained, tokens, key, step, part=0):
        model = exploring(eqx.combine(gathered(trained, mesh), rest))
        model = compute.applied(model)
        energy_J = jnp.zeros(())
        if prices:
            energy_J = billed_J(model, prices, process=process) / bytes_per_token
        chips = experiment.chips
        if experiment.in_the_loop:
            model, chips = in_the_loop(model, experiment.hardware, device), 0
        whole = tokens.astype(jnp.int32)
        logits = logits_on_chips(
            model,
            whole,
            chips=chips,
            process=process,
            key=key,
            chip_of=surroundings.chip_of(step),
            part=part,
            parts=parts,
        )
        bits_per_byte = jnp.mean(bits(logits, targets_of(whole, logits)))
        bits_per_byte = bits_per_byte / bytes_per_token
        measured = Measured(bits_per_byte, energy_J)
        total = bits_per_byte
        if lesson is not None and teacher is not None:
            shown = teacher.logits(whole[:, :-1], process=process, key=key)
            told = distilled_bits(logits, shown, temperature=lesson.temperature)
            share = at(lesson.weight, "distillation", step)
            total = (1 - share) * total + share * jnp.mean(told) / bytes_per_token
        if weight:
            price = at(weight, "energy_weight", step)
            total = total + price * 1e9 * energy_J
        return total, measured

    slope_of = jax.grad(loss, has_aux=True)

    def accumulated(trained, tokens, key, step):
        """What `slope_of` gives for a batch, from one part of it after another."""

        def add(total, each):
            found = slope_of(trained, each[1], key, step, each[0])
            total = jax.tree.map(lambda a, b: a + b / parts, total, found)
            # Sums of gradients are kept cut, too.
            return (kept(total[0], mesh), total[1]), None

        # Each part is spread over all devices, as the batch is.
        cut = batches_cut(tokens.reshape(parts, -1, tokens.shape[1]), mesh)
        zeros = kept(jax.tree.map(jnp.zeros_like, trained), mesh)
        nothing = Measured(jnp.zeros(()), jnp.zeros(()))
        return jax.lax.scan(add, (zeros, nothing), (jnp.arange(parts), cut))[0]

    @partial(jax.jit, donate_argnums=0, compiler_options=compiler_options())
    def update(state: TrainState, tokens):
        key = compute.key_of(state.key)
        key = jr.fold_in(key, state.step)

        def slope(trained):
            """With the chips and the noise of this step, wherever it is taken."""
            found = slope_of if parts == 1 else accumulated
            with compute.tracing(training=True), along_time(mesh):
                return found(trained, tokens, key, state.step)

        gradient, measured = slope(state.trained)
        changes, optimizer_state = optimizer.update(
            gradient,
            state.optimizer,
            state.trained,
            slope=lambda trained: slope(trained)[0],
            step=state.step,
        )
        if weight:
            pace = size_pace(
                state.step,
                steps=steps,
                first=noise.sizes_from,
                last=noise.sizes_until,
            )
            changes = at_pace(changes, pace, rate(state.step))
        trained = eqx.apply_updates(state.trained, changes)
        if noise.clip_sigma < math.inf:
            trained = clip_channels(trained, noise.clip_sigma)
        if isinstance(optimizer_state, optax.ApplyIfFiniteState):
            measured = measured._replace(
                skipped=optimizer_state.total_notfinite,
                skipped_in_a_row=optimizer_state.notfinite_count,
            )
        following = TrainState(trained, optimizer_state, state.step + 1, state.key)
        return kept(following, mesh), everywhere(measured, mesh)

    return update


def make_score(
    rest: PyTree,
    *,
    experiment: Experiment,
    process: Process,
    mesh: Mesh | None = None,
    surroundings: Surroundings | None = None,
    device: Device | None = None,
    soft: bool = False,
) -> jax.stages.Wrapped:
    """The jitted `(trained, tokens, scored, key) -> sum of bits` of scored targets.

    In the environment of training, when no schedule changes it; training with a device
    in the loop is scored on it. `soft`: with soft lookup tables.
    """
    chip_of = (surroundings or nominal(experiment)).chip_of()
    mesh = mesh or experiment.mesh.build(batch=experiment.batch)
    compute = experiment.compute

    @partial(jax.jit, compiler_options=compiler_options())
    def score(
        trained: PyTree,
        tokens: Integer[Array, "batch time_and_one"],
        scored: Bool[Array, "batch targets"],
        key: Key[Array, ""],
    ):
        model = eqx.combine(gathered(trained, mesh), rest)
        model = softened(model) if soft else model
        chips = experiment.chips
        if experiment.in_the_loop:
            model, chips = in_the_loop(model, experiment.hardware, device), 0
        model = compute.applied(model)
        with compute.tracing(training=False), along_time(mesh):
            each = bits_on_chips(
                model, tokens, chips=chips, process=process, key=key, chip_of=chip_of
            )
        return everywhere(jnp.sum(jnp.where(scored, each, 0.0)), mesh)

    return score
