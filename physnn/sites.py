"""Sites: banks whose devices may move while a chip runs, found by trial."""

import dataclasses
from collections.abc import Iterator
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
from jaxtyping import PyTree

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit, run
from physnn.fabricate import has_roms, is_bank
from physnn.lines import ChargeLines
from physnn.process import Process

# Kinds of which a bank of one axis is one device for each channel.
EACH = ("current", "ring_frequency")
# A trial runs so many tokens of so many sequences, on shapes alone.
TRIAL = (3, 2)


@dataclasses.dataclass(frozen=True)
class Site:
    """A bank, its place among the leaves of a model, and what it is there.

    `is_output`: it offsets the columns of a matrix.
    """

    path: str
    leaf: int
    bank: Bank
    is_output: bool


def circuits_of(model: PyTree) -> Iterator[tuple[str, AbstractCircuit]]:
    """Every circuit in a model by its path, those inside another as well.

    So are those that it makes of its own arrays (`physnn.fabricate.has_roms`).
    """
    if isinstance(model, AbstractCircuit):
        yield "", model
    if has_roms(model):
        roms: Any = model
        yield from roms.roms().items()
    for path, node in children_of(model):
        for below, circuit in circuits_of(node):
            yield path + below, circuit


def children_of(model: PyTree) -> list[tuple[str, Any]]:
    """The outermost circuits, or models that make some, inside another."""
    is_inner = lambda node: (
        node is not model and (isinstance(node, AbstractCircuit) or has_roms(node))
    )
    leaves = jtu.tree_leaves_with_path(model, is_leaf=is_inner)
    return [(jtu.keystr(path), node) for path, node in leaves if is_inner(node)]


def own_banks(circuit: AbstractCircuit) -> dict[str, Bank]:
    """Banks of a circuit that are in none of its parts."""
    inner = lambda node: (
        is_bank(node) or (node is not circuit and isinstance(node, AbstractCircuit))
    )
    leaves = jtu.tree_leaves_with_path(circuit, is_leaf=inner)
    return {jtu.keystr(path): node for path, node in leaves if is_bank(node)}


def sites_of(model: PyTree, process: Process) -> list[Site]:
    """Banks that take an error of their own for every token and sequence.

    One device for each channel, in a circuit that still runs, and gives as many
    outputs, when the error has the axes of its inputs. Tried, on shapes alone.
    """
    owners = {}
    for path, circuit in circuits_of(model):
        for name, bank in own_banks(circuit).items():
            owners[path + name] = (circuit, name, bank)
    found, leaves = [], jtu.tree_leaves_with_path(model, is_leaf=is_bank)
    for place, (path, bank) in enumerate(leaves):
        name = jtu.keystr(path)
        if name not in owners:
            continue
        circuit, own, _ = owners[name]
        each = bank.kind in EACH and bank.value.ndim == 1
        may = each or bank.kind == "threshold"
        if may and _takes_time(circuit, own, process):
            others = own_banks(circuit).values()
            is_output = bank.kind == "threshold" and any(
                isinstance(b.lines, ChargeLines)
                and b.value.shape[-1:] == bank.value.shape
                for b in others
            )
            found.append(Site(name, place, bank, is_output))
    return found


def _takes_time(circuit: AbstractCircuit, name: str, process: Process) -> bool:
    """Whether the bank called `name` of a circuit may have an error for every token."""
    shape = own_banks(circuit)[name].value.shape
    leaves, tree = jax.tree.flatten((circuit, process))
    return _trial(tree, tuple(map(shape_of, leaves)), name, (*TRIAL, *shape))


def shape_of(leaf):
    """A leaf, of an array its shape alone."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf


@cache
def _trial(tree, leaves: tuple, name: str, shape: tuple[int, ...]) -> bool:
    # Remembered by shapes: a model has the same circuits many times.
    def trial(circuit, process, xs, moving):
        def move(path, node):
            if jtu.keystr(path) != name:
                return node
            return dataclasses.replace(node, error=moving)

        moved = jtu.tree_map_with_path(move, circuit, is_leaf=is_bank)
        return run(moved, xs, process=process, key=jr.key(0))

    circuit, process = jax.tree.unflatten(tree, leaves)
    floats = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)
    xs, moving = floats(*TRIAL, circuit.n_in), floats(*shape)
    try:
        ys = eqx.filter_eval_shape(trial, circuit, process, xs, moving)
    except (TypeError, ValueError, IndexError, AssertionError):
        return False
    return ys.shape == (*TRIAL, circuit.n_out)
