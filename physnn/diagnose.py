"""diagnose: what the circuits of a network say about their own operation."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
from jaxtyping import Array, Key, PyTree

from physnn.circuit import AbstractCircuit
from physnn.export.selection import circuits_of
from physnn.keys import stream
from physnn.process import Process


def diagnose(
    model: PyTree,
    run: Callable[[PyTree], object],
    *,
    process: Process,
    key: Key[Array, ""],
) -> dict[str, dict[str, float]]:
    """`{path: {figure: value}}` of every circuit in `model` that has figures to show.

    `run` runs the model on whatever it should be looked at with, by `scan` or `apply`
    (`lambda model: model.logits(tokens, ...)`); each circuit is asked at the inputs it
    then sees. Of circuits inside each other, the outermost answers.
    """

    @eqx.filter_jit
    def measure(model):
        seen = {}
        run(_tapped(model, seen))
        return {
            path: circuit.diagnose(xs, process=process, key=stream(key, path))
            for path, (circuit, xs) in seen.items()
        }

    figures = jax.device_get(measure(model))
    return {
        path: {name: float(value) for name, value in row.items()}
        for path, row in figures.items()
        if row  # of some a config leaves out all that there is to show
    }


class _Tap(eqx.Module):
    """Stands for a circuit and keeps what it is given."""

    circuit: Any
    path: str = eqx.field(static=True)
    seen: dict = eqx.field(static=True)

    def scan(self, state, xs, *, process, key):
        self.seen[self.path] = (self.circuit, xs)
        return self.circuit.scan(state, xs, process=process, key=key)

    def apply(self, x, *, process, key):
        self.seen[self.path] = (self.circuit, x)
        return self.circuit.apply(x, process=process, key=key)

    def __getattr__(self, name):
        return getattr(self.circuit, name)


def _tapped(model: PyTree, seen: dict) -> PyTree:
    has_figures = lambda node: (
        isinstance(node, AbstractCircuit)
        and type(node).diagnose is not AbstractCircuit.diagnose
    )
    tap = lambda path, node: (
        _Tap(node, jtu.keystr(path).lstrip("."), seen) if has_figures(node) else node
    )
    return jtu.tree_map_with_path(tap, model, is_leaf=has_figures)


def limits_of(model: PyTree) -> dict[str, tuple[float, float]]:
    """The limits of all figures that circuits in `model` have, by name."""
    return {
        name: span
        for _, circuit in circuits_of(model)
        for name, span in circuit.limits.items()
    }


def judged(
    figures: Mapping[str, float], limits: Mapping[str, tuple[float, float]]
) -> str:
    """A line for each figure, with its limits and whether it keeps them."""
    lines = []
    for name, value in figures.items():
        low, high = limits.get(name, (-math.inf, math.inf))
        span = f"{low:g} to {high:g}" if name in limits else ""
        verdict = "" if low <= value <= high else "OUTSIDE"
        lines.append(f"{name:32}{value:9.3g}  {span:12} {verdict}".rstrip())
    return "\n".join(lines)
