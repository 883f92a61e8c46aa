"""Every file under configs/ loads, and says what it is."""

import re

import pytest

from evals.characterize.card import load_card
from evals.robustness.suite import load_suite
from physnn.configs import config_folder, find_config
from physnn.energy import load_prices
from physnn.environment import Environment, load_environment
from physnn.pdk import load_pdk
from physnn.process import load_process
from train.experiment import Experiment, from_table, load_experiment, to_table

CONFIGS = config_folder()
QUESTIONS = ("What", "Expect", "Cost", "Source", "Run")


def files(section: str):
    """One test for every TOML file of a section."""
    paths = sorted((CONFIGS / section).glob("*.toml"))
    assert paths, f"configs/{section} holds no TOML file"
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


def test_every_file_belongs_to_a_section_that_is_tested():
    sections = {path.parent.name for path in CONFIGS.rglob("*.toml")}
    assert sections == {
        "accelerators",
        "cells",
        "environments",
        "evals",
        "experiments",
        "hardware",
        "pdks",
        "processes",
    }


@files("processes")
def test_process_loads_by_name(path):
    process = load_process(path.stem)
    assert process.name == path.stem
    assert all(process.sources.values())


@files("pdks")
def test_pdk_loads_by_name(path):
    pdk = load_pdk(path.stem)
    assert pdk.name == path.stem
    assert {"nmos", "pmos"} <= set(pdk.devices)


@files("cells")
def test_card_of_cells_says_how_it_was_made(path):
    card = load_card(path.stem)
    assert card["command"].startswith("physnn characterize")
    assert "ngspice" in card["simulator"]


@files("environments")
def test_environment_loads_by_name(path):
    assert load_environment(path.stem) != Environment()
    assert load_environment(path) == load_environment(path.stem)


@files("hardware")
def test_price_list_loads_by_name_and_has_a_source_for_every_number(path):
    prices = load_prices(path.stem)
    assert prices.name == path.stem
    assert prices.rows
    assert all(row.source.strip() for row in prices.rows)


@files("experiments")
def test_experiment_loads_and_survives_its_own_table(path):
    experiment = load_experiment(path)
    assert isinstance(experiment, Experiment)
    assert experiment.name
    assert from_table(to_table(experiment)) == experiment


@files("experiments")
def test_head_of_experiment_answers_the_five_questions(path):
    head = path.read_text().split("\n\n")[0]
    answers = dict(re.findall(r"^# (\w+): +(\S.*)$", head, re.MULTILINE))
    assert tuple(answers) == QUESTIONS
    assert f"configs/experiments/{path.name}" in answers["Run"]


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(FileNotFoundError, match=r"cmos28.*configs/processes"):
        find_config("processes", "cmos27")


SOURCE = 'source = "nominal core supply of 28 nm CMOS"'


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (SOURCE, "", r"`supply_V` must have a `source`"),
        ("[supply_V]", "[supply_v]", r"`supply_V` is missing"),
        ("[matching.capacitor]", "[speed]", r"`speed` is not known"),
        ("value = 0.9", 'value = "0.9"', r"`supply_V` must have a numeric `value`"),
    ],
)
def test_a_process_with_a_wrong_number_is_refused(old, new, complaint, tmp_path):
    table = (CONFIGS / "processes" / "cmos28.toml").read_text()
    assert table.count(old) == 1
    path = tmp_path / "mine.toml"
    path.write_text(table.replace(old, new))
    with pytest.raises(ValueError, match=complaint):
        load_process(path)


def test_the_foundation_model_is_trained_in_its_preset():
    path = CONFIGS / "experiments" / "wikitext2_gated_rc_foundation.toml"
    preset = load_environment("analog_foundation")
    assert load_experiment(path).noise.environment == preset
    suite = load_suite("analog_foundation")
    assert suite.environment is not None
    assert load_environment(suite.environment) == preset
