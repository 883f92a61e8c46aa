"""Chips over devices: the same figures, an eighth of the chips on each of eight."""

import json
import os
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float

from circuits.mac import ChargeMac
from evals.chip_mesh import chip_keys, everywhere, full_group
from evals.quality import scored_bits
from evals.robustness.scoring import Chips, Seen, _score
from physnn.environment import Environment
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
