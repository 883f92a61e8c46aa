"""Lookup tables: small truth tables that gradients can train, and their soft twins."""

import dataclasses
import math
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from circuits.lookup_bits import TrainedBits
from circuits.lookup_cells import table_netlist
from circuits.lookup_logic import on_bits
from circuits.lookup_read import hadamard, look_up, multilinear
from circuits.lookup_wiring import FixedWiring, LearnedWiring
from circuits.parts import not_negative, positive
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export.logic import Logic, Tables
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.noise import bit_flip_probability, flip_bits
from physnn.process import Process

Model = TypeVar("Model")

# Load of a table's output: a short wire and the gates of the next tables.
BIT_NODE_F = 1e-15
# A pass-through table starts with its bits right at this probability
# (arXiv 2411.04732 starts residual logic gates so).
PASS_THROUGH = 0.951


def check_k(k: int) -> None:
    """Raises `ValueError` unless a table has from 2 to 6 inputs."""
    if not 2 <= k <= 6:
        raise ValueError(f"Argument `k` must be from 2 to 6 inputs, but is {k}.")


def initial_logits(
    n: int, k: int, start: str, *, key: Key[Array, ""]
) -> Float[Array, "n entries"]:
    """Logits of `n` tables that pass their first pin on, or are `"random"`."""
    if start == "random":
        return jr.uniform(key, (n, 2**k), minval=-1.0, maxval=1.0)
    if start != "pass":
        raise ValueError(
            f'Argument `start` must be "pass" or "random", but is {start!r}.'
        )
    size = math.log(PASS_THROUGH / (1 - PASS_THROUGH))
    first = 2.0 * (np.arange(2**k) % 2).astype(np.float32) - 1
    return jnp.broadcast_to(jnp.asarray(size * first), (n, 2**k))


class LookupLayer(TrainedBits, AbstractMemorylessCircuit):
    """Tables of k inputs: each reads the bit that its pins point at.

        x ══[ wiring ]══╤═ pin 0 … k−1 ═[ 2^k bits ]── y_j
                        ╘═      …      ═[ 2^k bits ]── y_j+1

        hard:  y = sgn θ(a),  a = Σ_i 2^i·[pin_i > 0]
        soft:  y = 2·Σ_a σ(θ(a))·Π_i P(pin_i = a_i) − 1,   P(high) = (1 + pin)/2
        y is inverted with probability ½·erfc(margin / √2·σ),  σ² ∝ kT/node_F

    A bit is ± full scale. What runs, in training as on chip, is the hard table; its
    gradient is that of the soft one at the same corner (`look_up`). `soft` evaluates
    the soft table (`softened`).

    Assumes: a table is an array of 2^k stored bits behind a multiplexer tree, read once
    per step; every pin and output switches in each step (an upper bound of the charge).
    Does not model: delay, glitches, leakage of the multiplexers, metastable pins.

    References: Bacellar et al. 2024, "Differentiable weightless neural networks", arXiv
    2410.11112; Petersen et al. 2022, "Deep differentiable logic gate networks", arXiv
    2210.08277.
    """

    wiring: FixedWiring | LearnedWiring
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    blur: float = eqx.field(static=True)
    node_F: float = eqx.field(static=True)
    soft: bool = eqx.field(static=True)

    def wires(self) -> Int[np.ndarray, "n k"]:
        """The input bit that each pin of each table reads on chip."""
        return self.wiring.chosen().reshape(self.k, self.n_out).T

    def apply(self, x, *, process, key):
        pins = self.wiring(x).reshape(*x.shape[:-1], self.k, self.n_out)
        if self.soft:
            p = multilinear(jax.nn.sigmoid(self.logits()), pins, self.k)
            y = 2 * p - 1
        else:
            shift = self.drawn((*x.shape[:-1], self.n_out), x.dtype, key)
            y = look_up(pins, self.logits(), self.blur, shift)
        probability = bit_flip_probability(process, self.node_F)
        return flip_bits(y, probability, stream(key, "flips"))

    def diagnose(self, xs, *, process, key):
        del process, key
        pins = self.wiring(xs).reshape(*xs.shape[:-1], self.k, self.n_out)
        hard = look_up(pins, self.logits(), 0.0)
        p = multilinear(jax.nn.sigmoid(self.logits()), pins, self.k)
        rows = hard.reshape(-1, self.n_out)
        return {
            "soft_hard_distance": jnp.mean(jnp.abs(hard - (2 * p - 1))) / 2,
            "constant_share": jnp.mean(jnp.all(rows == rows[0], axis=0)),
        }

    def events(self, process, *, period_s):
        return table_events(self.n_out, self.k, self.node_F, process, period_s)

    def netlist(self, process, *, name) -> Netlist:
        return table_netlist(
            name,
            truth_tables(self),
            self.wires(),
            n_in=self.n_in,
            process=process,
        )

    def logic(self, process) -> Logic:
        tables = Tables(truth_tables(self), self.wires(), self.node_F)
        outputs = tuple(range(self.n_in, self.n_in + self.n_out))
        model = on_bits(LookupLayer.apply, self, process=process)
        return Logic(self.n_in, (tables,), outputs, model)


