"""Environment: where and when a chip runs, and every non-ideality with its amount."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnn.configs import find_config, read_described

# How fast n and p transistors are in each corner: +1 is the fast limit of a fab.
CORNERS = {
    "tt": (0.0, 0.0),
    "ff": (1.0, 1.0),
    "ss": (-1.0, -1.0),
    "sf": (-1.0, 1.0),
    "fs": (1.0, -1.0),
}
# A float; where it is traced, an array.
Number = Any


@dataclass(frozen=True)
class Amount:
    """One number of an `Environment`: its unit, what means none, how it grows.

    `grows`: in `Environment.scaled(k)` an `amplitude` grows by k and a `power` by k²;
    `taus` shrink by ln k, so that a probability e^−taus grows by k; `point` is an
    operating point and stays.
    """

    unit: str
    none: float
    grows: Literal["amplitude", "power", "taus", "point"]
    what: str


AMOUNTS = {
    "nmos": Amount("corners", 0.0, "point", "speed of n transistors, +1 fast"),
    "pmos": Amount("corners", 0.0, "point", "speed of p transistors, +1 fast"),
    "capacitor": Amount("corners", 0.0, "point", "capacitance, +1 large"),
    "supply": Amount("of nominal", 1.0, "point", "supply voltage"),
    "age_s": Amount("s", 0.0, "point", "time under stress since calibration"),
    "thermal": Amount("of the process", 0.0, "power", "kT/C and jitter"),
    "shot": Amount("of the process", 0.0, "power", "2qI of integrated currents"),
    "mismatch": Amount("of the process", 0.0, "amplitude", "device by device"),
    "die_to_die": Amount("corners rms", 0.0, "amplitude", "shift common to a die"),
    "gradient_per_mm": Amount("1/mm rms", 0.0, "amplitude", "linear, across the die"),
    "gradient_per_mm2": Amount("1/mm² rms", 0.0, "amplitude", "quadratic"),
    "programming": Amount("of full scale, rms", 0.0, "amplitude", "error of writing"),
    "dead": Amount("of devices", 0.0, "amplitude", "stuck at zero"),
    "stuck_full": Amount("of devices", 0.0, "amplitude", "stuck at full scale"),
    "stuck_random": Amount("of devices", 0.0, "amplitude", "stuck at a random code"),
    "line_ohm_per_m": Amount("ohm/m", 0.0, "amplitude", "of lines of an array"),
    "crosstalk": Amount("of a neighbor", 0.0, "amplitude", "between columns"),
    "substrate": Amount("of full scale", 0.0, "amplitude", "from all nodes together"),
    "droop_V": Amount("V", 0.0, "amplitude", "of the supply, by a circuit's signals"),
    "flicker_V2m2": Amount("V²·m²", 0.0, "power", "1/f: S_v·area at 1 Hz"),
    "ripple_V": Amount("V peak", 0.0, "amplitude", "a tone on the supply"),
    "ripple_Hz": Amount("Hz", 0.0, "point", "of that tone"),
    "supply_noise_V": Amount("V rms", 0.0, "amplitude", "white, on the supply"),
    "output_noise": Amount(
        "of full scale, rms", 0.0, "amplitude", "white, on columns of a matrix"
    ),
    "converter_bow_LSB": Amount("LSB peak", 0.0, "amplitude", "cubic INL of an ADC"),
    "decision_taus": Amount("τ", math.inf, "taus", "a comparator has to decide"),
}


def _plain(value):
    # What numpy counts with is a number; only arrays of JAX are traced amounts.
    value = value.item() if isinstance(value, np.generic) else value
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole else value


def _amount(default) -> Any:
    return eqx.field(default=default, converter=_plain)


class Environment(eqx.Module):
    """Operating point and disturbances, each a number with a unit; data, no code.

    The defaults are the nominal operating point with the noise and the mismatch that
    the process states, and **nothing else**: every other amount is none. `AMOUNTS` has
    the unit of each and what means none there; `docs/noise.md` its equation.
    No amount switches another one off.

    Numbers may be traced (`traced`): then one compilation serves a whole sweep, they
    can be vmapped, and a gradient passes to them. A traced amount is always computed,
    also at none; a Python number that means none costs nothing and changes no bit.

    Raises `ValueError` for an amount that is no number, negative where there is no
    sign, or impossible.
    """

    corner: str = eqx.field(static=True, default="tt")
    nmos: Number = _amount(0.0)  # [corners] on top of `corner`; +1 is fast
    pmos: Number = _amount(0.0)
    capacitor: Number = _amount(0.0)  # [corners] +1 is large
    supply: Number = _amount(1.0)  # of the nominal supply
    temperature_K: Number = _amount(None)  # None: that of the process
    age_s: Number = _amount(0.0)  # under stress, since calibration

    thermal: Number = _amount(1.0)  # power of kT/C and jitter over that of the process
    shot: Number = _amount(1.0)  # power of the shot noise of integrated currents
    mismatch: Number = _amount(1.0)  # spread of devices over that of the process

    die_to_die: Number = _amount(0.0)  # [corners rms] of n, p and capacitors of a die
    gradient_per_mm: Number = _amount(0.0)  # rms slope of a die, relative
    gradient_per_mm2: Number = _amount(0.0)  # rms curvature of a die, relative
    programming: Number = _amount(0.0)  # rms error of a written value, of full scale
    dead: Number = _amount(0.0)  # share of devices that are zero
    stuck_full: Number = _amount(0.0)  # share that is stuck at plus or minus full scale
    stuck_random: Number = _amount(0.0)  # share that is stuck at a random code
    line_ohm_per_m: Number = _amount(0.0)  # of the wires that an array shares
    crosstalk: Number = _amount(0.0)  # of each neighboring column
    substrate: Number = _amount(0.0)  # of a node, when all of its circuit are full
    droop_V: Number = _amount(0.0)  # of the supply of a circuit, when all are

    flicker_V2m2: Number = _amount(0.0)  # S_v·area of a transistor at 1 Hz
    # Below it is calibrated.
    flicker_low_Hz: float = eqx.field(static=True, default=1.0, converter=_plain)
    ripple_V: Number = _amount(0.0)  # amplitude of a tone on the supply
    ripple_Hz: Number = _amount(1e5)
    supply_noise_V: Number = _amount(0.0)  # rms of white noise on the supply
    output_noise: Number = _amount(0.0)  # rms, white, on the columns of a matrix
    converter_bow_LSB: Number = _amount(0.0)  # peak of a cubic INL
    decision_taus: Number = _amount(math.inf)  # time constants that a comparator has

    def __check_init__(self):
        if self.corner not in CORNERS:
            raise ValueError(
                f"Argument `corner` must be one of {list(CORNERS)}, but is"
                f" {self.corner!r}."
            )
        signed = {"nmos", "pmos", "capacitor", "converter_bow_LSB"}
        shares = {"dead", "stuck_full", "stuck_random"}
        for name, value in vars(self).items():
            if name == "corner" or (name == "temperature_K" and value is None):
                continue
            if value is None or isinstance(value, bool | str | list | tuple):
                raise ValueError(f"Argument `{name}` must be a number, but is {value}.")
            if not isinstance(value, int | float):
                continue  # traced
            most = 1.0 if name in shares else math.inf
            least = -math.inf if name in signed else 0.0
            infinite = math.isinf(value) and name != "decision_taus"
            positive = name in ("supply", "temperature_K", "flicker_low_Hz")
            if not least <= value <= most or infinite or (positive and value <= 0):
                raise ValueError(
                    f"Argument `{name}` must be a possible amount"
                    f" [{self.unit_of(name)}], but is {value}."
                )
        faulty = [getattr(self, name) for name in sorted(shares)]
        if all(isinstance(x, int | float) for x in faulty) and sum(faulty) > 1:
            raise ValueError(
                "Arguments `dead`, `stuck_full` and `stuck_random` must be shares of"
                f" the same devices, but add up to {sum(faulty):g}."
            )

    @staticmethod
    def unit_of(name: str) -> str:
        """Unit of an amount, for tables."""
        others = {"temperature_K": "K", "flicker_low_Hz": "Hz", "corner": "name"}
        return AMOUNTS[name].unit if name in AMOUNTS else others[name]

    @classmethod
    def ideal(cls) -> "Environment":
        """Nominal, and without any noise or mismatch: the design itself."""
        return cls(thermal=0.0, shot=0.0, mismatch=0.0)

    def corner_point(self):
        """`(n, p)`: speed of both transistors [corners]."""
        n, p = CORNERS[self.corner]
        return n + self.nmos, p + self.pmos

    def is_none(self, name: str) -> bool:
        """Whether an amount is a Python number that means none."""
        value = getattr(self, name)
        return isinstance(value, int | float) and value == AMOUNTS[name].none

    def replace(self, **amounts) -> "Environment":
        """The same environment with other amounts."""
        return dataclasses.replace(self, **amounts)

    def only(self, *names: str) -> "Environment":
        """`ideal`, plus the amounts called `names` of this one: a one-factor study.

        How fast a ripple is, and from where flicker counts, is none of their amounts.
        """
        kept = {*names, "ripple_Hz", "flicker_low_Hz"}
        return Environment.ideal().replace(**{n: getattr(self, n) for n in kept})

    def scaled(self, factor: float | Float[Array, ""]) -> "Environment":
        """`factor` times the noise: amplitudes and fault rates grow by it, powers by
        its square; the operating point stays, and what is none. 0 is the design at
        that point. The factor may be traced.
        """
        changes = {}
        for name, amount in AMOUNTS.items():
            value = getattr(self, name)
            if amount.grows == "point" or self.is_none(name):
                continue
            if amount.grows == "amplitude":
                value = value * factor
            elif amount.grows == "power":
                value = value * factor**2
            else:
                value = value - _log(factor)
            plain = isinstance(value, int | float)
            if name in ("dead", "stuck_full", "stuck_random"):
                value = min(value, 1.0) if plain else jnp.minimum(value, 1.0)
            if amount.grows == "taus":
                value = max(value, 0.0) if plain else jnp.maximum(value, 0.0)
            changes[name] = value
        return self.replace(**changes)

    def traced(self, *names: str) -> "Environment":
        """Amounts as arrays, for one compilation of a whole sweep.

        Those called `names`; without names, all that are not none. The corner becomes
        numbers as well.
        """
        n, p = self.corner_point()
        point = self.replace(corner="tt", nmos=n, pmos=p)
        names = names or tuple(m for m in AMOUNTS if not point.is_none(m))
        if point.temperature_K is not None:
            names = (*names, "temperature_K")
        arrays = {m: jnp.asarray(getattr(point, m), jnp.float32) for m in names}
        return point.replace(**arrays)


def _log(factor):
    if isinstance(factor, int | float):
        return math.log(factor) if factor > 0 else -math.inf
    return jnp.log(factor)


def load_environment(name_or_path: str | Path) -> Environment:
    """Read a preset from `configs/environments/` by name, or from a TOML file.

    Each amount is a table with `value` and `source`; what is left out has its default.
    Raises `ValueError` for a file that is not TOML, an amount that is unknown or
    impossible, and one without a source.
    """
    path = find_config("environments", name_or_path)
    rows = read_described(path)
    known, values = Environment.__dataclass_fields__, {}
    for name, row in rows.items():
        if name not in known:
            raise ValueError(
                f"{path} must hold amounts of an environment, {sorted(known)}, but"
                f" `{name}` is none."
            )
        if not isinstance(row, dict) or not row.get("source") or "value" not in row:
            raise ValueError(
                f"{path}: `{name}` must have a `value` and a `source`, but is {row!r}."
            )
        values[name] = row["value"]
    try:
        return Environment(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
