"""Check: one thing that was verified, and what all of them amount to."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

# What the letter of a gate stands for (docs/handoff.md lists the gates one by one).
CLASSES = {
    "S": "files",
    "B": "behavior against the model",
    "D": "digital",
    "T": "transistors against the model",
    "C": "corners and mismatch",
    "R": "round trip",
    "P": "portability",
}


@dataclass(frozen=True)
class Trace:
    """Curves over one axis that show what a check compared.

    `series` are (name, values) with one value per point of `x`.
    """

    x: tuple[float, ...]
    x_label: str
    series: tuple[tuple[str, tuple[float, ...]], ...]
    y_label: str


@dataclass(frozen=True)
class Check:
    """One thing that was checked: what was measured, and what would have been right.

    `measured` and `limit` are a deviation and the largest that passes, in `unit`.
    The letter of `gate` is in `CLASSES`: S1 is a file that runs, S2 the files of the
    manifest, B1 a static response and B2 a transient one against the model.
    """

    gate: str
    name: str
    status: Literal["pass", "fail", "skipped"]
    measured: float | None = None
    limit: float | None = None
    unit: str = ""
    seconds: float = 0.0
    detail: str = ""
    trace: Trace | None = None


def compared(
    gate: str,
    name: str,
    measured: float,
    expected: float,
    limit: float,
    unit: str,
    *,
    trace: Trace | None = None,
) -> Check:
    """Whether `measured` is within `limit` of `expected`; NaN never is."""
    deviation = abs(measured - expected)
    passed = deviation <= limit
    detail = (
        ""
        if passed
        else f"{measured:.6g} was measured where the model says {expected:.6g}"
    )
    return Check(
        gate,
        name,
        "pass" if passed else "fail",
        deviation,
        limit,
        unit,
        detail=detail,
        trace=trace,
    )


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

    def rows(self) -> list[tuple[str, ...]]:
        """(gate, status, worst, limit, unit, seconds, what); failures one by one."""
        groups: dict[tuple[str, str, str], list[Check]] = {}
        for check in self.checks:
            name = check.name.split(":")[0]
            if check.status == "fail":
                name = check.name
            groups.setdefault((check.gate, name, check.status), []).append(check)
        found = []
        for (gate, name, status), checks in groups.items():
            worst = max(checks, key=_excess)
            measured, limit = (
                "" if value is None else f"{value:.3g}"
                for value in (worst.measured, worst.limit)
            )
            name += f" ({len(checks)} results)" if len(checks) > 1 else ""
            name += f": {worst.detail}" if worst.detail else ""
            took = sum(check.seconds for check in checks)
            seconds = f"{took:.1f}" if took else ""
            found.append((gate, status, measured, limit, worst.unit, seconds, name))
        return found

    @property
    def verdict(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return (
            f"{self.folder}: {verdict}; {self.count('pass')} checks passed,"
            f" {self.count('fail')} failed, {self.count('skipped')} skipped."
        )

    def __str__(self) -> str:
        """A line per gate and bench with its worst result; failures one by one."""
        head = ("gate", "status", "worst", "limit", "unit", "s", "check")
        lines = [
            f"{gate:4}  {status:7}  {measured:>9}  {limit:>9}  {unit:6}  {seconds:>5}"
            f"  {name}"
            for gate, status, measured, limit, unit, seconds, name in [
                head,
                *self.rows(),
            ]
        ]
        return "\n".join([*lines, self.verdict])


def _excess(check: Check) -> float:
    return (check.measured or 0.0) / check.limit if check.limit else 0.0
