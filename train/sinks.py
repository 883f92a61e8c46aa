"""Sinks: metrics shown elsewhere, beside the lines of metrics.jsonl, which stay."""

import abc
import contextlib
import hashlib
import importlib
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

SinkName = Literal["tensorboard", "wandb", "trackio"]


class SinkError(ValueError):
    """A sink cannot be used; the message says what to do."""


@dataclass(frozen=True)
class MetricsConfig:
    """Where metrics go beside `metrics.jsonl`.

    `tensorboard` writes event files to `tensorboard/` in the run folder; `wandb`
    writes offline runs to `wandb/` there, unless WANDB_MODE says otherwise; `trackio`
    keeps its own database (TRACKIO_DIR).
    """

    sinks: tuple[SinkName, ...] = ()
    project: str = "physnn"  # under which wandb and trackio file the run

    def require(self) -> None:
        """Import what the sinks need.

        Raises `SinkError` with the line that installs a missing one.
        """
        for name in self.sinks:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise SinkError(
                    f"The sink `{name}` must have its package to write metrics, but it"
                    f' cannot be imported ({error}): pip install "physnn[{name}]", or'
                    " leave it out of `metrics.sinks`."
                ) from error

    def open(
        self, folder: Path, *, name: str, about: dict[str, Any], step: int
    ) -> "Sinks":
        """Open every sink for the run in `folder`, which continues after `step`."""
        self.require()
        kinds = {"tensorboard": TensorBoard, "wandb": WandB, "trackio": TrackIO}
        return Sinks(
            kinds[each](folder, self.project, name=name, about=about, step=step)
            for each in self.sinks
        )


class AbstractSink(abc.ABC):
    """One place that metrics go to."""

    @abc.abstractmethod
    def __init__(
        self,
        folder: Path,
        project: str,
        *,
        name: str,
        about: dict[str, Any],
        step: int,
    ): ...

    @abc.abstractmethod
    def write(self, step: int, values: dict[str, float]) -> None:
        """What was measured at a step."""

    @abc.abstractmethod
    def rewind(self, step: int) -> None:
        """What was written after a step is of no run: it goes on from there."""

    @abc.abstractmethod
    def close(self) -> None:
        """Write what is waiting."""


class Sinks:
    """All sinks of a run. One that fails is told about and left out: a run goes on."""

    def __init__(self, sinks):
        self._sinks: list[AbstractSink] = list(sinks)

    def write(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        values = {k: float(v) for k, v in line.items() if k != "step"}
        self._each(lambda sink: sink.write(line["step"], values))

    def rewind(self, step: int) -> None:
        """The run went back to a step."""
        self._each(lambda sink: sink.rewind(step))

    def close(self) -> None:
        """Close all of them."""
        self._each(lambda sink: sink.close())
        self._sinks = []

    def _each(self, call) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:  # whatever theirs raises, the run is worth more
                self._sinks.remove(sink)
                warnings.warn(
                    f"The sink {type(sink).__name__} failed and gets no more metrics"
                    f" ({type(error).__name__}: {error}); metrics.jsonl has them all.",
                    stacklevel=3,
                )


class TensorBoard(AbstractSink):
    """Event files, as PyTorch's writer makes them: no TensorFlow is needed."""

    def __init__(self, folder, project, *, name, about, step):
        del project, name, about
        load = importlib.import_module
        self._event = load("tensorboard.compat.proto.event_pb2")
        self._summary = load("tensorboard.compat.proto.summary_pb2")
        writers = load("tensorboard.summary.writer.event_file_writer")
        self._writer = writers.EventFileWriter(str(folder / "tensorboard"))
        if step:
            self.rewind(step)

    def write(self, step, values):
        scalars = [
            self._summary.Summary.Value(tag=tag, simple_value=value)
            for tag, value in values.items()
        ]
        self._add(step, summary=self._summary.Summary(value=scalars))

    def rewind(self, step):
        # A reader drops what an earlier session wrote from this step on.
        started = self._event.SessionLog(status=self._event.SessionLog.START)
        self._add(step + 1, session_log=started)

    def close(self):
        self._writer.close()

    def _add(self, step: int, **what: Any) -> None:
        event = self._event.Event(wall_time=time.time(), step=step, **what)
        self._writer.add_event(event)


class WandB(AbstractSink):
    """Weights & Biases, offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder, project, *, name, about, step):
        del step
        self._run = importlib.import_module("wandb").init(
            project=project,
            name=name,
            dir=str(folder),
            config=about,
            mode=os.environ.get("WANDB_MODE", "offline"),
            # The same run when it is continued.
            id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16],
            resume="allow",
        )
        # Theirs may only grow; ours goes back after a spike.
        self._run.define_metric("*", step_metric="step")

    def write(self, step, values):
        self._run.log({"step": step, **values})

    def rewind(self, step):
        self._run.log({"step": step, "rolled_back_to": step})

    def close(self):
        self._run.finish()


class TrackIO(AbstractSink):
    """trackio, on this machine."""

    def __init__(self, folder, project, *, name, about, step):
        del step
        self._trackio = importlib.import_module("trackio")
        # It prints what it does; our stdout is for data.
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.init(
                project=project,
                name=f"{name}-{folder.resolve().name}",
                config=about,
                resume="allow",
            )

    def write(self, step, values):
        self._trackio.log({"run_step": step, **values})

    def rewind(self, step):
        self._trackio.log({"run_step": step, "rolled_back_to": step})

    def close(self):
        with contextlib.redirect_stdout(sys.stderr):
            self._trackio.finish()
