"""Latency of a token: what memories allow, what a chip with wired weights takes."""

from pathlib import Path
from typing import Any

import pytest

from evals.scale_bill import Asked, scaled_bill
from physnn.configs import config_folder
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


def test_every_memory_bounds_the_latency_of_the_machine_beside_it():
    dense = {"parameters": 8.03e9, "kv_heads": 8, "bits": 8}
    held = lambda name: billed(machine=name, **dense)
    read_B = held("jouppi7").multiplied
    # One TPU v4 holds it; a drive reads weights alone, and no cache.
    assert held("jouppi7").devices == held("flash").devices == 1
    assert held("jouppi7").latency_s == pytest.approx(read_B / 1.2e12, rel=0.05)
    assert held("flash").latency_s == pytest.approx(read_B / 7.45e9, rel=1e-3)
    # Banks read all they hold at once, however much that is.
    for name, whole_s in (
        ("sram7", 40 / 20e6),
        ("near_memory", 6 / 1.2e3),
        ("hermes14", 133e-9),
        ("cim7", 5.5e-9),
        ("cim28", 4 / 195e6),
        # 136 MB, at 139 TOPS x 0.6.
        ("etsoc7", 2 * 136e6 / (139e12 * 0.6)),
    ):
        assert 0.7 * whole_s < held(name).latency_s <= whole_s, name
    assert "tokens/s for one user" in str(held("sram7"))
    # The document's box gives a user of 100 B parameters 1,000 tokens/s.
    box = billed(machine="founding", parameters=100e9, kv_heads=8, bits=8)
    assert box.devices == 1
    assert box.latency_s == pytest.approx(1e-3, rel=0.05)


def test_a_class_of_service_sets_the_batch():
    asked = {"parameters": 8.03e9, "machine": "b200", **SERVED}
    alone = billed(**asked, batch=1)
    served = billed(**asked, user_rate=0.5 / alone.latency_s)
    batch = int(served.ledger.serving.batch)
    assert 1 < batch < 2043
    assert served.latency_s <= 2 * alone.latency_s
    more = billed(**asked, batch=batch + 1)
    assert more.latency_s > 2 * alone.latency_s
    assert served.ledger.total.nominal == pytest.approx(
        billed(**asked, batch=batch).ledger.total.nominal
    )
    # A slow class takes the largest batch that was measured.
    assert billed(**asked, user_rate=1.0).ledger.serving.batch == 2043


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"machine": "b200", "user_rate": 1e6}, "can have at most"),
        ({"machine": "b200", "user_rate": 0.0}, "must be positive and finite"),
        ({"machine": "b200", "user_rate": 1.0, "batch": 2}, "`batch` is given, too"),
    ],
)
def test_a_class_that_no_machine_has_is_refused(asked, message):
    with pytest.raises(ValueError, match=message):
        billed(parameters=8.03e9, **asked)


def test_a_list_that_tells_nothing_of_time_has_no_class(tmp_path):
    shipped = config_folder() / "hardware" / "cim28.toml"
    silent = shipped.read_text().replace('[device]\npass = "cim.digital28.pass"', "")
    (tmp_path / "silent.toml").write_text(silent)
    asked = {"parameters": 8.03e9, "machine": str(tmp_path / "silent.toml")}
    assert billed(**asked).latency_s is None
    with pytest.raises(ValueError, match=r"`silent` has no \[device"):
        billed(**asked, user_rate=1.0)


def test_a_circuit_has_a_class_of_its_own():
    with pytest.raises(ValueError, match="time per token is its own"):
        scaled_bill(Asked(Path("wikitext2_gated_rc"), user_rate=1e6))
