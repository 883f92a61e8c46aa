"""Bills of designs that nobody built: their size, the ladder of energy, the limits."""

import dataclasses
import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.random as jr
import pytest

from evals.scale import (
    LONGEST_ROW,
    MOST_DENSE_RINGS,
    MOST_INDEX_BITS,
    Unbuilt,
    _scaled,
    count_parameters,
    grown,
    shapes_of,
)
from evals.scale_bill import Asked, drawn_area_m2, scaled_bill
from physnn.configs import config_folder
from physnn.energy import LINES, bill, load_prices
from physnn.energy.facts import joules_per, load_facts
from physnn.process import load_process
from train.baseline import TransformerConfig
from train.experiment import load_experiment

FACTS = load_facts()
PROCESS = load_process("cmos28")
EXPERIMENTS = config_folder() / "experiments"
# One of each family: the other files differ in sizes alone.
_OF_TEXT = ("channel", "equilibrium", "lookup", "memory", "mixed", "oscillator")
_OF_TEXT += ("resonator", "sparse")
_SLOW = ["fashion_channel", "fashion_lookup", *(f"wikitext2_{n}" for n in _OF_TEXT)]
FAMILIES = ["wikitext2_gated_rc", "wikitext2_transformer"] + [
    pytest.param(name, marks=pytest.mark.slow) for name in _SLOW
]
LLAMA_8B = TransformerConfig(
    width=4096, n_blocks=32, n_heads=32, n_kv_heads=8, n_hidden=14336, bits=16
)
DIGITAL = Path("wikitext2_transformer")


def model_of(family: str) -> Any:
    return load_experiment(EXPERIMENTS / f"{family}.toml").model


def fact_J(name: str, corner: str = "nominal") -> float:
    parsed = joules_per(FACTS[name].unit)
    return getattr(FACTS[name], corner) * (parsed[0] if parsed else 1.0)


def billed(config: Any = DIGITAL, **asked: Any) -> Any:
    asked = {k: float(v) if k in _REAL else v for k, v in asked.items()}
    return scaled_bill(Asked(Path(config), **asked))


_REAL = ("parameters", "batch", "cache_waste", "tokens_per_second")


def per_multiply(found: Any, *events: str) -> float:
    """J per parameter that a token multiplies with, of all events or of some."""
    by_event = found.ledger.by_event()
    spent = [by_event[event].nominal for event in events]
    return (sum(spent) if events else found.ledger.total.nominal) / found.multiplied


# The rule


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_grows_to_100_billion_without_being_built(family):
    found = billed(family, parameters=100e9, context=32768)
    assert found.parameters == pytest.approx(100e9, rel=0.01)
    assert 0 < found.ledger.total.nominal < math.inf
    lines = {row.line for row in found.ledger.rows} | set(found.ledger.zero_lines)
    assert lines == set(LINES)
    assert found.ledger.largest() in str(found)
    assert (found.area_m2 is None) == (found.config.kind == "transformer")


@pytest.mark.slow
def test_100_billion_take_less_than_2_GB():
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc, which knows the peak of one process")
    # Not `ru_maxrss`: a child starts with the peak of this process.
    code = (
        "from pathlib import Path; from evals.scale_bill import Asked, scaled_bill;"
        "scaled_bill(Asked(Path('wikitext2_oscillator'), parameters=100e9));"
        f"print(Path('{status}').read_text())"
    )
    command = [sys.executable, "-c", code]
    ran = subprocess.run(command, check=True, timeout=100, capture_output=True)
    (peak_kB,) = re.findall(r"VmHWM:\s+(\d+) kB", ran.stdout.decode())
    assert int(peak_kB) < 2e6


def test_depth_grows_with_the_log_of_the_width():
    config = model_of("wikitext2_gated_rc")
    asked: dict[str, Any] = {"vocabulary": 256, "process": PROCESS}
    trials: list[Any] = [grown(config, n, **asked) for n in (1e5, 1e11)]
    one, many = trials
    assert one.n_layers >= config.n_layers
    law = (math.log(many.width) - 5.039) / 0.0555
    assert many.n_layers == pytest.approx(law, abs=1)
    ratio = config.layer[0].n_states / config.width
    assert many.layer[0].n_states / many.width == pytest.approx(ratio, rel=0.01)


def test_a_config_is_billed_as_it_is_without_a_size():
    config = model_of("wikitext2_channel")
    found = billed("wikitext2_channel")
    assert found.config == config
    design = shapes_of(config, vocabulary=256, process=PROCESS)
    assert found.ledger == bill(design, load_prices("analog28"), process=PROCESS)
    assert found.latency_s == config.period_s
    built = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    assert count_parameters(built) == found.parameters
    assert drawn_area_m2(built) == pytest.approx(found.area_m2)


