"""Chips over devices: every device of a machine computes its share of the chips."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

Found = TypeVar("Found")
CHIPS = "chips"


@cache
def chip_mesh() -> Mesh:
    """All devices of this machine along one axis, `chips`; one device is a mesh too."""
    devices = jax.local_devices()
    kinds = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), (CHIPS,), axis_types=kinds, devices=devices)


def full_group(n: int) -> int:
    """`n` chips, rounded up to as many on every device."""
    devices = chip_mesh().size
    return -(-n // devices) * devices


def chip_keys(root: Key[Array, ""], start: int, n: int) -> Key[Array, " n"]:
    """Keys of chips `start` to `start + n`, shared out among the devices.

    Chip i has the same key whatever the devices. `n` is a `full_group`; chips that
    nobody asked for are computed too, and cut off by the caller.
    """
    keys = jax.vmap(lambda i: jr.fold_in(root, i))(jnp.arange(start, start + n))
    over = NamedSharding(chip_mesh(), PartitionSpec(CHIPS))
    return jax.device_put(keys, over)


def everywhere(tree: PyTree) -> PyTree:
    """A design, its text or its process: whole on every device."""
    whole = NamedSharding(chip_mesh(), PartitionSpec())
    put = lambda x: jax.device_put(x, whole) if eqx.is_array(x) else x
    return jax.tree.map(put, tree)


def each_chip(
    one: Callable[..., Found], chips: PyTree, *given: Any, together: int | None = None
) -> Found:
    """Under `jit`: `one(chip, *given)` of every chip, each on its own device.

    `chips` are keys, or what an earlier call found, along the first axis; `given` is
    what all of them share, of any type. `together`: so many at a time by vmap on each
    device; None is all. Chips have nothing to tell each other, so a device runs its
    share as if it were alone (`jax.shard_map`), and what is found lies where it was
    computed.
    """
    arrays, rest = eqx.partition(given, eqx.is_array)

    def own_share(chips, arrays):
        # Not by closure: what all share would keep the axes of the whole mesh.
        shared = eqx.combine(arrays, rest)
        on_one = lambda chip: one(chip, *shared)
        if together is None:
            return jax.vmap(on_one)(chips)
        # One at a time without vmap, so that a lone chip is computed like a design.
        size = None if together == 1 else together
        return jax.lax.map(on_one, chips, batch_size=size)

    cut = PartitionSpec(CHIPS)
    shared_out = jax.shard_map(
        own_share,
        mesh=chip_mesh(),
        in_specs=(cut, PartitionSpec()),
        out_specs=cut,
        # Loops that begin with a constant would have to be told that they vary.
        check_vma=False,
    )
    return shared_out(chips, arrays)
