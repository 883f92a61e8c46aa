"""doctor reports whatever is there, however broken, and never raises."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from evals import doctor as module
from evals import program
from evals.doctor import Library, doctor, find_tool

# The cached answers are those of the real machine.
look_for = find_tool.__wrapped__


@pytest.fixture
def impostor(tmp_path, monkeypatch):
    """Put a program of that name and content first on the PATH."""

    def write(name: str, content: bytes):
        path = tmp_path / name
        path.write_bytes(content)
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        return path

    return write


def test_this_machine_is_described_in_words_and_in_json():
    report = doctor()
    table = json.loads(json.dumps(report.to_json()))
    assert table["backend"] in ("cpu", "gpu", "tpu")
    assert table["devices"]
    assert table["cores"] >= 1
    assert table["memory_bytes"] > 2**28
    assert table["configs"].endswith("configs")
    assert [row for row in table["libraries"] if row["problem"]] == []
    text = str(report)
    for row in (*table["libraries"], *table["tools"]):
        assert f"  {row['name']}" in text
    for sentence in report.advice:
        assert sentence in text


@pytest.mark.needs_ngspice
def test_a_working_ngspice_has_a_version_and_no_problem():
    tool = look_for("ngspice")
    assert tool.works
    assert tool.version
    assert tool.version[0].isdigit()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"#!/bin/sh\nkill -SEGV $$\n", "was stopped by SIGSEGV"),
        (b"#!/bin/sh\nexit 3\n", "ended with exit code 3"),
        (b"#!/bin/sh\nprintf 'hello \\377'\n", "does not answer `-V`"),
        (b"\x7fELF nothing that runs", "does not start"),
    ],
    ids=["crash", "failure", "garbage", "not-a-program"],
)
def test_a_broken_tool_is_told_from_a_missing_one(impostor, content, problem):
    path = impostor("yosys", content)
    tool = look_for("yosys")
    assert tool.path == str(path)
    assert not tool.works
    assert problem in tool.problem


def test_a_hanging_tool_is_ended_with_its_children(impostor, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOOL_TIMEOUT_s", 0.5)
    survived = tmp_path / "survived"
    impostor("yosys", f"#!/bin/sh\n(sleep 2; touch {survived}) &\nwait\n".encode())
    assert look_for("yosys").problem == "did not answer within 0.5 s"
    time.sleep(2)
    assert not survived.exists()


def test_an_ngspice_that_starts_but_cannot_simulate_is_broken(impostor):
    impostor("ngspice", b"#!/bin/sh\necho '** ngspice-99 : Circuit simulator'\n")
    tool = look_for("ngspice")
    assert tool.version == "99"
    assert tool.problem == "does not solve a divider of two resistors"


def test_what_is_missing_is_named_with_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "find_tool", look_for)
    report = doctor()
    tools = {tool.name: tool for tool in report.tools}
    assert tools["iverilog"].path is None
    assert any(
        "iverilog is missing" in sentence and tools["iverilog"].install in sentence
        for sentence in report.advice
    )
    assert not any("verilator" in sentence for sentence in report.advice)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("raise ImportError('no such driver')", "ImportError: no such driver"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import sys; sys.exit(4)", "exit code 4"),
    ],
    ids=["raises", "crashes", "exits"],
)
def test_a_jax_that_does_not_start_is_reported(content, problem, tmp_path, monkeypatch):
    (tmp_path / "jax.py").write_text(content)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    report = doctor()
    assert report.backend is None
    assert problem in report.advice[0]
    assert "JAX runs on nothing" in str(report)


def test_a_library_outside_of_its_range_is_a_problem():
    assert Library("jax", "0.10.2", "<0.13,>=0.10").problem is None
    assert "0.9.1" in str(Library("jax", "0.9.1", "<0.13,>=0.10").problem)
    assert Library("jax", None, "").problem == "is missing"


def test_the_command_prints_json_and_ends_with_0_even_without_any_tool(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "physnn", "doctor", "--json"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not any(tool["works"] for tool in json.loads(done.stdout)["tools"])


def test_the_name_of_a_signal_that_python_does_not_know():
    assert program._signal_name(signal.SIGKILL) == "SIGKILL"
    assert program._signal_name(250) == "signal 250"
