"""A token of the state-space block: transistors beside the model, part by part."""

import math
from pathlib import Path

import numpy as np
import pytest

from evals.characterize import token
from evals.characterize.card import load_card
from evals.characterize.cell import Cell
from evals.verify import Options
from evals.verify import token as gate
from evals.verify.package import Package
from physnn.export import gated_state as gated
from physnn.export.gated_state import SteeredCard
from physnn.export.spice import forbidden, write_cell

CARD = SteeredCard(3.5e-6, 0.076, 0.04, 0.005, -0.001, 9e-9, 8e-8)


def test_curves_of_a_card_are_fitted_by_that_card():
    inputs, steers = np.linspace(-0.08, 0.08, 17), np.linspace(-0.12, 0.06, 10)
    curve = CARD.current(inputs[None], steers[:, None])
    outs = gated.REF_V + np.asarray([-0.05, 0.0, 0.05])
    found = token.fit(
        inputs, steers, curve, CARD.current(0.0, steers[:, None], outs[None])
    )
    for name, value in vars(CARD).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-4), name


def test_the_model_steps_as_its_equation_says():
    tried = token.tokens(5)
    share = 1 / (1 + np.exp(-(tried.s - CARD.center_V) / CARD.slope_V))
    kept = np.exp(-CARD.open_S * share * token.PERIOD_s / token.STATE_F)
    expected = kept * tried.v + (1 - kept) * tried.u
    # The leak of sky130 takes 1.6e-6 of a state in a token.
    assert token.model_step(CARD, tried) == pytest.approx(expected, abs=1e-5)


def test_cells_are_plain_circuits_with_the_same_ports():
    twins = (
        gated.gated_state(),
        gated.gated_state(sampler=gated.late_switch()),
        gated.gated_state(gated.steered_twin(CARD), gated.ideal_switch()),
    )
    for cell in twins:
        assert cell.ports == gated.PORTS
        assert all(forbidden(write_cell(part)) is None for part in cell.cells())
    assert gated.gated_state().count("nmos") == 5 + 2
    assert twins[-1].count("nmos") == 0


def test_limits_hold_for_what_the_card_has_measured():
    measured = load_card("sky130")["token"]["error_rms"]
    limits = {**gate.PARTS, "settling": gate.SETTLING, "total": gate.TOTAL}
    assert set(measured) == {name.replace(" ", "_") for name in limits}
    for name, limit in limits.items():
        assert measured[name.replace(" ", "_")] < limit
    assert gate.jobs(Package(Path(), {}, frozenset()), Options()) == []


@pytest.mark.needs_ngspice
def test_parts_of_the_error_add_up_and_the_ideal_cell_is_the_model(sky130_models):
    tried = token.tokens(2)
    card = SteeredCard.of(load_card("sky130")["token"])
    parts = token.budget(Cell.of(gated.gated_state()), card, sky130_models, tried)
    total = parts.pop("total")
    assert np.allclose(sum(parts.values()), total, atol=1e-12)
    assert np.abs(total).max() < 0.06
    assert np.abs(parts["settling"]).max() < 1e-3
    # Against one half alone, whose offset is 4 mV of 40.
    assert np.abs(parts["offset"]).max() < 1e-3
    assert not math.isclose(np.abs(parts["range"]).max(), 0.0, abs_tol=1e-6)


@pytest.mark.needs_ngspice
def test_the_static_card_is_measured_again(sky130_models):
    card, supply_A = token.static_card(Cell.of(gated.steered()), sky130_models)
    table = load_card("sky130")["token"]
    known = SteeredCard.of(table)
    for name, value in vars(known).items():
        assert getattr(card, name) == pytest.approx(value, rel=1e-3), name
    # The tail flows wherever it is steered to: charge of a token of 1 us.
    measured_C = table["supply"][0]["measured_C"]
    assert supply_A * 1e-6 == pytest.approx(measured_C, rel=1e-3)
    assert 0.8 * token.BIAS_A < supply_A < 1.1 * token.BIAS_A
