"""Residual blocks one after another: the body of every physical model."""

from collections import Counter
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from circuits.blocks import BlockConfig, Site
from circuits.mac import ChargeMac
from circuits.parts import NODE_F
from physnn.energy.events import Event
from physnn.keys import stream
from physnn.network import Residual
from physnn.process import Process

# A block that reads the byte itself gets these lines beside the residual stream.
BYTE_LINES = 8


class Stack(eqx.Module):
    """`layer` repeated `n_layers` times, every block with its skip."""

    blocks: tuple[Residual, ...]
    names: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        layer: Sequence[BlockConfig],
        *,
        n_layers: int,
        width: int,
        period_s: float,
        weight_bits: int,
        process: Process,
        key: Key[Array, ""],
    ):
        if not layer:
            raise ValueError("Argument `layer` must hold a block, but is empty.")
        configs = [*layer] * n_layers
        seen: Counter[str] = Counter()
        names = []
        for config in configs:
            names.append(f"{config.kind}{seen[config.kind]}")
            seen[config.kind] += 1
        self.names = tuple(names)
        blocks = []
        for name, config in zip(self.names, configs, strict=True):
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
            blocks.append(Residual(block, hold_F=NODE_F, n_side=n_side))
        self.blocks = tuple(blocks)

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
        """`step` or `scan` through all blocks; `side` goes to those that read it."""
        after = []
        for name, block, before in zip(self.names, self.blocks, state, strict=True):
            inputs = x
            if block.n_in > block.n_out:
                if side is None:
                    raise ValueError(
                        f"Block `{name}` reads the byte of a text, but there is none"
                        " here: leave it out."
                    )
                inputs = jnp.concatenate([x, side], axis=-1)
            now, x = getattr(block, verb)(
                before, inputs, process=process, key=stream(key, name)
            )
            after.append(now)
        return tuple(after), x

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


def _arrays(block) -> list[ChargeMac]:
    leaves = jax.tree.leaves(block, is_leaf=lambda node: isinstance(node, ChargeMac))
    return [leaf for leaf in leaves if isinstance(leaf, ChargeMac)]
