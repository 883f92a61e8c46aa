"""Residual blocks one after another: the body of every physical model."""

from collections import Counter
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from circuits.blocks import BlockConfig, Site
from circuits.mac import ChargeMac
from circuits.parts import NODE_F
from physnn.circuit import AbstractCircuit
from physnn.energy.events import Event
from physnn.keys import digest, stream
from physnn.network import Residual
from physnn.process import Process

# A block that reads the byte itself gets these lines beside the residual stream.
BYTE_LINES = 8


class Stack(eqx.Module):
    """`layer` repeated `n_layers` times, every block with its skip."""

    blocks: tuple[Residual, ...]
    names: tuple[str, ...] = eqx.field(static=True)
    n_layers: int = eqx.field(static=True)
    # How it is computed, of no effect but rounding: for the gradient, only what goes
    # into a block is kept; and layers are compiled once and run in a loop.
    rematerialized: bool = eqx.field(static=True, default=False)
    scanned: bool = eqx.field(static=True, default=False)

    @classmethod
    def build(
        cls,
        layer: Sequence[BlockConfig],
        *,
        n_layers: int,
        width: int,
        period_s: float,
        weight_bits: int,
        process: Process,
        key: Key[Array, ""],
    ) -> "Stack":
        """A stack as it starts; raises `ValueError` for a layer without blocks."""
        if not layer:
            raise ValueError("Argument `layer` must hold a block, but is empty.")
        configs = [*layer] * n_layers
        seen: Counter[str] = Counter()
        names, blocks = [], []
        for config in configs:
            name = f"{config.kind}{seen[config.kind]}"
            seen[config.kind] += 1
            site = Site(
                width=width,
                process=process,
                key=stream(key, name),
                period_s=period_s,
                weight_bits=weight_bits,
                output_gain=1 / len(configs) ** 0.5,
            )
            block = config.build(site)
            n_side = block.n_in - block.n_out
            names.append(name)
            blocks.append(Residual(block, hold_F=NODE_F, n_side=n_side))
        return cls(tuple(blocks), tuple(names), n_layers)

    def init_state(self, batch_shape: tuple[int, ...] = ()):
        return tuple(block.init_state(batch_shape) for block in self.blocks)

    def run(
        self,
        verb: str,
        state,
        x: Float[Array, "*batch width"],
        *,
        side: Float[Array, "*batch lines"] | None = None,
        process: Process,
        key: Key[Array, ""],
    ):
        """`step` or `scan` through all blocks; `side` goes to those that read it.

        Raises `ValueError` for a block that reads `side` where there is none, and for
        layers that differ where they are to run in a loop.
        """
        reads = [n for n, b in zip(self.names, self.blocks, strict=True) if _reads(b)]
        if reads and side is None:
            raise ValueError(
                f"Block `{reads[0]}` reads the byte of a text, but there is none"
                " here: leave it out."
            )

        def call(block, before, x, side, process, key):
            inputs = jnp.concatenate([x, side], axis=-1) if _reads(block) else x
            return getattr(block, verb)(before, inputs, process=process, key=key)

        if self.rematerialized:
            call = eqx.filter_checkpoint(call)
        if self.scanned and self.n_layers > 1:
            return self._in_a_loop(call, state, x, side, process, key)
        after = []
        for name, block, before in zip(self.names, self.blocks, state, strict=True):
            now, x = call(block, before, x, side, process, stream(key, name))
            after.append(now)
        return tuple(after), x

    def _in_a_loop(self, call, state, x, side, process, key):
        """All layers by one `jax.lax.scan` over their stacked arrays."""
        n = len(self.blocks) // self.n_layers
        layers = [self.blocks[i : i + n] for i in range(0, len(self.blocks), n)]
        parts = [eqx.partition(each, eqx.is_array) for each in layers]
        for i in range(1, self.n_layers):
            if differs := _difference(layers[0], layers[i]):
                raise ValueError(
                    "The layers of a model must be alike to run in a loop"
                    f" (`compute.scan_layers`), but {differs} of layer {i} differs from"
                    " that of layer 0: leave it out."
                )
        states = [tuple(state[i : i + n]) for i in range(0, len(state), n)]
        whole = [(p[0], s) for p, s in zip(parts, states, strict=True)]
        stacked = jax.tree.map(lambda *each: jnp.stack(each), *whole)
        # The streams of the blocks have the names they have outside of a loop.
        names = np.reshape([digest(name) for name in self.names], (self.n_layers, n))

        def layer(x, each):
            (arrays, states), names = each
            after = []
            for i in range(n):
                block = eqx.combine(arrays[i], parts[0][1][i])
                own = jr.fold_in(key, names[i])
                now, x = call(block, states[i], x, side, process, own)
                after.append(now)
            return x, tuple(after)

        x, after = jax.lax.scan(layer, x, (stacked, jnp.asarray(names, jnp.uint32)))
        each = lambda i: jax.tree.map(lambda leaf: leaf[i], after)
        return sum((each(i) for i in range(self.n_layers)), ()), x

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What every block makes happen, and the wires of the stream beside it."""
        events = []
        for name, block in zip(self.names, self.blocks, strict=True):
            events += [
                event.under(name) for event in block.events(process, period_s=period_s)
            ]
            # The residual stream runs past the block: the wires of both halves of a
            # channel swing full scale, and an amplifier settles them.
            span_m = sum(array.span_m(process) for array in _arrays(block))
            wire_F = process.wire_F_per_m * span_m
            settling_C = process.settling_charge_C(wire_F)
            charge_C, part = wire_F * process.swing_V, f"{name}.wires"
            events += [
                Event("supply_charge_C", 2 * block.n_out * charge_C, part),
                Event("amplifier_charge_C", 2 * block.n_out * settling_C, part),
            ]
        return tuple(events)


def byte_lines(tokens: Int[Array, "*batch"]) -> Float[Array, "*batch lines"]:
    """The bits of a byte as eight lines at plus or minus full scale, lowest first."""
    bits = (tokens[..., None] >> jnp.arange(BYTE_LINES)) & 1
    return 2 * bits.astype(jnp.float32) - 1


def _reads(block: AbstractCircuit) -> bool:
    return block.n_in > block.n_out


def _difference(first: tuple, other: tuple) -> str | None:
    """What of two layers is not alike but the values of their arrays, by its path."""
    is_array = lambda leaf: isinstance(leaf, jax.Array | np.ndarray)
    (a, tree), (b, another) = map(jax.tree_util.tree_flatten_with_path, (first, other))
    if tree != another:
        return "the structure"
    for (path, x), (_, y) in zip(a, b, strict=True):
        if eqx.is_array(x):
            same = eqx.is_array(y) and (x.shape, x.dtype) == (y.shape, y.dtype)
        else:
            same = np.array_equal(x, y) if is_array(x) else x == y
        if not same:
            return f"`{jax.tree_util.keystr(path)}`"
    return None


def _arrays(block) -> list[ChargeMac]:
    leaves = jax.tree.leaves(block, is_leaf=lambda node: isinstance(node, ChargeMac))
    return [leaf for leaf in leaves if isinstance(leaf, ChargeMac)]
