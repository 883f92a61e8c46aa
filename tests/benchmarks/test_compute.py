"""Ways to carry out one training step: time, temporary memory and compilation.

    make bench

The update of `wikitext2_gated_rc` with 2 layers (16 windows of 256 bytes, 2
chips), in turns. Compilation is timed once, so what else the machine does shows in it.
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jaxtyping import PyTree

from physnn.configs import find_config
from physnn.process import Process, load_process
from tests.benchmarks.interleaved import interleaved, report, time_once
from train.compute import Compute
from train.experiment import Experiment, load_experiment
from train.loop import Held, begin
from train.objective import make_update

pytestmark = pytest.mark.usefixtures("plain_promotion")


@pytest.fixture(autouse=True)
def nothing_kept():
    """No program of an earlier run: else compilation would be reading a file."""
    jax.config.update("jax_enable_compilation_cache", False)
    reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    reset_cache()


WAYS = {
    "usual": Compute(),
    "threefry2x32": Compute(generator="threefry2x32"),
    "rematerialized": Compute(rematerialize="blocks"),
    "layers in a loop": Compute(scan_layers=True),
    "both": Compute(rematerialize="blocks", scan_layers=True),
}
ROUNDS = 7
# A third one compiles as long as each of them and shows nothing else.
LAYERS = 2


def begun() -> tuple[Experiment, Process, Held, PyTree]:
    """The experiment before its first step, which is the same in all ways."""
    experiment = load_experiment(find_config("experiments", "wikitext2_gated_rc"))
    model = dataclasses.replace(experiment.model, n_layers=LAYERS)
    experiment = dataclasses.replace(experiment, model=model)
    process = load_process(experiment.process)
    return experiment, process, *begin(experiment, vocabulary=256, process=process)


def stepper(start: tuple[Experiment, Process, Held, PyTree], compute: Compute):
    """A training step, seconds to compile it, and the temporary bytes it takes."""
    experiment, process, held, static = start
    experiment = dataclasses.replace(experiment, compute=compute)
    rest = eqx.combine(held.fixed, static)
    shape = (experiment.batch, experiment.task.context + 1)
    tokens = jr.randint(jr.key(2), shape, 0, 256).astype("uint8")
    key = jr.key_data(compute.training_key(experiment.seed))
    # An update takes the buffers of its state for the next one.
    own = jax.tree.map(jnp.copy, held.state._replace(key=key))
    update = make_update(rest, experiment=experiment, process=process)
    program, began = update.lower(own, tokens), time.monotonic()
    compiled = program.compile()
    seconds, memory = time.monotonic() - began, compiled.memory_analysis()
    assert memory is not None
    state = [own]

    def step():
        state[0], measured = compiled(state[0], tokens)
        return measured

    return step, seconds, memory.temp_size_in_bytes


def test_ways_to_compute_a_step(benchmark):
    steps, start = {}, begun()
    for name, way in WAYS.items():
        steps[name], seconds, temporary = stepper(start, way)
        found = {"compile s": round(seconds, 1), "temporary bytes": temporary}
        print(f"\n  {name}: {found}", end="", flush=True)
        benchmark.extra_info[f"{name}, program"] = found
    medians = interleaved(steps, rounds=ROUNDS)
    report(benchmark, medians, floor="usual")
    time_once(benchmark, steps["usual"])
