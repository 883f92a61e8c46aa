"""Simulate: run a SPICE deck in ngspice and bring back what it measured.

    found = simulate(deck, models=find_models("sky130"), files={"ota.spice": cell})
    found.results["gm"]          # from the line `RESULT gm 2.06e-5`
    found.arrays["curve"]        # from `wrdata curve.data i(v_out)`: columns x, i_out

The deck runs alone in a fresh folder, single-threaded and for a limited time, whatever
the user's own `.spiceinit` says. It is judged by what it printed and wrote; the exit
code of ngspice says nothing (a failed measurement exits with 0).
"""

import math
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evals.doctor import PROGRAMS
from evals.program import run_program
from physnn.export.spice import PDK, SPICEINIT, read_results
from physnn.pdk import Conditions, Models

TIMEOUT_s = 60.0
# What ngspice prints when it did not read a deck at all, and ends as if all were well.
_UNREAD = re.compile(r"could not find include file", re.I)
# What it prints when an analysis stopped early, and still goes on with the deck.
_ABORTED = re.compile(
    r"simulation\(s\) aborted|timestep too small|no convergence", re.I
)
_COMPLAINT = re.compile(
    r"error|too small|singular|aborted|failed|could not find|no such|no convergence",
    re.I,
)


class _Found(dict):
    """What a deck brought by name; what it did not bring is a `ValueError`."""

    def __init__(self, values: Mapping, title: str, said: str):
        super().__init__(values)
        self.title, self.said = title, said

    def __missing__(self, name):
        raise ValueError(
            f"The simulation `{self.title}` must give {name}, but did not; {self.said}."
        )


@dataclass(frozen=True)
class Simulation:
    """What a deck brought: its `RESULT name value` lines and its `wrdata` files.

    An array has a row per point: the abscissa once, then a column per vector. Asking
    for one that is not there raises `ValueError`.
    """

    results: Mapping[str, float]
    arrays: Mapping[str, np.ndarray]
    seconds: float
    output: str


def simulate(
    deck: str,
    *,
    models: Models | None = None,
    conditions: Conditions = Conditions(),
    files: Mapping[str, str] | None = None,
    wanted: Collection[str] = (),
    timeout_s: float = TIMEOUT_s,
) -> Simulation:
    """Run the text of a deck in a fresh folder, with `files` (name: text) beside it.

    A deck with transistors says `.include pdk.spice` and needs `models`. Raises
    `ValueError` when ngspice is missing, hangs, crashes or diverges, when one of
    `wanted` was not printed, and for a result that is not a finite number.
    """
    with tempfile.TemporaryDirectory(prefix="physnn-spice-") as folder:
        for name, text in {**(files or {}), "deck.sp": deck}.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return run_deck(
            Path(folder) / "deck.sp",
            models=models,
            conditions=conditions,
            wanted=wanted,
            timeout_s=timeout_s,
        )


def run_deck(
    deck: Path,
    *,
    models: Models | None = None,
    conditions: Conditions = Conditions(),
    wanted: Collection[str] = (),
    timeout_s: float = TIMEOUT_s,
) -> Simulation:
    """Run a deck where it lies, as `simulate` does; writes beside it what it needs.

    Those are `.spiceinit`, and `pdk.spice` where there are `models`.
    """
    title = deck.read_text().split("\n", 1)[0].lstrip("* ")
    simulator = shutil.which("ngspice")
    if simulator is None:
        install = next(p for p in PROGRAMS if p.name == "ngspice").install()
        raise ValueError(f"ngspice must be on PATH, but was not found: {install}.")
    settings = SPICEINIT if models is None else models.pdk.spiceinit()
    (deck.parent / ".spiceinit").write_text(settings)
    if models is not None:
        (deck.parent / PDK).write_text(models.include(conditions))
    started = time.perf_counter()
    output, _, problem = run_program(
        [simulator, "-b", deck.name],
        timeout_s=timeout_s,
        cwd=deck.parent,
        # Its threads spin on small circuits: one is faster than two.
        environment={"OMP_NUM_THREADS": "1"},
    )
    seconds = time.perf_counter() - started
    results = read_results(output)
    missing = [name for name in wanted if name not in results]
    if problem is not None:
        problem = f"ngspice {problem}"
    elif _UNREAD.search(output):
        problem = f"it was not run; {complaint(output)}"
    elif _ABORTED.search(output):
        problem = f"it did not converge; {complaint(output)}"
    elif missing:
        problem = (
            f"it printed no RESULT for {len(missing)} of {len(wanted)} values"
            f" ({missing[0]}); {complaint(output)}"
        )
    elif not all(map(math.isfinite, results.values())):
        odd = next(name for name, value in results.items() if not math.isfinite(value))
        problem = f"its result {odd} is {results[odd]}"
    if problem is not None:
        raise ValueError(
            f"The simulation `{title}` must give all it measures, but {problem}."
        )
    arrays = {
        path.stem: _read_array(path, title) for path in deck.parent.glob("*.data")
    }
    given = lambda values: _Found(values, title, complaint(output))
    return Simulation(given(results), given(arrays), seconds, output)


def complaint(output: str) -> str:
    """The line in which ngspice says what it did not like."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for line in lines:
        if "valid modelname" in line:
            return (
                "ngspice finds no model of that width and length: sizes outside of the"
                f" PDK's limits or in another unit ({line[:120]})"
            )
    for line in lines:
        if _COMPLAINT.search(line):
            return f"ngspice says: {line[:200].rstrip('.')}"
    return f"the last line it printed is {(lines or [''])[-1][:200]!r}"


def _read_array(path: Path, title: str) -> np.ndarray:
    """A `wrdata` file, in which the abscissa stands before each vector."""
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise ValueError(
            f"The simulation `{title}` must write numbers, but {path.name} is damaged"
            f" ({error})."
        ) from error
    if table.shape[1] % 2 or not np.isfinite(table).all():
        raise ValueError(
            f"The simulation `{title}` must write finite real vectors, but {path.name}"
            f" has {table.shape[1]} columns or values that are not finite."
        )
    return np.concatenate([table[:, :1], table[:, 1::2]], 1)
