"""Dependence: on which numbers of the process the outputs of a circuit depend."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from physnn.circuit import AbstractCircuit, run
from physnn.noise import is_zero
from physnn.process import Process
from physnn.sites import TRIAL, children_of, shape_of


def read_by(
    circuit: AbstractCircuit, process: Process, numbers: Sequence[str]
) -> frozenset[str]:
    """Which of these `numbers` of `process` its outputs depend on, not through a part.

    Traced on shapes alone, its parts held at a process that does not move. What is none
    is no tracer there, so that nothing seems to depend on it.
    """
    names = tuple(n for n in numbers if not is_zero(getattr(process, n)))
    # All environments share what is remembered: only what is none matters.
    process = _with_numbers(process.matched(), names, [1.0] * len(names))
    leaves, tree = jax.tree.flatten((circuit, process))
    return _depends(tree, tuple(map(shape_of, leaves)), names)


@cache
def _depends(tree, leaves: tuple, names: tuple[str, ...]) -> frozenset[str]:
    # Remembered by shapes: a model has the same circuits many times.
    is_shape = lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct)

    def trial(numbers, arrays, xs):
        given = iter(arrays)
        filled = [next(given) if is_shape(leaf) else leaf for leaf in leaves]
        circuit, process = jax.tree.unflatten(tree, filled)
        moved = _with_numbers(process, names, numbers)
        return run(_parts_held(circuit, process), xs, process=moved, key=jr.key(0))

    floats = lambda *axes: jax.ShapeDtypeStruct(axes, jnp.float32)
    n_in = jax.tree.unflatten(tree, leaves)[0].n_in
    numbers, xs = [floats() for _ in names], floats(*TRIAL, n_in)
    arrays = [leaf for leaf in leaves if is_shape(leaf)]
    jaxpr = jax.make_jaxpr(trial)(numbers, arrays, xs).jaxpr
    # Which of the numbers each variable of the trace comes from.
    of = {var: frozenset([n]) for var, n in zip(jaxpr.invars, names, strict=False)}
    none = frozenset()
    come_from = lambda v: none if hasattr(v, "val") else of.get(v, none)
    for equation in jaxpr.eqns:
        inputs = frozenset().union(*(come_from(v) for v in equation.invars))
        for var in equation.outvars:
            of[var] = inputs
    return frozenset().union(*(come_from(v) for v in jaxpr.outvars))


def _with_numbers(process: Process, names, values) -> Process:
    return eqx.tree_at(lambda p: [getattr(p, n) for n in names], process, values)


def _parts_held(circuit: AbstractCircuit, process: Process) -> AbstractCircuit:
    parts = {id(part) for _, part in children_of(circuit)}
    held = lambda node: _Held(node, process) if id(node) in parts else node
    return jax.tree.map(held, circuit, is_leaf=lambda node: id(node) in parts)


class _Held(AbstractCircuit):
    """A part that runs on a process of its own, whatever it is given."""

    circuit: Any
    process: Process
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, circuit: AbstractCircuit, process: Process):
        self.circuit, self.process = circuit, process
        self.n_in, self.n_out = circuit.n_in, circuit.n_out

    def __getattr__(self, name: str):
        if name in ("circuit", "process") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.circuit, name)

    def init_state(self, batch_shape=()):
        return self.circuit.init_state(batch_shape)

    def apply(self, x, *, process, key):
        del process
        return self.circuit.apply(x, process=self.process, key=key)

    def step(self, state, x, *, process, key):
        del process
        return self.circuit.step(state, x, process=self.process, key=key)

    def scan(self, state, xs, *, process, key):
        del process
        return self.circuit.scan(state, xs, process=self.process, key=key)

    def events(self, process, *, period_s):
        return self.circuit.events(process, period_s=period_s)

    def netlist(self, process, *, name):
        return self.circuit.netlist(process, name=name)
