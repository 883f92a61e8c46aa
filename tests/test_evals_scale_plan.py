"""Bills that a floor plan decides: links between chips, and chips that wait."""

from pathlib import Path
from typing import Any

import pytest

from evals.scale_bill import Asked, scaled_bill


def billed(config: str = "wikitext2_transformer", **asked: Any) -> Any:
    return scaled_bill(Asked(Path(config), **asked))


def test_a_design_larger_than_a_chip_pays_for_its_links():
    large, small = (
        billed("wikitext2_gated_rc", parameters=3e9),
        billed("wikitext2_gated_rc"),
    )
    assert large.ledger.plan.chips > 1
    assert f"on {large.ledger.plan.chips} chips" in str(large)
    links = [row for row in large.ledger.rows if row.part == "links"]
    channels = {row.event: row.count for row in links}
    # A channel that leaves a chip is digitized, sent as eight bits and turned back.
    assert channels["adc_conversion_8b"] == channels["dac_conversion"] > 0
    assert channels["chip_bit"] == 8 * channels["dac_conversion"]
    assert {row.line for row in links} == {"chip to chip"}
    assert small.ledger.plan.chips == 1
    assert "fits on one chip" in small.ledger.zero_lines["chip to chip"]


def test_100_billion_parameters_cross_chips_on_every_machine_with_a_plan():
    for machine in ("sram2030", "rom2030", "hc1"):
        ledger = billed(parameters=100e9, context=32768, machine=machine).ledger
        assert ledger.plan.chips > 10
        assert ledger.by_line()["chip to chip"].nominal > 0


def test_a_chip_that_waits_leaks_all_the_time():
    busy, slow = (
        billed("wikitext2_gated_rc", tokens_per_second=rate).ledger
        for rate in (1e6, 1e5)
    )
    assert slow.serving.utilization == pytest.approx(0.1)
    leaks = [each.by_line()["leakage"].nominal for each in (busy, slow)]
    assert leaks[1] == pytest.approx(10 * leaks[0])
    assert busy.by_line()["physical core"] == slow.by_line()["physical core"]
