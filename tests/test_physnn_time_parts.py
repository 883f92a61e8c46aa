"""Time in parts: over 8 simulated devices what one device finds, in less memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh, NamedSharding
from jax.sharding import PartitionSpec as P

from physnn.time_parts import cut_in_time, in_parts, n_parts, with_past
from train.experiment import from_table

ROOT = Path(__file__).parent.parent

SCRIPT = """
import dataclasses, json
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from circuits.blocks import GatedRCBlock
from circuits.parts import DelayLine
from circuits.resonator import Resonator
from evals.compiled_cost import cost_of
from physnn.process import load_process
from physnn.recurrence import KERNELS, computed_by, linear_recurrence
from physnn.time_parts import cut_in_time
from train.experiment import Experiment
from train.loop import begin
from train.model import PhysicalConfig
from train.objective import make_update
from train.sharding import MeshConfig, along_time, shardings_of, spread, spread_batch
from train.tasks import TextConfig

process = load_process("cmos28")
mesh = MeshConfig(sequence=8).build(batch=1)
out = {}
largest = lambda a, b: max(
    float(jnp.max(jnp.abs(x - y)) / jnp.max(jnp.abs(y)))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
)

def compared(function, *args):
    # Values and gradients of a weighted sum, with time cut and not.
    weights = jr.normal(jr.key(5), (64, 2, 3))
    def both(*args):
        loss = lambda *args: jnp.sum(weights * function(*args)[0])
        grad = jax.grad(loss, argnums=tuple(range(len(args))))
        return function(*args), grad(*args)
    alone = jax.jit(both)(*args)
    with along_time(mesh):
        cut = jax.jit(both)(*args)
    return largest(cut, alone)

alpha = jr.uniform(jr.key(0), (64, 2, 3), minval=-0.2, maxval=1.0).at[20].set(0.0)
beta, v0 = jr.normal(jr.key(1), (64, 2, 3)), jr.normal(jr.key(2), (2, 3))
for kernel in KERNELS:
    with computed_by(kernel):
        solve = lambda *args: (linear_recurrence(*args),)
        out[kernel] = compared(solve, alpha, beta, v0)
line = DelayLine(3, n_taps=4, process=process)
line = eqx.tree_at(lambda x: x.tap.value, line, 0.3 * jr.normal(jr.key(3), (4, 3)))
def filtered(xs, held):
    held, ys = line.scan(held, xs, process=process, key=jr.key(4))
    return ys, held
held = jr.uniform(jr.key(6), (3, 2, 3))
out["delay line"] = compared(filtered, 0.3 * beta, held)
cell = Resonator(3, period_s=1e-6, process=process)
def rung(xs, start):
    last, ys = cell.scan(start, xs, process=process, key=jr.key(4))
    return ys[..., :3], last
start = jr.uniform(jr.key(7), (2, 6), maxval=0.1)
out["resonator"] = compared(rung, 0.3 * beta, start)

