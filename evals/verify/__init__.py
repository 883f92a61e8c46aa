"""Verify: does an exported package do what the model says? Needs only the folder.

A module per class of gates; each lists its jobs, and whatever crashes, hangs or stays
silent in one of them is a failed check.
"""

from collections.abc import Collection
from pathlib import Path

from evals.verify import (
    behavior,
    columns,
    corners,
    digital,
    languages,
    network,
    rings,
    roundtrip,
    token,
    transistors,
)
from evals.verify.check import CLASSES, Check, Trace, Verification, compared
from evals.verify.jobs import Job, Options, TIMEOUT_s, failed, run_jobs
from evals.verify.package import Package, open_package

__all__ = [
    "Check",
    "Job",
    "Options",
    "Package",
    "Trace",
    "Verification",
    "compared",
    "verify",
]

# Each has `jobs(package, options)`.
MODULES = (
    behavior,
    languages,
    digital,
    network,
    transistors,
    token,
    rings,
    columns,
    corners,
    roundtrip,
)


def verify(
    folder: str | Path,
    *,
    gates: Collection[str] = (),
    slow: bool = False,
    pdk: Path | None = None,
    liberty: Path | None = None,
    run: Path | None = None,
    timeout_s: float = TIMEOUT_s,
    n_workers: int | None = None,
) -> Verification:
    """Check an exported folder: its hashes, then every gate in the tools that are here.

    `gates` keeps to some of them, by name (T4) or class (T); none means all. `slow`
    adds those that take more than a few seconds. `pdk` and `liberty` say where
    transistor models and standard cells are. Every simulation runs single-threaded in
    a fresh folder for at most `timeout_s`; `n_workers` at a time (None: one per core).
    A check whose program or models are not here is skipped and says so.

    Raises `ValueError` for a folder that is not an export of this version, and for a
    gate that does not exist.
    """
    for gate in gates:
        if gate[:1] not in CLASSES:
            raise ValueError(
                f"A gate must be a class of {sorted(CLASSES)} or one of its gates as"
                f" T4, but is {gate!r}."
            )
    package, hashes = open_package(folder)
    options = Options(timeout_s=timeout_s, slow=slow, pdk=pdk, liberty=liberty, run=run)
    checks, found = [hashes], []
    for module in MODULES:
        try:
            found += module.jobs(package, options)
        except Exception as error:
            name = module.__name__.rpartition(".")[2]
            checks.append(failed("S1", name, error))
    chosen = [job for job in found if job.asked(gates) and (slow or not job.slow)]
    for gate in gates:
        if any(job.asked((gate,)) for job in chosen) or hashes.gate.startswith(gate):
            continue
        slower = any(job.asked((gate,)) for job in found)
        why = "all of it takes --slow" if slower else "this package has none of it"
        if any(check.status == "fail" for check in checks[1:]) and not slower:
            why = "what failed above may have had it"
        checks.append(Check(gate, "nothing was checked", "skipped", detail=why))
    checks += run_jobs(chosen, package, options, n_workers=n_workers)
    return Verification(str(folder), tuple(checks))
