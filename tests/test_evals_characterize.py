"""Runs of decks, cards of cells, and the gates that hold drawn cells to them."""

import dataclasses
import json
import tomllib

import equinox as eqx
import jax
import numpy as np
import pytest

from circuits.equilibrium import SettlingNetwork
from circuits.state_space import GatedRC
from evals.characterize.benches import run_bench
from evals.characterize.card import characterize as measure
from evals.characterize.card import findings, load_card, supplies, to_toml
from evals.characterize.ota import fit_twin
from evals.characterize.settling import rest_of
from evals.characterize.state import twin_step
from evals.simulate import simulate
from evals.verify import verify
from physnn.export.drawn import CARD, check_card, files
from physnn.export.package import export
from physnn.export.spice import forbidden
from physnn.export.transconductor import OtaCard, mirror, ota
from physnn.export.transconductor_benches import STEPS_V, curve_deck
from physnn.pdk import VARIABLE, Models, find_models, load_pdk
from physnn.process import load_process

DECK = """* {title}
v_in in 0 1
r_a in out 1000
r_b out 0 1000
.control
op
let out = v(out)
{commands}
.endc
.end
"""


class Two(eqx.Module):
    state: GatedRC
    network: SettlingNetwork


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A package with drawn cells."""
    network = SettlingNetwork(2, key=jax.random.key(0), period_s=1e-6, degree=1)
    out = tmp_path_factory.mktemp("package") / "out"
    design = Two(GatedRC(1, period_s=1e-6), network)
    card = load_card("sky130")
    return export(design, load_process("sky130"), out, provenance={}, card=card)


@pytest.mark.needs_ngspice
def test_a_deck_brings_results_and_curves():
    commands = 'echo "RESULT out $&out"\ndc v_in 0 2 0.5\nwrdata c.data v(out) v(in)'
    found = simulate(DECK.format(title="divider", commands=commands), wanted=["out"])
    assert found.results["out"] == pytest.approx(0.5)
    x = np.arange(0, 2.01, 0.5)
    np.testing.assert_allclose(found.arrays["c"], np.stack([x, x / 2, x], 1), atol=1e-6)


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(
    ("commands", "message"),
    [
        # A failed measurement: ngspice exits with 0.
        ("meas tran out find v(out) at=1\nquit 0", r"no RESULT for 1 of 1 values"),
        ("let huge = 1e300*v(out)\nlet out = huge*huge\n", r"no RESULT|is nan|is inf"),
        ("while 1\nend", r"did not answer within 5 s"),  # it hangs
    ],
)
def test_a_deck_that_fails_says_so_in_one_sentence(commands, message):
    deck = DECK.format(title="divider", commands=commands)
    with pytest.raises(ValueError, match=message):
        simulate(deck, wanted=["out"], timeout_s=5.0)


@pytest.mark.needs_ngspice
def test_what_a_deck_did_not_bring_is_named_where_it_is_asked_for():
    # ngspice exits with 0, also where it found no file and ran nothing.
    found = simulate(DECK.format(title="divider", commands="print v(nowhere)"))
    said = "`divider` must give {}, but did not; "
    with pytest.raises(ValueError, match=said.format("gm_s")):
        found.results["gm_s"]
    with pytest.raises(ValueError, match=said.format("sweep")):
        found.arrays["sweep"]
    deck = "* divider\n.include gone.spice\n" + DECK.format(title="", commands="op")
    with pytest.raises(ValueError, match=r"`divider` .* not run; .* file gone\.spice"):
        simulate(deck)


@pytest.mark.needs_ngspice
def test_a_transient_that_stops_early_is_no_result():
    # At 0.5 V a current sets in that leaves no solution. ngspice gives up, goes on with
    # the deck, writes the half curve and prints the result.
    deck = """* diverges
