"""64 chips by vmap against 64 chips one after the other.

    make bench

The quickstart's physical model, not trained, in its nominal environment: each chip is
fabricated and reads the same windows (windows, tokens). In turns, in one run.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from evals.quality import score
from evals.robustness.scoring import Chips, Seen, means_of
from physnn.configs import find_config
from physnn.deploy import deploy
from physnn.environment import Environment
from physnn.keys import stream
from physnn.process import load_process
from tests.benchmarks.interleaved import interleaved, report, time_once
from train.experiment import load_experiment
from train.model import PhysicalConfig
from train.tasks.base import Windows

pytestmark = pytest.mark.usefixtures("plain_promotion")

PROCESS, PERIOD_S, N_CHIPS = load_process("cmos28"), 1e-6, 64
# More at once do not fit into a cache.
TOGETHER = 4


def chips(shape: tuple[int, int], together: int) -> Chips:
    config = load_experiment(find_config("experiments", "quickstart_physical")).model
    assert isinstance(config, PhysicalConfig)
    model = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    rows = np.random.default_rng(0).integers(256, size=(shape[0], shape[1] + 1))
    seen = Seen(jnp.asarray(rows, jnp.int32), jnp.ones(shape, bool))
    return Chips(model, PROCESS, seen, jr.key(1), PERIOD_S, together)


@eqx.filter_jit
def one_chip(model, seen, key):
    """Fabricate a chip and score it: one program, called for every chip."""
    chip, there = deploy(model, PROCESS, Environment(), key=key, period_s=PERIOD_S)
    noise = stream(key, "noise")
    logits = chip.logits(seen.tokens[:, :-1], process=there, key=noise)
    return means_of(logits, seen).bits


@pytest.mark.parametrize("shape", [(1, 64), (4, 256)], ids=str)
def test_chips_by_vmap(benchmark, shape):
    own = chips(shape, TOGETHER)
    keys = [jr.fold_in(stream(own.key, "chip"), i) for i in range(N_CHIPS)]
    windows = [Windows(np.asarray(own.seen.tokens, np.uint8), np.ones(shape, bool))]

    def one_by_one():
        # Each is waited for, as who looks at a chip before the next one does.
        each = [jax.block_until_ready(one_chip(own.model, own.seen, k)) for k in keys]
        return jnp.stack(each)

    def by_score():
        asked = {"process": PROCESS, "n_chips": N_CHIPS, "key": jr.key(1)}
        return score(own.model, windows, **asked).median

    def by_vmap():
        return own.score(Environment(), N_CHIPS)[0]

    np.testing.assert_allclose(by_vmap(), one_by_one(), rtol=1e-4)
    functions = {
        "one by one, one program": one_by_one,
        "physnn score, one by one": by_score,
        f"by vmap, {TOGETHER} at a time": by_vmap,
    }
    medians = interleaved(functions, rounds=5)
    report(benchmark, medians, floor="one by one, one program")
    time_once(benchmark, by_vmap)
