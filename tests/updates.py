"""A few updates of a small experiment on one batch, and how far they lead."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from tests.helpers import PROCESS
from train.baseline import TransformerConfig
from train.experiment import Experiment
from train.loop import begin
from train.objective import make_update
from train.optimizer import OptimizerConfig
from train.tasks import TextConfig

QUICK: Any = {"xla_backend_optimization_level": 0}
TINY = Experiment(
    steps=10,
    batch=4,
    task=TextConfig(context=12),
    model=TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=8),
    optimizer=OptimizerConfig(peak_rate=3e-2),
)
TOKENS = jr.randint(jr.key(5), (4, 13), 0, 256).astype(jnp.uint8)
# A token that any of these models knows is the target.
TOKENS = TOKENS.at[:, -1].set(jnp.asarray([0, 1, 2, 1], jnp.uint8))


def vocabulary(experiment: Experiment) -> int:
    return 3 if experiment.task.kind == "images" else 256


def trained(experiment: Experiment, n: int = 3, **asked) -> list:
    """The trained arrays after each of `n` updates on one batch."""
    held, static = begin(experiment, vocabulary=vocabulary(experiment), process=PROCESS)
    rest = eqx.combine(held.fixed, static)
    state, found = held.state, [held.state.trained]
    update = make_update(rest, experiment=experiment, process=PROCESS, **asked)
    compiled = update.lower(state, TOKENS).compile(compiler_options=QUICK)
    for _ in range(n):
        kept = jax.tree.map(jnp.copy, found[-1])
        found[-1] = kept
        state, _ = compiled(state, TOKENS)
        found.append(state.trained)
    return found


def distance(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return math.sqrt(sum(float(jnp.sum((x - y) ** 2)) for x, y in pairs))
