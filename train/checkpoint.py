"""Checkpoints: Orbax folders that appear whole or not at all, and are checked.

They are of a run, not of its devices: what one mesh or one number of processes saved,
any other restores.
"""

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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from train.digest import old_checksum, own_digest, whole_digest
from train.distributed import OtherProcess, gathered_ints, is_first, on_first
from train.sharding import spread

KEEP = 2  # the newest, and the one before it in case the newest is damaged

_RECENT = 8  # that many steps process 0 tells the others
# Besides the arrays, Orbax writes what describes them.
_MARGIN = 1 << 15
_CHUNK = 1 << 20


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message says what remains."""


class Checkpoints:
    """The checkpoints in a folder, named by step.

    Orbax writes beside and renames, so a checkpoint that was cut off never carries the
    name of a whole one. A digest of all arrays is stored with them: what Orbax reads
    back without complaint but differently is found, too. Arrays only: nothing that is
    loaded can execute code. Of several processes each writes and reads what its devices
    hold; all must call, with the folder in a file system that they share.

    The newest `keep` are kept, and beside them those of every step that `every` divides
    (0: none). While entered, `save` may leave the writing to another thread.
    """

    def __init__(self, folder: Path, *, keep: int = KEEP, every: int = 0):
        self.folder = folder.resolve()
        self._keep, self._every = keep, every
        self._orbax: ocp.AsyncCheckpointer | None = None
        self._writing: int | None = None  # the step that another thread writes

    def __enter__(self):
        # Another thread would log what `wait` raises.
        self._log = logging.getLogger("absl").disabled
        logging.getLogger("absl").disabled = True
        return self

    def __exit__(self, kind, *_):
        try:
            # What stopped the run is told already; a full disk would only hide it. And
            # a process that is gone would be waited for in vain.
            if not (kind and issubclass(kind, OtherProcess)):
                with contextlib.suppress(*([CheckpointError] if kind else [])):
                    self.wait()
        finally:
            logging.getLogger("absl").disabled = self._log
            orbax, self._orbax = self._orbax, None
            if orbax is not None and self._writing is None:
                orbax.close()

    def steps(self) -> list[int]:
        """Steps of the checkpoints there are, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit())

    def save(self, step: int, tree: PyTree, *, wait: bool = True) -> None:
        """Write the arrays of `tree`; checkpoints that are not kept are removed.

        Without `wait` it ends when they are copied, and `wait` or the next call says
        how it went. Raises `CheckpointError` if that fails, or the one before has; the
        checkpoints there were stay.
        """
        self.wait()
        self._writing = step
        with self._one_sentence():
            arrays = _to_arrays(tree)
            on_first(lambda: self._make_room(arrays))
            item = {
                "arrays": arrays,
                "digest": _words(whole_digest(own_digest(arrays))),
            }
            path, asked = self.folder / f"{step:09d}", ocp.args.StandardSave(item)
            with _quiet():
                if wait:
                    with _checkpointer() as orbax:
                        orbax.save(path, args=asked, force=True)
                else:
                    if self._orbax is None:
                        handler = ocp.StandardCheckpointHandler()
                        self._orbax = ocp.AsyncCheckpointer(handler)
                    self._orbax.save(path, args=asked, force=True)
        if wait:
            self._written()

    def wait(self) -> None:
        """Until what another thread writes is there.

        Raises `CheckpointError` if it could not be written.
        """
        if self._writing is None:
            return
        with self._one_sentence(), _quiet():
            if self._orbax is not None:
                self._orbax.wait_until_finished()
        self._written()

    def _written(self) -> None:
        self._writing = None
        if is_first():
            self._remove_old()

    @contextlib.contextmanager
    def _one_sentence(self):
        try:
            yield
        except Exception as error:  # Orbax passes on whatever its storage raises.
            step, self._writing = self._writing, None
            self._remove_unfinished()
            left = self.steps()
            remains = (
                f"the one of step {left[-1]} is intact" if left else "there is none"
            )
            raise CheckpointError(
                f"The checkpoint of step {step} could not be written to {self.folder}:"
                f" {_reason(error)}; {remains}. Make room and continue the run."
            ) from error

    def restore(self, template: PyTree) -> tuple[int, PyTree] | None:
        """The newest checkpoint that is whole: its step, and `template` filled with it.

        A template of shapes (`jax.eval_shape`) is enough; what has a `NamedSharding`
        there is put where that says. None if there is no checkpoint. A damaged one is
        passed over with a warning.
        Raises `CheckpointError` if all of them are damaged.
        """
        # A file system may show the others only later what process 0 wrote.
        recent = [-1] * _RECENT + self.steps()
        found = gathered_ints(recent[-_RECENT:])[0].tolist()
        steps = [step for step in found if step >= 0]
        for step in reversed(steps):
            with _quiet():
                own, arrays, stored = None, {}, None
                problem = "another process cannot read it"
                try:
                    arrays, stored = self._read(step, template)
                    own = own_digest(arrays)
                except Exception as error:  # whatever damage raises in Orbax
                    problem = _reason(error)
                digest = whole_digest(own)
                if digest is not None and (stored is None or digest == stored):
                    return step, _from_arrays(template, arrays)
                if digest is not None:
                    problem = "its digest does not match"
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

    def _read(
        self, step: int, template: PyTree
    ) -> tuple[dict[str, np.ndarray | jax.Array], int | None]:
        """The arrays, and the digest stored with them; None where it was checked."""
        wanted = {
            jtu.keystr(p): leaf for p, leaf in jtu.tree_leaves_with_path(template)
        }
        path = self.folder / f"{step:09d}"
        with _checkpointer() as orbax:
            there = orbax.metadata(path).item_metadata
            self._check_names(set(there["arrays"]), wanted)
            is_old = "digest" not in there
            arrays = {
                name: np.zeros(leaf.shape, leaf.dtype)
                if is_old or not _is_cut(leaf)
                else jax.ShapeDtypeStruct(
                    leaf.shape, leaf.dtype, sharding=leaf.sharding
                )
                for name, leaf in wanted.items()
            }
            for name, leaf in wanted.items():
                if tuple(there["arrays"][name].shape) != leaf.shape:
                    raise CheckpointError(
                        f"{name} has shape {tuple(there['arrays'][name].shape)} where"
                        f" the experiment's model has {leaf.shape}"
                    )
            if is_old:
                item = {"arrays": arrays, "checksum": np.zeros((), np.uint32)}
            else:
                item = {"arrays": arrays, "digest": np.zeros(2, np.uint32)}
            item = orbax.restore(path, args=ocp.args.StandardRestore(item))
        found = item["arrays"]
        for name, array in found.items():
            if (array.shape, array.dtype) != (wanted[name].shape, wanted[name].dtype):
                raise CheckpointError(
                    f"{name} is {array.dtype}{array.shape} where the experiment's model"
                    f" has {wanted[name].dtype}{wanted[name].shape}"
                )
        if not is_old:
            return found, int(np.asarray(item["digest"], np.uint32).view(np.uint64)[0])
        if old_checksum(found) != item["checksum"]:
            raise CheckpointError("its checksum does not match")
        return found, None

    def _check_names(self, found: set[str], wanted: Iterable[str]) -> None:
        """Raise `CheckpointError` if the model that was saved is built otherwise."""
        different = sorted(found ^ set(wanted))
        if different:
            raise CheckpointError(
                f"{len(different)} of its arrays, {different[0]} among them, are not"
                " those of the experiment's model: another physnn wrote it"
            )

    def _make_room(self, arrays: dict[str, np.ndarray | jax.Array]) -> None:
        self._remove_unfinished()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_room(sum(array.nbytes for array in arrays.values()))

    def _remove_old(self) -> None:
        for old in self.steps()[: -self._keep]:
            if self._every and old % self._every == 0:
                continue
            shutil.rmtree(self.folder / f"{old:09d}", ignore_errors=True)

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


