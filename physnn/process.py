"""Process: what a fab gives, at the operating point a chip runs at."""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key

from physnn.configs import find_config, read_described
from physnn.environment import AMOUNTS, Environment, Number
from physnn.keys import stream
from physnn.units import thermal_energy_J, thermal_voltage_V


class Excess(NamedTuple):
    """What a circuit takes over its ideal: at best, as expected, at worst."""

    low: Number
    nominal: Number
    high: Number


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
    - `amplifier_excess`: supply charge of an amplifier over that of an ideal stage in
      weak inversion that draws only while it settles (`settling_charge_C`): low,
      nominal, high. Bills multiply events `amplifier_charge_C` by it.
    - `matching`: relative spread of two nominally equal devices is
      `matching[kind] / sqrt(area)` (Pelgrom et al. 1989, DOI
      10.1109/JSSC.1989.572629); [m], for `threshold` [V·m].
    - `operating`: how its numbers move with corner, temperature and supply (`at`).
    - `ageing`: what ten years do, and the exponent of time (`physnn.variation.ageing`).
    - `environment`: amounts of the full default environment of the node.
    - `drawn`: supply charge of cells as they were drawn and simulated over their
      analytic price, by cause (`DRAWN`); 1 where nothing was drawn (`as_drawn`).
    - `sources`: where each number is from.

    What `at` moves, nominal in a card:

    - `shot_noise`: power over 2qI of one transistor, pair and mirror included; in a
      card it is `thermal_noise`, in weak inversion the same noise by another name.
    - `rate`: absolute rates (currents over capacitors) over the designed ones. A ratio
      of two equal devices does not move.
    - `ring_rate`: the same of the frequency of rings.
    - `capacitance`: capacitors over drawn ones.
    - `converter_bow_LSB`, `decision_taus`: of every ADC and clocked comparator.
    - `substrate`, `droop_V`: between the nodes of a circuit (`physnn.noise.coupled`).
    """

    name: str
    supply_V: Number
    temperature_K: Number
    swing_V: Number
    slope_factor: Number
    thermal_noise: Number
    capacitor_min_F: Number
    capacitor_density_F_per_m2: Number
    wire_F_per_m: Number
    switch_gate_F: Number
    node_leakage_S: Number
    ring_excess: Number
    amplifier_excess: Excess
    matching: dict[str, Number]
    operating: dict[str, float]
    ageing: dict[str, float]
    environment: dict[str, float]
    sources: dict[str, str]
    shot_noise: Number
    rate: Number = 1.0
    ring_rate: Number = 1.0
    capacitance: Number = 1.0
    converter_bow_LSB: Number = 0.0
    decision_taus: Number = math.inf
    substrate: Number = 0.0
    droop_V: Number = 0.0
    drawn: dict[str, float] = eqx.field(default_factory=dict)

    def __check_init__(self):
        may_be_zero = {
            "thermal_noise",
            "shot_noise",
            "wire_F_per_m",
            "switch_gate_F",
            "node_leakage_S",
        }
        spreads = {f"matching.{kind}": v for kind, v in self.matching.items()}
        excess = self.amplifier_excess._asdict()
        corners = {f"amplifier_excess.{key}": v for key, v in excess.items()}
        drawn = {f"drawn.{cause}": v for cause, v in self.drawn.items()}
        for name, value in (vars(self) | spreads | corners | drawn).items():
            if not isinstance(value, int | float) or name in MOVED:
                continue  # a name, a table or a traced amount
            zero = name in may_be_zero or name in spreads
            if not (0 < value < math.inf or (value == 0 and zero)):
                raise ValueError(
                    f"Argument `{name}` of process `{self.name}` must be finite and"
                    f" {'not negative' if zero else 'positive'}, but is {value}."
                )
        if list(corners.values()) != sorted(corners.values()):
            raise ValueError(
                f"Argument `amplifier_excess` of process `{self.name}` must rise from"
                f" low over nominal to high, but is {list(corners.values())}."
            )

    def as_drawn(self, cause: str) -> float:
        """What the analytic supply charge of a cause is multiplied by: see `drawn`."""
        return self.drawn.get(cause, 1.0)

    def spread(self, kind: str, area_m2: float):
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
        power = kT / self.swing_V**2 / (capacitance_F * self.capacitance)
        return self.thermal_noise * power * gain**2

    def linear_range(self):
        """2·n·U_T as a fraction of full scale: a weak-inversion pair's tanh(v / this).

        The differential pair's current is I·tanh(v / 2nU_T) (Mead 1989, Analog VLSI and
        Neural Systems, ISBN 0-201-05992-4).
        """
        voltage = thermal_voltage_V(self.temperature_K)
        return 2 * self.slope_factor * voltage / self.swing_V

    def switch_C(self) -> Array | float:
        """Charge of the gates of a switch [C]: n, and p twice as wide."""
        return 3 * self.switch_gate_F * self.supply_V

    def settling_charge_C(self, load_F):
        """Supply charge of an ideal transconductor settling once onto `load_F` [C].

        In weak inversion g_m = I/(n·U_T); settling to half a step of 8 bits takes
        9·ln 2 = 6.2 time constants C/g_m, so I·t = 6.2·n·U_T·C, whatever the time
        allowed. The bias is on only while its stage settles. What a drawn amplifier
        takes over it is `amplifier_excess`.
        """
        n_tau = 9 * math.log(2)
        return (
            n_tau * self.slope_factor * thermal_voltage_V(self.temperature_K) * load_F
        )

    def at(
        self, environment: Environment, *, key: Key[Array, ""] | None = None
    ) -> "Process":
        """The process at another operating point: what a chip there runs on.

        With n, p, c the corners of transistors and capacitors, ΔT and ΔV/V from the
        point of the card, and the numbers a of `operating`:

        - rate = (1 + r·(a_I·(n+p)/2 − a_C·c))·(1 + a_IT·ΔT)·(1 + a_IV·ΔV/V): what a
          trim at the nominal point leaves (r, `trim_residue`) of the corner of an
          absolute rate I/C, and all of what comes after it; `ring_rate` likewise.
        - capacitance = 1 + a_C·c, in every kT/C.
        - leakage grows by exp(a_L·(n+p)/2)·exp(ΔT/T_e).
        - temperature and supply themselves: kT/C, U_T, 2nU_T, jitter, flips of bits.
        - `thermal`, `shot`, `mismatch` multiply what the process states.

        `key` draws the shift that all devices of a die share, a normal of
        `die_to_die` corners for n, p and c each. Raises `ValueError` without one where
        `die_to_die` is not zero. The swing is held by a reference and stays.
        """
        n, p = environment.corner_point()
        c = environment.capacitor
        if not environment.is_none("die_to_die"):
            if key is None:
                raise ValueError(
                    "Argument `key` must be given to draw a die, as `die_to_die` is"
                    f" {environment.die_to_die}."
                )
            shift = environment.die_to_die * jr.normal(stream(key, "die"), (3,))
            n, p, c = n + shift[0], p + shift[1], c + shift[2]
        a, speed = self.operating, (n + p) / 2
        T = environment.temperature_K
        T = self.temperature_K if T is None else T
        dT, dV = T - self.temperature_K, environment.supply - 1

        def moved(what):
            corner = a[f"{what}_corner"] * speed - a["capacitor_corner"] * c
            drift = 1 + a[f"{what}_per_K"] * dT
            return (
                (1 + a["trim_residue"] * corner)
                * drift
                * (1 + a[f"{what}_per_supply"] * dV)
            )

        exponent = a["leakage_corner"] * speed + dT / a["leakage_e_fold_K"]
        exp = math.exp if isinstance(exponent, int | float) else jnp.exp
        return dataclasses.replace(
            self,
            supply_V=self.supply_V * environment.supply,
            temperature_K=T,
            thermal_noise=self.thermal_noise * environment.thermal,
            shot_noise=self.shot_noise * environment.shot,
            node_leakage_S=self.node_leakage_S * exp(exponent),
            matching={k: v * environment.mismatch for k, v in self.matching.items()},
            rate=self.rate * moved("current"),
            ring_rate=self.ring_rate * moved("ring"),
            capacitance=self.capacitance * (1 + a["capacitor_corner"] * c),
            converter_bow_LSB=environment.converter_bow_LSB,
            decision_taus=environment.decision_taus,
            substrate=environment.substrate,
            droop_V=environment.droop_V,
        )

    def traced(self) -> "Process":
        """The numbers that `at` moves as arrays: one compilation for all points."""
        floats = lambda x: jnp.asarray(x, jnp.float32)
        return eqx.tree_at(
            lambda p: [getattr(p, name) for name in (*AT, *MOVED)] + [p.matching],
            self,
            replace_fn=lambda x: jax.tree.map(floats, x),
        )

    def noiseless(self) -> "Process":
        """The same process without temporal noise."""
        return eqx.tree_at(lambda p: (p.thermal_noise, p.shot_noise), self, (0.0, 0.0))

    def matched(self) -> "Process":
        """The same process without mismatch."""
        return eqx.tree_at(
            lambda p: p.matching, self, dict.fromkeys(self.matching, 0.0)
        )


# What the tables [operating] and [ageing] of a card hold.
OPERATING = {
    "gm_per_I",
    *(f"{what}_{by}" for what in ("current", "ring") for by in ("corner", "per_K")),
    "current_per_supply",
    "ring_per_supply",
    "trim_residue",
    "capacitor_corner",
    "leakage_corner",
    "leakage_e_fold_K",
    "supply_rejection",
}
# What the table [drawn] may hold: causes of supply charge that cells are drawn for.
DRAWN = {"comparators", "array", "tables"}
AGEING = {"threshold_V", "current", "ring_frequency", "capacitor", "exponent", "spread"}

# Numbers of a card that `Process.at` moves, and those that are nominal in every card.
AT = ("supply_V", "temperature_K", "thermal_noise", "shot_noise", "node_leakage_S")
MOVED = (
    *("rate", "ring_rate", "capacitance"),
    *("converter_bow_LSB", "decision_taus", "substrate", "droop_V"),
)
TABLES = ("matching", "operating", "ageing", "environment", "drawn")


def default_environment(process: Process) -> Environment:
    """The full default environment of a node: every amount its card states."""
    return Environment().replace(**process.environment)


def load_process(name_or_path: str | Path) -> Process:
    """Read a process from `configs/processes/` by name, or from a TOML file.

    Each number is a table with `value` and `source`. Raises `ValueError` for a file
    that is not TOML and a number that is unknown, missing, negative or without source.
    """
    path = find_config("processes", name_or_path)
    tables = read_described(path)
    groups = {name: tables.pop(name, {}) for name in TABLES}
    for name, group in groups.items():
        if not isinstance(group, dict):
            raise ValueError(f"{path}: `{name}` must be a table, but is {group!r}.")
    known = set(Process.__dataclass_fields__) - {*TABLES, *MOVED}
    known -= {"name", "sources", "shot_noise"}
    for key in sorted(known ^ set(tables)):
        problem = "is missing" if key in known else "is not known"
        raise ValueError(
            f"{path} must hold exactly {sorted(known)}, [matching], [operating],"
            f" [ageing], [environment] and, where cells were drawn, [drawn], but"
            f" `{key}` {problem}."
        )
    for name, needed in (("operating", OPERATING), ("ageing", AGEING)):
        for key in sorted(needed ^ set(groups[name])):
            problem = "is missing" if key in needed else "is not known"
            raise ValueError(
                f"{path}: [{name}] must hold exactly {sorted(needed)}, but `{key}`"
                f" {problem}."
            )
    for key in sorted(set(groups["drawn"]) - DRAWN):
        raise ValueError(
            f"{path}: [drawn] must hold causes of supply charge, {sorted(DRAWN)}, but"
            f" `{key}` is none."
        )
    for key in sorted(set(groups["environment"]) - set(AMOUNTS)):
        raise ValueError(
            f"{path}: [environment] must hold amounts of an environment,"
            f" {sorted(AMOUNTS)}, but `{key}` is none."
        )
    values, sources = {}, {}
    rows = dict(tables)
    excess = _excess(path, rows["amplifier_excess"])
    for name, group in groups.items():
        rows |= {f"{name}.{key}": row for key, row in group.items()}
    for key, row in rows.items():
        if not isinstance(row, dict) or not row.get("source"):
            raise ValueError(f"{path}: `{key}` must have a `source`, but has none.")
        if type(row.get("value")) not in (int, float):
            raise ValueError(
                f"{path}: `{key}` must have a numeric `value`, but it is"
                f" {row.get('value')!r}."
            )
        values[key], sources[key] = float(row["value"]), row["source"]
    process = Process(
        name=path.stem,
        sources=sources,
        shot_noise=values["thermal_noise"],
        **{
            name: {key: values[f"{name}.{key}"] for key in group}
            for name, group in groups.items()
        },
        **{key: values[key] for key in known - {"amplifier_excess"}},
        amplifier_excess=excess,
    )
    try:
        default_environment(process)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return process


def _excess(path: Path, row: dict) -> Excess:
    """The three numbers of a row with `low`, `value` and `high`."""
    found = []
    for key in _EXCESS:
        value = row.get(key) if isinstance(row, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(
                f"{path}: `amplifier_excess` must have a numeric `{key}`, but it is"
                f" {value!r}."
            )
        found.append(float(value))
    return Excess(*found)


_EXCESS = ("low", "value", "high")
