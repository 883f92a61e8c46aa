"""Shards: the same training on 8 simulated devices, in an eighth of the memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh
from jax.sharding import PartitionSpec as P

from train.digest import own_digest, whole_digest
from train.experiment import from_table
from train.sharding import MeshConfig, spec_of

ROOT = Path(__file__).parent.parent


def test_rules_cut_by_shape_alone():
    mesh = AbstractMesh((4, 2), ("data", "model"))
    # A dense coupling of 16k x 16k, a wide matrix, a table of tables, a vector.
    assert spec_of((16384, 16384), mesh) == P("data", "model")
    assert spec_of((64, 256), mesh) == P("data", "model")
    assert spec_of((8, 4096, 16), mesh) == P(None, "data", "model")
    assert spec_of((4096,), mesh) == P("data")
    # Columns that do not divide leave the rows to both in turn.
    assert spec_of((64, 255), mesh) == P(("model", "data"), None)
    assert spec_of((66, 255), mesh) == P("model", None)
    # Every oscillator is coupled to the n - 1 others: its columns are left to both.
    assert spec_of((16383, 16384), mesh) == P(None, ("model", "data"))
    assert spec_of((63, 66), mesh) == P(None, "model")
    # Small or odd: whole everywhere.
    assert spec_of((8, 8), mesh) == P(None, None)
    assert spec_of((1023, 1025), mesh) == P(None, None)
    assert spec_of((), mesh) == P()


def test_a_mesh_that_cannot_be_is_refused_in_a_sentence():
    n = len(jax.devices())
    with pytest.raises(ValueError, match=rf"at most the {n} devices there are, but"):
        MeshConfig(n, 2).build(batch=2 * n)
    for name, wrong in {"data": -1, "model": 0, "patience_s": 0.0}.items():
        with pytest.raises(ValueError, match=rf"`mesh.{name}` must be"):
            from_table({"mesh": {name: wrong}})
    with pytest.raises(ValueError, match=r"`batch` must be a multiple of `mesh.data`"):
        from_table({"batch": 6, "mesh": {"data": 4}})
    with pytest.raises(ValueError, match=r"`mesh` must be left out"):
        from_table({"model": {"kind": "counts"}, "batch": 6, "mesh": {"data": 2}})


def test_the_digest_sees_every_value_and_its_place():
    x = np.random.default_rng(0).normal(size=(6, 5, 4)).astype(np.float32)
    digest = lambda **arrays: whole_digest(own_digest(arrays))
    seen = {digest(x=x), digest(y=x), digest(x=x.reshape(6, 20)), digest(x=-x)}
    seen.add(digest(x=x, y=x))
    for i, j in ((0, 1), (7, 60), (118, 119)):
        swapped = x.copy().reshape(-1)
        swapped[[i, j]] = swapped[[j, i]]
        seen.add(digest(x=swapped.reshape(x.shape)))
    assert len(seen) == 8
    assert digest(x=x) == digest(x=jnp.asarray(x))
    assert whole_digest(None) is None
    for other in (np.zeros((0, 3), np.float32), np.ones((3,), bool), np.uint32(7)):
        assert digest(x=np.asarray(other)) not in seen


SCRIPT = """
import dataclasses, json, sys
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from circuits.blocks import GatedRCBlock, OscillatorBlock
from physnn.process import load_process
from train.checkpoint import Checkpoints
from train.digest import own_digest
from train.experiment import Experiment
from train.loop import begin
from train.model import PhysicalConfig
from train.objective import make_update
from train.sharding import MeshConfig, shardings_of, spread, spread_batch
from train.tasks import TextConfig

folder = sys.argv[1]
process = load_process("cmos28")
out = {}
layers = {"rc": (GatedRCBlock(n_states=32),), "ring": (OscillatorBlock(n=64),)}
for name, layer in layers.items():
    config = PhysicalConfig(width=32, n_layers=1, layer=layer)
    base = Experiment(batch=64, steps=10, model=config, task=TextConfig(context=64))
    tokens = np.random.default_rng(0).integers(0, 256, (64, 65)).astype(np.uint8)
    meshes = {"rc": ((1, 1), (8, 1)), "ring": ((1, 1), (2, 4))}
    for data, model in meshes[name]:
        experiment = dataclasses.replace(base, mesh=MeshConfig(data, model))
        mesh = experiment.mesh.build(batch=64)
        held, static = begin(experiment, vocabulary=256, process=process)
        state = spread(held.state, shardings_of(held.state, mesh))
        rest = eqx.combine(held.fixed, static)
        update = make_update(rest, experiment=experiment, process=process, mesh=mesh)
        batch = spread_batch(tokens, mesh)
        compiled = update.lower(state, batch).compile()
        memory = compiled.memory_analysis()
        losses = []
        for _ in range(3):
            state, measured = compiled(state, batch)
            losses.append(float(measured.bits_per_byte))
        matrices = [x for x in jax.tree.leaves(state) if x.ndim == 2 and x.size > 1023]
        out[f"{name} {data} {model}"] = {
            "losses": losses,
            "arguments": memory.argument_size_in_bytes,
            "temporary": memory.temp_size_in_bytes,
            "own": [x.addressable_shards[0].data.size / x.size for x in matrices],
        }
        if (data, model) == (8, 1):
            checkpoints = Checkpoints(__import__("pathlib").Path(folder))
            checkpoints.save(3, state)
            digest = own_digest({"x": matrices[0]})
    if name == "rc":
        # What 8 devices saved, 1 and 4 x 2 read: the same values, and where they lie.
        for data, model in ((1, 1), (4, 2)):
            mesh = MeshConfig(data, model).build(batch=64)
            shapes = jax.eval_shape(lambda: held.state)
            template = jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
                shapes, shardings_of(shapes, mesh),
            )
            step, found = checkpoints.restore(template)
            leaves = [x for x in jax.tree.leaves(found)]
            wanted = [x.sharding for x in jax.tree.leaves(template)]
            out[f"restored {data} {model}"] = [
                step,
                [x.sharding for x in leaves] == wanted,
                own_digest({"x": next(
                    x for x in leaves if x.ndim == 2 and x.size > 1023
                )}) == digest,
            ]
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Trained on meshes of 8 simulated devices, in a process of its own."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')}"
        " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path_factory.mktemp("checkpoints"))],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_any_mesh_gives_the_loss_of_one_device(found):
    for name in ("rc 8 1", "ring 2 4"):
        alone = found[f"{name.split()[0]} 1 1"]["losses"]
        np.testing.assert_allclose(found[name]["losses"], alone, rtol=2e-4)
        assert alone[0] != alone[1] != alone[2]


@pytest.mark.slow
def test_memory_of_a_device_shrinks_with_the_mesh(found):
    alone = found["rc 1 1"]
    # All but the smallest arrays are cut into eight.
    assert found["rc 8 1"]["own"] == [1 / 8] * len(alone["own"])
    assert found["rc 8 1"]["arguments"] < alone["arguments"] / 5
    assert found["rc 8 1"]["temporary"] < alone["temporary"] / 3
    # The dense coupling of the rings too, and the state of its optimizer.
    assert len(found["ring 2 4"]["own"]) >= 3
    assert found["ring 2 4"]["own"] == [1 / 8] * len(found["ring 2 4"]["own"])


@pytest.mark.slow
def test_a_checkpoint_of_another_mesh_is_read(found):
    assert found["restored 1 1"] == [3, True, True]
    assert found["restored 4 2"] == [3, True, True]
