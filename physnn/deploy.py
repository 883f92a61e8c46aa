"""deploy: a chip of a design in an environment, and which sources act on it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import equinox as eqx
import jax
import jax.random as jr
from jaxtyping import Array, Key, PyTree

from physnn.dependence import read_by
from physnn.disturbance import TEMPORAL, disturbed, per_meter, supply_coupling
from physnn.environment import AMOUNTS, Environment
from physnn.fabricate import banks_of, contributions, fabricate, frozen, has_stored
from physnn.process import Process
from physnn.sites import circuits_of, own_banks, shape_of, sites_of
from physnn.variation import FAULTS, VARIATIONS, faults, floor_plan


class Deployed(NamedTuple):
    """A chip and the process, at its operating point, that it is to be run on."""

    chip: PyTree
    process: Process


def deploy(
    design: PyTree,
    process: Process,
    environment: Environment,
    *,
    key: Key[Array, ""],
    period_s: float,
    strict: bool = True,
) -> Deployed:
    """One chip of `design` in `environment`: what runs, and the process it runs on.

        chip, there = deploy(model, process, environment, key=key, period_s=1e-6)
        logits = chip.logits(tokens, process=there, key=noise_key)

    `Process.at` moves the process to the operating point of this die, `fabricate`
    freezes what differs from chip to chip, `disturbed` puts around it the temporal
    sources that have a memory. All three use `key`, in streams of their own. Works
    under `jit` and under `vmap` over keys or over traced amounts.

    Raises `ValueError` for a source that no part can honor, unless not `strict`. That
    asks `active_sources`, seconds for a model of four layers, and is remembered for the
    same shapes, process and environment. Only plain numbers are asked about: an amount
    that is an array, traced or not, has been asked about by whoever made it. Not
    `strict` suits sweeps over many environments.
    """
    if strict:
        _check_honored(design, process, environment)
    there = process.at(environment, key=key)
    chip = fabricate(design, there, key=key, environment=frozen(environment))
    return Deployed(disturbed(chip, there, environment, period_s=period_s), there)


def _check_honored(design, process, environment) -> None:
    is_array = lambda value: value is not None and not isinstance(value, _PLAIN)
    arrays = [name for name, value in vars(environment).items() if is_array(value)]
    asked = environment.replace(**{name: _none_of(name) for name in arrays})
    if asked == Environment():
        return
    # What of the process is an array depends on nothing here but on being some number.
    process = jax.tree.map(lambda leaf: 1.0 if is_array(leaf) else leaf, process)
    leaves, tree = jax.tree.flatten((design, process, asked))
    _honors(tree, tuple(map(shape_of, leaves)))


_PLAIN = (int, float, str)


@cache
def _honors(tree, leaves: tuple) -> None:
    # Remembered by shapes: chips of a design differ by keys alone.
    active_sources(*jax.tree.unflatten(tree, leaves))


@dataclass(frozen=True)
class Source:
    """One source of an environment, and what it does to a model.

    `acts_on`: parts that it moves, by path; `deaf`: parts that it does not reach.
    `frequency`: of one that has one, its name and its value [Hz].
    """

    name: str
    value: float | str
    unit: str
    acts_on: tuple[str, ...]
    deaf: tuple[str, ...]
    frequency: tuple[str, float | str] | None = None

    def __str__(self):
        text = lambda value: value if isinstance(value, str) else f"{value:.3g}"
        amount = f"{self.name} = {text(self.value)} {self.unit}"
        if self.frequency is not None:
            name, value = self.frequency
            amount += f" {'from' if 'low' in name else 'at'} {text(value)} Hz"
        total = len(self.acts_on) + len(self.deaf)
        return f"{amount}: {len(self.acts_on)} of {total}"


# Which frequency goes with an amount.
FREQUENCIES = {"ripple_V": "ripple_Hz", "flicker_V2m2": "flicker_low_Hz"}


def active_sources(
    design: PyTree, process: Process, environment: Environment, *, strict: bool = True
) -> tuple[Source, ...]:
    """Every amount of `environment` that is not none, and the parts it acts on.

    Not a table of what should be: each source is put into each part, on shapes alone,
    and acts where the outputs depend on it. An operating point acts on a part whose
    outputs depend on a number that it moves. Traced amounts count as not none and are
    reported by name alone.

    Raises `ValueError` for a source that no part can honor, unless not `strict`.
    """
    found, parts = [], dict(circuits_of(design))
    there = process.at(environment.replace(die_to_die=0.0))
    reads = {p: read_by(part, there, NUMBERS) for p, part in parts.items()}
    for name, moved in _points(environment).items():
        acts = [path for path in parts if reads[path] & moved]
        found.append(_source(name, environment, acts, parts))
    banks = _bank_sources(design, process, environment)
    temporal = _temporal_sources(design, process, environment)
    owners = [p for p, part in parts.items() if own_banks(part) or has_stored(part)]
    for name, acts in (banks | temporal).items():
        found.append(_source(name, environment, acts, owners))
    for each in found:
        if strict and _is_lost(each):
            raise ValueError(
                f"Every source must act on a part of the model, but `{each.name}` ="
                f" {each.value} acts on none of its {len(each.deaf)}: set it to none"
                f" ({_none_of(each.name)}), or take a model that has such parts."
            )
    return tuple(found)


def honored(
    design: PyTree, process: Process, environment: Environment
) -> tuple[Environment, tuple[str, ...]]:
    """`environment` with what no part can honor at none, and the names of that.

    For a default environment, made for all models, on one of them. Whoever reports a
    result reports the names.
    """
    sources = active_sources(design, process, environment, strict=False)
    names = tuple(each.name for each in sources if _is_lost(each))
    left_out = {name: _none_of(name) for name in names}
    return environment.replace(**left_out), names


def _is_lost(source: Source) -> bool:
    # As the process states them: asked for by nobody, and in every environment.
    nominal = source.name in ("thermal", "shot", "mismatch") and source.value == 1
    return not source.acts_on and not nominal


def _none_of(name: str):
    others = {"corner": "tt", "temperature_K": None}
    return others[name] if name in others else AMOUNTS[name].none


def _source(name, environment, acts, parts) -> Source:
    def value(name):
        plain = getattr(environment, name)
        return plain if isinstance(plain, int | float | str) else "traced"

    unit = Environment.unit_of(name)
    acts = tuple(dict.fromkeys(acts))
    deaf = tuple(part for part in parts if part not in acts)
    of = FREQUENCIES.get(name)
    frequency = (of, value(of)) if of else None
    return Source(name, value(name), unit, acts, deaf, frequency)


_RATES = {"rate", "ring_rate"}
# Numbers of a process that an amount moves.
POINTS = {
    "nmos": {*_RATES, "node_leakage_S"},
    "pmos": {*_RATES, "node_leakage_S"},
    "capacitor": {*_RATES, "capacitance"},
    "supply": {*_RATES, "supply_V"},
    "thermal": {"thermal_noise"},
    "shot": {"shot_noise"},
    "die_to_die": {*_RATES, "node_leakage_S", "capacitance"},
    "converter_bow_LSB": {"converter_bow_LSB"},
    "decision_taus": {"decision_taus"},
    "substrate": {"substrate"},
    "droop_V": {"droop_V"},
}


def _points(environment: Environment) -> dict[str, set[str]]:
    """Amounts that act through the process, and what they move there."""
    points = {n: moved for n, moved in POINTS.items() if not environment.is_none(n)}
    if environment.corner != "tt":
        points["corner"] = POINTS["nmos"]
    if environment.temperature_K is not None:
        points["temperature_K"] = {*_RATES, "temperature_K", "node_leakage_S"}
    return points


def _bank_sources(design, process, environment) -> dict[str, list[str]]:
    """Frozen sources that are not none, and paths of circuits whose banks they move."""
    # In the order of their tables, so that every report lists them alike.
    amounts = (*(n for _, names in VARIATIONS.values() for n in names), *FAULTS)
    found = {n: [] for n in amounts if not environment.is_none(n)}
    banks = banks_of(design)
    places = dict(zip(banks, floor_plan([*banks.values()]), strict=True))
    for path, circuit in circuits_of(design):
        for name, bank in own_banks(circuit).items():
            drawn = _drawn(bank, path + name, places[path + name], process, environment)
            for source in drawn:
                for amount in VARIATIONS[source][1]:
                    if amount in found:
                        found[amount].append(path)
            fault = eqx.filter_eval_shape(
                lambda b: faults(b, environment=environment, key=jr.key(0)), bank
            )
            for amount in FAULTS if fault is not None else ():
                if amount in found:
                    found[amount].append(path)
        for amount in FAULTS if has_stored(circuit) else ():
            if amount in found:
                found[amount].append(path)
    return found


def _drawn(bank, name, place, process, environment) -> list[str]:
    names = []

    def draw(bank, environment):
        errors = contributions(
            bank,
            name,
            place,
            process=process.at(environment.replace(die_to_die=0.0)),
            environment=environment,
            key=jr.key(0),
        )
        pairs = list(errors)
        names.extend(source for source, _ in pairs)
        return [error for _, error in pairs]

    eqx.filter_eval_shape(draw, bank, environment)
    return names


def _temporal_sources(design, process, environment) -> dict[str, list[str]]:
    """Temporal sources that are not none, and paths of circuits whose sites move."""
    found = {n: [] for n in TEMPORAL if not environment.is_none(n)}
    if not found:
        return {}
    owner = {
        path + name: path
        for path, circuit in circuits_of(design)
        for name in own_banks(circuit)
    }
    for site in sites_of(design, process):
        acts: dict[str, Callable] = {
            "flicker_V2m2": per_meter,
            "ripple_V": supply_coupling,
            "supply_noise_V": supply_coupling,
            "output_noise": lambda s, _: 1.0 if s.is_output else 0.0,
        }
        for name in found:
            moved = eqx.filter_eval_shape(
                lambda bank, act=acts[name], site=site: act(
                    replace(site, bank=bank), process
                ),
                site.bank,
            )
            if not isinstance(moved, int | float) or moved != 0:
                found[name].append(owner[site.path])
    return found


NUMBERS = sorted({number for moved in POINTS.values() for number in moved})
NUMBERS = (*NUMBERS, "temperature_K")
