"""Lookup tables as logic: what of them is gates and registers on chip."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from physnn.export.logic import Logic, Tables
from physnn.process import Process


def on_bits(function: Callable, *parts, process: Process) -> Callable:
    """`function(*parts, xs, process=…, key=…)` of signals, on bits and without noise.

    Takes bits `(time, n_in)`, gives bits `(time, n_out)`: 1 where a signal is high.
    """

    @eqx.filter_jit
    def quiet(parts, xs):
        return function(*parts, xs, process=process.noiseless(), key=jr.key(0))

    def model(bits: np.ndarray) -> np.ndarray:
        xs = 2 * jnp.asarray(bits, jnp.float32) - 1
        return (np.asarray(quiet(parts, xs)) > 0).astype(np.uint8)

    return model


def state_logic(
    bits: np.ndarray, wires: np.ndarray, *, n_in: int, node_F: float, model: Callable
) -> Logic:
    """State bits: a table each, whose last pin is the register it writes."""
    n = len(bits)
    own = n_in + np.arange(n)
    tables = Tables(bits, np.concatenate([wires, own[:, None]], axis=1), node_F)
    written = tuple(range(n_in + n, n_in + 2 * n))
    return Logic(n_in, (tables,), written, model, registers=written)


def reading_logic(state: Logic, reader: Logic, model: Callable) -> Logic:
    """Tables that read what registers take over, and behind it the inputs again."""
    known = state.n_in + len(state.registers) + state.n_tables
    seen = np.concatenate([np.asarray(state.registers), np.arange(state.n_in)])
    (tables,) = reader.layers
    layer = Tables(tables.bits, seen[tables.wires], tables.node_F)
    outputs = tuple(range(known, known + reader.n_tables))
    return Logic(
        state.n_in, (*state.layers, layer), outputs, model, registers=state.registers
    )
