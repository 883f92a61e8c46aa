"""The golden rows of energy_facts.csv, computed by the code that bills our models.

A row's `low` and `high` are the tolerance. Expression and verdict of each are in its
`quantity` and `conditions`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evals.scale_bill import Asked, scaled_bill
from physnn.energy import Ledger, bill, load_prices
from physnn.energy.events import Event
from physnn.energy.facts import joules_per, load_facts
from physnn.process import load_process
from physnn.units import BOLTZMANN_J_PER_K, thermal_energy_J

FACTS = load_facts()
PROCESS = load_process("cmos28")
PARAMETERS = 100e9


class Counts:
    """A design that is nothing but its counts."""

    def __init__(self, **counts: float):
        self.counts = counts

    def events(self, process, *, period_s):
        del process, period_s
        return tuple(Event(name, count, "whole") for name, count in self.counts.items())


def made(prices, **counts: float) -> Ledger:
    """The bill of so many events."""
    if isinstance(prices, str):
        prices = load_prices(prices)
    return bill(Counts(**counts), prices, process=PROCESS, period_s=1e-3)


def fact(name: str, corner: str = "nominal") -> float:
    """A fact in J and base units where it is an energy, else in its own unit."""
    row = FACTS[name]
    parsed = joules_per(row.unit)
    return getattr(row, corner) * (parsed[0] if parsed else 1.0)


@pytest.fixture
def own_list(tmp_path) -> Callable:
    """Write a price list of `rows`, every other line zero, and load it."""

    def write(rows: str, batch: float = 1):
        path = tmp_path / "own.toml"
        lines = ", ".join(f'"{line}"' for line in _LINES)
        path.write_text(
            f'description = "for a test"\nbatch = {batch}\n{rows}\n'
            f'[[price]]\nzero = true\nline = [{lines}]\nreason = "not in this test"\n'
        )
        return load_prices(path)

    return write


_LINES = load_prices("founding").zero_lines


def row(event: str, line: str, rest: str) -> str:
    return f'[[price]]\nline = "{line}"\nevent = "{event}"\n{rest}\n'


WEIGHT = {
    name: row("weight_byte", "weights", f'fact = "{name}"')
    for name in ("founding.sram.byte",)
}
A100 = row(
    "weight_byte",
    "weights",
    'fact = "gpu.a100.hbm.bit"\ntimes = 8\ntimes_why = "bits of a byte"',
)
HEAD = (
    row("mac", "arithmetic", 'fact = "dig.7.int8.mac"') + WEIGHT["founding.sram.byte"]
)
WIRE = row("wire_bit_m", "activations", 'fact = "wire.7.default"')


def ledger_of(machine: str, parameters: float, **asked: Any) -> Ledger:
    """The bill of a transformer of any size, as `physnn bill` says."""
    config = Path("wikitext2_transformer")
    asked = {"parameters": parameters, "machine": machine, **asked}
    return scaled_bill(Asked(config, **asked)).ledger


def served(machine: str, parameters: float, **asked: Any) -> float:
    """Its J per token."""
    return ledger_of(machine, parameters, **asked).total.nominal


def _law_of_2030() -> float:
    """The two terms of the law; what the cache costs beside them is not in the row."""
    ledger = ledger_of("gpu2030", 1e8, bits=16, batch=8.0)
    return ledger.total.nominal - ledger.by_event()["cache_byte"].nominal


def _founding(event: str, count: float, of: str) -> float:
    return made("founding", **{event: count}).by_fact()[of].nominal


def _component_sum() -> Ledger:
    return made("founding", mac=PARAMETERS, weight_byte=PARAMETERS)


def _without_hbm() -> float:
    ledger = _component_sum()
    total = ledger.total.nominal
    return total / (total - ledger.by_fact()["founding.hbm.byte"].nominal)


def _hbm_share(gpu: str) -> float:
    hbm = fact("founding.hbm.byte")
    return (
        FACTS[f"gpu.{gpu}.hbm_bw"].nominal
        * 1e12
        * hbm
        / FACTS[f"gpu.{gpu}.tdp"].nominal
    )


def _floor_8b() -> float:
    signal_to_noise = 10 ** ((6.02 * 8 + 1.76) / 10)
    return 8 * thermal_energy_J(300.0) * signal_to_noise


KV_32K_B = FACTS["founding.kv.32k.bytes"].nominal * 1e9
KV_1M_B = FACTS["founding.kv.1m.bytes"].nominal * 1e12

# id: its value in the row's unit. `own` writes and loads a price list.
GOLDEN: dict[str, Callable] = {
    "golden.01.arith": lambda own: _founding("mac", PARAMETERS, "founding.int8mul"),
    "golden.02.sram": lambda own: _founding(
        "weight_byte", PARAMETERS, "founding.sram.byte"
    ),
    "golden.03.hbm": lambda own: _founding(
        "weight_byte", PARAMETERS, "founding.hbm.byte"
    ),
    "golden.04.comm": lambda own: _founding(
        "weight_byte", PARAMETERS, "founding.comm.byte"
    ),
    "golden.05.sum": lambda own: _component_sum().total.nominal,
    "golden.06.kv32k": lambda own: made("founding", cache_byte=KV_32K_B).total.nominal,
    "golden.07.kv1m.linear": lambda own: (
        made("founding", cache_byte=KV_32K_B * 2**20 / 2**15).total.nominal
    ),
    "golden.08.kv1m.system": lambda own: (
        made(own(A100), weight_byte=KV_1M_B).total.nominal
    ),
    "golden.09.sys": lambda own: (
        fact("founding.sys.power") * 1e3 / fact("founding.sys.tps_user")
    ),
    "golden.10.b100.system": lambda own: (
        made(own(A100), weight_byte=PARAMETERS).total.nominal
    ),
    "golden.11.b100.stream": lambda own: served(
        "b200", PARAMETERS, bits=8, kv_heads=8, batch=1.0
    ),
    "golden.12.hbmshare.b200": lambda own: _hbm_share("b200"),
    "golden.13.hbmshare.h100": lambda own: _hbm_share("h100"),
    "golden.14.sram_swap.component": lambda own: _without_hbm(),
    "golden.15.sram_swap.share": lambda own: 1 / (1 - 1 / 3),
    "golden.16.sram.jouppi": lambda own: fact("dig.7.sram1m.64b") * 8 / 1e-12,
    "golden.17.hbm.jouppi.low": lambda own: fact("dig.7.hbm2.64b", "low") * 8 / 1e-12,
    "golden.18.hbm.jouppi.high": lambda own: fact("dig.7.hbm2.64b", "high") * 8 / 1e-12,
    "golden.19.landauer.hbmbit": lambda own: (
        fact("founding.hbm.byte") / 8 / (thermal_energy_J(300.0) * math.log(2))
    ),
    "golden.20.llama8b.h100.b8": lambda own: served(
        "h100", 8.03e9, bits=16, kv_heads=8, batch=7.99
    ),
    "golden.21.dgxb200.range": lambda own: (
        fact("gpu.dgxb200.tps_max") / fact("gpu.dgxb200.tps_user")
    ),
    "golden.22.hc1": lambda own: fact("asic.hc1.power") / fact("asic.hc1.tps"),
    "golden.23.northpole.rack": lambda own: 30e3 / (3 * 28 / 2.8e-3),
    "golden.24.gemini": lambda own: fact("ovh.google.prompt") * 3600,
    "golden.25.head.gpt2": lambda own: (
        made(own(HEAD), mac=50257 * 768, weight_byte=50257 * 768).total.nominal / 1e-6
    ),
    "golden.26.head.byte256": lambda own: (
        made(own(HEAD), mac=256 * 768, weight_byte=256 * 768).total.nominal / 1e-6
    ),
    "golden.27.adc.vs.ktc": lambda own: fact("adc.survey.e8.1g", "low") / _floor_8b(),
    "golden.28.int8.7over45": lambda own: (
        fact("dig.45.int8.mul") / fact("dig.7.int8.mul")
    ),
    "golden.29.budget": lambda own: (
        fact("founding.token.largest") / PARAMETERS / 1000 / 1e-12
    ),
    "golden.30.8ktsnr8": lambda own: _floor_8b() / 1e-15,
    "golden.31.wire.25mm": lambda own: (
        made(own(WIRE), wire_bit_m=8 * 25e-3).total.nominal / 1e-12
    ),
    "golden.32.small100m": lambda own: _law_of_2030() / 1e-3,
}


@pytest.mark.parametrize("name", [name for name in FACTS if name.startswith("golden.")])
def test_golden(name, own_list):
    golden = FACTS[name]
    assert golden.low <= GOLDEN[name](own_list) <= golden.high


def test_founding_document_from_an_unbuilt_transformer():
    # 1e11 parameters, never built: the same path as `physnn bill`.
    found = scaled_bill(
        Asked(Path("wikitext2_transformer"), parameters=PARAMETERS, machine="founding")
    )
    assert found.parameters == pytest.approx(PARAMETERS, rel=0.01)
    ledger = found.ledger
    spent = {name: energy.nominal for name, energy in ledger.by_fact().items()}
    assert ledger.by_event()["mac"].nominal == pytest.approx(0.007, rel=0.01)
    assert spent["founding.sram.byte"] == pytest.approx(0.2, rel=0.01)
    assert ledger.by_line()["chip to chip"].nominal == pytest.approx(0.24, rel=0.01)
    # The cache of a 256-token window is read from HBM too: 0.2 % of the weights.
    assert spent["founding.hbm.byte"] == pytest.approx(3.9, rel=0.01)
    assert ledger.total.nominal == pytest.approx(4.347, rel=0.01)


def test_gpu_of_2030_reproduces_the_fitted_law_at_every_corner():
    # energy.md 4.5: wall J = B200 J x 1.6 x 1.09 / {8, 4, 2.5}, N = 1e8, fp16, batch 8.
    total = made("gpu2030", mac=1e8, weight_byte=2e8, host_token=1).total
    wall = FACTS["ovh.node_over_gpu"].nominal * FACTS["ovh.pue.google"].nominal
    gain = FACTS["trend.2030.hw"]
    stream = fact("sys.decode.stream") * wall / 8
    assert total.low == pytest.approx(
        (1e8 * 4e-12 * wall + 2e8 * stream) / gain.high, rel=0.01
    )
    assert total.high == pytest.approx(
        (1e8 * 6.25e-12 * wall + 2e8 * stream) / gain.low, rel=0.01
    )


def test_sram_machine_is_the_sum_of_its_parts():
    # Split in arithmetic and memory for the Amdahl line; the rule is 1.0 (0.5-2.1) pJ.
    for corner in ("low", "nominal", "high"):
        parts = fact("base2030.asic.mac", corner) + fact(
            "base2030.asic.sram.byte", corner
        )
        assert parts == pytest.approx(fact("base2030.asic.sram", corner), rel=0.01)
    ledger = made("sram2030", mac=1e8, weight_byte=1e8)
    wall = math.prod(each.nominal for each in load_prices("sram2030").multipliers)
    lines = {line: each.nominal * wall for line, each in ledger.by_line().items()}
    rule = lines["arithmetic"] + lines["weights"]
    assert rule == pytest.approx(0.13e-3, rel=0.01)
    # The clock of its registers is beside the rule.
    assert ledger.total.nominal == pytest.approx(rule + lines["clock"])
    assert 0.01 < lines["clock"] / rule < 0.02


def test_rom_machine():
    total = made("rom2030", mac=1e8, weight_byte=1e8).total
    assert total.nominal == pytest.approx(0.09e-3, rel=0.01)


def test_facts_derived_from_others_follow_from_them():
    gain = (FACTS["dig.scale.tsmc.n7a14"].high, 2.1, 1.0)
    for name, base in (
        ("base2030.asic.mac", fact("dig.7.int8.mac")),
        ("base2030.asic.sram.byte", fact("founding.sram.byte")),
        ("base2030.asic.buffer.byte", 2 * fact("dig.7.sram8k.byte")),
        ("base2030.asic.elementwise", fact("dig.7.fp16.mul")),
        ("base2030.asic.add32", fact("dig.7.int32.add")),
    ):
        corners = [fact(name, corner) for corner in ("low", "nominal", "high")]
        assert corners == pytest.approx([base / g for g in gain], rel=0.01), name
    board = FACTS["ovh.board.asic"].nominal / FACTS["ovh.vr"].nominal
    assert board == pytest.approx(1.2, rel=0.01)
    assert board * FACTS["ovh.pue.2030"].nominal == pytest.approx(1.3, rel=0.01)
    gm_over_I = FACTS["an.gmid.weak"]
    ratio = gm_over_I.high / gm_over_I.low
    assert FACTS["an.supply.charge"].high == pytest.approx(ratio, rel=0.01)
    thermal_V = BOLTZMANN_J_PER_K * 300 / 1.602176634e-19
    assert 1 / (1.3 * thermal_V) == pytest.approx(gm_over_I.high, rel=0.01)
