"""Wind-tunnel ratio: Joules to simulate a design digitally over Joules to run it."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.extend import core

from circuits.memory import HashedMemory
from physnn.energy import Modeled, bill, load_prices
from physnn.energy.events import Event
from physnn.process import Process

# What moves or renames data but computes nothing.
FREE = {
    "broadcast_in_dim",
    "concatenate",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "dynamic_update_slice",
    "gather",
    "iota",
    "optimization_barrier",
    "pad",
    "reshape",
    "rev",
    "slice",
    "split",
    "squeeze",
    "stop_gradient",
    "transpose",
}
# Turns of a loop that ends when it is done: an equilibrium's solve takes about so many.
TURNS = 10
WINDOW = 4096


@dataclass(frozen=True)
class Operations:
    """What a program computes: multiply-accumulates of matrices, and all the rest."""

    macs: int | float = 0
    elementwise: int | float = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.macs + other.macs, self.elementwise + other.elementwise)

    def __mul__(self, times: int | float) -> "Operations":
        return Operations(times * self.macs, times * self.elementwise)


def operations(function: Callable, *args: Any) -> Operations:
    """Operations of one call, by walking its program; loops count their turns."""
    return _of(jax.make_jaxpr(function)(*args).jaxpr)


def _of(jaxpr) -> Operations:
    total = Operations()
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        inner = [
            part
            for value in equation.params.values()
            for part in (value if isinstance(value, tuple | list) else (value,))
            if isinstance(part, core.Jaxpr | core.ClosedJaxpr)
        ]
        if inner:
            times = {"scan": equation.params.get("length"), "while": TURNS}.get(name, 1)
            # The branches of a condition are alternatives: the dearest one counts.
            counted = [_of(getattr(part, "jaxpr", part)) for part in inner]
            if name == "cond":
                counted = [max(counted, key=lambda each: each.macs)]
            if name in ("custom_jvp_call", "custom_vjp_call"):
                counted = counted[:1]
            total += sum(counted, Operations()) * (times or 1)
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            depth = math.prod(shape[axis] for axis in contracted)
            total += Operations(macs=depth * math.prod(out.shape))
        elif name not in FREE:
            sizes = (math.prod(v.aval.shape) for v in equation.invars)
            is_sum = name.startswith(("reduce_", "cum", "arg"))
            total += Operations(
                elementwise=max(sizes, default=0) if is_sum else math.prod(out.shape)
            )
    return total


@dataclass(frozen=True)
class Simulation:
    """A design as a digital chip would have to compute it, a token at a time."""

    done: Operations
    stored: int  # numbers, a byte each
    read: int  # of them, per token

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        del process
        return (
            Event("mac", self.done.macs, "simulation"),
            Event("elementwise", self.done.elementwise, "simulation"),
            Event("weight_byte", self.read, "simulation"),
            Event("stored_bit_s", 8 * self.stored * period_s, "simulation"),
        )


def simulation_energy(
    model: Any, process: Process, *, period_s: float, prices: str = "sram2030"
) -> Modeled:
    """Joules to compute one token (or image) of a physical model on a digital chip."""
    simulation = simulated(model, process)
    spent = bill(simulation, load_prices(prices), process=process, period_s=period_s)
    return spent.total


def simulated(model: Any, process: Process) -> Simulation:
    """One token (or image) of a physical model as a digital chip computes it.

    Without its noise and at the resolution of the price list, which favors the
    simulation: every operation of the noiseless model once, every parameter read as one
    byte, but of tables that are looked up the rows alone. Works on trees of
    `jax.ShapeDtypeStruct`.
    """
    quiet = process.noiseless()
    images = hasattr(model.config, "n_pixels")
    # What is coded or drawn once per chip is shared out among all tokens of a window.
    length = model.config.n_pixels if images else WINDOW
    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    arrays, static = eqx.partition(model, _is_array)

    def run(arrays, tokens):
        whole = eqx.combine(arrays, static)
        return whole.logits(tokens, process=quiet, key=jr.key(0))

    done = operations(run, arrays, tokens) * (1 if images else 1 / length)
    leaves = jax.tree.leaves(eqx.filter(model, _is_inexact))
    stored = sum(leaf.size for leaf in leaves)
    read = stored - sum(whole - row for whole, row in _tables(model))
    return Simulation(done, stored, read)


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def _is_inexact(leaf: Any) -> bool:
    return _is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.inexact)


def _tables(model: Any) -> Iterator[tuple[int, int]]:
    """(size, numbers read per token) of what is looked up by index."""
    embedding = getattr(model, "embedding", None)
    if embedding is not None:
        yield embedding.size, embedding.shape[1]
    is_memory = lambda node: isinstance(node, HashedMemory)
    for node in jax.tree.leaves(model, is_leaf=is_memory):
        if is_memory(node):
            heads, _, row = node.table.shape
            yield node.table.size, heads * row
