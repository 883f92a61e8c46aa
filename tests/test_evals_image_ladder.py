"""Images at equal accuracy: what is compared, and with what."""

import csv
import json

import numpy as np
import pytest

from evals.compare import ComparisonError
from evals.image_ladder import (
    BEST_BATCH,
    are_images,
    compare_images,
    image_table,
    write_images,
)
from tests.test_train_images import SIDE, experiment
from tests.test_train_images import folder as folder
from train.experiment import from_table, to_table
from train.loop import train

pytestmark = pytest.mark.usefixtures("plain_promotion")


def digital(circuit, hidden, steps, name):
    model = {"kind": "image_network", "side": SIDE, "hidden": hidden}
    return from_table(
        to_table(circuit) | {"model": model, "steps": steps, "name": name}
    )


def test_circuits_stand_beside_networks_at_equal_accuracy(folder, tmp_path):
    circuit = experiment(folder)
    wanted = {
        "circuit": circuit,
        # Never trained enough to be good, and good at once.
        "poor": digital(circuit, [], 1, "poor"),
        "good": digital(circuit, [24], 60, "good"),
    }
    runs = [
        train(each, tmp_path / name, progress=False).folder
        for name, each in wanted.items()
    ]
    assert are_images(runs)
    found = compare_images(runs, n_chips=2)
    ours, poor, good = found["systems"]
    assert ours["accuracy"]["n_chips"] == 2
    assert good["accuracy"]["median"] > poor["accuracy"]["median"]
    assert set(poor["J_per_image"]) == {"G", "A", "R", BEST_BATCH}
    # A batch shares the weights, never the products.
    assert 0 < poor["J_per_image"][BEST_BATCH]["low"] < poor["J_per_image"]["G"]["low"]
    own = ours["J_per_image"]["analog28"]["nominal"]
    for machine, ratio in ours["ratios"].items():
        spent = [each["J_per_image"][machine]["nominal"] for each in (poor, good)]
        if ratio["nominal"] is not None:
            lowest, highest = min(spent) / own, max(spent) / own
            assert lowest * 0.999 <= ratio["nominal"] <= highest * 1.001
            assert ratio["low"] < ratio["nominal"] < ratio["high"]
    # Pixels cross the edge of a chip on both sides.
    for system in found["systems"]:
        for name, ledger in system["bills"].items():
            counts = [r["count"] for r in ledger["rows"] if r["part"] == "pixels"]
            if name in ("A", "analog28"):
                assert 8 * SIDE**2 in counts
    assert "at equal accuracy" in image_table(found) or "every rung is better" in (
        image_table(found)
    )
    table = write_images(found, tmp_path / "out")
    rows = [*csv.DictReader(table.read_text().splitlines())]
    bills = [float(row["J_nominal"]) for row in rows if row["machine"] == "analog28"]
    np.testing.assert_allclose(bills, [own])
    assert json.loads((tmp_path / "out/images.json").read_text()) == json.loads(
        json.dumps(found)
    )
    with pytest.raises(ComparisonError, match="1 circuits among 1 systems"):
        compare_images(runs[:1], n_chips=1)


def test_prices_of_ones_own_are_told_by_table_and_csv(tmp_path):
    said = "Own number in `mine`."
    joules = {"low": 1e-9, "nominal": 2e-9, "high": 3e-9}
    system = {
        "name": "circuit",
        "kind": "physical",
        "parameters": 10,
        "seeds": [0],
        "accuracy": {"median": 0.9, "low": 0.8, "high": 1.0},
        "J_per_image": {"mine": joules},
        "bills": {"mine": {"overrides": [said]}},
    }
    results = {"systems": [system]}
    assert said in image_table(results)
    path = write_images(results, tmp_path)
    rows = [*csv.DictReader(path.read_text().splitlines())]
    assert [row["overrides"] for row in rows] == [said]
    assert said in (tmp_path / "images.json").read_text()
