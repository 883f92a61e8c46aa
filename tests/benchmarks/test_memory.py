"""Peak memory of a training step at lengths 256, 1,024 and 4,096, of every family.

    make bench

From the analysis of the compiled program at the batch of two windows, one per chip:
nothing is run, so the machine and its load do not matter.
"""

import dataclasses

import pytest

from physnn.configs import find_config
from tests.benchmarks.memory import exponent, peak_bytes
from tests.benchmarks.test_training_speed import FAMILIES
from train.experiment import load_experiment

pytestmark = pytest.mark.usefixtures("plain_promotion")

LENGTHS = (256, 1024, 4096)


@pytest.mark.parametrize("name", ["transformer_l", *FAMILIES])
def test_peak_memory(benchmark, name):
    experiment = load_experiment(find_config("experiments", f"wikitext2_{name}"))
    experiment = dataclasses.replace(experiment, batch=2)
    peaks = {length: peak_bytes(experiment, length=length) for length in LENGTHS}
    grown = exponent(peaks)
    print(f"\n  {name:16s}", *(f"{peak / 2**20:8.1f} MiB" for peak in peaks.values()))
    print(f"  {name:16s} grows as length^{grown:.2f}")
    benchmark.extra_info |= {"peak bytes": peaks, "exponent": grown}
    if name != "transformer_l":
        assert grown < 1.05
    benchmark.pedantic(lambda: None, rounds=1)
