"""Loader: the batches of a run by position, read ahead of it by Grain."""

import sys

from train.tasks.base import AbstractTask

# Batches that are made before they are asked for, and the threads that make them. One
# thread keeps up with any model here; more would take the cores of the arithmetic.
AHEAD, THREADS = 4, 1


class Loader:
    """Batches of a task; the one at a position is the same whoever asks, and when.

    Grain reads ahead; where to go on is a number, so it costs a checkpoint nothing and
    a rollback no more than a jump.
    """

    def __init__(
        self, task: AbstractTask, *, seed: int, batch: int, rows: slice = slice(None)
    ):
        """`rows`: those of every batch that this process needs."""
        import grain  # a second, which only a training has to take

        batches = grain.MapDataset.source(_Batches(task, seed, batch, rows))
        ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
        self._batches = iter(batches.to_iter_dataset(ahead))
        self._next = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._batches.close()

    def at(self, position: int):
        """The batch of a position: of a step, as far as no rollback moved the data."""
        if position != self._next:
            self._batches.set_state({"next_index": position})
        self._next = position + 1
        return next(self._batches)


class _Batches:
    """What Grain reads: a list of as many batches as there are numbers."""

    def __init__(self, task: AbstractTask, seed: int, batch: int, rows: slice):
        self._task = task
        self._asked = {"seed": seed, "batch": batch, "rows": rows}

    def __len__(self):
        return sys.maxsize

    def __getitem__(self, index):
        return self._task.batch(int(index), **self._asked)