v_in in 0 pulse(0 1 0 1e-06 1e-06 1 2)
r_a in a 1000
b_x a 0 i=v(a)>0.5?1000:0
.control
tran 1e-09 1e-06
let out = 1
echo "RESULT out $&out"
wrdata a.data v(a)
.endc
.end
"""
    with pytest.raises(ValueError, match=r"converge; ngspice says: .*too small"):
        simulate(deck, wanted=["out"])


def test_a_card_survives_its_file():
    table = {
        "description": "a 'card'",
        "ota": {
            "gm_S": 2.04e-5,
            "sizes": [1e-6, 2.0],
            "devices": [{"kind": "nmos", "fit": ["a", "b"]}, {"kind": "pmos", "n": 3}],
            "twin": {"deep": {"x": -1.0}},
        },
    }
    assert tomllib.loads(to_toml(table)) == table
    with pytest.raises(ValueError, match="must be finite"):
        to_toml({"x": float("nan")})


def test_a_price_that_is_far_off_is_a_finding():
    row = lambda ratio: {
        "what": "tail",
        "measured_C": ratio * 1e-12,
        "analytic_C": 1e-12,
    }
    table = {"ota": {"supply": [row(1.4), row(1.6)]}, "ring": {"supply": [row(0.5)]}}
    found = list(findings(table))
    assert len(found) == 2
    assert "1.6 times" in found[0]
    assert "ring" in found[1]


def test_the_twin_of_a_tanh_is_that_tanh():
    v = np.linspace(-0.4, 0.4, 81)
    i = 2e-6 * np.tanh((v - 2e-3) / 0.09) + 1e-8
    card, error = fit_twin(v, i, 2e-7, 2e-6)
    assert error < 1e-6
    assert (card.swing_A, card.range_V) == pytest.approx((2e-6, 0.09), rel=1e-4)
    assert (card.offset_V, card.shift_A) == pytest.approx((2e-3, 1e-8), rel=1e-3)


def test_a_small_step_of_the_twin_is_an_exponential():
    card = OtaCard(2e-6, 0.1, 0.0, 0.0, 0.0, 0.9, 2e-6)
    time_s = np.linspace(0, 0.5e-6, 200)
    v = twin_step(card, 1e-4, time_s)
    tau = 1e-12 / card.gm_S
    after = np.maximum(time_s - 0.2e-6, 0)
    expected = 0.9 - 0.5e-4 + 1e-4 * (1 - np.exp(-after / tau))
    np.testing.assert_allclose(v, expected, atol=3e-7)


def test_the_committed_card_holds_what_its_cells_need():
    card = load_card("sky130")
    twin = OtaCard.of(card["ota"])
    assert twin.gm_S == pytest.approx(card["ota"]["gm_S"], rel=0.05)
    assert card["ota"]["predicted"]["gm_S"] == pytest.approx(
        card["ota"]["gm_S"], rel=0.02
    )
    table, tanh = (rest_of(card["ota"], how) for how in ("table", "twin"))
    assert np.abs(table - tanh).max() < 2e-3
    assert {row["window"] for row in card["ota"]["devices"]} == {
        "cell",
        "weak",
        "moderate",
        "strong",
    }
    with pytest.raises(ValueError, match="A card must be one that"):
        load_card("tsmc")


def test_a_kit_says_before_anything_runs_what_its_cells_would_lack(
    tmp_path, monkeypatch
):
    kit = load_pdk("sky130")
    give = lambda **changes: monkeypatch.setattr(
        "evals.characterize.card.find_models",
        lambda path: Models(
            dataclasses.replace(kit, **changes), tmp_path, kit.layouts[0]
        ),
    )
    give(mismatch_suffix=None)
    draw = r"`mismatch_suffix`.*\['ring', 'mac_fast', 'mac'"
    with pytest.raises(ValueError, match=draw):
        measure(None, cell="all", out=tmp_path / "x.toml")
    give(devices={k: v for k, v in kit.devices.items() if k != "mim"})
    for cell in ("mac", "sar"):
        with pytest.raises(ValueError, match="and no mim: map it"):
            measure(None, cell=cell, out=tmp_path / "x.toml")
    assert not list(tmp_path.iterdir())


def test_cells_of_another_supply_are_a_finding(tmp_path):
    kit = dataclasses.replace(load_pdk("sky130"), supply_V=3.3)
    models = Models(kit, tmp_path, kit.layouts[0])
    (told,) = supplies(models, ("ota", "ring"))
    assert told.startswith("cells ota are drawn for 1.8 V")
    assert not list(supplies(models, ("ring",)))


def test_an_unknown_cell_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be `all` or one of"):
        measure("sky130", cell="dac", out=tmp_path / "x.toml")


def test_drawn_cells_are_plain_circuits_of_the_families_in_the_design():
    card = load_card("sky130")
    found = files(GatedRC(1, period_s=1e-6), load_process("sky130"), card, {})
    assert "spice/cells/state.spice" in found
    assert "spice/cells/settling.spice" not in found
    for name, content in found.items():
        if name.startswith(("spice/cells", "spice/behav", "spice/tb")):
            assert forbidden(content.decode()) is None, name
    twin, drawn = (found[f"spice/{f}/ota.spice"].decode() for f in ("behav", "cells"))
    ports = lambda text: next(l for l in text.splitlines() if l.startswith(".subckt"))
    assert ports(twin) == ports(drawn)
    assert json.loads(found[CARD])["pdk"] == "sky130"
    with pytest.raises(ValueError, match=r"\['ota', 'token'\] are missing"):
        check_card(GatedRC(1, period_s=1e-6), {"pdk": "sky130", "state": {}})
    with pytest.raises(ValueError, match="is there twice"):
        files(
            GatedRC(1, period_s=1e-6),
            load_process("sky130"),
            card,
            {"spice/cells/ota.spice": b""},
        )
    del card["ota"]["bias_V"]
    with pytest.raises(ValueError, match="of another version"):
        files(GatedRC(1, period_s=1e-6), load_process("sky130"), card, {})


def test_without_models_the_gates_are_skipped_with_one_line(folder, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    try:
        find_models()
    except ValueError:
        pass
    else:
        pytest.skip("models are installed here")
    found = [c for c in verify(folder, gates=("T2",)).checks if c.gate == "T2"]
    assert [c.status for c in found] == ["skipped"] * len(found)
    assert any("give their folder with --pdk" in c.detail for c in found)


@pytest.mark.needs_ngspice
def test_drawn_cells_pass_their_gates(folder, sky130_models):
    checks = verify(folder, gates=("T2", "T3", "T7"), pdk=sky130_models.folder).checks
    wanted = {"transconductor", "state after steps", "settling network"}
    mine = [check for check in checks if check.name.split(":")[0] in wanted]
    assert {check.gate for check in mine} == {"T2", "T3", "T7"}
    assert all(check.status == "pass" for check in mine), mine


@pytest.mark.needs_ngspice
def test_another_cell_than_the_card_was_made_for_fails(sky130_models):
    # The pair half as wide: everything still runs, and the slope is off.
    other = ota(pair=(2e-6, 1e-6))
    found = run_bench(curve_deck(), (other, mirror()), sky130_models)
    expected = load_card("sky130")["ota"]["predicted"]["gm_S"]
    assert found.results["gm_s"] < 0.9 * expected
    with pytest.raises(ValueError, match="width_m of `pair_p`"):
        run_bench(curve_deck(), (ota(pair=(0.3e-6, 1e-6)), mirror()), sky130_models)
    assert len(STEPS_V) == 2
