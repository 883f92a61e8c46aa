"""Studies: the points of a suite, each an environment and how many chips are drawn."""

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from evals.robustness.suite import Others, Suite
from physnn.environment import AMOUNTS, CORNERS, Environment
from physnn.variation import TEN_YEARS_S

YEAR_S = TEN_YEARS_S / 10
# Tables of a suite that are lists of environments.
STUDIES = ("one_factor", "monte_carlo", "operating", "faults", "ageing")


@dataclass(frozen=True)
class Point:
    """One environment of a study: `x`, in `unit`, of the curve `series`."""

    study: str
    series: str
    x: float
    unit: str
    environment: Environment
    chips: int

    @property
    def id(self) -> str:
        """What it is found again by."""
        return f"{self.study}/{self.series}/{self.x:.6g}"


def points_of(suite: Suite, default: Environment, acting: set[str]) -> list[Point]:
    """Every point of the studies of `suite` that are environments, the design first.

    `default`: the environment of the suite; `acting`: amounts that some part of the
    model can honor. Curves of the others are left out; the report says so.
    """
    made = [Point("design", "", 0.0, "", Environment.ideal(), 1)]
    made += _one_factor(suite, default, acting)
    made += _monte_carlo(suite, default)
    made += _operating(suite, default)
    made += _faults(suite, default, acting)
    made += _ageing(suite, default, acting)
    return made


def asked_of(suite: Suite, default: Environment) -> Environment:
    """All amounts that the suite asks for anywhere, as one environment."""
    changes: dict[str, Any] = {}
    if suite.one_factor:
        # Any of them that is more than none: it asks whether the amount acts at all.
        for name, values in suite.one_factor.amounts.items():
            changes[name] = next(x for x in values if x != AMOUNTS[name].none)
    if suite.faults:
        changes |= dict.fromkeys(suite.faults.kinds, min(suite.faults.shares))
    if suite.ageing:
        changes["age_s"] = max(suite.ageing.years) * YEAR_S
    if suite.operating:
        changes |= {"nmos": 1.0, "pmos": 1.0, "supply": 0.9, "temperature_K": 398.15}
    missing = {n: v for n, v in changes.items() if _is_none(default, n)}
    return default.replace(**missing)


def _is_none(environment: Environment, name: str) -> bool:
    value = getattr(environment, name)
    return value is None if name == "temperature_K" else environment.is_none(name)


def _around(others: Others, default: Environment) -> Environment:
    if others == "default":
        return default
    return default.only()


def _one_factor(suite, default, acting) -> Iterator[Point]:
    study = suite.one_factor
    if study is None:
        return
    values = {}
    for name, amount in AMOUNTS.items():
        if default.is_none(name):
            continue
        own = getattr(default, name)
        if amount.grows in ("amplitude", "power"):
            values[name] = [own * each for each in study.multiples]
        elif amount.grows == "taus":  # less time is more of it
            alone = [default.only(name).scaled(each) for each in study.multiples]
            values[name] = [getattr(each, name) for each in alone]
    values |= {name: list(each) for name, each in study.amounts.items()}
    around = _around(study.others, default)
    for name, amounts in values.items():
        if name not in acting:
            continue
        for value in amounts:
            here = around.replace(**{name: value})
            unit = AMOUNTS[name].unit
            yield Point("one_factor", name, value, unit, here, study.chips)


def _monte_carlo(suite, default) -> Iterator[Point]:
    study = suite.monte_carlo
    for scale in study.scales if study else ():
        held = {name: getattr(default, name) for name in study.held}
        here = default.scaled(scale).replace(**held)
        yield Point("monte_carlo", "all", scale, "x the environment", here, study.chips)


def _operating(suite, default) -> Iterator[Point]:
    study = suite.operating
    if study is None:
        return
    for corner in study.corners:
        n, p = CORNERS[corner]
        for supply in study.supplies:
            for kelvin in study.temperatures_K:
                here = default.replace(
                    corner="tt", nmos=n, pmos=p, supply=supply, temperature_K=kelvin
                )
                series = f"{corner}, {supply:g} of nominal supply"
                yield Point("operating", series, kelvin, "K", here, study.chips)


def _faults(suite, default, acting) -> Iterator[Point]:
    study = suite.faults
    if study is None:
        return
    around = _around(study.others, default)
    for kind in study.kinds:
        if kind not in acting:
            continue
        for share in study.shares:
            here = around.replace(**{kind: share})
            yield Point("faults", kind, share, "of devices", here, study.chips)


def _ageing(suite, default, acting) -> Iterator[Point]:
    study = suite.ageing
    if study is None or "age_s" not in acting:
        return
    for years in (0.0, *study.years):
        here = default.replace(age_s=years * YEAR_S)
        yield Point("ageing", "all", years, "years", here, study.chips)


def row_of(point: Point, bits: np.ndarray, hits: np.ndarray) -> dict[str, Any]:
    """What is kept of a point: every chip, and what was not none, from what ran."""
    return {
        "study": point.study,
        "series": point.series,
        "x": point.x,
        "unit": point.unit,
        "environment": amounts_of(point.environment),
        "bits": [float(each) for each in bits],
        "accuracy": [float(each) for each in hits],
        "median": median(map(float, bits)),
        "low": float(np.min(bits)),
        "high": float(np.max(bits)),
    }


def amounts_of(environment: Environment) -> dict[str, Any]:
    """Every amount that is not none."""
    found: dict[str, Any] = {}
    for name in AMOUNTS:
        if not environment.is_none(name) and name != "ripple_Hz":
            found[name] = float(getattr(environment, name))
    if environment.temperature_K is not None:
        found["temperature_K"] = float(environment.temperature_K)
    if environment.corner != "tt":
        found["corner"] = environment.corner
    return found
