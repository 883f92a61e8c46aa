"""Measured Joules: counters that turn over, what is refused, decoding with a cache."""

import dataclasses
import time

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


def trained(config=TINY, context=6):
    experiment = Experiment(model=config, task=TextConfig(context=context))
    model = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    return TrainedRun(None, experiment, model, PROCESS, 0, 0.0)  # pyright: ignore


class Powered:
    """A meter on a processor of 20 W when nothing runs, 50 W in the second window.

    Its counter is written right before each window and right before its end, so that
    the Joules it tells are exact however late another thread would have been.
    """

    def __init__(self, folder):
        self.path = zone(folder, "intel-rapl:0", "package-0")
        self.meter, self.windows = RaplMeter(folder), 0
        self.total_uJ, self.last = 0.0, time.monotonic()

    def catch_up(self):
        now, watts = time.monotonic(), 50.0 if self.windows == 2 else 20.0
        self.total_uJ += 1e6 * watts * (now - self.last)
        self.last = now
        show(self.path, self.total_uJ)

    def measure(self, work):
        def metered():
            work()
            self.catch_up()

        self.windows += 1
        self.last = time.monotonic()
        self.catch_up()
        return self.meter.measure(metered)


def test_idle_power_is_subtracted_and_reported(tmp_path):
    found = measure_decoding(trained(), Powered(tmp_path), batch=3, window_s=0.6)
    assert found.tokens > 0
    assert found.tokens % (3 * 6) == 0
    # Between the counter and the clock lie some lines of Python.
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
