"""Chips over devices: the same figures, an eighth of the chips on each of eight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float

from circuits.mac import ChargeMac
from evals.chip_mesh import (
    BYTES_OF_CORE,
    MOST_CORES,
    chip_keys,
    chip_mesh,
    each_chip,
    everywhere,
    full_group,
    group_of,
)
from evals.doctor import cores
from evals.quality import scored_bits
from evals.robustness.scoring import Chips, Seen, _score
from physnn.environment import Environment
from physnn.keys import stream
from tests.helpers import PROCESS
from train.tasks.base import Windows

pytestmark = pytest.mark.usefixtures("plain_promotion")

ROOT = Path(__file__).parent.parent


class OneMatrix(eqx.Module):
    """The smallest model of tokens: a row for each, and one matrix."""

    rows: Float[Array, "vocabulary width"]
    mac: ChargeMac

    def logits(self, tokens, *, process, key):
        return 8 * self.mac.apply(self.rows[tokens], process=process, key=key)


def measured() -> dict:
    """What the devices of this machine find of eleven chips."""
    mac = ChargeMac(4, 16, bits=4, process=PROCESS, key=jr.key(0))
    model = OneMatrix(0.3 * jr.normal(jr.key(1), (16, 4)), mac)
    rng = np.random.default_rng(0)
    windows = [
        Windows(rng.integers(16, size=(2, 9), dtype=np.uint8), np.ones((2, 8), bool))
        for _ in range(2)
    ]
    amounts = ("mismatch", "dead")
    chips = Chips(
        model, PROCESS, Seen.of(windows), jr.key(2), 1e-6, together=3, traced=amounts
    )
    environment = Environment(mismatch=3.0, dead=0.01)
    bits, _ = chips.score(environment, 11)
    keys = chip_keys(jr.key(3), 0, full_group(3))
    point = chips._as_arrays(environment)
    *shared, adjust = everywhere((model, PROCESS, point, chips.seen, None))
    model, process, environment, seen = shared
    found = _score(model, process, environment, seen, adjust, keys, 1e-6).bits
    score = scored_bits(model, windows, process=PROCESS, n_chips=3, key=jr.key(0))
    return {
        "bits": bits.tolist(),
        "devices": len({s.device for s in found.addressable_shards}),
        "own": [s.data.size for s in found.addressable_shards],
        "score": [float(np.mean(each)) for each in score],
    }


@pytest.mark.slow
def test_eight_devices_find_what_one_finds_with_an_eighth_each():
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')}"
        " --xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    script = (
        "import json; from tests.test_evals_chip_mesh import measured;"
        " print(json.dumps(measured()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    many, one = json.loads(done.stdout.splitlines()[-1]), measured()
    # Eleven chips are no multiple of eight, nor of the three that were asked together.
    assert len(many["bits"]) == len(set(many["bits"])) == 11
    np.testing.assert_allclose(many["bits"], one["bits"], atol=2e-4)
    np.testing.assert_allclose(many["score"], one["score"], atol=2e-4)
    assert len(many["score"]) == 3
    assert (many["devices"], many["own"]) == (8, [1] * 8)
    assert (one["devices"], one["own"]) == (1, [3])


def devices(before: str = "", **environment: str) -> list[int]:
    """What a command asks for, and how many devices it then has."""
    known = os.environ | {"JAX_PLATFORMS": "cpu"} | environment
    if "JAX_NUM_CPU_DEVICES" not in environment:
        known.pop("JAX_NUM_CPU_DEVICES", None)
    script = (
        f"import jax, evals.chip_mesh as chips; {before}"
        " print(chips.one_device_per_core(), chips.chip_mesh().size)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=known, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [int(word) for word in done.stdout.split()]


def test_every_core_becomes_a_device_unless_the_user_or_jax_has_said_how_many():
    wanted = min(cores(), MOST_CORES)
    assert devices() == [wanted, wanted]
    assert devices(JAX_NUM_CPU_DEVICES="3") == [0, 3]
    flag = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"
    assert devices(XLA_FLAGS=flag) == [0, 3]
    assert devices("jax.devices();") == [0, 1]


@pytest.mark.parametrize(
    ("n", "tokens", "group"),
    [(64, 64, 16), (64, 1024, 1), (64, 5000, 1), (4, 64, 4), (1, 1, 1), (3, 512, 2)],
)
def test_chips_are_computed_together_while_they_are_short(n, tokens, group):
    if chip_mesh().size > 1 or jax.default_backend() != "cpu":
        pytest.skip("these are the groups of one core")
    assert group_of(n, tokens, np.ones(3)) == group


def test_copies_of_a_large_model_are_few():
    most = chip_mesh().size * 3
    large = np.ones(BYTES_OF_CORE // (4 * 3), np.float32)
    if jax.default_backend() == "cpu":
        assert group_of(64, 1, large) == most
    assert group_of(64, 1, large[:10]) == 64


def test_a_lone_chip_stays_on_one_device():
    script = (
        "import jax, numpy as np, jax.random as jr; from evals.chip_mesh import *;"
        " two, one = chip_keys(jr.key(0), 0, 2), chip_keys(jr.key(0), 0, 1);"
        " run = jax.jit(lambda keys: each_chip(jr.uniform, keys));"
        " print(len(run(two).devices()), len(run(one).devices()),"
        " float(run(two)[0]) == float(run(one)[0]))"
    )
    known = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT, env=known, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split() == ["2", "1", "True"], done.stderr


@pytest.mark.parametrize(("n", "batched"), [(1, False), (2, True)])
def test_a_lone_chip_has_no_axis_of_its_own(n, batched):
    def one(key):
        return jr.normal(key, (2, 3)) @ jr.normal(stream(key, "other"), (3, 4))

    keys = chip_keys(jr.key(0), 0, n)
    program = jax.jit(lambda keys: each_chip(one, keys))
    # An axis of one costs a tenth of the time (tests/benchmarks/test_chips.py).
    assert ("batching_dims" in program.lower(keys).as_text()) is batched
    own = [one(jr.fold_in(jr.key(0), i)) for i in range(n)]
    np.testing.assert_allclose(program(keys), np.stack(own), rtol=1e-5)
