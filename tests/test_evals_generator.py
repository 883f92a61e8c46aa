"""Bills of generators, by pass and patch, and of designs at another width."""

import json
from pathlib import Path
from typing import Any

import pytest

from evals.scale_bill import Asked, scaled_bill
from physnn.energy.facts import load_facts

FACTS = load_facts()
SMALL: dict[str, Any] = {"machine": "sram7", "context": 64}


def billed(config: str = "wikitext2_transformer", **asked: Any) -> Any:
    return scaled_bill(Asked(Path(config), **asked))


# Patches and passes as remembered: 16 x 16 pixels to a patch, and the words that attend
# with them; two passes a step where one has no prompt. docs/energy.md has the others.
@pytest.mark.parametrize(
    ("fact", "parameters", "patches", "passes", "batch", "times"),
    [
        ("hunyuandit-v12-diffusers", 1.5e9, 4096, 2 * 50, 1.0, 0.95),
        ("stable-diffusion-35-large", 8.1e9, 4096 + 333, 2 * 28, 16.0, 3.8),
    ],
)
def test_measured_generators_on_the_law_of_decoding(
    fact, parameters, patches, passes, batch, times
):
    found = billed(
        parameters=parameters,
        context=patches,
        image_passes=passes,
        bits=16,
        machine="b200",
        batch=batch,
    )
    measured = FACTS[f"mle3.img.{fact}.b200"]
    assert f"{parameters / 1e9:g}B params, {passes // 2} steps" in measured.conditions
    assert found.image_J.nominal == pytest.approx(times * measured.nominal, rel=0.05)
    assert "per image" in str(found)
    assert "fitted to the decoding of text" in str(found)


def test_an_image_is_its_passes_times_its_patches():
    once, twice = (billed(image_passes=n, **SMALL) for n in (10, 20))
    assert once.ledger == twice.ledger
    assert once.tokens_per_image == 640
    per_patch = once.ledger.total.nominal
    assert once.image_J.nominal == pytest.approx(640 * per_patch)
    assert twice.image_J.nominal == pytest.approx(2 * once.image_J.nominal)
    plain = json.loads(json.dumps(twice.to_json(), allow_nan=False))
    assert plain["J_per_image"]["nominal"] == pytest.approx(1280 * per_patch)
    assert billed(machine="sram7").to_json()["J_per_image"] is None


def test_every_patch_attends_to_all_and_weights_are_read_once_a_pass():
    few, many = (
        billed(image_passes=1, machine="sram7", context=n).ledger for n in (64, 256)
    )
    rows = lambda ledger, name: sum(
        row.energy.nominal for row in ledger.rows if row.event == name
    )
    assert rows(many, "attention_mac") == pytest.approx(4 * rows(few, "attention_mac"))
    assert rows(many, "weight_byte") == pytest.approx(rows(few, "weight_byte") / 4)
    assert rows(many, "mac") == pytest.approx(rows(few, "mac"))
    # Its own keys and values, written and read once.
    assert rows(many, "cache_byte") == pytest.approx(rows(few, "cache_byte"))
    # A prompt of text attends to half of itself on average.
    prompt = billed(prefill=True, **SMALL).ledger
    half = rows(few, "attention_mac") * 65 / 128
    assert rows(prompt, "attention_mac") == pytest.approx(half)
    lines = many.by_line()
    assert not {"embedding", "output head", "sampling", "off-chip IO"} & set(lines)


def test_a_circuit_draws_an_image_patch_by_patch():
    found, token = (
        billed("wikitext2_gated_rc", **asked)
        for asked in ({"image_passes": 1, "context": 196}, {})
    )
    assert found.ledger == token.ledger
    assert found.image_J.nominal == pytest.approx(196 * token.ledger.total.nominal)
    assert found.latency_s == pytest.approx(196 * token.latency_s)
    assert "patch by patch" in str(found)
    assert "(196 patches)" in str(found)
    assert "196 µs, 5.1e+03 images/s for one user" in str(found)
    assert "1e+06 tokens/s for one user" in str(token)


@pytest.mark.parametrize(
    ("config", "asked", "said"),
    [
        ("wikitext2_transformer", {"image_passes": 0}, "must be at least 1, but is 0"),
        ("wikitext2_gated_rc", {"image_passes": 2, "context": 196}, "must be 1 for"),
        ("wikitext2_gated_rc", {"image_passes": 1}, "how many patches an image"),
        ("fashion_mac", {"image_passes": 1, "context": 196}, "makes no sequences"),
        (
            "wikitext2_transformer",
            {"image_passes": 2, "drafted": 1.0},
            "must be 0 within a prompt",
        ),
    ],
)
def test_what_is_no_generator_is_refused(config, asked, said):
    with pytest.raises(ValueError, match="must") as error:
        billed(config, **asked)
    assert said in str(error.value)


def test_bits_are_those_of_the_weights_of_any_design():
    six, four = (billed("wikitext2_gated_rc", bits=n) for n in (6, 4))
    assert six.ledger == billed("wikitext2_gated_rc").ledger
    assert four.config.weight_bits == 4
    assert four.memory_B == pytest.approx(six.memory_B * 4 / 6)
    # Two bits less are a quarter of the capacitors, and of what settles them.
    less = [each.ledger.by_line()["amplifiers"].nominal for each in (four, six)]
    assert 0.25 < less[0] / less[1] < 0.35
    network = {"machine": "sram7", "tokens_per_second": 1e6}
    eight, two = (billed("fashion_cnn_s", bits=n, **network) for n in (8, 2))
    macs = [each.ledger.by_event()["mac"].nominal for each in (eight, two)]
    halved = 2 ** FACTS["dig.mac.width"].nominal
    assert macs[0] / macs[1] == pytest.approx(halved)
    with pytest.raises(ValueError, match="it has none"):
        billed("wikitext2_counts", bits=4)
