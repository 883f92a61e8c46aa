"""Progress of a preparation on stderr: a bar on a terminal, lines elsewhere."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

EVERY_S = 10.0  # between two lines where there is no terminal


class Shown:
    """Shows bytes of text done, their rate and the time left; to be entered."""

    def __init__(self, enabled: bool):
        self._console = Console(stderr=True, quiet=not enabled)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not (enabled and self._console.is_terminal),
        )
        self._task = None
        self._name, self._size, self._done, self._printed = "", None, 0, 0.0

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *_):
        self._bar.stop()

    def phase(self, name: str, size: int | None) -> None:
        """What is done from now on, of so many bytes if they are known."""
        self._name, self._size, self._done = name, size, 0
        self._printed = time.monotonic()
        self._task = self._bar.add_task(name, total=size)

    def advance(self, n_bytes: int) -> None:
        """So many more are done."""
        self._done += n_bytes
        if self._task is not None:
            self._bar.advance(self._task, n_bytes)
        now = time.monotonic()
        if self._console.is_terminal or now - self._printed < EVERY_S:
            return
        self._printed = now
        of = f" of {self._size / 1e6:,.0f}" if self._size else ""
        self._console.print(
            f"{self._name}: {self._done / 1e6:,.0f}{of} MB", highlight=False
        )