def _is_cut(leaf) -> bool:
    """Whether an array lies on several devices."""
    sharding = getattr(leaf, "sharding", None)
    return isinstance(sharding, NamedSharding) and sharding.num_devices > 1


def _to_arrays(tree: PyTree) -> dict[str, np.ndarray | jax.Array]:
    """Arrays by their path in `tree`, on the host unless others hold parts of them.

    Copies: training goes on, and reuses the memory of what it is given.
    """

    def host(x):
        elsewhere = isinstance(x, jax.Array) and not x.is_fully_addressable
        return x if elsewhere else np.array(x)

    return {jtu.keystr(p): host(x) for p, x in jtu.tree_leaves_with_path(tree)}


def _from_arrays(template: PyTree, arrays: dict[str, Any]) -> PyTree:
    # Copies: JAX may otherwise share memory that numpy owns, and reuse it.
    def fill(path, leaf):
        array = arrays[jtu.keystr(path)]
        sharding = getattr(leaf, "sharding", None)
        if isinstance(array, jax.Array):
            return jnp.copy(array)
        if isinstance(sharding, NamedSharding):
            return spread(array, sharding)
        return jnp.array(array)

    return jtu.tree_map_with_path(fill, template)


def _words(digest: int | None) -> np.ndarray:
    return np.asarray([digest], np.uint64).view(np.uint32)


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
