"""64 chips by vmap against 64 chips one after the other.

    make bench

The quickstart's physical model, not trained, in its nominal environment: each chip is
fabricated and reads the same windows (windows, tokens). Each contender has a process of
its own, as devices are chosen once: by vmap they are those of the commands, a core to
each; one after the other all cores work on one chip, as JAX has it without a word.
"""

import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from evals.chip_mesh import one_device_per_core
from evals.quality import score
from evals.robustness.scoring import Chips, Seen, means_of
from physnn.configs import find_config
from physnn.deploy import deploy
from physnn.environment import Environment
from physnn.keys import stream
from physnn.materialized import compiled
from physnn.process import load_process
from tests.benchmarks.interleaved import report, time_once
from tests.benchmarks.peer_process import in_turns, serve
from train.experiment import load_experiment
from train.model import PhysicalConfig
from train.tasks.base import Windows

pytestmark = pytest.mark.usefixtures("plain_promotion")

PERIOD_S, N_CHIPS = 1e-6, 64


def chips(shape: tuple[int, int]) -> Chips:
    config = load_experiment(find_config("experiments", "quickstart_physical")).model
    assert isinstance(config, PhysicalConfig)
    process = load_process("cmos28")
    model = config.build(vocabulary=256, process=process, key=jr.key(0))
    rows = np.random.default_rng(0).integers(256, size=(shape[0], shape[1] + 1))
    seen = Seen(jnp.asarray(rows, jnp.int32), jnp.ones(shape, bool))
    return Chips(model, process, seen, jr.key(1), PERIOD_S)


@compiled
def one_chip(model, process, seen, key):
    """Fabricate a chip and score it: one program, called for every chip."""
    chip, there = deploy(model, process, Environment(), key=key, period_s=PERIOD_S)
    noise = stream(key, "noise")
    logits = chip.logits(seen.tokens[:, :-1], process=there, key=noise)
    return means_of(logits, seen)


def one_by_one(own: Chips) -> np.ndarray:
    keys = [jr.fold_in(stream(own.key, "chip"), i) for i in range(N_CHIPS)]
    # Each is waited for, as who looks at a chip before the next one does.
    each = [float(one_chip(own.model, own.process, own.seen, k).bits) for k in keys]
    return np.asarray(each)


def by_score(own: Chips) -> float:
    shape = own.seen.scored.shape
    windows = [Windows(np.asarray(own.seen.tokens, np.uint8), np.ones(shape, bool))]
    asked = {"process": own.process, "n_chips": N_CHIPS, "key": jr.key(1)}
    return score(own.model, windows, **asked).median


def by_vmap(own: Chips) -> np.ndarray:
    return own.score(Environment(), N_CHIPS)[0]


# How, and whether on the devices of the commands.
CONTENDERS = {
    "one by one, one program": (one_by_one, False),
    "physnn score, a chip a device": (by_score, True),
    "by vmap, over devices": (by_vmap, True),
    "by vmap, one device": (by_vmap, False),
}


@pytest.mark.parametrize("shape", [(1, 64), (4, 64), (4, 256)], ids=str)
def test_chips_by_vmap(benchmark, shape):
    own = chips(shape)
    np.testing.assert_allclose(by_vmap(own), one_by_one(own), rtol=1e-4)
    here = [sys.executable, "-m", "tests.benchmarks.test_chips", *map(str, shape)]
    medians = in_turns({name: [*here, name] for name in CONTENDERS}, rounds=7)
    report(benchmark, medians, floor="one by one, one program")
    time_once(benchmark, lambda: by_vmap(own))


def main() -> None:
    """A contender, called by name on so many windows of so many tokens."""
    windows, tokens, name = sys.argv[1:]
    function, over_devices = CONTENDERS[name]
    if over_devices:
        one_device_per_core()
    own = chips((int(windows), int(tokens)))
    print(f"{name}: {len(jax.devices())} devices", file=sys.stderr)
    serve(lambda: function(own))


if __name__ == "__main__":
    main()
