"""Pace: how fast a run trains and when it ends, from the times of its steps."""

from collections import deque
from itertools import pairwise

RECENT = 50  # steps whose mean is the rate


class Pace:
    """Steps per second while steps are made, and the time left with all that stops.

    The first step, which compiles, and pauses for evaluation or a checkpoint are in no
    rate. The time left is that of the steps left, and of the pauses left at the mean of
    those there were; the first one compiles and only counts while it is the only one.
    """

    def __init__(self, *, steps: int, step: int, pause_every: int):
        self._steps, self._step, self._every = steps, step, pause_every
        self._times: deque[tuple[float, int]] = deque(maxlen=RECENT + 1)
        self._pauses: list[float] = []

    def stepped(self, step: int, at_s: float) -> None:
        """A step has ended at a time of any clock."""
        if step < self._step:  # gone back to a checkpoint
            self._times.clear()
        self._step = step
        self._times.append((at_s, step))

    def paused(self, seconds: float) -> None:
        """No step was made for a while after the last one, to evaluate or to save."""
        self._pauses.append(seconds)
        # As if all before had happened later: the difference is what counts.
        shifted = [(at_s + seconds, step) for at_s, step in self._times]
        self._times = deque(shifted, maxlen=RECENT + 1)

    @property
    def steps_per_s(self) -> float:
        """0 while it is not known."""
        if len(self._times) < 2:
            return 0.0
        made = sum(b[1] - a[1] for a, b in pairwise(self._times))
        seconds = self._times[-1][0] - self._times[0][0]
        return made / seconds if seconds > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until the last step is made; None while it is not known."""
        rate = self.steps_per_s
        if not rate:
            return None
        known = self._pauses[1:] or self._pauses
        each = sum(known) / len(known) if known else 0.0
        # The last step is followed by a pause, whatever its number.
        to_come = -(-self._steps // self._every) - self._step // self._every
        return (self._steps - self._step) / rate + each * to_come
