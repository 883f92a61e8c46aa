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
    VARIATIONS,
    faults,
    floor_plan,
    no_faults,
    stuck_values,
)
from physnn.variation import device_sigma as device_sigma

Design = TypeVar("Design")


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
    environment has moved with `process.at(environment)`; of `environment` come all
    other amounts. None is the nominal one, with mismatch alone. With every amount at
    none the chip *is* the design.

    Banks draw from streams named by their path and sources from streams of their own,
    so a new bank or a new source reseeds no other. A chip of a chip is another chip of
    the design. Works under `vmap` over keys, and on traced amounts.
    """
    environment = environment or Environment()
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

    def damage(path, node):
        if not has_stored(node):
            return node
        values, full_scale = node.stored()
        is_stuck, stuck = stuck_values(
            values.shape,
            full_scale,
            environment=environment,
            key=stream(stream(key, "faults"), jtu.keystr(path)),
        )
        return node.with_stored(jnp.where(is_stuck, stuck, values))

    return jtu.tree_map_with_path(damage, chip, is_leaf=has_stored)


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
    return isinstance(node, AbstractCircuit) and node.stored() is not None


def is_bank(node) -> bool:
    return isinstance(node, Bank)


def banks_of(design: PyTree) -> dict[str, Bank]:
    """Every bank of a design by its path."""
    leaves = jtu.tree_leaves_with_path(design, is_leaf=is_bank)
    return {jtu.keystr(path): leaf for path, leaf in leaves if is_bank(leaf)}
