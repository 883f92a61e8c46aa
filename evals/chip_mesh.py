"""Chips over devices: every device of a machine computes its share of the chips."""

import os
from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Key, PyTree

from evals.doctor import cores

Found = TypeVar("Found")
CHIPS = "chips"

# More tokens at once, of all chips of a device, do not fit into the cache of a core;
# logits of 50,000 symbols are 3 GB at the second number, which was not measured.
TOKENS_OF_CORE, TOKENS_OF_ACCELERATOR = 1024, 16_384
# Copies of the model, one for each chip, that a device holds at once.
BYTES_OF_CORE, BYTES_OF_ACCELERATOR = 64 << 20, 4 << 30
# Each device keeps a copy of the design.
MOST_CORES = 8


def one_device_per_core() -> int:
    """Let JAX take every core for a device of its own: how many devices that asks for.

    A core to each chip takes less than all cores to one. Call it before JAX is used;
    0, and nothing is changed, where it was, and where the user has said how many
    (`JAX_NUM_CPU_DEVICES`, `XLA_FLAGS`). A GPU or TPU is used as without it.
    """
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if said or jax.config.values["jax_num_cpu_devices"] != -1:
        return 0
    wanted = min(cores(), MOST_CORES)
    try:
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError:
        return 0
    return wanted


@cache
def chip_mesh(chips: int | None = None) -> Mesh:
    """All devices of this machine along one axis, `chips`; one device is a mesh too.

    A lone chip has a mesh of one: the others would compute what nobody asks for.
    """
    devices = jax.local_devices()[: 1 if chips == 1 else None]
    kinds = (AxisType.Auto,)
    return jax.make_mesh((len(devices),), (CHIPS,), axis_types=kinds, devices=devices)


def full_group(n: int) -> int:
    """`n` chips, rounded up to as many on every device."""
    devices = chip_mesh().size
    return -(-n // devices) * devices


def group_of(n: int, tokens: int, design: PyTree) -> int:
    """How many of `n` chips of a design that read `tokens` each to compute at a time.

    A `full_group`: on every device as many as fit, but no more than there are to share.
    """
    mesh = chip_mesh()
    on_core = mesh.devices.flat[0].platform == "cpu"
    most = TOKENS_OF_CORE if on_core else TOKENS_OF_ACCELERATOR
    held = BYTES_OF_CORE if on_core else BYTES_OF_ACCELERATOR
    arrays = filter(eqx.is_array, jax.tree.leaves(design))
    copy = sum(leaf.size * leaf.dtype.itemsize for leaf in arrays)
    fit = min(most // max(tokens, 1), held // max(copy, 1))
    return full_group(min(n, mesh.size * max(1, fit)))


def chip_keys(root: Key[Array, ""], start: int, n: int) -> Key[Array, " n"]:
    """Keys of chips `start` to `start + n`, shared out among the devices.

    Chip i has the same key whatever the devices. `n` is a `full_group`, or 1; chips
    that nobody asked for are computed too, and cut off by the caller.
    """
    over = NamedSharding(chip_mesh(n), PartitionSpec(CHIPS))
    return jax.device_put(_keys(root, jnp.uint32(start), n), over)


@partial(jax.jit, static_argnums=2)
def _keys(root, start, n):
    numbers = start + jnp.arange(n, dtype=jnp.uint32)
    return jax.vmap(lambda i: jr.fold_in(root, i))(numbers)


def everywhere(tree: PyTree, chips: int | None = None) -> PyTree:
    """A design, its text or its process: whole on every device of so many chips."""
    whole = NamedSharding(chip_mesh(chips), PartitionSpec())
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
        n = jax.tree.leaves(chips)[0].shape[0]
        size = n if together is None else together
        if n == size > 1:
            return jax.vmap(on_one)(chips)
        # A lone chip is computed like a design: without an axis of one, and its cost.
        return jax.lax.map(on_one, chips, batch_size=size if size > 1 else None)

    cut, among = PartitionSpec(CHIPS), jax.tree.leaves(chips)[0].shape[0]
    shared_out = jax.shard_map(
        own_share,
        mesh=chip_mesh(among),
        in_specs=(cut, PartitionSpec()),
        out_specs=cut,
        # Loops that begin with a constant would have to be told that they vary.
        check_vma=False,
    )
    return shared_out(chips, arrays)