def test_limits_of_the_circuits_are_kept():
    found: Any = {
        family: _scaled(model_of(family), 2000.0)
        for family in ("wikitext2_oscillator", "wikitext2_memory")
    }
    assert found["wikitext2_oscillator"].layer[0].n == MOST_DENSE_RINGS
    memory = found["wikitext2_memory"].layer[0]
    assert (memory.index_bits, memory.row) == (MOST_INDEX_BITS, LONGEST_ROW)


@pytest.mark.parametrize("family", ["wikitext2_mixed", "wikitext2_transformer"])
def test_layers_are_counted_as_if_each_were_there(family):
    config = model_of(family)
    digital = config.kind == "transformer"
    deep = {"n_blocks" if digital else "n_layers": 5}
    config = dataclasses.replace(config, **deep)
    unbuilt = Unbuilt(config, vocabulary=256, process=PROCESS)
    whole = shapes_of(config, vocabulary=256, process=PROCESS)
    assert unbuilt.parameters == count_parameters(whole)
    if digital:
        asked = {"process": PROCESS, "period_s": 1e-6}
        ours, theirs = (
            bill(each, load_prices("sram2030"), **asked) for each in (unbuilt, whole)
        )
        assert ours.zero_lines == theirs.zero_lines
        for line, energy in theirs.by_line().items():
            same = pytest.approx(energy.nominal, rel=1e-9, abs=0)
            assert ours.by_line()[line].nominal == same


# The ladder of section 1 of energy.md: one row each, through the same path


# row: arguments of the bill, events counted (none: all), lowest and highest expected J
AROUND = {  # measured, and how far the law may be from it
    "mle3.llama-31-8b-instruct.h100x1.b8": (8.03e9, 0.02),
    "mle3.llama-31-8b-instruct.b200x1.b8": (8.03e9, 0.2),
    "mle3.llama-31-8b-instruct.h100x1.min": (8.03e9, 0.1),
    "mle3.llama-31-8b-instruct.b200x1.min": (8.03e9, 0.25),
    "mle3.llama-31-70b-instruct.b200x2.min": (70.6e9, 0.25),
    "founding.token.largest": (100e9, 0.05),
}
SERVED = {"bits": 16, "kv_heads": 8}
LADDER = [
    (
        "founding.token.largest",
        {"parameters": 100e9, "bits": 4, "kv_heads": 8, "machine": "b200", "batch": 1},
        (),
    ),
    *(
        (
            f"mle3.llama-31-{row}",
            {"parameters": n, "machine": gpu, "batch": batch, **SERVED},
            (),
        )
        for row, n, gpu, batch in (
            ("8b-instruct.h100x1.b8", 8.03e9, "h100", 7.99),
            ("8b-instruct.b200x1.b8", 8.03e9, "b200", 8),
            ("8b-instruct.h100x1.min", 8.03e9, "h100", 511),
            ("8b-instruct.b200x1.min", 8.03e9, "b200", 2043),
            ("70b-instruct.b200x2.min", 70.6e9, "b200", 2042),
        )
    ),
    ("asic.hc1.weight", {"parameters": 8.03e9, "machine": "hc1"}, ()),
    (
        "founding.sram.byte+dig.7.int8.mac",
        {"parameters": 8.03e9, **SERVED, "bits": 8, "machine": "sram7"},
        ("mac", "weight_byte"),
    ),
    (
        "dig.7.int8.mac.etsoc1.board",
        {"parameters": 8.03e9, **SERVED, "machine": "etsoc7"},
        (),
    ),
    ("dig.7.int8.mac.etsoc1", {"parameters": 8.03e9, "machine": "own"}, ()),
    ("cim.chip.analog.8b", {"parameters": 8.03e9, "machine": "hermes14"}, ()),
    ("cim.macro.digital.8b", {"parameters": 8.03e9, "machine": "cim28"}, ()),
    ("cim.sinangil.4b", {"parameters": 8.03e9, "machine": "cim7"}, ()),
    ("lut.7.soft4", {"parameters": 8.03e9, **SERVED, "machine": "own"}, ()),
]


def own_list(folder: Path, fact: str) -> str:
    """A list of one price, everything else zero."""
    text = (config_folder() / "hardware" / "cim28.toml").read_text()
    path = folder / "own.toml"
    path.write_text(text.replace("cim.macro.digital.8b", fact))
    return str(path)


