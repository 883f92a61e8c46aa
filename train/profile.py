"""Profile: a trace of some steps, to see what they spend their time on."""

import re
from pathlib import Path

import jax

_RANGE = re.compile(r"(\d+):(\d+)")


class Profile:
    """Traces steps FIRST to LAST of a run with `jax.profiler`, on process 0.

    The folder can be opened with XProf (`xprof --logdir`), TensorBoard's profiler or,
    after conversion, Perfetto. While entered; what stops a run ends the trace, too.
    """

    def __init__(self, steps: str | None, folder: Path, *, done: int, last: int):
        """`steps`: FIRST:LAST of those after `done` up to `last`; None traces nothing.

        Raises `ValueError` for what is no such range.
        """
        self._folder, self._running = folder, False
        self._first = self._last = -1
        if steps is None or jax.process_index():
            return
        found = _RANGE.fullmatch(steps)
        if found:
            self._first, self._last = int(found[1]), int(found[2])
        if not found or not done < self._first <= self._last <= last:
            raise ValueError(
                f"Argument `profile` must be FIRST:LAST, steps from {done + 1} to"
                f" {last} (the first one compiles), but is {steps!r}."
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._stop()

    def before(self, step: int) -> None:
        """A step is about to be made."""
        if step == self._first and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result) -> None:
        """A step was dispatched; the trace waits for the result of its last one."""
        if step == self._last and self._running:
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
