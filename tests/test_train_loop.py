"""Runs: killed and continued bit for bit, stopped by signals, refused in a sentence."""

import dataclasses
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.random as jr
import numpy as np
import pytest

from physnn.dynamics import Integrated, SolverConfig
from physnn.export.selection import circuits_of
from tests.helpers import physical_config
from train.baseline import TransformerConfig
from train.checkpoint import CheckpointError, Checkpoints
from train.corpus.files import DataError
from train.experiment import Experiment, load_experiment, save_experiment
from train.loop import TrainedRun, load_run, train
from train.metrics import MetricsFile, read_metrics
from train.optimizer import OptimizerConfig
from train.recovery import TrainingDiverged
from train.run_folder import RunFolderError, lock
from train.stopping import Interrupted
from train.tasks import TextConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

ROOT = Path(__file__).parent.parent
SCRIPT = """
import sys
from train.experiment import load_experiment
from train.loop import train
from train.stopping import Interrupted
try:
    train(load_experiment(sys.argv[1]), sys.argv[2])
except Interrupted as stop:
    print(stop, file=sys.stderr)
    sys.exit(stop.exit_code)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a text, and caches of its own for this module."""
    folder = tmp_path_factory.mktemp("home")
    rng = random.Random(0)
    words = ["circuit", "noise", "charge", "token", "Joule", "gate", "chip"]
    text = " ".join(rng.choice(words) for _ in range(20_000))
    (folder / "text.txt").write_text(text)
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    yield folder
    if before is None:
        del os.environ["XDG_CACHE_HOME"]
    else:
        os.environ["XDG_CACHE_HOME"] = before


def tiny(home: Path, **changes) -> Experiment:
    """A run of a second; digital, because that compiles in another one."""
    experiment = Experiment(
        name="tiny",
        steps=40,
        batch=4,
        checkpoint_every=4,
        evaluate_every=20,
        evaluation_windows=4,
        task=TextConfig(path=str(home / "text.txt"), context=16),
        model=TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=8),
        optimizer=OptimizerConfig(peak_rate=1e-2),
    )
    return dataclasses.replace(experiment, **changes)


def physical(home: Path) -> Experiment:
    model = physical_config(width=8, n_layers=1, n_states=8, n_hidden=8)
    return tiny(home, model=model, steps=240)


def launch(experiment: Experiment, folder: Path) -> subprocess.Popen:
    """Train in a process of its own."""
    config = folder.with_suffix(".toml")
    save_experiment(experiment, config)
    # Compiled once for all processes: that takes the time.
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(config), str(folder)],
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(experiment: Experiment, folder: Path) -> TrainedRun:
    process = launch(experiment, folder)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return load_run(folder)


@pytest.fixture(scope="module")
def whole(home) -> TrainedRun:
    """A physical run that nothing interrupts."""
    return finish(physical(home), home / "whole")


