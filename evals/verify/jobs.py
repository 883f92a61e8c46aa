"""Jobs: pieces of a verification that run apart, each in a fresh folder."""

import os
import tempfile
import time
import traceback
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from evals.doctor import PROGRAMS
from evals.verify.check import Check
from evals.verify.package import Package

TIMEOUT_s = 120.0


@dataclass(frozen=True)
class Options:
    """What a verification was asked.

    `pdk` is where transistor models lie, if anywhere but where they are looked for;
    `liberty` the standard cells that logic is mapped to, if not the package's own;
    `run` the folder that the package was exported from, for gates that need its text.
    """

    timeout_s: float = TIMEOUT_s  # of every run of a simulator
    slow: bool = False  # also the jobs that take more than a few seconds
    pdk: Path | None = None
    liberty: Path | None = None
    run: Path | None = None


@dataclass(frozen=True)
class Job:
    """Checks that are made together.

    `run(package, work, options)` may use `work`, an empty folder, and returns checks of
    `gate` and of the gates in `also`; what it raises is a failed check. It needs the
    programs of `needs`. `cost_s` is what it takes, roughly.
    """

    gate: str
    name: str
    run: Callable[[Package, Path, Options], list[Check]]
    slow: bool = False
    needs: tuple[str, ...] = ("ngspice",)
    also: tuple[str, ...] = ()
    cost_s: float | int = 1

    def asked(self, gates: Collection[str]) -> bool:
        """Whether it makes checks of one of `gates` (T4) or classes (T); none: all."""
        own = (self.gate, *self.also)
        return not gates or any(g in gates or g[:1] in gates for g in own)


def run_jobs(
    jobs: Sequence[Job],
    package: Package,
    options: Options,
    *,
    n_workers: int | None = None,
) -> list[Check]:
    """The checks of all jobs in order, `n_workers` at a time (None: one per core).

    What takes longest begins first: at the end no core waits for another.
    """
    n_workers = n_workers or min(len(jobs), os.cpu_count() or 1) or 1
    order = sorted(range(len(jobs)), key=lambda i: -jobs[i].cost_s)
    with ThreadPoolExecutor(n_workers) as pool:
        begun = {i: pool.submit(_run, jobs[i], package, options) for i in order}
        return [check for i in range(len(jobs)) for check in begun[i].result()]


def _run(job: Job, package: Package, options: Options) -> list[Check]:
    needed = (program for program in PROGRAMS if program.name in job.needs)
    missing = next((program for program in needed if program.path() is None), None)
    if missing is not None:
        detail = (
            f"{missing.name} was not found on PATH; to run this: {missing.install()}"
        )
        return [Check(job.gate, job.name, "skipped", detail=detail)]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="physnn-verify-") as work:
        try:
            checks = job.run(package, Path(work), options)
        except Exception as error:
            checks = [failed(job.gate, job.name, error)]
    if checks and not any(check.seconds for check in checks):
        # The time of a job stands at its first check.
        checks[0] = replace(checks[0], seconds=time.perf_counter() - started)
    return checks


def failed(gate: str, name: str, error: Exception) -> Check:
    """The failed check of what ended in `error`: the rest is checked still.

    With PHYSNN_TRACEBACK set, what is no `ValueError` is raised again.
    """
    detail = str(error)
    if not isinstance(error, ValueError):
        # A damaged file that is read further than its checks, or a fault of ours.
        if os.environ.get("PHYSNN_TRACEBACK"):
            raise error
        at = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(at.filename).name}:{at.lineno}"
        detail = (
            f"It must read files as an export writes them, but ended in"
            f" {type(error).__name__} ({error}, {place}): where S2 names a file, export"
            " the run again."
        )
    return Check(gate, name, "fail", detail=detail)
