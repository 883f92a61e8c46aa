"""State bits: each is written, every token, by a table that also reads it."""

import math
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from circuits.lookup import (
    BIT_NODE_F,
    PASS_THROUGH,
    check_k,
    table_events,
    truth_tables,
)
from circuits.lookup_bits import TrainedBits
from circuits.lookup_cells import state_netlist
from circuits.lookup_logic import on_bits, state_logic
from circuits.lookup_read import hadamard, look_up, multilinear
from circuits.lookup_wiring import gather, random_wires
from physnn.circuit import AbstractCircuit, run
from physnn.energy.events import Event
from physnn.export.logic import Logic
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.noise import bit_flip_probability, flip_bits
from physnn.process import Process
from physnn.recurrence import linear_recurrence


class LookupState(TrainedBits, AbstractCircuit[Float[Array, "*batch n"]]):
    """Bits that remember: a table of k pins, one of which is the bit itself.

        x ══[ wiring ]══╤═ pin 0 … k−2 ═╗
                        ┌──── pin k−1 ══╩═[ 2^k bits ]──[ latch ]──┬── s_j
                        └──────────────────────────────────────────┘

        s_t = T(pins_t, s_{t−1}) = β_t + α_t·s_{t−1}
        α = (T(pins, +1) − T(pins, −1))/2,  β = (T(pins, +1) + T(pins, −1))/2

    For given pins a table of its own bit can only keep it (α = 1), invert it (−1) or
    write it (α = 0, β = ±1). So the tables of all tokens are read at once, and what is
    left is a linear recurrence that is exact for the hard bits and, multilinear tables
    being linear in each pin, for the soft ones: |α| ≤ 1, no gradient explodes.

    Inputs are `(data, enable)` concatenated. A bit starts as a latch: pin 1 is its
    enable line, pin 0 its data line, the other pins are wired at random by `seed`.

    Assumes: a latch writes when all pins have settled; a state bit reads no other
    state bit (tables after it do). Does not model: as `LookupLayer`; metastable writes.

    Reference: diagonal recurrences with values in −1..1 track states that positive ones
    cannot, Grazzi et al. 2024, arXiv 2411.12537.
    """

    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    blur: float = eqx.field(static=True)
    node_F: float = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    soft: bool = eqx.field(static=True)

    def wires(self) -> np.ndarray:
        """The input that each pin but the last reads, `(n, k − 1)`."""
        n = self.n_out
        lines = np.stack([np.arange(n), n + np.arange(n)], axis=1)
        others = random_wires(2 * n, n * max(0, self.k - 3), self.seed)
        return np.concatenate(
            [lines[:, : self.k - 1], others.reshape(n, -1)], axis=1
        ).astype(np.int32)

    def init_state(self, batch_shape=()):
        return -jnp.ones((*batch_shape, self.n_out))

    def coefficients(self, x, *, process: Process, key: Key[Array, ""]):
        """(α, β) of every token: keep, invert or write."""
        k = self.k - 1
        pins = gather(x, self.wires().T.reshape(-1))
        pins = pins.reshape(*x.shape[:-1], k, self.n_out)
        # The state is the highest bit of an address: a half of the table for each.
        halves = jnp.split(self.logits(), 2, axis=-1)
        if self.soft:
            low, high = (
                2 * multilinear(jax.nn.sigmoid(half), pins, k) - 1 for half in halves
            )
        else:
            drawn = self.drawn((2, *x.shape[:-1], self.n_out), x.dtype, key)
            low, high = (
                look_up(pins, half, self.blur, None if drawn is None else drawn[i])
                for i, half in enumerate(halves)
            )
        # A flip inverts what is written, whatever the state was.
        sure = flip_bits(
            jnp.ones(low.shape, low.dtype),
            bit_flip_probability(process, self.node_F),
            stream(key, "flips"),
        )
        return sure * (high - low) / 2, sure * (high + low) / 2

    def step(self, state, x, *, process, key):
        alpha, beta = self.coefficients(x, process=process, key=key)
        state = alpha * state + beta
        return state, state

    def scan(self, state, xs, *, process, key):
        alpha, beta = self.coefficients(xs, process=process, key=key)
        states = linear_recurrence(alpha, beta, state)
        return states[-1], states

    def diagnose(self, xs, *, process, key):
        alpha, _ = self.coefficients(xs, process=process, key=key)
        return {
            "kept_share": jnp.mean(alpha > 0.5),
            "inverted_share": jnp.mean(alpha < -0.5),
            "written_share": jnp.mean(jnp.abs(alpha) <= 0.5),
        }

    def events(self, process, *, period_s):
        return (
            *table_events(self.n_out, self.k, self.node_F, process, period_s),
            Event("flop_cycle", self.n_out, "latches"),
        )

    def netlist(self, process, *, name) -> Netlist:
        return state_netlist(
            name,
            truth_tables(self),
            self.wires(),
            n_in=self.n_in,
            hold_F=self.node_F,
            process=process,
        )

    def logic(self, process) -> Logic:
        return state_logic(
            truth_tables(self),
            self.wires(),
            n_in=self.n_in,
            node_F=self.node_F,
            model=on_bits(run, self, process=process),
        )


def lookup_state(
    n: int,
    *,
    k: int = 6,
    basis: Literal["multilinear", "walsh"] = "multilinear",
    blur: float = 0.25,
    gumbel: float = 0.0,
    node_F: float = BIT_NODE_F,
    seed: int = 0,
) -> LookupState:
    """`n` state bits behind `2·n` inputs, each starting as a latch of its two lines.

    Arguments as of `lookup_layer`; k counts the state itself, and is from 3 to 6.
    """
    if n < 1:
        raise ValueError(f"Argument `n` must be positive, but is {n}.")
    check_k(k)
    if k < 3:
        raise ValueError(
            f"Argument `k` must be at least 3 for a latch (data, enable, state), but is"
            f" {k}."
        )
    address = np.arange(2**k)
    data, enable, state = (address >> 0) & 1, (address >> 1) & 1, address >> (k - 1)
    latch = 2.0 * np.where(enable, data, state) - 1
    size = math.log(PASS_THROUGH / (1 - PASS_THROUGH))
    trained = jnp.broadcast_to(jnp.asarray(size * latch, jnp.float32), (n, 2**k))
    if basis == "walsh":
        trained = trained @ hadamard(k) / 2**k
    elif basis != "multilinear":
        raise ValueError(
            f'Argument `basis` must be "multilinear" or "walsh", but is {basis!r}.'
        )
    return LookupState(
        trained=trained,
        n_in=2 * n,
        n_out=n,
        k=k,
        basis=basis,
        blur=blur,
        node_F=node_F,
        gumbel=gumbel,
        exploring=False,
        seed=seed,
        soft=False,
    )
