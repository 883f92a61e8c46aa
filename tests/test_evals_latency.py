"""Latency of a token: what memories allow, what a chip with wired weights takes."""

from pathlib import Path
from typing import Any

import pytest

from evals.scale_bill import Asked, scaled_bill
from physnn.energy import load_prices

SERVED = {"bits": 16, "kv_heads": 8}


def billed(**asked: Any) -> Any:
    asked = {k: float(v) if k == "batch" else v for k, v in asked.items()}
    return scaled_bill(Asked(Path("wikitext2_transformer"), **asked))


def test_latency_is_bounded_by_what_the_memory_reads():
    found = billed(parameters=8.03e9, machine="h100", batch=1, **SERVED)
    assert found.devices == 1
    bound = 2 * found.multiplied / 3.35e12
    assert found.latency_s == pytest.approx(bound, rel=0.05)
    large = billed(parameters=70.6e9, machine="h100", batch=1, **SERVED)
    assert large.devices == 2
    assert "at least" in str(large)
    # Measured: 7.3 ms at batch 8.
    assert 0.3 * 7.3e-3 < found.latency_s < 7.3e-3


def test_latency_of_chips_that_hold_their_weights():
    dense = {"parameters": 8.03e9, "kv_heads": 8, "bits": 8}
    device = load_prices("sram2030").device
    assert device is not None
    alone = device.memory_B / device.bandwidth_B_per_s
    # A reads all it holds but an embedding: all its banks once, however large it is.
    for asked in (dense, {**dense, "parameters": 1e9}):
        found = billed(machine="sram2030", **asked)
        assert 0.7 * alone < found.latency_s <= alone
        assert found.devices is None
    # R takes as long as the layers of the chip that was built; Llama has 32.
    found = billed(machine="rom2030", **dense)
    assert found.latency_s == pytest.approx(found.config.n_blocks / 32 / 17e3, rel=1e-2)
    assert "at least" in str(found)
    patches = billed(machine="rom2030", image_passes=2)
    assert patches.latency_s is None
