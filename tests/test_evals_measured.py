"""Measured Joules: counters that turn over, what is refused, decoding with a cache."""

import contextlib
import dataclasses
import threading
import time
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from evals.decode import decode, empty_cache
from evals.measured import (
    CannotMeasure,
    Decoding,
    GpuMeter,
    RaplMeter,
    check_measurable,
    measure_decoding,
)
from physnn.energy import Measured, Modeled
from tests.helpers import PROCESS
from train.baseline import TransformerConfig
from train.baseline_memory import HashedRowsConfig
from train.experiment import Experiment
from train.loop import TrainedRun
from train.model import PhysicalConfig
from train.tasks import TextConfig

TINY = TransformerConfig(width=16, n_blocks=2, n_heads=4, n_kv_heads=2, n_hidden=24)
TURN_uJ = 262_143_328_850


def zone(folder, name, what, shown=0, turn=TURN_uJ):
    path = folder / name
    path.mkdir()
    (path / "name").write_text(f"{what}\n")
    (path / "energy_uj").write_text(f"{shown}\n")
    (path / "max_energy_range_uj").write_text(f"{turn}\n")
    return path


def show(path, uJ):
    # As sysfs does: a reader sees the old number or the new one.
    beside = path / "beside"
    beside.write_text(f"{int(uJ)}\n")
    beside.replace(path / "energy_uj")


def test_packages_and_memory_are_summed_and_what_is_inside_them_is_not(tmp_path):
    packages = [zone(tmp_path, f"intel-rapl:{i}", f"package-{i}", 500) for i in (0, 1)]
    dram = zone(tmp_path, "intel-rapl:0:1", "dram", 7)
    inside = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)

    def work():
        for path, uJ in zip(packages, (2_000_500, 1_000_500), strict=True):
            show(path, uJ)
        show(dram, 500_007)
        show(inside, 9e9)
        show(whole, 9e9)

    found = RaplMeter(tmp_path).measure(work)
    assert found.energy == pytest.approx(3.5)
    assert found.window_s > 0
    assert "3 domains" in found.instrument


def test_a_counter_that_starts_anew_counts_on(tmp_path):
    path = zone(tmp_path, "intel-rapl:0", "package-0", TURN_uJ - 999_999)
    found = RaplMeter(tmp_path).measure(lambda: show(path, 2_000_000))
    assert found.energy == pytest.approx(3.0, rel=1e-9)


def test_a_machine_without_counters_says_so(tmp_path):
    with pytest.raises(CannotMeasure, match="no GPU to JAX and no energy counter"):
        RaplMeter(tmp_path)
    path = zone(tmp_path, "intel-rapl:0", "package-0")
    (path / "energy_uj").unlink()
    (path / "energy_uj").mkdir()
    with pytest.raises(CannotMeasure, match=r"cannot be read .* run as root"):
        RaplMeter(tmp_path)


def test_a_gpu_without_zeus_or_without_a_gpu_says_so():
    if jax.default_backend() == "gpu":
        pytest.skip("this machine has a GPU")
    with pytest.raises(CannotMeasure, match=r"physnn\[measure\]|cannot read GPU 0"):
        GpuMeter()


@contextlib.contextmanager
def powered(folder, watts):
    """A processor of `watts()` whose counter is written every few milliseconds."""
    path = zone(folder, "intel-rapl:0", "package-0")
    stopped = threading.Event()

    def run():
        total_uJ, last = 0.0, time.monotonic()
        while not stopped.is_set():
            now = time.monotonic()
            total_uJ, last = total_uJ + 1e6 * watts() * (now - last), now
            show(path, total_uJ)
            time.sleep(2e-3)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield RaplMeter(folder)
    finally:
        stopped.set()
        thread.join()


def trained(config=TINY, context=6):
    experiment = Experiment(model=config, task=TextConfig(context=context))
    model = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    return TrainedRun(None, experiment, model, PROCESS, 0, 0.0)  # pyright: ignore


class Timed:
    """A meter that says when it runs something other than waiting."""

    def __init__(self, meter: Any = None):
        self.meter, self.windows = meter, 0

    def measure(self, work):
        self.windows += 1
        return self.meter.measure(work)


def test_idle_power_is_subtracted_and_reported(tmp_path):
    meter = Timed()
    # 20 W when nothing runs, 50 W in the second window.
    with powered(tmp_path, lambda: 50.0 if meter.windows == 2 else 20.0) as counter:
        meter.meter = counter
        found = measure_decoding(trained(), meter, batch=3, window_s=0.6)
    assert found.tokens > 0
    assert found.tokens % (3 * 6) == 0
    # The counter is read up to some milliseconds late at either end.
    assert found.idle_W == pytest.approx(20, rel=0.1)
    seconds = found.active.window_s
    assert found.token_J.energy * found.tokens == pytest.approx(30 * seconds, rel=0.1)
    assert found.active.energy == pytest.approx(50 * seconds, rel=0.1)
    assert found.model is None
    assert "no price list" in str(found)
    assert found.to_json()["modeled_J_per_token"] is None


def test_measured_joules_stand_beside_modeled_ones_and_are_not_added():
    active, idle = Measured(60.0, 2.0, "counter"), Measured(50.0, 5.0, "counter")
    model = Modeled(0.5, 1.0, 2.0)
    found = Decoding(active, idle, 40, 8, "device", "h100", model)
    assert found.token_J.energy == pytest.approx((60 - 10 * 2) / 40)
    assert "1.5x" in str(found)  # 60 J of 40 tokens over 1 J
    with pytest.raises(TypeError, match="print the two side by side"):
        model + found.token_J  # pyright: ignore


def test_what_cannot_be_measured_is_refused():
    check_measurable(trained(), 1)
    physical = trained()._replace(experiment=Experiment(model=PhysicalConfig()))
    with pytest.raises(ValueError, match="must be a transformer"):
        check_measurable(physical, 1)
    with pytest.raises(ValueError, match="`batch` must be at least 1"):
        check_measurable(trained(), 0)


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        dataclasses.replace(
            TINY,
            n_kv_heads=0,
            n_experts=3,
            n_active=2,
            memory=HashedRowsConfig(longest=4, index_bits=6, row=4),
        ),
    ],
    ids=["shared heads", "experts and memory"],
)
def test_decoding_with_a_cache_gives_the_logits_of_the_whole_text(config):
    model = trained(config).model
    tokens = jr.randint(jr.key(1), (2, 9), 0, 256)
    whole = model.logits(tokens, process=PROCESS, key=jr.key(0))
    step = jax.jit(decode)
    cache = empty_cache(model, batch=2, context=11)
    for t in range(tokens.shape[1]):
        cache, logits = step(model, cache, tokens[:, t])
        np.testing.assert_allclose(logits, whole[:, t], rtol=2e-3, atol=2e-4)
    assert int(cache.position) == 9
    assert jnp.all(cache.keys[:, :, 9:] == 0)