layer = (GatedRCBlock(n_states=32),)
config = PhysicalConfig(width=32, n_layers=1, layer=layer)
for time, batch, meshes in ((64, 8, ((1, 1), (2, 4))), (4096, 2, ((1, 1), (1, 8)))):
    task = TextConfig(context=time)
    base = Experiment(batch=batch, steps=10, model=config, task=task)
    tokens = np.random.default_rng(0).integers(0, 256, (batch, time + 1))
    found = []
    for data, sequence in meshes:
        experiment = dataclasses.replace(
            base, mesh=MeshConfig(data=data, sequence=sequence)
        )
        mesh = experiment.mesh.build(batch=batch)
        held, static = begin(experiment, vocabulary=256, process=process)
        state = spread(held.state, shardings_of(held.state, mesh))
        rest = eqx.combine(held.fixed, static)
        update = make_update(rest, experiment=experiment, process=process, mesh=mesh)
        seen = spread_batch(tokens.astype(np.uint8), mesh)
        compiled = update.lower(state, seen).compile()
        cost, memory = cost_of(compiled.as_text()), compiled.memory_analysis()
        row = {"temporary": memory.temp_size_in_bytes, "flops": cost.flops}
        row["sent"] = sum(cost.sent_bytes.values())
        if time == 64:
            losses = []
            for step in range(3):
                state, measured = compiled(state, seen)
                losses.append(float(measured.bits_per_byte))
                if step == 0:  # the moments hold the gradient, and its square
                    moments = jax.device_get(jax.tree.leaves(state.optimizer))
            row["losses"] = losses
            found.append(moments)
        out[f"{time} {data} {sequence}"] = row
    if found:
        norm = lambda tree: np.sqrt(sum(np.sum(np.square(x)) for x in tree))
        floats = lambda tree: [x for x in tree if x.dtype == np.float32]
        one, cut = map(floats, found)
        off = norm([a - b for a, b in zip(one, cut, strict=True)])
        out["gradient"] = float(off / norm(one))
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def found():
    """Both ways on a mesh of 8 simulated devices, in a process of its own."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')}"
        " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_circuits_find_what_they_find_on_one_device(found):
    """Values, last states and gradients, from a state that is not zero.

    Of the largest. Sums in another order: 2e-7 was found, of a resonator, whose rates
    take theirs over all tokens with both signs, 3.3e-6.
    """
    for name in ("sequential", "associative", "chunked", "delay line"):
        assert found[name] < 1e-6, name
    assert found["resonator"] < 1e-5


@pytest.mark.slow
def test_training_is_that_of_one_device(found):
    alone, cut = found["64 1 1"]["losses"], found["64 2 4"]["losses"]
    np.testing.assert_allclose(cut, alone, rtol=2e-4)
    assert alone[0] != alone[1] != alone[2]
    assert found["gradient"] < 1e-3


@pytest.mark.slow
def test_memory_of_a_device_is_that_of_its_part_of_4096_tokens(found):
    alone, cut = found["4096 1 1"], found["4096 1 8"]
    assert cut["temporary"] < alone["temporary"] / 6
    assert cut["flops"] < alone["flops"] / 7
    # Carries, halos and gradients: no array of all tokens goes anywhere.
    assert alone["sent"] == 0
    assert cut["sent"] < 4096 * 2 * 32 * 4 / 2


@pytest.fixture
def four_parts():
    mesh = AbstractMesh((4,), ("sequence",))
    with cut_in_time(NamedSharding(mesh, P("sequence"))):
        yield


def test_a_part_must_be_whole_and_hold_a_delay_line(four_parts):
    assert n_parts() == 4
    with pytest.raises(ValueError, match=r"a multiple of 4 tokens .* but has 10"):
        in_parts(jax.numpy.zeros((10, 2)))
    with pytest.raises(ValueError, match=r"must hold the 3 samples .* but holds 2"):
        jax.eval_shape(with_past, jax.numpy.zeros((3, 2)), jax.numpy.zeros((8, 2)))


def test_what_needs_every_token_before_is_refused_in_a_sentence():
    mesh, text = {"sequence": 2}, {"context": 64}
    model = {"kind": "physical", "layer": [{"kind": "gated_rc"}]}
    table = {"mesh": mesh, "task": text, "model": model}
    assert from_table(table).mesh.sequence == 2
    for kind in ("oscillator", "equilibrium", "lookup", "memory", "channel"):
        wrong = table | {"model": model | {"layer": [{"kind": kind}]}}
        with pytest.raises(
            ValueError, match=rf"`mesh.sequence` .* but `{kind}` is not"
        ):
            from_table(wrong)
    with pytest.raises(ValueError, match=r"`mesh.sequence` .* of kind `transformer`"):
        from_table(table | {"model": {"kind": "transformer"}})
    with pytest.raises(ValueError, match=r"`task.context` .* they are 63 and 2"):
        from_table(table | {"task": {"context": 63}})
    with pytest.raises(ValueError, match=r"`mesh.sequence` must be at least 1"):
        from_table({"mesh": {"sequence": 0}})
