"""The whole job on a small scale, through the command line a newcomer uses."""

import dataclasses
import json
import os
import random
import re
import shutil
import subprocess
import sys

import pytest

from evals.quickstart import EXPERIMENTS, run_quickstart
from physnn.__main__ import _guarded
from physnn.configs import find_config
from train.experiment import load_experiment, save_experiment
from train.loop import train
from train.model import PhysicalConfig
from train.tasks.text import TextConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

# What is cut from the quickstart's own experiment, so that it trains in seconds.
CUT = {
    "name": "tiny",
    "steps": 4,
    "batch": 4,
    "checkpoint_every": 2,
    "evaluate_every": 4,
    "evaluation_windows": 4,
}
SIZE = 8
LADDER = {
    "rung_s": (8, 1),
    "rung_m": (8, 2),
    "rung_l": (16, 1),
}
TRANSFORMER = """
name = "{name}"
steps = 4
batch = 4
checkpoint_every = 2
evaluate_every = 4
evaluation_windows = 4
[task]
kind = "text"
context = 16
[model]
kind = "transformer"
width = {width}
n_blocks = {blocks}
n_heads = 2
n_hidden = 16
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Words in random order: text enough for three splits."""
    words = ["charge", "noise", "of", "a", "circuit", "is", "energy", "kept", "\n"]
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(" ".join(rng.choice(words) for _ in range(3000)))
    return path


def tiny():
    """The quickstart's physical experiment: its kinds of blocks, a layer of 8."""
    whole = load_experiment(find_config("experiments", EXPERIMENTS[0]))
    assert isinstance(whole.model, PhysicalConfig)
    assert isinstance(whole.task, TextConfig)
    blocks = [
        dataclasses.replace(block, **{size: SIZE})
        for block in whole.model.layer
        for size in ("n_states", "n_hidden")
        if hasattr(block, size)
    ]
    assert len(blocks) == len(whole.model.layer)
    model = dataclasses.replace(
        whole.model, width=SIZE, n_layers=1, layer=type(whole.model.layer)(blocks)
    )
    task = dataclasses.replace(whole.task, context=16)
    return dataclasses.replace(whole, **CUT, task=task, model=model)


@pytest.fixture(scope="module")
def experiments(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experiments")
    save_experiment(tiny(), folder / "tiny.toml")
    for name, (width, blocks) in LADDER.items():
        table = TRANSFORMER.format(name=name, width=width, blocks=blocks)
        (folder / f"{name}.toml").write_text(table)
    return [folder / f"{name}.toml" for name in ("tiny", *LADDER)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, text, experiments):
    folder = tmp_path_factory.mktemp("quickstart")
    found = run_quickstart(
        data=text, folder=folder, experiments=experiments, n_chips=3, windows=8
    )
    return folder, found


def test_everything_is_there(outcome):
    folder, found = outcome
    results = json.loads((folder / "results.json").read_text())
    assert [system["name"] for system in results["systems"]] == ["tiny", *LADDER]
    assert results["systems"][0]["quality"]["n_chips"] == 3
    assert set(results["systems"][0]["ratios"]) == {"G", "A", "R"}
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "export" / "manifest.json").exists()
    assert found.passed
    assert "bits/byte" in found.text


@pytest.mark.needs_ngspice
def test_its_package_is_verified_and_a_broken_one_is_not(outcome, tmp_path, capsys):
    folder, found = outcome
    checks = found.results["verify"]["checks"]
    passed = {check["gate"] for check in checks if check["status"] == "pass"}
    assert {"S1", "S2", "B1", "B2", "R1"} <= passed
    broken = shutil.copytree(folder / "export", tmp_path / "broken")
    (column,) = (broken / "spice" / "behav").glob("*_inputs_column0.spice")
    # Ten times a weight.
    column.write_text(column.read_text().replace("capacitance=", "capacitance=1", 1))
    assert _guarded(["verify", str(broken), "--gates", "B1"]) == 1
    said = capsys.readouterr().out
    assert re.search(rf"S2 +fail .*{column.name} was changed", said)
    assert re.search(r"B1 +fail .*column0", said)
    assert re.search(r"B1 +pass", said)  # the rest is checked still


def test_a_finished_job_is_not_trained_again(outcome, text, experiments):
    folder, found = outcome
    metrics = folder / "runs" / "tiny" / "metrics.jsonl"
    before = metrics.read_bytes()
    again = run_quickstart(
        data=text, folder=folder, experiments=experiments, n_chips=3, windows=8
    )
    assert metrics.read_bytes() == before
    for name in ("systems", "projection"):
        assert again.results[name] == found.results[name]


