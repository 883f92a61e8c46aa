"""metrics.jsonl: one JSON object per line, and nothing else."""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from train.run_folder import RunFolderError

FLUSH_S = 2.0  # a reader sees lines at most this late


class MetricsFile:
    """Appends lines to a file; a run that continues drops what came after its step.

    Lines are written in one go every two seconds, so that a step does not wait for the
    disk. Raises `RunFolderError` when they cannot be written.
    """

    def __init__(self, path: Path, *, step: int, enabled: bool = True):
        """Keep the lines up to `step`, and append after them.

        Not `enabled` in a process whose metrics another one writes.
        """
        self.path, self._enabled = path, enabled
        self.last: dict[str, Any] = {}
        self._pending: list[str] = []
        self._flushed = time.monotonic()
        self.kept = self.rewind(step)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        # What stopped the run is told already; a full disk would only hide it.
        with contextlib.suppress(*([RunFolderError] if kind else [])):
            self.flush()

    def write(self, line: dict[str, Any]) -> None:
        self.last = line
        self._pending.append(json.dumps(line) + "\n")
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def rewind(self, step: int) -> list[dict[str, Any]]:
        """Drop what came after a step; the lines that stay."""
        self.flush()
        kept = [line for line in read_metrics(self.path) if line["step"] <= step]
        self.last = kept[-1] if kept else {}
        if self._enabled:
            beside = self.path.with_name(f".{self.path.name}.tmp")
            with self._one_sentence():
                beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
                beside.replace(self.path)
        return kept

    def flush(self) -> None:
        """Hand the lines to the system: before a checkpoint that relies on them."""
        lines, self._pending = "".join(self._pending), []
        if not (self._enabled and lines):
            return
        with self._one_sentence(), open(self.path, "a") as file:
            file.write(lines)
        self._flushed = time.monotonic()

    @contextlib.contextmanager
    def _one_sentence(self):
        try:
            yield
        except OSError as error:
            raise RunFolderError(
                f"The metrics could not be written to {self.path} ({error.strerror});"
                " the checkpoints are intact: make room and continue the run."
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, up to one that was cut off."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines
