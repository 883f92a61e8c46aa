"""Suite: which attacks `physnn robustness` makes, frozen; and its TOML file."""

import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import cattrs

from physnn.configs import find_config
from physnn.environment import AMOUNTS, CORNERS, Environment
from physnn.variation import FAULTS
from train.decode import problems_of, strict_converter
from train.experiment import ConfigError

Others = Literal["ideal", "default"]


@dataclass(frozen=True)
class OneFactor:
    """Each amount alone, from a share of its default to several times it.

    `others`: whether all other amounts are none, or as in the environment of the suite.
    `amounts`: values of amounts that the environment leaves at none.
    """

    multiples: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    chips: int = 4
    others: Others = "ideal"
    amounts: dict[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self):
        _counts(self, "chips")
        _positive("multiples", self.multiples)
        _amounts("one_factor.amounts", self.amounts)
        for name, values in self.amounts.items():
            if name == "ripple_Hz" or all(x == AMOUNTS[name].none for x in values):
                raise ValueError(
                    f"`one_factor.amounts.{name}` must hold an amount that acts alone,"
                    f" but holds {list(values)}: leave it out."
                )
            for value in values:
                Environment().replace(**{name: value})


@dataclass(frozen=True)
class MonteCarlo:
    """All amounts at once, at multiples of the noise (`Environment.scaled`).

    `held`: amounts that stay as they are in the environment, as the resistance of lines
    does, which is drawn and no noise.
    """

    scales: tuple[float, ...] = (1.0, 2.0, 4.0)
    chips: int = 32
    held: tuple[str, ...] = ()

    def __post_init__(self):
        _counts(self, "chips")
        _positive("scales", self.scales)
        _amounts("monte_carlo.held", self.held)


@dataclass(frozen=True)
class Operating:
    """Every corner at every temperature and supply; the rest as the environment."""

    corners: tuple[str, ...] = tuple(CORNERS)
    temperatures_K: tuple[float, ...] = (233.15, 300.0, 398.15)
    supplies: tuple[float, ...] = (0.9, 1.0, 1.1)  # of nominal
    chips: int = 4

    def __post_init__(self):
        _counts(self, "chips")
        _filled("corners", self.corners)
        for corner in self.corners:
            if corner not in CORNERS:
                raise ValueError(
                    f"Argument `operating.corners` must be of {list(CORNERS)}, but"
                    f" holds {corner!r}."
                )
        _positive("temperatures_K", self.temperatures_K)
        _positive("supplies", self.supplies)


@dataclass(frozen=True)
class Faults:
    """Shares of faulty devices, each kind alone: a map of kinds against shares."""

    kinds: tuple[str, ...] = FAULTS
    shares: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2)
    chips: int = 4
    others: Others = "ideal"

    def __post_init__(self):
        _counts(self, "chips")
        _filled("kinds", self.kinds)
        _positive("shares", self.shares)
        for kind in self.kinds:
            if kind not in FAULTS:
                raise ValueError(
                    f"Argument `faults.kinds` must be of {list(FAULTS)}, but holds"
                    f" {kind!r}."
                )
        if max(self.shares) > 1:
            raise ValueError(
                f"Argument `faults.shares` must be at most 1, but holds"
                f" {max(self.shares)}."
            )


@dataclass(frozen=True)
class Ageing:
    """Years under stress; the rest as the environment."""

    years: tuple[float, ...] = (0.01, 0.1, 1.0, 3.0, 10.0)
    chips: int = 4

    def __post_init__(self):
        _counts(self, "chips")
        _positive("years", self.years)


@dataclass(frozen=True)
class Converters:
    """Bits of the DACs and ADCs where signals cross into digital; all else ideal."""

    bits: tuple[int, ...] = (3, 4, 5, 6, 8, 10)

    def __post_init__(self):
        _filled("bits", self.bits)
        if min(self.bits) < 2:
            raise ValueError(
                "Argument `converters.bits` must be at least 2, but holds"
                f" {min(self.bits)}."
            )


@dataclass(frozen=True)
class WorstCase:
    """The worst mismatch that gradient ascent finds, beside random chips.

    All on `windows` windows of at most `tokens` inputs, without temporal noise.
    """

    random: int = 10_000  # chips
    windows: int = 1
    tokens: int = 64
    steps: int = 20  # of the ascent
    sigmas: float = 3.0  # no device is further from its nominal value
    shifts: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)  # along one direction

    def __post_init__(self):
        _counts(self, "random", "windows", "tokens", "steps")
        _positive("sigmas", (self.sigmas,))
        _positive("shifts", self.shifts)


