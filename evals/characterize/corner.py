"""Corners: what a cell does over corner, temperature and supply, as a datasheet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from physnn.pdk import Conditions

CORNERS = ("tt", "ff", "ss", "sf", "fs")
TEMPERATURES_C, SUPPLIES = (-40.0, 27.0, 125.0), (1.7 / 1.8, 1.0, 1.9 / 1.8)
# Limits lie this much further from typical than the worst that was simulated. The
# corners of the open sky130 cards are half as wide for the p transistors as those of
# the foundry's own, equally wide for n: half as much again where both count alike.
GUARD = 1.5


@dataclass(frozen=True)
class Point:
    """A corner, a temperature, and a supply as a fraction of the nominal one."""

    corner: str
    temperature_C: float
    supply: float

    @property
    def conditions(self) -> Conditions:
        return Conditions(corner=self.corner, temperature_C=self.temperature_C)

    def __str__(self) -> str:
        return (
            f"{self.corner}, {self.temperature_C:g} C, {self.supply:.3g} of the supply"
        )


def points(*, full: bool = True) -> Iterator[Point]:
    """All 45 points; without `full` the ends of both ranges, and the middle: 25."""
    for corner in CORNERS:
        for temperature in TEMPERATURES_C:
            for supply in SUPPLIES:
                middle = (temperature == TEMPERATURES_C[1], supply == SUPPLIES[1])
                if full or all(middle) or not any(middle):
                    yield Point(corner, temperature, supply)


Measure = Callable[[Point], Mapping[str, float]]


def matrix(
    measure: Measure, *, full: bool = True
) -> list[tuple[Point, dict[str, float]]]:
    """What `measure` finds at every point."""
    return [(point, dict(measure(point))) for point in points(full=full)]


def datasheet(
    rows: Sequence[tuple[Point, Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """`{spec: {min, typ, max}}` with `GUARD`; typical is tt in the middle of ranges."""
    typical = next(
        found
        for point, found in rows
        if (point.corner, point.temperature_C, point.supply)
        == ("tt", TEMPERATURES_C[1], SUPPLIES[1])
    )
    sheet = {}
    for spec, typ in typical.items():
        values = [found[spec] for _, found in rows]
        low, high = typ - GUARD * (typ - min(values)), typ + GUARD * (max(values) - typ)
        # What cannot be negative is not promised to be.
        low = max(low, 0.0) if min(values) >= 0 else low
        sheet[spec] = {"min": low, "typ": typ, "max": high}
    return sheet


def outside(
    rows: Sequence[tuple[Point, Mapping[str, float]]],
    sheet: Mapping[str, Mapping[str, float]],
) -> list[str]:
    """What is not within its limits, in words."""
    return [
        f"{spec} is {value:.4g} at {point}"
        for point, found in rows
        for spec, value in found.items()
        if not sheet[spec]["min"] <= value <= sheet[spec]["max"]
    ]


def margin(
    rows: Sequence[tuple[Point, Mapping[str, float]]],
    sheet: Mapping[str, Mapping[str, float]],
) -> dict[str, float]:
    """How much of the way from typical to its limit each spec used, at most."""
    used = {}
    for spec, limits in sheet.items():
        typ, shares = limits["typ"], [0.0]
        for _, found in rows:
            end = limits["max"] if found[spec] > typ else limits["min"]
            if found[spec] != typ:
                shares.append((found[spec] - typ) / (end - typ) if end != typ else 2.0)
        used[spec] = max(shares)
    return used
