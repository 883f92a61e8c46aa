"""Real processes on one machine train one model: killed, continued by other numbers."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from evals.chip_mesh import MOST_CORES
from evals.doctor import cores
from train.baseline import TransformerConfig
from train.checkpoint import Checkpoints
from train.distributed import join
from train.experiment import Experiment, save_experiment
from train.loop import train
from train.metrics import read_metrics
from train.optimizer import OptimizerConfig
from train.tasks import TextConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

ROOT = Path(__file__).parent.parent
STEPS = 120


def experiment(home: Path, **changes) -> Experiment:
    fields = {
        "name": "processes",
        "steps": STEPS,
        "batch": 8,
        "checkpoint_every": 5,
        "evaluate_every": 60,
        "evaluation_windows": 8,
        "task": TextConfig(path=str(home / "text.txt"), context=16),
        # Digital, because that compiles in a second; wide enough that it is cut.
        "model": TransformerConfig(width=16, n_blocks=1, n_heads=2, n_hidden=64),
        "optimizer": OptimizerConfig(peak_rate=1e-2),
    }
    return Experiment(**(fields | changes))


def free_port() -> int:
    with socket.socket() as end:
        end.bind(("127.0.0.1", 0))
        return end.getsockname()[1]


def launch(config: Path, folder: Path, n: int, *options: str) -> list:
    """The command of each host, all on this one."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
    }
    port, started = free_port(), []
    for i in range(n):
        who = ["--coordinator", f"127.0.0.1:{port}", "--processes", str(n)]
        command = [sys.executable, "-m", "physnn", "train", str(config)]
        command += ["--folder", str(folder), "--mesh.data", "0", *options]
        command += [*who, "--process-id", str(i)]
        started.append(
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def ends(processes: list, within_s: float = 300) -> list[tuple[int, str, str]]:
    """How each ended: exit code, stdout, stderr."""
    deadline, found = time.monotonic() + within_s, []
    for process in processes:
        try:
            out, errors = process.communicate(timeout=deadline - time.monotonic())
        except subprocess.TimeoutExpired:
            for each in processes:
                each.kill()
            pytest.fail(f"no end within {within_s} s: {process.communicate()[1]}")
        found.append((process.returncode, out, errors))
    return found


def wait_for_checkpoint(folder: Path, processes: list, *, after: int) -> int:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        steps = Checkpoints(folder / "checkpoints").steps()
        if steps and steps[-1] > after:
            return steps[-1]
        if any(process.poll() is not None for process in processes):
            break
        time.sleep(0.02)
    for process in processes:
        process.kill()
    pytest.fail(f"no checkpoint: {[p.communicate()[1] for p in processes]}")


def losses(folder: Path) -> dict[int, float]:
    lines = read_metrics(folder / "metrics.jsonl")
    found = {x["step"]: x["bits_per_byte"] for x in lines if "bits_per_byte" in x}
    assert [x["step"] for x in lines if "bits_per_byte" in x] == sorted(found)
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    rng = random.Random(0)
    words = ["circuit", "noise", "charge", "token", "Joule", "gate", "chip"]
    text = " ".join(rng.choice(words) for _ in range(20_000))
    (folder / "text.txt").write_text(text)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    save_experiment(experiment(folder), folder / "run.toml")
    yield folder
    monkeypatch.undo()


@pytest.mark.slow
def test_two_killed_processes_continue_as_four_and_as_one(home):
    """SIGKILL to both, SIGTERM to one of four, and the rest alone: the same run."""
    folder, config = home / "moved", home / "run.toml"
    two = launch(config, folder, 2)
    reached = wait_for_checkpoint(folder, two, after=0)
    for process in two:
        process.kill()
    assert [code for code, *_ in ends(two)] == [-signal.SIGKILL] * 2
    four = launch(config, folder, 4)
    wait_for_checkpoint(folder, four, after=reached)
    four[2].send_signal(signal.SIGTERM)
    ended = ends(four)
    # All stop at one step, and are saved there.
    assert [code for code, *_ in ended] == [128 + signal.SIGTERM] * 4, ended
    stops = {re.findall(r"SIGTERM after step (\d+)", errors)[0] for *_, errors in ended}
    reached = Checkpoints(folder / "checkpoints").steps()[-1]
    assert stops == {str(reached)}
    assert reached < STEPS
    train(experiment(home), folder, progress=False)
    train(experiment(home), home / "alone", progress=False)
    found, alone = losses(folder), losses(home / "alone")
    assert list(found) == list(alone) == list(range(1, STEPS + 1))
    # Other data at any step would move its loss by tenths of a bit.
    np.testing.assert_allclose(list(found.values()), list(alone.values()), atol=0.01)


@pytest.mark.slow
def test_a_process_that_is_gone_ends_the_others_with_a_sentence(home):
    folder = home / "gone"
    frozen = launch(home / "run.toml", folder, 2, "--mesh.patience-s", "3")
    reached = wait_for_checkpoint(folder, frozen, after=0)
    frozen[1].send_signal(signal.SIGSTOP)
    ((code, _, errors),) = ends(frozen[:1])
    frozen[1].kill()
    ends(frozen[1:])
    assert code == 75
    assert "one is gone or stuck" in errors
    assert "start all processes again" in errors
    assert Checkpoints(folder / "checkpoints").steps()[-1] >= reached


def test_a_mesh_of_one_process_has_the_cores_of_its_processor(home, monkeypatch):
    monkeypatch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    found, config = [], str(home / "run.toml")
    meshes = {"one": "data 1", "cores": f"data {min(cores(), 2)}", "more": "model 64"}
    for name, mesh in meshes.items():
        command = [sys.executable, "-m", "physnn", "train", config, "--steps", "3"]
        command += [*f"--mesh.{mesh}".split(), "--folder", str(home / name)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        found.append((done.returncode, done.stderr))
    assert [code for code, _ in found] == [0, 0, 2], found
    assert f"at most the {min(cores(), MOST_CORES)} devices there are" in found[2][1]
    one, both = losses(home / "one"), losses(home / "cores")
    np.testing.assert_allclose(list(one.values()), list(both.values()), atol=1e-4)


def test_who_the_processes_are_must_be_said_whole():
    with pytest.raises(ValueError, match="must be given together"):
        join("localhost:1", 2)
    with pytest.raises(ValueError, match="from 0 to 1, but is 2"):
        join("localhost:1", 2, 2)


def test_without_a_cluster_joining_is_refused_in_a_sentence(home):
    command = [sys.executable, "-m", "physnn", "train", str(home / "run.toml")]
    done = subprocess.run(
        [*command, "--distributed"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "give `--coordinator HOST:PORT" in done.stderr
    assert "Traceback" not in done.stderr
