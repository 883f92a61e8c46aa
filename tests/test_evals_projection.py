"""The projection: laws are found again, and what cannot be said is refused."""

import numpy as np
import pytest

from evals.energy import MACHINES, Scored, _system
from evals.projection import (
    MIN_RUNGS,
    _stretched,
    fit_law,
    law_at,
    project,
    size_at,
)
from evals.recorded import record
from physnn.energy import bill, load_prices
from tests.test_evals_energy import PROCESS, model, quality, rung, scored
from train.baseline import TransformerConfig

SIZES = np.asarray([1e5, 3e5, 1e6, 3e6, 1e7])


@pytest.mark.parametrize("law", [(0.0, 12.0, 0.13), (0.9, 30.0, 0.25)])
def test_a_law_is_found_again_from_its_own_points(law):
    bits = law_at(law, SIZES)
    found = fit_law(SIZES, bits, floored=law[0] > 0)
    # The floor is one of a grid of a hundred.
    assert found[0] == pytest.approx(law[0], abs=0.01 * bits.min())
    assert law_at(found, 1e9) == pytest.approx(law_at(law, 1e9), rel=0.01)


def test_larger_models_that_are_no_better_stay_so():
    floor, _, alpha = fit_law(SIZES, np.linspace(2.0, 2.2, 5), floored=False)
    assert alpha == 0.0
    assert size_at((floor, 2.1, alpha), 1.5) == np.inf


def test_the_size_for_a_quality_inverts_the_law():
    law = (0.7, 20.0, 0.2)
    assert size_at(law, float(law_at(law, 4e8))) == pytest.approx(4e8)
    assert size_at(law, 0.7) == np.inf


def system(each: Scored) -> dict:
    """One of the systems of `compare`, without its ratios: those take most of a run."""
    ours = each.kind == "physical"
    lists = {"analog28": "analog28"} if ours else MACHINES
    bills = {
        name: bill(each.models[0], load_prices(file), process=PROCESS, period_s=1e-6)
        for name, file in lists.items()
    }
    return _system(each, bills, 1e-6 if ours else None, bytes_per_token=1.0)


@pytest.fixture(scope="module")
def sides():
    widths = (16, 32, 64)
    ladder = [rung(w, b) for w, b in zip(widths, (2.6, 2.3, 2.1), strict=True)]
    ours = [
        model(w, quality(b, 0.01, 3))
        for w, b in zip(widths, (2.5, 2.2, 2.0), strict=True)
    ]
    return ours, ladder, [system(each) for each in (*ours, *ladder)]


def test_three_sizes_of_both_sides_are_projected_with_an_interval(sides):
    found = project(*sides)
    assert found["label"].startswith("Projection, not a result")
    assert found["reason"] == ""
    assert [row["parameters"] for row in found["sizes"]] == [1e9, 8e9, 100e9]
    spent = []
    for row in found["sizes"]:
        assert row["bits"]["low"] <= row["bits"]["nominal"] <= row["bits"]["high"] < 2.1
        # With and without a floor: never a point.
        assert row["bits"]["high"] > 1.2 * row["bits"]["low"]
        assert set(row["ratio"]) == {"G", "A", "R"}
        spent.append(row["transformer_J"]["A"]["nominal"])
    # A hundred times the parameters, about a hundred times the energy.
    assert 80 < spent[2] / spent[0] < 101


def test_fewer_than_three_sizes_are_refused_in_a_sentence(sides):
    ours, ladder, systems = sides
    few = project(ours[:1], ladder[:2], systems)
    assert "sizes" not in few
    assert f"at least {MIN_RUNGS} sizes of transformers" in few["reason"]
    found = project(ours[:1], ladder, systems)
    assert found["sizes"][0]["ratio"] is None
    assert "No ratio is projected" in found["reason"]


def test_a_stretched_transformer_is_billed_like_one_that_is_built():
    sram = load_prices("sram2030")

    def record_of(width: int, n_blocks: int):
        config = TransformerConfig(
            width=width, n_blocks=n_blocks, n_heads=2, n_hidden=3 * width
        )
        return record(
            scored("", "transformer", config, quality(2.0)).models[0], PROCESS, 1e-6
        )

    small, large = (
        bill(design, sram, process=PROCESS).total.nominal
        for design in (_stretched(record_of(64, 2), 64.0), record_of(256, 8))
    )
    # Embedding, head and softmax do not follow the rule exactly.
    assert small == pytest.approx(large, rel=0.1)
