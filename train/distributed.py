"""Several processes that train one model: joining them, and what they agree upon.

The engine is `jax.distributed`; here is what a run needs beside it. With one process
every function is the plain thing it says.
"""

import contextlib
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.sharding import spread

T = TypeVar("T")

# Bytes of the longest sentence that one process tells the others.
LONGEST = 2048
# What ends a process whose peers are gone: `EX_TEMPFAIL`, start it again.
LOST = 75


class OtherProcess(RuntimeError):
    """Another process of the run cannot go on; the message says why."""


class ProcessLost(OtherProcess):
    """Another process of the run is gone."""


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    *,
    patience_s: float = 300.0,
) -> None:
    """Become one of the processes of a run; before JAX is used for anything else.

    All three, or none of them where the surroundings say it (Slurm, JobSet on
    Kubernetes, Cloud TPU, Open MPI). `coordinator`: HOST:PORT of process 0;
    `patience_s`: how long to wait for the others.

    Raises `ValueError` for some of the three and no others, for a process that is none,
    and where nothing says who the processes are; `ProcessLost` if they do not come.
    """
    given = (coordinator, processes, process_id)
    if None in given and any(each is not None for each in given):
        raise ValueError(
            "Arguments `coordinator`, `processes` and `process_id` must be given"
            f" together, but are {coordinator}, {processes} and {process_id}."
        )
    if processes is not None and not 0 <= (process_id or 0) < processes:
        raise ValueError(
            f"Argument `process_id` must be from 0 to {processes - 1}, but is"
            f" {process_id}."
        )
    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process_id,
            initialization_timeout=round(patience_s),
            # A frozen process is found by `Watch` first, which says so in a sentence.
            heartbeat_timeout_seconds=round(patience_s + 60),
        )
    except ValueError as error:
        raise ValueError(
            "The processes of the run must be known from Slurm, JobSet, Cloud TPU or"
            " Open MPI, but this is none of them: give `--coordinator HOST:PORT"
            " --processes N --process-id I`."
        ) from error
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise ProcessLost(
            f"All processes of the run must meet at {coordinator or 'process 0'} within"
            f" {patience_s:g} s, but did not ({reason}): start them all."
        ) from error


def is_first() -> bool:
    """Whether this process writes what the run writes once."""
    return jax.process_index() == 0


def on_first(call: Callable[[], T]) -> T | None:
    """`call()` on process 0, while the others wait for its end; None on those.

    What it raises, it raises there, and `OtherProcess` with that sentence elsewhere.
    """
    result, error = None, None
    if is_first():
        try:
            result = call()
        except Exception as raised:
            error = raised
    if jax.process_count() > 1:
        told = np.zeros(LONGEST, np.uint8)
        if error is not None:
            sentence = (str(error) or type(error).__name__).encode()[: LONGEST - 1]
            told[: len(sentence)] = np.frombuffer(sentence, np.uint8)
            told[-1] = 1
        told = multihost_utils.broadcast_one_to_all(told)
        if told[-1] and error is None:
            words = bytes(told[:-1]).rstrip(b"\0").decode("utf-8", "replace")
            raise OtherProcess(f"Process 0 cannot go on: {words}")
    if error is not None:
        raise error
    return result


def gathered_ints(values: list[int]) -> np.ndarray:
    """Small integers of every process, `(processes, n)`."""
    if jax.process_count() == 1:
        return np.asarray([values])
    return multihost_utils.process_allgather(np.asarray(values, np.int32))


def check_alike(**what: str) -> None:
    """Raise `OtherProcess` if a text of this process is not that of all others."""
    sums = gathered_ints([zlib.crc32(text.encode()) >> 1 for text in what.values()])
    for name, column in zip(what, sums.T, strict=True):
        if len(set(column.tolist())) > 1:
            raise OtherProcess(
                f"All {len(column)} processes of a run must have the same"
                f" {name.replace('_', ' ')}, but process"
                f" {int(np.argmax(column != column[0]))} has another than process 0:"
                " give every host the same files and arguments."
            )


class StopTogether:
    """A signal that reached one process, heard by all at the same step.

    What the processes heard travels beside the steps, and is known one step later.
    """

    def __init__(self, mesh: Mesh):
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, _WHOLE))
        self._each = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._n = mesh.size
        self._sent: jax.Array | None = None

    def heard(self, received: int | None) -> int | None:
        """The signal that all processes stop for after this step, if any."""
        if jax.process_count() == 1:
            return received
        own = np.full(self._n, received or 0, np.int32)
        before, self._sent = self._sent, self._largest(spread(own, self._each))
        return None if before is None else int(before) or None


class Watch:
    """Ends this process with a sentence when the others leave it waiting.

    A step, its validation and its checkpoint must end within `patience_s`; ten times
    that before the first one, which compiles. One process waits for nobody.
    """

    def __init__(self, patience_s: float):
        self._limit_s = 10 * patience_s
        self._patience_s = patience_s
        self._ended = time.monotonic()
        self._closed = threading.Event()

    def __enter__(self):
        if jax.process_count() > 1:
            threading.Thread(target=self._look, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._closed.set()

    def alive(self) -> None:
        """A step has ended."""
        self._ended, self._limit_s = time.monotonic(), self._patience_s

    def _look(self):
        while not self._closed.wait(min(1.0, self._patience_s / 4)):
            if time.monotonic() - self._ended > self._limit_s:
                # Whatever the main thread waits for, it waits for in vain.
                leave(_lost(self._limit_s))


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """What JAX raises when another process is gone, as `ProcessLost`."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        words = str(error)
        broken = ("Gloo", "Connection", "coordination service", "NCCL", "UNAVAILABLE")
        if jax.process_count() == 1 or not any(word in words for word in broken):
            raise
        raise ProcessLost(_lost(None)) from error


def leave(why: object) -> NoReturn:
    """Say why and end this process at once, where JAX would wait for the others."""
    print(f"physnn: {why}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(LOST)


def local(tree: Any) -> Any:
    """Arrays that are whole on every device, as arrays of this process alone."""
    return jax.tree.map(lambda x: jnp.array(np.asarray(x)), tree)


_WHOLE = PartitionSpec()


def _lost(limit_s: float | None) -> str:
    waited = "" if limit_s is None else f" (no step has ended for {limit_s:g} s)"
    return (
        f"Process {jax.process_index()} must hear from the {jax.process_count() - 1}"
        f" others of the run, but one is gone or stuck{waited}. Nothing is lost up to"
        " the last checkpoint: start all processes again, as many as you like."
    )
