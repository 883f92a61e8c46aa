"""Modeled and measured Joules: two types, so that nobody adds one to the other."""

from dataclasses import dataclass

from physnn.units import readable


@dataclass(frozen=True)
class Modeled:
    """Energy from counts and prices [J]: all-low, nominal and all-high corner."""

    low: float
    nominal: float
    high: float

    def __add__(self, other: "Modeled") -> "Modeled":
        if not isinstance(other, Modeled):
            raise TypeError(
                "Modeled Joules must be added to modeled Joules, but the other is"
                f" {type(other).__name__}: print the two side by side."
            )
        return Modeled(
            self.low + other.low, self.nominal + other.nominal, self.high + other.high
        )

    def scaled(self, factor: float) -> "Modeled":
        """The same energy `factor` times."""
        return Modeled(self.low * factor, self.nominal * factor, self.high * factor)

    def to_json(self) -> dict[str, float]:
        return {"low": self.low, "nominal": self.nominal, "high": self.high}

    def __str__(self):
        return (
            f"{readable(self.nominal, 'J')} ({readable(self.low, 'J')} to"
            f" {readable(self.high, 'J')})"
        )


@dataclass(frozen=True)
class Measured:
    """Energy read from an instrument [J]: what it covers is the instrument's affair.

    - `window_s`: the time it was integrated over; counters of accelerators update
      every 0.1 s, so below 5 s it means little.
    - `instrument`: what was read, and where in the power path.
    """

    energy: float
    window_s: float
    instrument: str

    def __add__(self, other: "Measured") -> "Measured":
        if not isinstance(other, Measured):
            raise TypeError(
                "Measured Joules must be added to measured Joules, but the other is"
                f" {type(other).__name__}: print the two side by side."
            )
        if other.instrument != self.instrument:
            raise ValueError(
                "Measured Joules must come from one instrument to be added, but came"
                f" from `{self.instrument}` and `{other.instrument}`."
            )
        return Measured(
            self.energy + other.energy, self.window_s + other.window_s, self.instrument
        )

    def __str__(self):
        return (
            f"{readable(self.energy, 'J')} measured in {readable(self.window_s, 's')}"
            f" by {self.instrument}"
        )
