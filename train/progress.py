"""Progress of a run on stderr: a bar on a terminal, a line now and then elsewhere."""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from train.pace import Pace

EVERY_S = 10.0  # between two lines where there is no terminal


class TrainProgress:
    """Shows step, bits per byte, tokens per second and the time left (`Pace`)."""

    def __init__(
        self,
        name: str,
        *,
        steps: int,
        step: int,
        tokens_per_step: int,
        pause_every: int,
        enabled: bool,
    ):
        self._steps, self._tokens = steps, tokens_per_step
        self._pace = Pace(steps=steps, step=step, pause_every=pause_every)
        self._smooth: float | None = None
        self._trouble = ""
        self._validation = ""
        self._printed = time.monotonic()
        self._console = Console(stderr=True, quiet=not enabled)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
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

    def update(self, step: int, bits_per_byte: float | None) -> None:
        """A step has ended; None: without a loss to show."""
        now = time.monotonic()
        self._pace.stepped(step, now)
        if bits_per_byte is not None:
            old = bits_per_byte if self._smooth is None else self._smooth
            self._smooth = old + 0.1 * (bits_per_byte - old)
        rate = self._pace.steps_per_s * self._tokens
        loss = "no loss" if self._smooth is None else f"{self._smooth:.3f} bits/byte"
        figures = f"{loss}{self._validation}{self._trouble}, {rate:,.0f} tokens/s"
        left_s = self._pace.left_s
        if left_s is not None:
            figures += f", {timedelta(seconds=round(left_s))} left"
        self._bar.update(self._task, completed=step, figures=figures)
        due = rate > 0 and (now - self._printed > EVERY_S or step == self._steps)
        if due and not self._console.is_terminal:
            self._printed = now
            self._console.print(
                f"{self._name}: step {step}/{self._steps}, {figures}",
                highlight=False,
                soft_wrap=True,
            )

    def paused(self, seconds: float) -> None:
        """The run evaluated or saved for a while."""
        self._pace.paused(seconds)

    def validation(self, bits_per_byte: float) -> None:
        self._validation = f" (validation {bits_per_byte:.3f})"

    def trouble(self, *, skipped: int, rollbacks: int) -> None:
        """How many steps were skipped and how often the run went back, so far."""
        counts = {"skipped": skipped, "rolled back": rollbacks}
        self._trouble = "".join(f", {n} {what}" for what, n in counts.items() if n)