def test_commands_on_a_run(outcome, tmp_path, capsys):
    folder, _ = outcome
    run = str(folder / "runs" / "tiny")
    assert _guarded(["score", run, "--windows", "4", "--chips", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n_chips"] == 2
    arguments = ["--prompt", "a noise", "--n-bytes", "5"]
    assert _guarded(["generate", run, *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("a noise")
    assert "J for 11 tokens" in printed.err
    rung = str(folder / "runs" / "rung_s")
    assert _guarded(["generate", rung, *arguments]) == 0
    out = str(tmp_path / "export")
    assert _guarded(["export", run, "--out", out]) == 0
    assert _guarded(["verify", out]) == 0
    assert _guarded(["report", str(folder), "--out", str(tmp_path / "report")]) == 0
    assert (tmp_path / "report" / "report.html").exists()
    capsys.readouterr()
    assert _guarded(["train", run]) == 0
    assert capsys.readouterr().out.strip() == run


def test_seeds_are_one_system_and_settings_are_another(outcome, tmp_path, capsys):
    folder, _ = outcome
    runs = [folder / "runs" / name for name in ("tiny", "rung_s")]
    first = load_experiment(runs[0] / "experiment.toml")
    noise = dataclasses.replace(first.noise, chips_per_batch=1)
    for name, change in (("seed", {"seed": 1}), ("other", {"noise": noise})):
        experiment = dataclasses.replace(first, **change)
        runs.append(train(experiment, tmp_path / name, progress=False).folder)
    out = tmp_path / "out"
    asked = [*map(str, runs), "--out", str(out), "--chips", "2", "--windows", "4"]
    assert _guarded(["compare", *asked]) == 0
    systems = json.loads((out / "results.json").read_text())["systems"]
    physical = [s for s in systems if s["kind"] == "physical"]
    # Two experiments of one name go by their folders.
    assert [s["name"] for s in physical] == ["tiny (tiny)", "tiny (other)"]
    assert [s["run_seeds"] for s in physical] == [[0, 1], [0]]
    assert [len(s["quality"]["values"]) for s in physical] == [2, 2]
    assert all(set(s["ratios"]) == {"G", "A", "R"} for s in physical)
    assert "seeds" in capsys.readouterr().out


def test_generation_is_reproducible(outcome, capsys):
    folder, _ = outcome
    run = str(folder / "runs" / "tiny")
    texts = []
    for seed in ("0", "0", "1"):
        _guarded(["generate", run, "--n-bytes", "12", "--seed", seed])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["score", "nowhere"], "nowhere"),
        (["train", "nowhere.toml"], "nowhere.toml"),
        (["verify", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere"),
        (["quickstart", "--data", "nowhere"], "nowhere"),
        (["generate", "RUN", "--temperature", "0"], "temperature"),
        (["generate", "RUN", "--prompt", ""], "prompt"),
        (["generate", "RUN", "--prices", "nolist"], "nolist"),
        (["score", "RUN", "--split", "dev"], "split"),
        (["score", "RUN", "--chips", "0"], "chip"),
        (["export", "RUNG", "--out", "x"], "transformer"),
        (["compare", "RUNG"], "one physical run"),
        (["compare", "RUN", "RUN", "RUNG"], "seed 0"),
    ],
)
def test_wrong_input_is_one_sentence(
    outcome, tmp_path, monkeypatch, capsys, arguments, expected
):
    folder, _ = outcome
    monkeypatch.chdir(tmp_path)
    runs = {"RUN": "tiny", "RUNG": "rung_s"}
    arguments = [str(folder / "runs" / runs[a]) if a in runs else a for a in arguments]
    assert _guarded(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("physnn: ")
    assert expected in error
    assert "Traceback" not in error
    assert len(error.splitlines()) == 1
    left = [path for path in tmp_path.iterdir() if path.name != "runs"]
    assert not left


def test_runs_on_different_text_are_not_compared(outcome, tmp_path, experiments):
    folder, _ = outcome
    other = tmp_path / "other.txt"
    other.write_text("somebody else's words, many times\n" * 400)
    experiment = load_experiment(experiments[1])
    path = tmp_path / "other.toml"
    save_experiment(experiment, path)
    path.write_text(path.read_text().replace("[task]", f'[task]\npath = "{other}"'))
    run = train(load_experiment(path), tmp_path / "run", progress=False)
    assert _guarded(["compare", str(folder / "runs" / "tiny"), str(run.folder)]) == 2


def test_the_installed_command():
    """`python -m physnn` in a process of its own: help, and a mistyped command."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}

    def physnn(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "physnn", *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=120,
        )

    assert "quickstart" in physnn("--help").stdout
    wrong = physnn("quikstart")
    assert wrong.returncode == 2
    assert "quikstart" in wrong.stderr + wrong.stdout
    assert "Traceback" not in wrong.stderr
