"""Process: what a fab gives, and the environment a chip runs in."""

import math
import tomllib
from pathlib import Path

import equinox as eqx

from physnn.configs import find_config
from physnn.units import thermal_energy_J, thermal_voltage_V


class Process(eqx.Module):
    """A fabrication process at one operating point.

    Noise, leakage, wires and matching may be zero: `thermal_noise=0` runs without
    noise, a matching of zero fabricates the design itself. Use `dataclasses.replace` to
    change one. Raises `ValueError` for an amount that is negative or not finite.

    **Fields** (SI)

    - `supply_V`, `temperature_K`: the operating point.
    - `swing_V`: signal amplitude that counts as full scale [V].
    - `slope_factor`: n of a MOS transistor in weak inversion.
    - `thermal_noise`: noise power relative to kT/C, amplifiers included (1 + excess).
    - `capacitor_min_F`: the smallest capacitor one can draw [F].
    - `capacitor_density_F_per_m2`: how much area it takes [F/m²].
    - `wire_F_per_m`, `switch_gate_F`: what else has to be charged [F/m], [F].
    - `node_leakage_S`: leakage conductance at a storage node [S].
    - `ring_excess`: phase noise of a ring oscillator over the least that its power
      allows, beside the excess in `thermal_noise`.
    - `matching`: relative spread of two nominally equal devices is
      `matching[kind] / sqrt(area)` (Pelgrom et al. 1989, DOI
      10.1109/JSSC.1989.572629); [m], for `threshold` [V·m].
    - `sources`: where each number is from.
    """

    name: str
    supply_V: float
    temperature_K: float
    swing_V: float
    slope_factor: float
    thermal_noise: float
    capacitor_min_F: float
    capacitor_density_F_per_m2: float
    wire_F_per_m: float
    switch_gate_F: float
    node_leakage_S: float
    ring_excess: float
    matching: dict[str, float]
    sources: dict[str, str]

    def __check_init__(self):
        may_be_zero = {
            "thermal_noise",
            "wire_F_per_m",
            "switch_gate_F",
            "node_leakage_S",
        }
        spreads = {f"matching.{kind}": v for kind, v in self.matching.items()}
        for name, value in (vars(self) | spreads).items():
            if not isinstance(value, int | float):
                continue  # a name, a table or a traced amount
            zero = name in may_be_zero or name in spreads
            if not (0 < value < math.inf or (value == 0 and zero)):
                raise ValueError(
                    f"Argument `{name}` of process `{self.name}` must be finite and"
                    f" {'not negative' if zero else 'positive'}, but is {value}."
                )

    def spread(self, kind: str, area_m2: float) -> float:
        """Standard deviation of one device of `kind` [relative, or V for threshold]."""
        if kind not in self.matching:
            raise ValueError(
                f"Process `{self.name}` must give a matching coefficient for every kind"
                f" of device, but `{kind}` is missing (given: {sorted(self.matching)})."
            )
        return self.matching[kind] / math.sqrt(area_m2)

    def thermal_variance(self, capacitance_F, *, gain=1.0):
        """Variance of kT/C noise on `capacitance_F` as a fraction of full scale².

        kT/C times `thermal_noise`; `gain` multiplies the noise voltage. Nyquist 1928,
        DOI 10.1103/PhysRev.32.110.
        """
        # Grouped so that no factor leaves the range of float32.
        kT = thermal_energy_J(self.temperature_K)
        return self.thermal_noise * (kT / self.swing_V**2 / capacitance_F) * gain**2

    def linear_range(self) -> float:
        """2·n·U_T as a fraction of full scale: a weak-inversion pair's tanh(v / this).

        The differential pair's current is I·tanh(v / 2nU_T) (Mead 1989, Analog VLSI and
        Neural Systems, ISBN 0-201-05992-4).
        """
        voltage = thermal_voltage_V(self.temperature_K)
        return 2 * self.slope_factor * voltage / self.swing_V

    def settling_charge_C(self, load_F):
        """Supply charge of a class-A transconductor settling once onto `load_F` [C].

        In weak inversion g_m = I/(n·U_T); settling to half a step of 8 bits takes
        9·ln 2 = 6.2 time constants C/g_m, so I·t = 6.2·n·U_T·C, whatever the time
        allowed. The bias is on only while its stage settles.
        """
        n_tau = 9 * math.log(2)
        return (
            n_tau * self.slope_factor * thermal_voltage_V(self.temperature_K) * load_F
        )

    def noiseless(self) -> "Process":
        """The same process without temporal noise."""
        return eqx.tree_at(lambda p: p.thermal_noise, self, 0.0)

    def matched(self) -> "Process":
        """The same process without mismatch."""
        return eqx.tree_at(
            lambda p: p.matching, self, dict.fromkeys(self.matching, 0.0)
        )


def load_process(name_or_path: str | Path) -> Process:
    """Read a process from `configs/processes/` by name, or from a TOML file.

    Each number is a table with `value` and `source`. Raises `ValueError` for a file
    that is not TOML and a number that is unknown, missing, negative or without source.
    """
    path = find_config("processes", name_or_path)
    try:
        tables = tomllib.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} must be a TOML file, but: {error}.") from error
    description = tables.pop("description", None)
    if not description:
        raise ValueError(f"{path} must begin with a `description`, but has none.")
    matching = tables.pop("matching", {})
    if not isinstance(matching, dict):
        raise ValueError(f"{path}: `matching` must be a table, but is {matching!r}.")
    known = set(Process.__dataclass_fields__) - {"name", "matching", "sources"}
    for key in sorted(known ^ set(tables)):
        problem = "is missing" if key in known else "is not known"
        raise ValueError(
            f"{path} must hold exactly {sorted(known)} and [matching], but `{key}`"
            f" {problem}."
        )
    values, sources = {}, {}
    rows = {**tables, **{f"matching.{kind}": row for kind, row in matching.items()}}
    for key, row in rows.items():
        if not isinstance(row, dict) or not row.get("source"):
            raise ValueError(f"{path}: `{key}` must have a `source`, but has none.")
        if type(row.get("value")) not in (int, float):
            raise ValueError(
                f"{path}: `{key}` must have a numeric `value`, but it is"
                f" {row.get('value')!r}."
            )
        values[key], sources[key] = float(row["value"]), row["source"]
    return Process(
        name=path.stem,
        matching={kind: values[f"matching.{kind}"] for kind in matching},
        sources=sources,
        **{key: values[key] for key in known},
    )