@dataclass(frozen=True)
class Yield:
    """The share of chips above a bar, in the environment of the suite.

    One bar: `lost`, the share of its bits that a chip may lose against the design
    without noise, `bits` at most, or `accuracy` at least.
    """

    chips: int = 64
    lost: float | None = None
    bits: float | None = None
    accuracy: float | None = None
    confidence: float = 0.95
    # Windows of the validation split that each chip is calibrated on; 0: it is not.
    calibration_windows: int = 8

    def __post_init__(self):
        _counts(self, "chips")
        bars = {n: getattr(self, n) for n in ("lost", "bits", "accuracy")}
        given = {n: bar for n, bar in bars.items() if bar is not None}
        if len(given) != 1 or not all(0 <= bar < math.inf for bar in given.values()):
            raise ValueError(
                "Table `yields` must have one bar, `lost`, `bits` or `accuracy`, not"
                f" negative, but has {given}."
            )
        if not 0 < self.confidence < 1:
            raise ValueError(
                "Argument `yields.confidence` must be above 0 and below 1, but is"
                f" {self.confidence}."
            )
        if self.calibration_windows < 0:
            raise ValueError(
                "Argument `yields.calibration_windows` must not be negative, but is"
                f" {self.calibration_windows}."
            )


@dataclass(frozen=True)
class Ranking:
    """Which bank spends the quality by its mismatch, and what more area would cost."""

    chips: int = 4
    area: float = 4.0  # times what is drawn

    def __post_init__(self):
        _counts(self, "chips")
        if not 1 < self.area < math.inf:
            raise ValueError(
                f"Argument `ranking.area` must be above 1, but is {self.area}."
            )


@dataclass(frozen=True)
class Suite:
    """What is attacked with what; a table that is left out is not run.

    `environment`: a name in `configs/environments`, or a TOML file; without it the
    default environment of the run's process. Every study sees the same windows, and
    chip i is the same die with the same noise in all of them, so that differences are
    those of the amounts.
    """

    description: str = ""
    split: Literal["validation", "test"] = "test"
    windows: int = 4  # evenly spaced
    together: int | None = None  # chips at a time; None fits them to the machine
    prices: str = "analog28"  # of the Joules in the ranking
    environment: str | None = None
    one_factor: OneFactor | None = None
    monte_carlo: MonteCarlo | None = None
    operating: Operating | None = None
    faults: Faults | None = None
    ageing: Ageing | None = None
    converters: Converters | None = None
    worst_case: WorstCase | None = None
    yields: Yield | None = None
    ranking: Ranking | None = None

    def __post_init__(self):
        _counts(self, "windows", *(["together"] if self.together is not None else []))

    @property
    def fewest_chips(self) -> int:
        """Of its studies: so many at a time are not too many for any of them."""
        studies = (getattr(self, each.name) for each in fields(self))
        return min(
            (study.chips for study in studies if hasattr(study, "chips")), default=1
        )


def load_suite(name_or_path: str | Path) -> Suite:
    """A suite from `configs/evals/` by name, or from a TOML file.

    Raises `ConfigError` for a file that is no TOML, a key that is unknown and a value
    that is wrong, `FileNotFoundError` where there is none.
    """
    path = find_config("evals", name_or_path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} must be a TOML file, but is not: {error}."
        ) from error
    return suite_from(table, where=str(path))


def suite_from(table: dict[str, Any], *, where: str = "The suite") -> Suite:
    """A suite from the nested dictionary that a TOML file holds."""
    try:
        return strict_converter().structure(table, Suite)
    except cattrs.BaseValidationError as error:
        raise ConfigError(f"{where}: {problems_of(error)}") from error


def _counts(config, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(
                f"Argument `{name}` of a suite must be at least 1, but is"
                f" {getattr(config, name)}."
            )


def _amounts(where: str, names: Iterable[str]) -> None:
    for name in names:
        if name not in AMOUNTS:
            raise ValueError(
                f"`{where}` must hold amounts of an environment, {sorted(AMOUNTS)}, but"
                f" `{name}` is none."
            )


def _filled(name: str, values: tuple) -> None:
    if not values:
        raise ValueError(f"Argument `{name}` of a suite must hold a value.")


def _positive(name: str, values: tuple[float, ...]) -> None:
    _filled(name, values)
    for value in values:
        if not 0 < value < math.inf:
            raise ValueError(
                f"Argument `{name}` of a suite must be positive and finite (zero is"
                f" the design, which is always scored), but holds {value}."
            )
