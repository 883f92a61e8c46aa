"""Progress of a run on stderr: a bar on a terminal, a line now and then elsewhere."""

import time
from collections import deque

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

EVERY_S = 10.0  # between two lines where there is no terminal


class TrainProgress:
    """Shows step, bits per byte, tokens per second and the time left."""

    def __init__(
        self, name: str, *, steps: int, step: int, tokens_per_step: int, enabled: bool
    ):
        self._steps, self._tokens = steps, tokens_per_step
        self._recent: deque[tuple[float, int]] = deque(maxlen=50)
        self._smooth: float | None = None
        self._validation = ""
        self._printed = time.monotonic()
        self._console = Console(stderr=True, quiet=not enabled)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._bar.add_task(
            name, total=steps, completed=step, figures="compiling"
        )
        self._name = name

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def update(self, step: int, bits_per_byte: float) -> None:
        now = time.monotonic()
        self._recent.append((now, step))
        old = bits_per_byte if self._smooth is None else self._smooth
        self._smooth = old + 0.1 * (bits_per_byte - old)
        (t0, s0), rate = self._recent[0], 0.0
        if now > t0:
            rate = (step - s0) * self._tokens / (now - t0)
        figures = (
            f"{self._smooth:.3f} bits/byte{self._validation}, {rate:,.0f} tokens/s"
        )
        self._bar.update(self._task, completed=step, figures=figures)
        due = rate > 0 and (now - self._printed > EVERY_S or step == self._steps)
        if due and not self._console.is_terminal:
            self._printed = now
            left = (self._steps - step) * self._tokens / rate if rate else 0.0
            self._console.print(
                f"{self._name}: step {step}/{self._steps}, {figures},"
                f" {left:.0f} s left",
                highlight=False,
                soft_wrap=True,
            )

    def validation(self, bits_per_byte: float) -> None:
        self._validation = f" (validation {bits_per_byte:.3f})"
