"""deploy: a chip of a design in an environment, and which sources act on it."""

from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Key, PyTree

from physnn.circuit import AbstractCircuit, run
from physnn.disturbance import TEMPORAL, disturbed, per_meter, supply_coupling
from physnn.environment import AMOUNTS, Environment
from physnn.fabricate import banks_of, contributions, fabricate, has_stored
from physnn.noise import is_zero
from physnn.process import Process
from physnn.sites import TRIAL, children_of, circuits_of, own_banks, sites_of
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
) -> Deployed:
    """One chip of `design` in `environment`: what runs, and the process it runs on.

        chip, there = deploy(model, process, environment, key=key, period_s=1e-6)
        logits = chip.logits(tokens, process=there, key=noise_key)

    `Process.at` moves the process to the operating point of this die, `fabricate`
    freezes what differs from chip to chip, `disturbed` puts around it the temporal
    sources that have a memory. All three use `key`, in streams of their own. Works
    under `jit` and under `vmap` over keys or over traced amounts. It does not look
    whether each source can act: `active_sources` does.
    """
    there = process.at(environment, key=key)
    chip = fabricate(design, there, key=key, environment=environment)
    return Deployed(disturbed(chip, there, environment, period_s=period_s), there)


@dataclass(frozen=True)
class Source:
    """One source of an environment, and what it does to a model.

    `acts_on`: parts that it moves, by path; `deaf`: parts that it does not reach.
    """

    name: str
    value: float | str
    unit: str
    acts_on: tuple[str, ...]
    deaf: tuple[str, ...]

    def __str__(self):
        value = self.value if isinstance(self.value, str) else f"{self.value:.3g}"
        total = len(self.acts_on) + len(self.deaf)
        return f"{self.name} = {value} {self.unit}: {len(self.acts_on)} of {total}"


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
    reads = {path: _reads(circuit, there) for path, circuit in parts.items()}
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
    value = getattr(environment, name)
    if not isinstance(value, int | float | str):
        value = "traced"
    unit = Environment.unit_of(name)
    acts = tuple(dict.fromkeys(acts))
    deaf = tuple(part for part in parts if part not in acts)
    return Source(name, value, unit, acts, deaf)


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
    amounts = {n for _, names in VARIATIONS.values() for n in names} | set(FAULTS)
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
        acts = {
            "flicker_V2m2": per_meter,
            "ripple_V": supply_coupling,
            "supply_noise_V": supply_coupling,
            "output_noise": lambda s, _: 1.0 if s.is_output else 0.0,
        }
        for name in found:
            moved = acts[name](site, process)
            if not isinstance(moved, int | float) or moved != 0:
                found[name].append(owner[site.path])
    return found


NUMBERS = sorted({number for moved in POINTS.values() for number in moved})
NUMBERS = (*NUMBERS, "temperature_K")


def _reads(circuit: AbstractCircuit, process: Process) -> set[str]:
    """Numbers of the process on which the outputs depend, not through a part."""
    whole = _depends(circuit, process)
    for _, part in children_of(circuit):
        whole = whole - _depends(part, process)
    return whole


def _depends(circuit: AbstractCircuit, process: Process) -> set[str]:
    # What is none there is no tracer, so that nothing seems to depend on it.
    names = [name for name in NUMBERS if not is_zero(getattr(process, name))]
    get = lambda p: [getattr(p, name) for name in names]
    arrays, rest = eqx.partition(circuit, eqx.is_array)

    def trial(numbers, arrays, xs):
        moved = eqx.tree_at(get, process, numbers)
        circuit = eqx.combine(arrays, rest)
        return run(circuit, xs, process=moved, key=jr.key(0))

    floats = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)
    numbers, xs = [floats() for _ in names], floats(*TRIAL, circuit.n_in)
    jaxpr = jax.make_jaxpr(trial)(numbers, arrays, xs).jaxpr
    # Which of the numbers each variable of the trace comes from.
    of = {var: frozenset([n]) for var, n in zip(jaxpr.invars, names, strict=False)}
    none = frozenset()
    come_from = lambda v: none if hasattr(v, "val") else of.get(v, none)
    for equation in jaxpr.eqns:
        inputs = frozenset().union(*(come_from(v) for v in equation.invars))
        for var in equation.outvars:
            of[var] = inputs
    return set(frozenset().union(*(come_from(v) for v in jaxpr.outvars)))
