"""Checkpoints: Orbax folders that appear whole or not at all, and are checked."""

import contextlib
import errno
import gc
import logging
import os
import re
import shutil
import sys
import tempfile
import warnings
import zlib
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

KEEP = 2  # the newest, and the one before it in case the newest is damaged


# Besides the arrays, Orbax writes what describes them.
_MARGIN = 1 << 15
_CHUNK = 1 << 20


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what remains."""


class Checkpoints:
    """The checkpoints in a folder, named by step.

    Orbax writes beside and renames, so a checkpoint that was cut off never carries the
    name of a whole one. A checksum of all arrays is stored with them: what Orbax reads
    back without complaint but differently is found, too. Arrays only: nothing that is
    loaded can execute code.
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def save(self, step: int, tree: PyTree) -> None:
        """Write the arrays of `tree`; older checkpoints beyond two are removed.

        Raises `CheckpointError` if that fails; the checkpoints there were stay.
        """
        arrays = _to_arrays(tree)
        path = self.folder / f"{step:09d}"
        self._remove_unfinished()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._check_room(sum(array.nbytes for array in arrays.values()))
            with _quiet(), _checkpointer() as orbax:
                item = {"arrays": arrays, "checksum": _checksum(arrays)}
                orbax.save(path, args=ocp.args.StandardSave(item), force=True)
        except Exception as error:  # Orbax passes on whatever its storage raises.
            self._remove_unfinished()
            left = self.steps()
            remains = (
                f"the one of step {left[-1]} is intact" if left else "there is none"
            )
            raise CheckpointError(
                f"The checkpoint of step {step} could not be written to {self.folder}:"
                f" {_reason(error)}; {remains}. Make room and continue the run."
            ) from error
        for old in self.steps()[:-KEEP]:
            shutil.rmtree(self.folder / f"{old:09d}", ignore_errors=True)

    def restore(self, template: PyTree) -> tuple[int, PyTree] | None:
        """The newest checkpoint that is whole: its step, and `template` filled with it.

        A template of shapes (`jax.eval_shape`) is enough.
        None if there is no checkpoint. A damaged one is passed over with a warning.
        Raises `CheckpointError` if all of them are damaged.
        """
        steps = self.steps()
        for step in reversed(steps):
            with _quiet():
                try:
                    return step, self._read(step, template)
                except Exception as error:  # whatever damage raises in Orbax
                    problem = _reason(error)
                # What Orbax leaves half-done complains when it is collected.
                gc.collect()
            warnings.warn(
                f"The checkpoint of step {step} in {self.folder} cannot be used"
                f" ({problem}); the one before it is tried.",
                stacklevel=3,
            )
        if steps:
            raise CheckpointError(
                f"The folder {self.folder} must hold a checkpoint of this model that is"
                f" whole, but none of {steps} is: remove the folder to start from the"
                " beginning."
            )
        return None

    def _read(self, step: int, template: PyTree) -> PyTree:
        arrays = {
            jtu.keystr(p): np.zeros(x.shape, x.dtype)
            for p, x in jtu.tree_leaves_with_path(template)
        }
        item = {"arrays": arrays, "checksum": np.zeros((), np.uint32)}
        with _checkpointer() as orbax:
            path = self.folder / f"{step:09d}"
            self._check_names(set(orbax.metadata(path).item_metadata["arrays"]), arrays)
            item = orbax.restore(path, args=ocp.args.StandardRestore(item))
        found = {name: np.asarray(array) for name, array in item["arrays"].items()}
        for name, array in found.items():
            if (array.shape, array.dtype) != (arrays[name].shape, arrays[name].dtype):
                raise CheckpointError(
                    f"{name} has shape {array.shape} where the experiment's model has"
                    f" {arrays[name].shape}"
                )
        if _checksum(found) != item["checksum"]:
            raise CheckpointError("its checksum does not match")
        return _from_arrays(template, found)

    def _check_names(self, found: set[str], wanted: Iterable[str]) -> None:
        """Raise `CheckpointError` if the model that was saved is built otherwise."""
        different = sorted(found ^ set(wanted))
        if different:
            raise CheckpointError(
                f"{len(different)} of its arrays, {different[0]} among them, are not"
                " those of the experiment's model: another physnn wrote it"
            )

    def _check_room(self, n_bytes: int) -> None:
        """Raise `OSError` if so many bytes do not fit on the disk.

        Orbax finds out, too, but then its threads go on complaining for a while.
        """
        with tempfile.TemporaryFile(dir=self.folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes + _MARGIN)
                return
            for _ in range(-(-(n_bytes + _MARGIN) // _CHUNK)):
                file.write(bytes(_CHUNK))
            file.flush()

    def _remove_unfinished(self) -> None:
        for path in self.folder.glob("*.orbax-checkpoint-tmp*"):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _quiet():
    """Orbax also logs and prints what it raises; the one who asked hears it once."""
    log, hook = logging.getLogger("absl"), sys.unraisablehook
    disabled = log.disabled
    log.disabled, sys.unraisablehook = True, lambda _: None
    try:
        yield
    finally:
        log.disabled, sys.unraisablehook = disabled, hook


def _checkpointer() -> ocp.Checkpointer:
    return ocp.Checkpointer(ocp.StandardCheckpointHandler())


def _to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays on the host by their path in `tree`, so they fit any device later."""
    host = jax.device_get(tree)
    return {jtu.keystr(p): np.asarray(x) for p, x in jtu.tree_leaves_with_path(host)}


def _from_arrays(template: PyTree, arrays: dict[str, np.ndarray]) -> PyTree:
    def fill(path, leaf):
        del leaf
        # A copy: JAX may otherwise share memory that numpy owns, and reuse it.
        return jnp.array(arrays[jtu.keystr(path)])

    return jtu.tree_map_with_path(fill, template)


def _checksum(arrays: dict[str, np.ndarray]) -> np.ndarray:
    total = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        total = zlib.crc32(repr((name, array.shape, str(array.dtype))).encode(), total)
        total = zlib.crc32(array.tobytes(), total)
    return np.asarray(total, np.uint32)


def _reason(error: BaseException) -> str:
    """What went wrong, in a few words."""
    text = str(error).strip() or type(error).__name__
    # TensorStore reports what the system said at the end of a long message.
    code = re.search(r"os_error_code='(\d+)'", text)
    number = int(code[1]) if code else getattr(error, "errno", None)
    if number == errno.ENOSPC:
        return "the disk is full"
    if number:
        return os.strerror(number)
    return text.splitlines()[0][:200].rstrip(".")
