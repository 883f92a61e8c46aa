"""Peak memory of a training step, from the compiled program's own analysis."""

import dataclasses
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from physnn.process import load_process
from train.experiment import Experiment
from train.loop import begin
from train.objective import make_update


def peak_bytes(experiment: Experiment, *, length: int) -> int:
    """What one update holds at most, at windows of `length`; nothing is run."""
    task = dataclasses.replace(experiment.task, context=length)
    experiment = dataclasses.replace(experiment, task=task)
    process = load_process(experiment.process)
    held, static = eqx.filter_eval_shape(
        begin, experiment, vocabulary=256, process=process
    )
    # Fixed arrays are few and small here: of what is trained there are only shapes.
    zeros = lambda tree: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), tree)
    rest = eqx.combine(zeros(held.fixed), static)
    update = make_update(rest, experiment=experiment, process=process)
    tokens = jax.ShapeDtypeStruct((experiment.batch, length + 1), jnp.uint8)
    return held_bytes(update.lower(held.state, tokens).compile())


def held_bytes(program: jax.stages.Compiled) -> int:
    """What a compiled program holds at most: arguments, results, all in between."""
    memory = program.memory_analysis()
    assert memory is not None
    return int(
        memory.temp_size_in_bytes
        + memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def exponent(peaks: Mapping[int, int]) -> float:
    """Of the power law of what grows: 1 is linear, 2 is that of attention's scores.

    Of three lengths, each the same multiple of the one before: what does not grow
    drops out of the differences.
    """
    (a, x), (b, y), (c, z) = sorted(peaks.items())
    if b * b != a * c:
        raise ValueError(f"The lengths must grow by one factor, but are {a}, {b}, {c}.")
    return float(np.log((z - y) / (y - x)) / np.log(b / a))
