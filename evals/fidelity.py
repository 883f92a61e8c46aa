"""Fidelity: does an exported package do what the model says? Needs only the folder."""

import hashlib
import json
import os
import shutil
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from evals.doctor import PROGRAMS
from evals.program import run_program
from physnn.export.package import FORMAT, MANIFEST, SCHEMA_VERSION
from physnn.export.spice import SPICEINIT, forbidden, read_results

TIMEOUT_s = 120.0
EXPECTED = "spice/tb/expected.json"


@dataclass(frozen=True)
class Check:
    """One thing that was checked: what was measured, and what would have been right.

    `measured` and `limit` are a deviation and the largest that passes, in `unit`.
    `gate` is S1 (the deck runs), S2 (the files are those of the manifest), B1 (static
    response) or B2 (transient response against the model).
    """

    gate: str
    name: str
    status: Literal["pass", "fail", "skipped"]
    measured: float | None = None
    limit: float | None = None
    unit: str = ""
    seconds: float = 0.0
    detail: str = ""


@dataclass(frozen=True)
class Verification:
    """The checks of a package; it passed if none failed."""

    folder: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        return all(check.status != "fail" for check in self.checks)

    def count(self, status: str) -> int:
        return sum(check.status == status for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for `json.dumps`."""
        return {
            "folder": self.folder,
            "passed": self.passed,
            "checks": [asdict(check) for check in self.checks],
        }

    def __str__(self) -> str:
        """A line per gate and bench with its worst result; failures one by one."""
        groups: dict[tuple[str, str, str], list[Check]] = {}
        for check in self.checks:
            name = check.name.split(":")[0]
            if check.status == "fail":
                name = check.name
            groups.setdefault((check.gate, name, check.status), []).append(check)
        lines = [f"{'gate':4}  {'status':7}  {'worst':>9}  {'limit':>9}  check"]
        for (gate, name, status), checks in groups.items():
            worst = max(checks, key=_excess)
            measured, limit = (
                "" if value is None else f"{value:.3g}"
                for value in (worst.measured, worst.limit)
            )
            name += f" ({len(checks)} results)" if len(checks) > 1 else ""
            name += f": {worst.detail}" if worst.detail else ""
            lines.append(f"{gate:4}  {status:7}  {measured:>9}  {limit:>9}  {name}")
        verdict = "passed" if self.passed else "FAILED"
        lines.append(
            f"{self.folder}: {verdict}; {self.count('pass')} checks passed,"
            f" {self.count('fail')} failed, {self.count('skipped')} skipped."
        )
        return "\n".join(lines)


def _excess(check: Check) -> float:
    return (check.measured or 0.0) / check.limit if check.limit else 0.0


def verify(
    folder: str | Path, *, timeout_s: float = TIMEOUT_s, n_workers: int | None = None
) -> Verification:
    """Check the hashes of a package, run its benches in ngspice, compare the results.

    Every bench runs alone, single-threaded, in a fresh folder, for `timeout_s` at most;
    `n_workers` at a time (None: one per core). What crashes, hangs or stays silent is a
    failed check. Without ngspice the benches are skipped.

    Raises `ValueError` for a folder that is not an export of this version.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    listed, checks = _check_hashes(folder, manifest)
    try:
        benches = json.loads((folder / EXPECTED).read_text())["benches"]
        jobs = [_Job.read(bench, listed) for bench in benches]
    except (OSError, ValueError, KeyError, TypeError) as error:
        detail = (
            f"{EXPECTED} must hold the expected results, but is damaged ({error!r})."
        )
        checks.append(Check("S1", EXPECTED, "fail", detail=detail))
        return Verification(str(folder), tuple(checks))
    simulator = shutil.which("ngspice")
    if simulator is None:
        install = next(p for p in PROGRAMS if p.name == "ngspice").install()
        detail = f"ngspice was not found on PATH; to run this: {install}"
        checks += [Check("S1", job.name, "skipped", detail=detail) for job in jobs]
        return Verification(str(folder), tuple(checks))
    n_workers = n_workers or min(len(jobs), os.cpu_count() or 1) or 1
    with ThreadPoolExecutor(n_workers) as pool:
        run = lambda job: job.run(folder, listed, simulator, timeout_s)
        for found in pool.map(run, jobs):
            checks += found
    return Verification(str(folder), tuple(checks))


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        found = (manifest["format"], manifest["schema_version"])
        _ = [(entry["path"], entry["sha256"]) for entry in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} must be a folder that `physnn export` wrote, but its {MANIFEST}"
            f" is missing or damaged ({type(error).__name__}): export the run again."
        ) from error
    if found != (FORMAT, SCHEMA_VERSION):
        raise ValueError(
            f"{path} must be of {FORMAT} version {SCHEMA_VERSION}, but is of"
            f" {found[0]} version {found[1]}: export the run again."
        )
    return manifest


