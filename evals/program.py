"""Run another program: what it prints, and what went wrong with it."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Ended(NamedTuple):
    """What a program left."""

    output: str  # both streams
    code: int | None  # its exit code; None if it did not end by itself
    problem: str | None  # it did not start, hung or crashed: a predicate, no full stop


def run_program(
    command: list[str],
    *,
    timeout_s: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run `command` without input, for at most `timeout_s`; never raises for its sake.

    `environment` is added to that of this process.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # A group of its own, so that the children of a hanging program end with it.
            start_new_session=True,
        )
    except OSError as error:
        return Ended("", None, f"does not start ({error.strerror})")
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Ended("", None, f"did not answer within {timeout_s:g} s")
    if process.returncode < 0:
        name = _signal_name(-process.returncode)
        return Ended(output, None, f"was stopped by {name}")
    return Ended(output, process.returncode, None)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