@pytest.mark.parametrize(("row", "asked", "events"), LADDER, ids=lambda x: str(x)[:40])
def test_ladder_of_energy_per_parameter(row, asked, events, tmp_path):
    if asked["machine"] == "own":
        asked = asked | {"machine": own_list(tmp_path, row)}
    found = billed(**asked)
    per = per_multiply(found, *events)
    if row in AROUND:
        size, off = AROUND[row]
        assert per == pytest.approx(fact_J(row) / size, rel=off)
        return
    names = row.split("+")
    assert per == pytest.approx(sum(fact_J(name) for name in names), rel=0.01)
    total = found.ledger.total
    if len(names) == 1:
        for corner in ("low", "high"):
            here = getattr(total, corner) / found.multiplied
            assert here == pytest.approx(fact_J(row, corner), rel=0.01)


def test_target_is_a_tenth_of_a_picojoule_per_parameter():
    found = billed(parameters=100e9, bits=4, kv_heads=8, machine="b200", batch=1)
    target = per_multiply(found) / 1000
    assert target == pytest.approx(fact_J("budget.1000x.b100"), rel=0.05)


# Machines


def of_shapes(config, machine: str, vocabulary: int, **serving):
    design = Unbuilt(config, vocabulary=vocabulary, process=PROCESS)
    prices = load_prices(machine).served(**serving)
    return bill(design, prices, process=PROCESS, period_s=1e-3)


def test_llama_8b_on_h100_at_batch_8():
    measured = fact_J("mle3.llama-31-8b-instruct.h100x1.b8")
    # As many parameters as the fit took, and a token multiplies with them all.
    found = billed(parameters=8.03e9, machine="h100", batch=7.99, **SERVED)
    assert found.ledger.total.nominal == pytest.approx(measured, rel=0.02)
    golden = FACTS["golden.20.llama8b.h100.b8"]
    assert found.ledger.total.nominal == pytest.approx(golden.nominal, rel=0.02)
    assert golden.low <= found.ledger.total.nominal <= golden.high
    # Its own shapes: 6.5 % of its bytes are rows of the embedding that no token reads,
    # so that the bill is lower by as much: in favor of the GPU.
    exact = of_shapes(LLAMA_8B, "h100", 128256, batch=7.99).total.nominal
    assert 0.92 * measured < exact < measured


def test_weight_stream_is_memory_and_a_named_residual():
    for machine in ("h100", "b200"):
        found = billed(parameters=1e7, machine=machine, bits=16, batch=8)
        by_fact = found.ledger.by_fact()
        stream = [
            by_fact[name].nominal
            for name in ("founding.hbm.byte", "sys.decode.residual")
        ]
        cache = found.ledger.by_event()["cache_byte"].nominal
        read = sum(
            row.count for row in found.ledger.rows if row.event == "weight_byte"
        ) / len(stream)
        kappa = (sum(stream) - cache) * 8 / read
        assert kappa == pytest.approx(fact_J("sys.decode.stream"), rel=1e-3)
    for corner in ("low", "nominal", "high"):
        residual = fact_J("sys.decode.residual", corner) + fact_J("founding.hbm.byte")
        assert residual == pytest.approx(fact_J("sys.decode.stream", corner), rel=0.01)


def test_price_between_two_measured_sizes_is_between_their_prices():
    prices = load_prices("b200")
    rows = [row for row in prices.rows if row.at]
    for size in (1e8, 8.03e9, 2e10, 70.6e9, 1e12):
        assert sum(prices.share_of(row, size) for row in rows) == pytest.approx(1)
    at = {
        n: sum(row.nominal * prices.share_of(row, n) for row in rows)
        for n in (1e9, 8.03e9, math.sqrt(8.03e9 * 14.8e9), 14.8e9, 1e13)
    }
    assert list(at.values()) == pytest.approx(
        [6.7e-12, 6.7e-12, 5.5e-12, 4.3e-12, 2.6e-12]
    )


def test_memory_beside_the_multiplier_costs_less_than_flash():
    total = {
        machine: billed(parameters=1e7, machine=machine).ledger.total.nominal
        for machine in ("near_memory", "jouppi7", "flash")
    }
    assert total["near_memory"] < total["jouppi7"] < total["flash"]


# What follows from the bill