def _check_hashes(folder: Path, manifest) -> tuple[set[str], list[Check]]:
    """The files that are there and inside the folder, and the check of all of them."""
    started = time.perf_counter()
    present, wrong = set(), []
    for entry in manifest["files"]:
        name = str(entry["path"])
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        try:
            content = path.read_bytes() if inside else b""
        except OSError:
            wrong.append(f"{name} is missing")
            continue
        if not inside:
            wrong.append(f"{name} is outside of the folder")
            continue
        present.add(name)
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            wrong.append(f"{name} was changed")
    check = Check(
        "S2",
        f"hashes of {len(manifest['files'])} files",
        "fail" if wrong else "pass",
        float(len(wrong)),
        0.0,
        "files",
        time.perf_counter() - started,
        "; ".join(wrong),
    )
    return present, [check]


@dataclass(frozen=True)
class _Job:
    """A bench to run: its deck, and the results it should print."""

    name: str
    deck: str
    results: tuple[dict[str, Any], ...]

    @staticmethod
    def read(bench: dict[str, Any], listed: set[str]) -> "_Job":
        results = tuple(bench["results"])
        for result in results:
            for key in ("value", "absolute", "relative"):
                result[key] = float(result[key])
            result["name"], result["gate"] = str(result["name"]), str(result["gate"])
        deck = str(bench["deck"])
        if deck not in listed or PurePosixPath(deck).parent.as_posix() != "spice/tb":
            raise ValueError(f"the deck {deck} is not in the manifest")
        return _Job(str(bench["bench"]), deck, results)

    def run(
        self, folder: Path, listed: set[str], simulator: str, timeout_s: float
    ) -> list[Check]:
        """S1 of the deck, then B1 or B2 of each of its results."""
        started = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="physnn-verify-") as work:
            problem = _lay_out(folder, listed, self.deck, Path(work))
            output = ""
            if problem is None:
                cwd = Path(work) / PurePosixPath(self.deck).parent
                name = PurePosixPath(self.deck).name
                output, problem = _simulate(simulator, name, cwd, timeout_s)
        seconds = time.perf_counter() - started
        measured = read_results(output)
        missing = [r["name"] for r in self.results if r["name"] not in measured]
        if problem is None and missing:
            problem = (
                f"printed no RESULT for {len(missing)} of {len(self.results)} values"
                f" ({missing[0]}, ...); {_complaint(output)}"
            )
        if problem is not None:
            detail = f"The simulation of {self.deck} {problem}."
            return [Check("S1", self.name, "fail", seconds=seconds, detail=detail)]
        checks = [Check("S1", self.name, "pass", seconds=seconds)]
        for result in self.results:
            value, limit = result["value"], result["absolute"]
            limit += result["relative"] * abs(value)
            deviation = abs(measured[result["name"]] - value)
            passed = deviation <= limit  # False for NaN
            checks.append(
                Check(
                    result["gate"],
                    f"{self.name}: {result['name']}",
                    "pass" if passed else "fail",
                    deviation,
                    limit,
                    str(result.get("unit", "")),
                    detail=""
                    if passed
                    else f"{measured[result['name']]:.6g} was measured where the model"
                    f" says {value:.6g}",
                )
            )
        return checks


def _lay_out(folder: Path, listed: set[str], deck: str, work: Path) -> str | None:
    """Copy the deck and all cells; what is not a plain circuit is not run."""
    cells = [name for name in listed if name.startswith("spice/cells/")]
    for name in (deck, *sorted(cells)):
        content = (folder / name).read_bytes()
        statement = forbidden(content.decode("utf-8", errors="replace"))
        if statement is not None:
            return (
                f"was not started: {name} must hold only circuit elements and the"
                f" commands of an export, but holds {statement[:80]!r}"
            )
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(content)
    # ngspice reads it from the working folder, and so not the user's own.
    (work / deck).with_name(".spiceinit").write_text(SPICEINIT)
    return None


def _simulate(
    simulator: str, deck: str, cwd: Path, timeout_s: float
) -> tuple[str, str | None]:
    """What ngspice printed, and what went wrong. Its exit code says nothing."""
    output, _, problem = run_program(
        [simulator, "-b", deck],
        timeout_s=timeout_s,
        cwd=cwd,
        # Its threads spin on small circuits: one is faster than two.
        environment={"OMP_NUM_THREADS": "1"},
    )
    return output, f"failed: ngspice {problem}" if problem else None


def _complaint(output: str) -> str:
    """The line in which ngspice says what it did not like."""
    for line in output.splitlines():
        if any(word in line.lower() for word in ("error", "too small", "singular")):
            return f"ngspice says: {line.strip()[:200].rstrip('.')}"
    return f"the last line it printed is {(output.splitlines() or [''])[-1][:200]!r}"