def lookup_layer(
    n_in: int,
    n_tables: int,
    *,
    k: int = 6,
    wiring: FixedWiring | LearnedWiring | None = None,
    basis: Literal["multilinear", "walsh"] = "multilinear",
    start: Literal["pass", "random"] = "pass",
    blur: float = 0.25,
    node_F: float = BIT_NODE_F,
    gumbel: float = 0.0,
    seed: int = 0,
    key: Key[Array, ""],
) -> LookupLayer:
    """A layer of `n_tables` tables of `k` inputs on `n_in` bits.

    - `wiring`: where the pins are; None is fixed and random, by `seed`.
    - `basis`: what is trained; `start`: pass the first pin on, or random bits.
    - `blur`: flips of the other pins that the gradient of a pin averages over.
    - `node_F`: capacitance of an output [F]; it sets flips and charge.
    - `gumbel`: size of the logistic noise of `exploring` [logits].

    Raises `ValueError` for k outside 2..6 and a wiring with other counts.
    """
    check_k(k)
    if n_tables < 1:
        raise ValueError(f"Argument `n_tables` must be positive, but is {n_tables}.")
    if basis not in ("multilinear", "walsh"):
        raise ValueError(
            f'Argument `basis` must be "multilinear" or "walsh", but is {basis!r}.'
        )
    if not 0 <= blur < 0.5:
        raise ValueError(f"Argument `blur` must be from 0 to below 0.5, but is {blur}.")
    positive(node_F=node_F)
    not_negative(gumbel=gumbel)
    wiring = wiring or FixedWiring(n_in, n_tables * k, seed=seed)
    if (wiring.n_in, wiring.n_out) != (n_in, n_tables * k):
        raise ValueError(
            f"Argument `wiring` must lead from {n_in} bits to {n_tables * k} pins, but"
            f" leads from {wiring.n_in} to {wiring.n_out}."
        )
    trained = initial_logits(n_tables, k, start, key=key)
    if basis == "walsh":
        trained = trained @ hadamard(k) / 2**k
    return LookupLayer(
        trained=trained,
        wiring=wiring,
        n_in=n_in,
        n_out=n_tables,
        k=k,
        basis=basis,
        blur=blur,
        node_F=node_F,
        gumbel=gumbel,
        exploring=False,
        soft=False,
    )


def table_events(
    n: int, k: int, node_F: float, process: Process, period_s: float
) -> tuple[Event, ...]:
    """What `n` tables of `k` inputs make happen when each is read once."""
    # A pin opens one of two switches on each level of the tree: 2^k − 1 pairs.
    pins_F = n * 2 * (2**k - 1) * process.switch_gate_F
    wires_F = n * k * process.wire_F_per_m * _mean_wire_m(n, k)
    # Of multiplexers and outputs alone: a library's gates have no wires before layout.
    mapped_V = process.supply_V * process.as_drawn("tables")
    return (
        Event("rom_bit", n, "table bits"),
        Event("stored_bit_s", n * 2**k * period_s, "table bits"),
        Event("supply_charge_C", pins_F * mapped_V, "multiplexers"),
        Event("supply_charge_C", wires_F * process.supply_V, "wires"),
        Event("supply_charge_C", n * node_F * mapped_V, "outputs"),
    )


# Area of a stored bit and its two switches, as in a charge MAC.
STORED_BIT_M2 = 0.3e-12


def _mean_wire_m(n: int, k: int) -> float:
    """Mean Manhattan distance of two points in the square of tables: 2/3 side."""
    return 2 / 3 * math.sqrt(n * 2**k * STORED_BIT_M2)


def truth_tables(circuit) -> UInt8[np.ndarray, "n entries"]:
    """The bits that a layer, or state bits, hold on chip: row j, entry Σ 2^i·pin_i."""
    logits = eqx.filter_jit(lambda circuit: circuit.logits())(circuit)
    return (np.asarray(logits) > 0).astype(np.uint8)


def has_tables(model: Any) -> bool:
    """Whether a model holds lookup tables, which can be evaluated soft."""
    is_table = lambda node: hasattr(node, "soft") and hasattr(node, "logits")
    return any(map(is_table, jax.tree.leaves(model, is_leaf=is_table)))


def softened(model: Model, *, tables_only: bool = True) -> Model:
    """`model` with every table evaluated soft; also comparators and learned wiring.

    The difference in quality to `model` itself is the soft-hard gap. With everything
    soft the model is differentiable, and its gradient the true one.
    """
    has_switch = lambda node: hasattr(node, "soft") and dataclasses.is_dataclass(node)

    def soften(node):
        if not has_switch(node):
            return node
        inner = {
            field.name: softened(getattr(node, field.name), tables_only=tables_only)
            for field in dataclasses.fields(node)
            if eqx.is_array(getattr(node, field.name)) is False
            and isinstance(getattr(node, field.name), eqx.Module)
        }
        soft = hasattr(node, "logits") or not tables_only
        return dataclasses.replace(node, **inner, soft=soft or node.soft)

    return jax.tree.map(soften, model, is_leaf=has_switch)
