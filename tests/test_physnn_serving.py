"""Serving: what a batch, a draft, a prompt and paging do to a bill, for either side."""

import dataclasses
from typing import Any

import pytest

from evals.scale import Unbuilt
from physnn.energy import bill, load_prices
from physnn.energy.facts import load_facts
from physnn.process import load_process
from train.baseline import TransformerConfig

PROCESS = load_process("cmos28")
# Two blocks of Llama-3.1-8B: what is asked of a share does not depend on the depth.
SHORT = TransformerConfig(
    width=4096, n_blocks=2, n_heads=32, n_kv_heads=8, n_hidden=14336, bits=16
)


def of_shapes(config, machine: str, vocabulary: int, **serving: Any):
    design = Unbuilt(config, vocabulary=vocabulary, process=PROCESS)
    prices = load_prices(machine).served(**serving)
    return bill(design, prices, process=PROCESS, period_s=1e-3)


def test_what_waits_leaks_and_does_nothing_else():
    busy, waiting = (
        of_shapes(SHORT, "sram7", 256, utilization=share) for share in (1.0, 0.25)
    )
    for line, factor in (("leakage", 4.0), ("arithmetic", 1.0), ("weights", 1.0)):
        now, before = (each.by_line()[line].nominal for each in (waiting, busy))
        assert now == pytest.approx(factor * before)
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="`utilization` must be a share above 0"):
            load_prices("sram7").served(utilization=share)


def test_a_batch_of_a_mixture_touches_more_experts():
    config = dataclasses.replace(SHORT, n_experts=128, n_active=8, n_hidden=512)
    experts = [
        sum(
            row.energy.nominal * batch
            for row in of_shapes(config, "b200", 256, batch=batch).rows
            if row.part == "blocks.experts" and row.event == "weight_byte"
        )
        for batch in (1.0, 8.0, 4096.0)
    ]
    one, eight, all_ = experts
    assert all_ / one == pytest.approx(128 / 8, rel=1e-6)
    assert eight / all_ == pytest.approx(1 - (1 - 8 / 128) ** 8)


def test_qwen3_30b_a3b_on_b200_at_batch_8():
    # 48 layers of 2048, 128 experts of 768 of which 8 are chosen; but its attention is
    # twice as wide as its stream, which a config here cannot be.
    config = TransformerConfig(
        width=2048,
        n_blocks=48,
        n_heads=16,
        n_kv_heads=4,
        n_hidden=768,
        n_experts=128,
        n_active=8,
        bits=16,
        context=1024,
    )
    found = of_shapes(config, "b200", 151936, batch=8.0).total.nominal
    measured = load_facts()["mle3.qwen3-30b-a3b-instruct-2507.b200x1.b8"].nominal
    assert found == pytest.approx(measured, rel=0.2)


def test_drafted_tokens_share_the_weights_and_cost_arithmetic():
    plain = of_shapes(SHORT, "jouppi7", 256)
    drafted = of_shapes(SHORT, "jouppi7", 256, tokens_per_pass=3.0, drafted=5.0)
    for line, factor in (
        ("weights", 1 / 3),
        ("KV cache and state", 1 / 3),
        ("arithmetic", 6 / 3),
        ("off-chip IO", 1),
    ):
        now, before = (each.by_line()[line].nominal for each in (drafted, plain))
        assert now == pytest.approx(factor * before), line


def test_a_prompt_reads_the_weights_once():
    prompt = of_shapes(SHORT, "jouppi7", 256, prompt=1000)
    decode = of_shapes(SHORT, "jouppi7", 256)
    for line, factor in (("weights", 1000), ("output head", 1000), ("arithmetic", 1)):
        before, now = (each.by_line()[line].nominal for each in (decode, prompt))
        assert before == pytest.approx(factor * now, rel=1e-6), line


def test_shared_heads_and_fewer_bits_shrink_the_cache():
    def cache(**changes) -> float:
        config = dataclasses.replace(SHORT, **changes)
        return of_shapes(config, "h100", 256).by_event()["cache_byte"].nominal

    assert cache(n_kv_heads=32) == pytest.approx(4 * cache())
    assert cache(cache_bits=8) == pytest.approx(cache() / 2)
    assert cache(context=32768) == pytest.approx(cache(context=16384) * 2, rel=1e-3)