def test_paging_waste_is_held_but_not_read():
    lean, wasteful = (
        billed(machine="sram7", context=4096, cache_waste=waste) for waste in (0, 0.5)
    )
    for line in ("KV cache and state", "arithmetic"):
        assert lean.ledger.by_line()[line] == wasteful.ledger.by_line()[line]
    cache = {
        name: sum(row.energy.nominal for row in each.ledger.rows if row.part == "cache")
        for name, each in (("lean", lean), ("wasteful", wasteful))
    }
    assert cache["wasteful"] == pytest.approx(2 * cache["lean"])
    assert wasteful.memory_B > lean.memory_B


def test_bits_are_refused_where_nothing_is_coded_by_them():
    with pytest.raises(ValueError, match="`bits` must be left out of a design without"):
        billed("fashion_lookup", bits=4)
    spent = [billed("fashion_mac", bits=n).ledger.total.nominal for n in (4, 6)]
    assert spent[0] < spent[1]


def test_a_prompt_is_as_long_as_the_context():
    found = billed(machine="jouppi7", context=1000, prefill=True)
    assert found.ledger.serving.prompt == 1000


def test_power_and_joules_per_byte_follow_from_joules_per_token():
    found = billed(machine="h100", tokens_per_second=250, vocabulary=50257)
    total = found.ledger.total.nominal
    assert found.power_W.nominal == pytest.approx(250 * total)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["J_per_byte"]["nominal"] == pytest.approx(total / 4.4)
    assert "norm.bytes_per_bpe_token, unverified" in str(found)
    assert billed(machine="h100").bytes_per_token == 1


@pytest.mark.parametrize(
    ("config", "asked", "said"),
    [
        (DIGITAL, {"batch": math.inf}, "`batch` must be at least 1 and finite"),
        (DIGITAL, {"batch": 0.5}, "`batch` must be at least 1 and finite"),
        (DIGITAL, {"batch": math.nan}, "`batch` must be at least 1 and finite"),
        (DIGITAL, {"parameters": math.inf}, "`parameters` must be from 1 to 1e"),
        (DIGITAL, {"parameters": 1e30}, "`parameters` must be from 1 to 1e"),
        (DIGITAL, {"parameters": 100.0}, "the nearest is"),
        (DIGITAL, {"context": 0}, "`context` must be at least 1"),
        (DIGITAL, {"kv_heads": 3}, "`n_kv_heads` must divide"),
        (DIGITAL, {"active_experts": 2}, "at most `n_experts`"),
        (DIGITAL, {"tokens_per_pass": 3.0}, "at most `drafted` + 1"),
        (DIGITAL, {"drafted": 2.0, "prefill": True}, "must be 0 within a prompt"),
        (DIGITAL, {"cache_waste": 1.0}, "from 0 to below 1"),
        (DIGITAL, {"tokens_per_second": -1.0}, "`tokens_per_second` must be"),
        (DIGITAL, {"tokens_per_second": 0.0}, "`tokens_per_second` must be"),
        (DIGITAL, {"kv_heads": 0}, "`kv_heads` must be at least 1"),
        (DIGITAL, {"cache_bits": 0}, "`cache_bits` must be at least 1"),
        ("wikitext2_gated_rc", {"batch": 8.0}, "nothing is shared by several"),
        (DIGITAL, {"bytes_per_token": 0.0}, "`bytes_per_token` must be"),
        (DIGITAL, {"machine": "analog28"}, "must price event"),
        ("wikitext2_gated_rc", {"machine": "h100"}, "must price event"),
        ("wikitext2_gated_rc", {"kv_heads": 2}, "must be left out"),
        ("wikitext2_gated_rc", {"prefill": True}, "must be left out"),
        ("wikitext2_counts", {}, "must be counted from a text"),
    ],
)
def test_wrong_arguments_get_one_sentence(config, asked, said):
    with pytest.raises(ValueError, match="must") as error:
        billed(config, **asked)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_context_longer_than_the_positions_trained_on_is_told():
    longer = "longer than the 256 positions"
    assert longer in str(billed(DIGITAL, context=257))
    assert longer not in str(billed(DIGITAL, context=256))


def test_an_older_process_costs_more():
    on = lambda **how: billed("wikitext2_gated_rc", **how).ledger.total.nominal
    older = on(process="sky130", machine="analog130")
    assert older > 3 * on(process="cmos28", machine="analog28") == 3 * on()


def test_nothing_of_a_bill_is_ever_an_array():
    design = shapes_of(LLAMA_8B, vocabulary=128256, process=PROCESS)
    leaves = jax.tree.leaves(design)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)
    assert count_parameters(design) == pytest.approx(8.03e9, rel=1e-3)
