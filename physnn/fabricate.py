"""fabricate: one chip from a design, with its frozen errors."""

import dataclasses
from collections.abc import Iterator
from typing import TypeVar

import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Key, PyTree

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit
from physnn.environment import Environment
from physnn.keys import stream
from physnn.process import Process
from physnn.variation import (
    COMMON,
    FAULTS,
    VARIATIONS,
    faults,
    floor_plan,
    no_faults,
    stuck_values,
)
from physnn.variation import device_sigma as device_sigma

Design = TypeVar("Design")

# Amounts that are frozen into a chip; its mismatch is that of the process.
FROZEN = (*(n for _, ns in VARIATIONS.values() for n in ns if n != "mismatch"), *FAULTS)
# Of what acts in time: they say when, not how much.
_WHEN = ("ripple_Hz", "flicker_low_Hz")


def fabricate(
    design: Design,
    process: Process,
    *,
    key: Key[Array, ""],
    environment: Environment | None = None,
) -> Design:
    """Draw one chip: every bank gets its own frozen device errors.

    The errors of `physnn.variation` are drawn from independent streams and add up;
    then faulty devices let go of their value. Mismatch is that of `process`, which an
    environment has moved with `process.at(environment)`; of `environment` come the
    amounts in `FROZEN`. None is the nominal one, with mismatch alone. With every amount
    at none the chip *is* the design.

    Raises `ValueError` for an environment with another amount, as a plain number that
    is not nominal: it acts through `Process.at` or in time, and here it would be lost.
    `deploy` does all three, `frozen` leaves the others out.

    Banks draw from streams named by their path and sources from streams of their own,
    so a new bank or a new source reseeds no other. A chip of a chip is another chip of
    the design. Works under `vmap` over keys, and on traced amounts.
    """
    environment = environment or Environment()
    _check_frozen(environment)
    paths = banks_of(design)
    places = dict(zip(paths, floor_plan([*paths.values()]), strict=True))

    def draw(path, bank):
        if not isinstance(bank, Bank):
            return bank
        name = jtu.keystr(path)
        error = None
        sources = {"process": process, "environment": environment}
        for _, each in contributions(bank, name, places[name], key=key, **sources):
            error = each if error is None else error + each
        fault = faults(
            bank, environment=environment, key=stream(stream(key, "faults"), name)
        )
        follow = None
        if fault is not None:
            follow, stuck = fault
            error = stuck if error is None else follow * error + stuck
        if error is None and bank.error is None and bank.follow is None:
            return bank
        return dataclasses.replace(bank, error=error, follow=follow)

    chip = jtu.tree_map_with_path(draw, design, is_leaf=is_bank)
    if no_faults(environment):
        return chip
    return _damaged(chip, "", environment, stream(key, "faults"))


def _damaged(node, path: str, environment: Environment, key: Key[Array, ""]):
    """`node` with faults in all that it and its parts store outside of banks."""
    stops = lambda n: n is not node and (has_stored(n) or has_roms(n))
    inside = lambda below, n: (
        _damaged(n, path + jtu.keystr(below), environment, key) if stops(n) else n
    )
    whole = jtu.tree_map_with_path(inside, node, is_leaf=stops)
    if has_stored(whole):
        return _stuck(whole, path, environment, key)
    if has_roms(whole):
        roms = whole.roms().items()
        return whole.with_roms(
            {name: _stuck(rom, path + name, environment, key) for name, rom in roms}
        )
    return whole


def _stuck(circuit, path: str, environment: Environment, key: Key[Array, ""]):
    values, full_scale = circuit.stored()
    is_stuck, stuck = stuck_values(
        values.shape, full_scale, environment=environment, key=stream(key, path)
    )
    return circuit.with_stored(jnp.where(is_stuck, stuck, values))


def frozen(environment: Environment) -> Environment:
    """What `fabricate` takes of an environment, all else nominal."""
    return Environment().replace(**{n: getattr(environment, n) for n in FROZEN})


def _check_frozen(environment: Environment) -> None:
    nominal = Environment()
    for name, value in vars(environment).items():
        plain = value is None or isinstance(value, int | float | str)
        if plain and name not in (*FROZEN, *_WHEN) and value != getattr(nominal, name):
            raise ValueError(
                "Argument `environment` of `fabricate` must hold what is frozen into a"
                f" chip, but also has `{name}` = {value}, which acts through"
                " `Process.at` or in time: use `deploy`, or `frozen(environment)`."
            )


def contributions(bank, name, place, *, process, environment, key) -> Iterator[tuple]:
    """`(source, error)` of every source that acts on the bank called `name`."""
    for source, (function, _) in VARIATIONS.items():
        # Mismatch came first, and keeps the streams it had alone.
        own = key if source == "mismatch" else stream(key, source)
        drawn = stream(own, bank.kind if source in COMMON else name)
        error = function(
            bank, process=process, environment=environment, key=drawn, place=place
        )
        if error is not None:
            yield source, error


def has_stored(node) -> bool:
    """Whether a node of a design is a circuit with stored values in no bank."""
    own = isinstance(node, AbstractCircuit) and type(node).stored
    return bool(own) and own is not AbstractCircuit.stored


def has_roms(node) -> bool:
    """Whether a model makes circuits of arrays of its own, and takes them back.

    `roms()` gives them by the path of their array, `with_roms` takes them: what a model
    stores at a path of its own is drawn and reported as any circuit is.
    """
    # Of the class: a model around another passes its attributes on.
    return hasattr(type(node), "roms")


def is_bank(node) -> bool:
    return isinstance(node, Bank)


def banks_of(design: PyTree) -> dict[str, Bank]:
    """Every bank of a design by its path."""
    leaves = jtu.tree_leaves_with_path(design, is_leaf=is_bank)
    return {jtu.keystr(path): leaf for path, leaf in leaves if is_bank(leaf)}
