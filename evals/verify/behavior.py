"""Gates S1, B1 and B2: the behavioral cells do in ngspice what the model says."""

import json
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from evals.program import run_program
from evals.verify.check import Check, Trace, compared
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.export.spice import BEHAV, SPICEINIT, forbidden, read_results

EXPECTED = "spice/tb/expected.json"


def jobs(package: Package, options: Options) -> list[Job]:
    """A job for every bench. Raises `ValueError` for damaged expectations."""
    try:
        benches = json.loads(package.text(EXPECTED))["benches"]
        found = [_Bench.read(bench, package) for bench in benches]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{EXPECTED} must hold the expected results, but is damaged ({error!r})."
        ) from error
    return [
        Job("S1", bench.name, bench.run, also=tuple({r["gate"] for r in bench.results}))
        for bench in found
    ]


@dataclass(frozen=True)
class _Bench:
    """A bench to run: its deck, and the results it should print."""

    name: str
    deck: str
    results: tuple[dict[str, Any], ...]

    @staticmethod
    def read(bench: dict[str, Any], package: Package) -> "_Bench":
        results = tuple(bench["results"])
        for result in results:
            for key in ("value", "absolute", "relative", "time_s"):
                result[key] = float(result[key])
            for key in ("name", "gate", "of"):
                result[key] = str(result[key])
        deck = str(bench["deck"])
        if deck not in package.named("spice/tb"):
            raise ValueError(f"the deck {deck} is not in the manifest")
        return _Bench(str(bench["bench"]), deck, results)

    def run(self, package: Package, work: Path, options: Options) -> list[Check]:
        """S1 of the deck, then B1 or B2 of each of its results."""
        started = time.perf_counter()
        output, problem = simulate_deck(package, self.deck, work, options)
        seconds = time.perf_counter() - started
        measured = read_results(output)
        missing = [r["name"] for r in self.results if r["name"] not in measured]
        if problem is None and missing:
            problem = (
                f"printed no RESULT for {len(missing)} of {len(self.results)} values"
                f" ({missing[0]}, ...); {complaint(output)}"
            )
        if problem is not None:
            detail = f"The simulation of {self.deck} {problem}."
            return [Check("S1", self.name, "fail", seconds=seconds, detail=detail)]
        traces = self._traces(measured)
        return [
            Check("S1", self.name, "pass", seconds=seconds),
            *(
                compared(
                    result["gate"],
                    f"{self.name}: {result['name']}",
                    measured[result["name"]],
                    result["value"],
                    result["absolute"] + result["relative"] * abs(result["value"]),
                    str(result.get("unit", "")),
                    trace=traces.pop(result["of"], None),
                )
                for result in self.results
            ),
        ]

    def _traces(self, measured: dict[str, float]) -> dict[str, Trace]:
        """Model and simulator over time, of each quantity that is read repeatedly."""
        found = {}
        for quantity in dict.fromkeys(result["of"] for result in self.results):
            own = [result for result in self.results if result["of"] == quantity]
            if len({result["time_s"] for result in own}) > 1:
                own.sort(key=lambda result: result["time_s"])
                model = tuple(result["value"] for result in own)
                ngspice = tuple(measured[result["name"]] for result in own)
                found[quantity] = Trace(
                    tuple(result["time_s"] for result in own),
                    "time [s]",
                    (("model", model), ("ngspice", ngspice)),
                    f"{quantity} [{own[0].get('unit') or '1'}]",
                )
        return found


def simulate_deck(
    package: Package, deck: str, work: Path, options: Options
) -> tuple[str, str | None]:
    """Run a deck of a package with all behavioral cells beside it.

    Gives what ngspice printed, and what went wrong as a predicate, or None. A deck or
    cell that is not a plain circuit is not run.
    """
    cells = package.named(BEHAV, ".spice")
    for name in (deck, *cells):
        statement = forbidden(package.text(name))
        if statement is not None:
            return "", (
                f"was not started: {name} must hold only circuit elements and the"
                f" commands of an export, but holds {statement[:80]!r}"
            )
    package.copy([deck, *cells], work)
    # ngspice reads it from the working folder, and so not the user's own.
    (work / deck).with_name(".spiceinit").write_text(SPICEINIT)
    output, _, problem = run_program(
        ["ngspice", "-b", PurePosixPath(deck).name],
        timeout_s=options.timeout_s,
        cwd=work / PurePosixPath(deck).parent,
        # Its threads spin on small circuits: one is faster than two.
        environment={"OMP_NUM_THREADS": "1"},
    )
    return output, f"failed: ngspice {problem}" if problem else None


def complaint(output: str) -> str:
    """The line in which ngspice says what it did not like."""
    for line in output.splitlines():
        if any(word in line.lower() for word in ("error", "too small", "singular")):
            return f"ngspice says: {line.strip()[:200].rstrip('.')}"
    return f"the last line it printed is {(output.splitlines() or [''])[-1][:200]!r}"
