"""Contenders in processes of their own, in turns: what both sides share."""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

BATCH = 256  # rows of the layers that have no time


def serve(step: Callable[[], object]) -> None:
    """A line in is a step, which returns when it is done; out come its seconds."""
    step()  # compiles
    print("ready", flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        step()
        print(time.perf_counter() - began, flush=True)


def in_turns(commands: Mapping[str, Sequence[str]], *, rounds: int) -> dict[str, float]:
    """Median seconds of a step of each command that serves; a failed one is left out.

    What disturbs one round disturbs all of them.
    """
    processes = {name: _begun(command) for name, command in commands.items()}
    try:
        failed = [name for name, process in processes.items() if not _ready(process)]
        for name in failed:
            print(f"  {name}: failed, see above", file=sys.stderr)
            del processes[name]
        found = {name: [] for name in processes}
        for _ in range(rounds):
            for name, process in processes.items():
                found[name].append(_seconds(process))
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()  # closes its pipes
    return {name: statistics.median(values) for name, values in found.items()}


def _begun(command: Sequence[str]) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def _ready(process: subprocess.Popen[str]) -> bool:
    """Whether it has made its first step, which compiles; others print as well."""
    assert process.stdout
    return any(line.strip() == "ready" for line in process.stdout)


def _seconds(process: subprocess.Popen[str]) -> float:
    assert process.stdin
    assert process.stdout
    process.stdin.write("\n")
    process.stdin.flush()
    return float(process.stdout.readline())
