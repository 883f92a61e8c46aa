"""Progress of a suite on stderr: a bar on a terminal, a line now and then elsewhere."""

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from train.progress import EVERY_S


class SuiteProgress:
    """Shows which of the steps of a suite is under way."""

    def __init__(self, name: str, *, steps: int, enabled: bool):
        self._name, self._steps, self._done = name, steps, 0
        self._began = self._printed = time.monotonic()
        self._console = Console(stderr=True, quiet=not enabled)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[what]}"),
            TimeElapsedColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = self._bar.add_task(name, total=steps, what="compiling")

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def begins(self, what: str) -> None:
        self._bar.update(self._task, what=what)
        now = time.monotonic()
        if now - self._printed > EVERY_S and not self._console.is_terminal:
            self._printed = now
            self._console.print(
                f"{self._name}: {self._done}/{self._steps}, {what},"
                f" {now - self._began:.0f} s",
                highlight=False,
                soft_wrap=True,
            )

    def ends(self) -> None:
        self._done += 1
        self._bar.update(self._task, completed=self._done)