@pytest.fixture(scope="module")
def digital(home) -> TrainedRun:
    """A digital run that nothing interrupts."""
    return train(tiny(home), home / "digital", progress=False)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen, *, after: int) -> int:
    """Until there is a checkpoint of a later step than `after`."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        steps = Checkpoints(folder / "checkpoints").steps()
        if steps and steps[-1] > after:
            return steps[-1]
        if process.poll() is not None:
            pytest.fail(f"the process ended: {process.communicate()[1]}")
        time.sleep(0.005)
    process.kill()
    pytest.fail("no checkpoint appeared within two minutes")


def arrays(run: TrainedRun) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(run.model) if hasattr(x, "dtype")]


def lines(folder: Path) -> list[dict]:
    """The metrics without what the clock says."""
    return [
        {key: value for key, value in line.items() if key != "seconds"}
        for line in read_metrics(folder / "metrics.jsonl")
    ]


def check_same(a: TrainedRun, b: TrainedRun) -> None:
    assert all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))
    assert a.best_bits_per_byte == b.best_bits_per_byte
    assert lines(a.folder) == lines(b.folder)


@pytest.mark.slow
def test_a_run_killed_at_random_and_continued_is_bit_identical(home, whole):
    """Four kills with SIGKILL: at start-up, and wherever a clock happens to fall."""
    folder, rng, reached = home / "killed", random.Random(1), 0
    process = launch(physical(home), folder)
    while not (folder / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    for _ in range(3):
        process = launch(physical(home), folder)
        wait_for_checkpoint(folder, process, after=reached)
        time.sleep(rng.uniform(0, 0.5))
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        reached = Checkpoints(folder / "checkpoints").steps()[-1]
        assert reached < whole.step
    check_same(finish(physical(home), folder), whole)


@pytest.mark.slow
def test_signals_save_the_run_and_it_continues(home, whole):
    folder, reached = home / "stopped", 0
    for number in (signal.SIGTERM, signal.SIGINT):
        process = launch(physical(home), folder)
        wait_for_checkpoint(folder, process, after=reached)
        process.send_signal(number)
        _, errors = process.communicate()
        assert process.returncode == 128 + number
        found = re.search(rf"Stopped by {number.name} after step (\d+);", errors)
        assert found, errors
        assert "Traceback" not in errors
        reached = int(found[1])
        assert Checkpoints(folder / "checkpoints").steps()[-1] == reached
        trained = [line["step"] for line in lines(folder) if "bits_per_byte" in line]
        assert trained == list(range(1, reached + 1))
    check_same(finish(physical(home), folder), whole)


def test_a_signal_between_checkpoints_loses_no_step(home):
    folder = home / "between"
    experiment = tiny(home, steps=100_000, checkpoint_every=100_000)
    before = signal.getsignal(signal.SIGTERM)
    # Sends the signal to this process when the first metrics are there.
    sender = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os, sys, time\n"
            "path = sys.argv[1]\n"
            "while not os.path.exists(path) or not os.path.getsize(path):\n"
            "    time.sleep(0.01)\n"
            "os.kill(int(sys.argv[2]), 15)",
            str(folder / "metrics.jsonl"),
            str(os.getpid()),
        ]
    )
    with pytest.raises(Interrupted, match="is saved, and training it") as caught:
        train(experiment, folder, progress=False)
    sender.wait()
    assert caught.value.exit_code == 143
    step = load_run(folder).step
    assert step < experiment.checkpoint_every
    assert lines(folder)[-1]["step"] == step
    assert signal.getsignal(signal.SIGTERM) is before


def test_loss_falls_and_validation_is_recorded(whole):
    trained = [x["bits_per_byte"] for x in lines(whole.folder) if "bits_per_byte" in x]
    assert len(trained) == 240
    assert trained[0] == pytest.approx(8.0, abs=1.0)
    assert np.mean(trained[-10:]) < 4.0
    key = "validation_bits_per_byte"
    validated = {x["step"]: x[key] for x in lines(whole.folder) if key in x}
    assert list(validated) == list(range(20, 241, 20))
    assert whole.best_bits_per_byte == min(validated.values())


def test_a_run_trains_through_the_solver_its_config_names(home, whole):
    solver = SolverConfig("heun", steps_per_token=8, adjoint="direct")
    experiment = dataclasses.replace(physical(home), steps=4, solver=solver)
    found = train(experiment, home / "integrated", progress=False)
    loaded = load_run(found.folder)
    cells = [each for _, each in circuits_of(loaded.model)]
    assert [c.solver for c in cells if isinstance(c, Integrated)] == [solver]
    first = lambda run: read_metrics(run.folder / "metrics.jsonl")[0]["bits_per_byte"]
    # Other draws of the same noise: nearly the loss of the fast path.
    assert first(found) == pytest.approx(first(whole), abs=0.05)
    assert found.best_bits_per_byte < first(found)


def test_a_run_folder_says_what_it_is_and_feeds_back(home, digital):
    facts = json.loads((digital.folder / "run.json").read_text())
    assert facts["schema_version"] == 1
    assert len(facts["data_digest"]) == 64
    assert "git_commit" in facts
    saved = load_experiment(digital.folder / "experiment.toml")
    assert saved == tiny(home)
    # The run is finished, so nothing happens.
    check_same(train(saved, digital.folder, progress=False), digital)


def test_a_loaded_run_computes_what_the_trained_one_did(digital):
    loaded = load_run(digital.folder)
    tokens = jr.randint(jr.key(1), (2, 9), 0, 256)
    a, b = (
        run.model.logits(tokens, process=run.process, key=jr.key(2))
        for run in (digital, loaded)
    )
    assert np.array_equal(a, b)
    assert loaded.step == 40


def test_progress_goes_to_stderr(home, capfd):
    train(tiny(home, steps=20), home / "progress")
    out, err = capfd.readouterr()
    assert out == ""
    assert re.search(r"tiny: step 20/20, \d\.\d+ bits/byte.* tokens/s", err)


def test_a_loss_that_is_no_number_ends_the_run(home):
    optimizer = OptimizerConfig(peak_rate=1e30, clip_norm=1e30)
    experiment = tiny(home, optimizer=optimizer)
    with pytest.raises(
        TrainingDiverged, match=r"must stay finite, but the loss is nan"
    ):
        train(experiment, home / "diverged", progress=False)


def test_a_damaged_newest_checkpoint_costs_only_its_steps(home, digital):
    folder = home / "damaged"
    shutil.copytree(digital.folder, folder)
    for path in (folder / "checkpoints" / "000000040").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    with pytest.warns(UserWarning, match="checkpoint of step 40 .* cannot be used"):
        again = train(tiny(home), folder, progress=False)
    check_same(again, digital)


def refused(
    home: Path, folder: Path, kind: type[Exception] = RunFolderError, **changes
) -> str:
    with pytest.raises(kind) as caught:
        train(tiny(home, **changes), folder, progress=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_not_this_run_is_refused_and_left_alone(home, digital, tmp_path):
    before = (digital.folder / "metrics.jsonl").read_bytes()
    message = refused(home, digital.folder, steps=300, optimizer=OptimizerConfig())
    assert "keys differ: optimizer.peak_rate, steps" in message
    with pytest.raises(RunFolderError, match="must be empty to start a new run"):
        train(tiny(home), digital.folder, resume=False, progress=False)
    (tmp_path / "thesis.tex").write_text("precious")
    assert "must be a run or empty, but it holds" in refused(home, tmp_path)
    assert [p.name for p in tmp_path.iterdir() if p.name[0] != "."] == ["thesis.tex"]
    assert (digital.folder / "metrics.jsonl").read_bytes() == before


def test_a_run_of_another_version_or_on_changed_data_is_refused(home, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text((home / "text.txt").read_text())
    task = TextConfig(path=str(text), context=16)
    folder = tmp_path / "run"
    train(tiny(home, task=task, steps=4), folder, progress=False)
    text.write_text("x" + text.read_text()[1:])
    assert "has changed" in refused(home, folder, task=task, steps=4)
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(facts | {"schema_version": 99}))
    message = "must have schema version 1, but has 99"
    assert message in refused(home, folder, task=task, steps=4)
    with pytest.raises(RunFolderError, match=message):
        load_run(folder)


def test_loading_what_is_no_run_gets_one_sentence(home, tmp_path):
    with pytest.raises(
        RunFolderError, match=r"must be a run with a readable run\.json"
    ):
        load_run(tmp_path / "nowhere")
    with pytest.raises(DataError, match="there is none: check the path"):
        train(tiny(home, task=TextConfig(path="/nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_two_processes_cannot_train_one_run(home, tmp_path):
    with lock(tmp_path):
        assert "by another process" in refused(home, tmp_path)


def test_a_disk_that_fills_up_gets_one_sentence_and_the_run_continues(home, tmp_path):
    """Files may not grow beyond 4 KiB: enough for the metrics, not for the arrays."""
    experiment = tiny(home, steps=8)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        message = refused(home, tmp_path, kind=CheckpointError, steps=8)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "step 4 could not be written" in message
    assert "Make room and continue the run" in message
    assert train(experiment, tmp_path, progress=False).step == 8


def test_metrics_drop_what_came_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "bi')
    with MetricsFile(path, step=2) as metrics:
        assert metrics.last == {"step": 2}
        metrics.write({"step": 3, "bits_per_byte": 1.5})
    assert read_metrics(path) == [
        {"step": 1},
        {"step": 2},
        {"step": 3, "bits_per_byte": 1.5},
    ]
