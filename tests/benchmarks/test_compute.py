"""Ways to carry out one training step: time, temporary memory and compilation.

    make bench

The update of `wikitext2_gated_rc` (3 layers, 16 windows of 256 bytes, 2 chips), in
turns. Compilation is timed once, so what else the machine does shows in it.
"""

import dataclasses
import time

import equinox as eqx
import jax
import jax.random as jr
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from physnn.configs import find_config
from physnn.process import load_process
from tests.benchmarks.interleaved import interleaved, report, time_once
from train.compute import Compute
from train.experiment import load_experiment
from train.loop import begin
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
    "philox4x32": Compute(generator="philox4x32"),
    "rematerialized": Compute(rematerialize="blocks"),
    "layers in a loop": Compute(scan_layers=True),
    "both": Compute(rematerialize="blocks", scan_layers=True),
}
ROUNDS = 7


def stepper(compute: Compute):
    """A training step, seconds to compile it, and the temporary bytes it takes."""
    experiment = load_experiment(find_config("experiments", "wikitext2_gated_rc"))
    experiment = dataclasses.replace(experiment, compute=compute)
    process = load_process(experiment.process)
    held, static = begin(experiment, vocabulary=256, process=process)
    rest = eqx.combine(held.fixed, static)
    shape = (experiment.batch, experiment.task.context + 1)
    tokens = jr.randint(jr.key(2), shape, 0, 256).astype("uint8")
    update = make_update(rest, experiment=experiment, process=process)
    program, began = update.lower(held.state, tokens), time.monotonic()
    compiled = program.compile()
    seconds, memory = time.monotonic() - began, compiled.memory_analysis()
    assert memory is not None
    state = [held.state]

    def step():
        state[0], measured = compiled(state[0], tokens)
        return measured

    return step, seconds, memory.temp_size_in_bytes


def test_ways_to_compute_a_step(benchmark):
    steps = {}
    for name, way in WAYS.items():
        steps[name], seconds, temporary = stepper(way)
        found = {"compile s": round(seconds, 1), "temporary bytes": temporary}
        print(f"\n  {name}: {found}", end="", flush=True)
        benchmark.extra_info[f"{name}, program"] = found
    medians = interleaved(steps, rounds=ROUNDS)
    report(benchmark, medians, floor="usual")
    time_once(benchmark, steps["usual"])
