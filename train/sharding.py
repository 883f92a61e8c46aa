"""Sharding: which device of a mesh holds what of a run, by rules of shape alone."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from physnn.products import rows_over_devices
from physnn.time_parts import cut_in_time

# Smaller arrays are on every device: gathering them takes longer than it saves.
FEWEST_VALUES = 1024


@dataclass(frozen=True)
class MeshConfig:
    """The devices of a run: where it is computed, not what. A run may change it.

    `data`: parts into which the batch is cut, and with it parameters and optimizer
    state (fully sharded, as Rajbhandari et al. 2020, arXiv 1910.02054, stage 3); 0: all
    devices there are. `model`: parts into which the matrices of wide circuits are cut
    by column beside that (as Shoeybi et al. 2019, arXiv 1909.08053). `sequence`: parts
    into which the time of each window is cut. `patience_s`: how long one process waits
    for the others of a run.
    """

    data: int = 1
    model: int = 1
    patience_s: float = 300.0
    sequence: int = 1

    def __post_init__(self):
        if self.data < 0:
            raise ValueError(
                "Argument `mesh.data` must be at least 1, or 0 for all devices, but is"
                f" {self.data}."
            )
        for name in ("model", "sequence"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Argument `mesh.{name}` must be at least 1, but is"
                    f" {getattr(self, name)}."
                )
        if not 1 <= self.patience_s < math.inf:
            raise ValueError(
                "Argument `mesh.patience_s` must be at least 1 s and finite, but is"
                f" {self.patience_s}."
            )

    @property
    def is_one_device(self) -> bool:
        return self.data == self.model == self.sequence == 1

    def check_time(self, model: Any, *, context: int, solver: Any) -> None:
        """Raise `ValueError` where windows cannot be cut into `sequence` parts."""
        if self.sequence == 1:
            return
        blocks = getattr(model, "layer", None)
        if blocks is None or solver is not None:
            raise ValueError(
                "Argument `mesh.sequence` goes with a model of kind `physical` and no"
                f" `solver`, but the model is of kind `{model.kind}`"
                f"{'' if solver is None else ' and is integrated'}: leave it out."
            )
        for block in blocks:
            if not getattr(block, "cut_in_time", False):
                raise ValueError(
                    "Argument `mesh.sequence` goes with blocks that are per token or"
                    f" linear in their state, but `{block.kind}` is not, and each of"
                    " its tokens needs the one before: leave it out, or use"
                    " `mesh.data`."
                )
        if context % self.sequence:
            raise ValueError(
                "Argument `task.context` must be a multiple of `mesh.sequence`, but"
                f" they are {context} and {self.sequence}."
            )

    def check_batch(self, batch: int) -> None:
        """Raise `ValueError` if a batch cannot be cut into `data` equal parts."""
        if batch % max(self.data, 1):
            raise ValueError(
                "Argument `batch` must be a multiple of `mesh.data`, but they are"
                f" {batch} and {self.data}."
            )

    def build(self, *, batch: int) -> Mesh:
        """The mesh, its axes named `data`, `model` and `sequence`.

        Raises `ValueError` for more devices than there are, for a batch that cannot be
        cut into `data` parts, and if one of several processes had no device in it.
        """
        devices = jax.devices()
        beside = self.model * self.sequence
        data = self.data or len(devices) // beside
        asked = data * beside
        if not 1 <= asked <= len(devices):
            raise ValueError(
                f"Argument `mesh` must ask for at most the {len(devices)} devices there"
                f" are, but asks for {max(data, 1)} x {beside}: ask for fewer or"
                " start more processes."
            )
        if jax.process_count() > 1 and asked != len(devices):
            raise ValueError(
                f"Argument `mesh` must use all {len(devices)} devices of the"
                f" {jax.process_count()} processes, but asks for {asked}: set"
                " `mesh.data` to 0 or start fewer processes."
            )
        MeshConfig(data).check_batch(batch)
        return jax.make_mesh(
            (data, self.model, self.sequence),
            ("data", "model", "sequence"),
            axis_types=(AxisType.Auto,) * 3,
            devices=devices[:asked],
        )


def spec_of(shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> PartitionSpec:
    """How an array of parameters or optimizer state is cut, by its shape.

    The last axis of a matrix that `model` divides is cut by it: the outputs of a
    circuit. The longest of the others that `data` divides is cut by that; if there is
    none, that last axis is cut by both (couplings of n oscillators are n - 1 by n).
    What has fewer than `FEWEST_VALUES` is whole on every device.
    """
    axes: list[str | tuple[str, str] | None] = [None] * len(shape)
    if math.prod(shape) < FEWEST_VALUES:
        return PartitionSpec(*axes)
    fits = lambda i, name: (
        shape[i] >= mesh.shape[name] and not (shape[i] % mesh.shape[name])
    )
    wide = [i for i in range(len(shape)) if fits(i, "model")]
    if len(shape) > 1 and wide:
        axes[wide[-1]] = "model"
    free = [i for i in range(len(shape)) if axes[i] is None and fits(i, "data")]
    if free:
        axes[max(free, key=lambda i: shape[i])] = "data"
    elif "model" in axes:
        i = axes.index("model")
        if shape[i] % (mesh.shape["model"] * mesh.shape["data"]) == 0:
            axes[i] = ("model", "data")
    return PartitionSpec(*axes)


def shardings_of(tree: PyTree, mesh: Mesh) -> PyTree[NamedSharding]:
    """Where each array of a tree, or of its shapes, is kept."""
    return jax.tree.map(lambda x: NamedSharding(mesh, spec_of(x.shape, mesh)), tree)


def kept(tree: PyTree, mesh: Mesh) -> PyTree:
    """Under `jit`: a tree of parameters or optimizer state, kept as `spec_of` says."""
    return jax.lax.with_sharding_constraint(tree, shardings_of(tree, mesh))


def everywhere(tree: PyTree, mesh: Mesh) -> PyTree:
    """Under `jit`: what every device, and so every process, holds whole."""
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def batches_cut(batches: PyTree, mesh: Mesh) -> PyTree:
    """Under `jit`: a stack of batches, each of them cut along `data`."""
    by_data = NamedSharding(mesh, PartitionSpec(None, "data"))
    return jax.lax.with_sharding_constraint(batches, by_data)


@contextlib.contextmanager
def along_time(mesh: Mesh) -> Iterator[None]:
    """While entered, circuits are traced with their time cut over `sequence`.

    And, on a mesh of several devices, with their rows cut by batch and time.
    """
    several = rows_over_devices() if mesh.size > 1 else contextlib.nullcontext()
    with several, cut_in_time(NamedSharding(mesh, PartitionSpec("sequence"))):
        yield


def gathered(tree: PyTree, mesh: Mesh) -> PyTree:
    """Under `jit`: parameters in use, whole along `data` and still cut by `model`.

    The gradient goes the other way: added over the parts of the batch, and kept cut.
    """

    @jax.custom_vjp
    def whole(x):
        by_model = ("model", ("model", "data"))
        spec = ["model" if a in by_model else None for a in spec_of(x.shape, mesh)]
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.lax.with_sharding_constraint(x, sharding)

    whole.defvjp(lambda x: (whole(x), None), lambda _, slope: (kept(slope, mesh),))
    return jax.tree.map(whole, tree)


def built_on_host():
    """While entered, arrays are made by the CPU: equal on every kind of machine.

    So no accelerator must hold a whole model before it is spread over all.
    """
    try:
        return jax.default_device(jax.local_devices(backend="cpu")[0])
    except RuntimeError:  # told to use an accelerator alone (JAX_PLATFORMS)
        return contextlib.nullcontext()


def spread(tree: PyTree, shardings: PyTree[NamedSharding]) -> PyTree[jax.Array]:
    """A tree that every process holds whole, each of which gives its devices' parts."""

    def put(x: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(x)
        # A copy: JAX may otherwise share memory that numpy owns, and reuse it.
        part = lambda index: np.array(host[index])
        return jax.make_array_from_callback(host.shape, sharding, part)

    return jax.tree.map(put, tree, shardings)


def spread_batch(tree: PyTree, mesh: Mesh) -> PyTree[jax.Array]:
    """A batch along its first axis: each process feeds the parts of its devices."""
    by_data = NamedSharding(mesh, PartitionSpec("data"))
    return spread(tree, jax.tree.map(lambda _: by_data, tree))


def own_rows(mesh: Mesh, batch: int) -> slice:
    """The rows of a batch, from the first to the last, that this process feeds."""
    by_data = NamedSharding(mesh, PartitionSpec("data"))
    parts = by_data.addressable_devices_indices_map((batch,)).values()
    found = [part[0].indices(batch) for part in parts if part]
    return slice(min(each[0] for each in found), max(each[1] for each in found))


def spread_rows(own: np.ndarray, rows: slice, batch: int, mesh: Mesh) -> jax.Array:
    """A batch of which every process holds its `own_rows` alone."""
    by_data = NamedSharding(mesh, PartitionSpec("data"))

    def part(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(batch)
        return np.array(own[start - rows.start : stop - rows.start])

    return jax.make_array_from_callback((batch, *own.shape[1:]), by_data, part)
