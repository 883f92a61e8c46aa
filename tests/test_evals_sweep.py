"""Sweeps: what a setting is, curves, the control, files."""

import csv
import json

import pytest

from evals.quality import Quality
from evals.sweep import (
    Point,
    _against,
    _judged,
    _write_csv,
    parse_setting,
    sweep,
    sweep_table,
    with_value,
)
from evals.sweep_plot import sweep_svg
from physnn.energy import Modeled
from tests.helpers import physical_config
from train.baseline import TransformerConfig
from train.experiment import ConfigError, Experiment, save_experiment
from train.tasks import TextConfig


def test_settings_are_fields_with_values_as_in_toml():
    setting = parse_setting("noise.energy_weight=0.01, 1e-1,2.0")
    assert setting.key == "noise.energy_weight"
    assert setting.values == (0.01, 0.1, 2.0)
    assert parse_setting("model.weight-bits=6,5").values == (6, 5)
    assert parse_setting("task.path=/data/a text").values == ("/data/a text",)
    for wrong in ("noise.energy_weight", "=1", "steps=", "steps=,"):
        with pytest.raises(ValueError, match="must be KEY=VALUE"):
            parse_setting(wrong)


def test_a_field_is_set_by_its_path_and_an_unknown_one_refused():
    changed = with_value(Experiment(), "noise.energy-weight", 0.5)
    assert changed.noise.energy_weight == 0.5
    assert with_value(Experiment(), "steps", 7).steps == 7
    for key, value in (("noise.energy", 1.0), ("nose.x", 1), ("steps.x", 1)):
        with pytest.raises(ConfigError):
            with_value(Experiment(), key, value)
    with pytest.raises(ConfigError, match="energy_weight"):
        with_value(Experiment(), "noise.energy_weight", -1.0)


def point(setting, value, bits, nJ):
    quality = Quality(bits, bits - 0.01, bits + 0.01, 0.9, 4, 100, (bits,))
    energy = Modeled(0.5e-9 * nJ, 1e-9 * nJ, 2e-9 * nJ)
    return Point(setting, value, quality, energy, "", (1.0,))


def test_points_are_read_against_the_frontier_of_the_control():
    points = [
        point("w", 0.1, 2.5, 1.0),  # halfway between two controls: √(1·4) = 2 nJ
        point("w", 0.2, 3.5, 0.5),  # worse than all
        point("w", 0.3, 1.9, 8.0),  # better than all: at least the best one's
        point("b", 6, 2.0, 4.0),
        point("b", 5, 3.0, 1.0),
        point("b", 4, 3.1, 2.0),  # worse and dearer: off the frontier
    ]
    ratios = {each["value"]: each for each in _against(points, ["w", "b"])}
    assert set(ratios) == {0.1, 0.2, 0.3}
    assert ratios[0.1]["ratio"] == pytest.approx(2.0)
    assert ratios[0.1]["relation"] == "="
    assert ratios[0.2]["ratio"] is None
    assert ratios[0.3]["relation"] == ">="
    assert ratios[0.3]["ratio"] == pytest.approx(0.5)
    assert [p.on_frontier for p in _judged(points, "b")] == [True, True, False]


def test_the_plot_shows_every_point_by_its_value():
    points = [point("w", v, 2.0 + v, 1 / (1 + v)) for v in (0.1, 0.25)]
    points += [point("b", b, 3 - 0.1 * b, b) for b in (3, 4)]
    results = {
        "settings": ["w", "b"],
        "prices": "analog28",
        "split": "test",
        "points": [p.to_json() for k in "wb" for p in _judged(points, k)],
    }
    svg = sweep_svg(results)
    for text in (">0.1<", ">0.25<", ">3<", ">4<", "bits per byte", "analog28"):
        assert text in svg


@pytest.fixture
def config(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 200)
    experiment = Experiment(
        name="tiny",
        steps=6,
        batch=4,
        evaluation_windows=4,
        task=TextConfig(path=str(text), context=12),
        model=physical_config(width=8, n_layers=1, n_states=8, n_hidden=8),
    )
    path = tmp_path / "tiny.toml"
    save_experiment(experiment, path)
    return path


@pytest.mark.usefixtures("plain_promotion")
def test_a_sweep_trains_bills_and_writes_and_goes_on_where_it_stopped(config, tmp_path):
    asked = {
        "settings": ["noise.energy_weight=3.0", "model.weight_bits=6"],
        "fixed": ["steps=8", "optimizer.peak_rate=0.01"],
        "out": tmp_path / "out",
        "n_chips": 1,
        "windows": 4,
    }
    found = sweep(config, **asked)
    trained, control = found["points"]
    assert [p["value"] for p in found["points"]] == [3.0, 6]
    energies = [p["energy_J"]["nominal"] for p in found["points"]]
    # The start is the control; the price of Joules makes the sizes smaller.
    assert energies[0] < energies[1]
    assert max(trained["sizes"]) < 1
    assert set(control["sizes"]) == {1.0}
    out = tmp_path / "out"
    assert json.loads((out / "sweep.json").read_text())["points"] == found["points"]
    rows = [*csv.DictReader((out / "sweep.csv").read_text().splitlines())]
    assert [float(row["J_nominal"]) for row in rows] == energies
    assert (out / "sweep.svg").read_text().endswith("</svg>\n")
    assert "noise.energy_weight" in sweep_table(found)
    metrics = out / "noise.energy_weight=3.0_s0" / "metrics.jsonl"
    before = metrics.read_text()
    assert sweep(config, **asked)["points"] == found["points"]
    assert metrics.read_text() == before, "nothing was trained again"


@pytest.mark.parametrize(
    ("settings", "fixed", "message"),
    [
        ([], [], "at least one setting"),
        (["steps=1", "steps=2"], [], "each once"),
        (["steps=1"], ["seed=1,2"], "one value, but seed has 2"),
        (["steps=0"], [], "`steps` must be at least 1"),
    ],
)
def test_wrong_sweeps_are_refused_before_anything_is_trained(
    settings, fixed, message, config, tmp_path
):
    with pytest.raises(ValueError, match=message):
        sweep(config, settings, fixed=fixed, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_digital_model_has_no_sizes_to_sweep(tmp_path):
    path = tmp_path / "digital.toml"
    save_experiment(Experiment(model=TransformerConfig()), path)
    with pytest.raises(ValueError, match="must be of a physical model of text"):
        sweep(path, ["steps=1"], out=tmp_path / "out")


def test_prices_of_ones_own_are_told_by_table_and_csv(tmp_path):
    said = "Own number in `mine`."
    results = {
        "overrides": [said],
        "settings": ["b"],
        "against": [],
        "points": [point("b", 6, 2.0, 4.0).to_json()],
    }
    assert said in sweep_table(results).splitlines()
    _write_csv(tmp_path / "sweep.csv", results)
    rows = [*csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines())]
    assert [row["overrides"] for row in rows] == [said]
