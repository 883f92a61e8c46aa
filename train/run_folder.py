"""The run folder: what is in it besides checkpoints and metrics."""

import contextlib
import dataclasses
import fcntl
import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train.corpus.files import SPLITS
from train.corpus.vocabulary import (
    AbstractVocabulary,
    Bytes,
    load_vocabulary,
    write_vocabulary,
)
from train.experiment import Experiment, load_experiment, save_experiment, to_table
from train.tasks import AbstractTask, Text

SCHEMA_VERSION = 1


class RunFolderError(RuntimeError):
    """The folder is no run that this version can use; the message says why."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the run folder for this process; creates it.

    Raises `RunFolderError` if another process holds it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "w")  # noqa: SIM115  (closed below)
    except OSError as error:
        raise RunFolderError(
            f"The run folder {folder} must be writable, but is not: {error.strerror}."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunFolderError(
                f"The run folder {folder} is being trained by another process: wait for"
                " it or stop it."
            ) from error
        yield


def open_run_folder(
    folder: Path,
    experiment: Experiment,
    *,
    task: AbstractTask,
    resume: bool,
    teacher: str | None = None,
) -> None:
    """Begin a run in an empty folder, or check that the run there is this one.

    On another mesh, and with other sinks of metrics, it is the same run.
    Raises `RunFolderError` if the folder holds something else, a run of another
    experiment, of other data or of another schema, or any run when not `resume`.
    `teacher`: digest of the model that is distilled from.
    """
    if (folder / "run.json").exists() and (folder / "experiment.toml").exists():
        found, facts = read_run_folder(folder)
        if not resume:
            raise RunFolderError(
                f"The folder {folder} must be empty to start a new run, but holds one:"
                " continue that run or give another folder."
            )
        free = {"mesh": found.mesh, "metrics": found.metrics}
        anywhere = dataclasses.replace(experiment, **free)
        changed = _differences(to_table(found), to_table(anywhere))
        if changed:
            raise RunFolderError(
                f"The run in {folder} must be continued with its own experiment, but"
                f" these keys differ: {', '.join(changed)}: give another folder."
            )
        if facts["data_digest"] != task.digest:
            raise RunFolderError(
                f"The run in {folder} must be continued on its own data, but the text"
                f" at {experiment.task.path or 'the standard library'} has changed."
            )
        if facts.get("teacher_digest") != teacher:
            raise RunFolderError(
                f"The run in {folder} must be continued with its own teacher, but that"
                " has been trained since: give another folder."
            )
        return
    visible = [p.name for p in folder.iterdir() if not p.name.startswith(".")]
    if set(visible) - {"run.json", _VOCABULARY}:
        raise RunFolderError(
            f"The folder {folder} must be a run or empty, but it holds"
            f" {sorted(visible)[:3]} and no run.json: give another folder."
        )
    facts = {
        "schema_version": SCHEMA_VERSION,
        "git_commit": git_commit(),
        "data_digest": task.digest,
        "vocabulary": task.vocabulary,
        **_about_text(task, folder),
        **({"teacher_digest": teacher} if teacher else {}),
        "python": platform.python_version(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("jax", "equinox", "optax", "flax", "orbax-checkpoint")
        },
    }
    beside = folder / ".run.json.tmp"
    try:
        beside.write_text(json.dumps(facts, indent=1) + "\n")
        beside.replace(folder / "run.json")
        save_experiment(experiment, folder / "experiment.toml")
    except OSError as error:
        raise RunFolderError(
            f"The run could not be begun in {folder} ({error.strerror}): make room or"
            " give another folder."
        ) from error


# Where a run keeps its vocabulary: text can be generated where its data are not.
_VOCABULARY = "vocabulary"


def _about_text(task: AbstractTask, folder: Path) -> dict[str, Any]:
    """What a run of a text has to know of it later; nothing for bytes and images."""
    if not isinstance(task, Text) or task.symbols.file is None:
        return {}
    (folder / _VOCABULARY).mkdir(exist_ok=True)
    return {
        "text_digest": task.text_digest,
        "symbols": write_vocabulary(task.symbols, folder / _VOCABULARY),
        "bytes_per_token": {split: task.bytes_per_token(split) for split in SPLITS},
    }


def symbols_of(folder: Path) -> AbstractVocabulary:
    """The vocabulary of a run of text."""
    _, facts = read_run_folder(folder)
    if "symbols" not in facts:
        return Bytes()
    return load_vocabulary(facts["symbols"], folder / _VOCABULARY)


def read_run_folder(folder: Path) -> tuple[Experiment, dict[str, Any]]:
    """The experiment of a run, and the facts of its `run.json`.

    Raises `RunFolderError` if the folder is no run, or of another schema version.
    """
    try:
        facts = json.loads((folder / "run.json").read_text())
        version = facts["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"The folder {folder} must be a run with a readable run.json, but is not:"
            " give the folder of a run."
        ) from error
    if version != SCHEMA_VERSION:
        raise RunFolderError(
            f"The run in {folder} must have schema version {SCHEMA_VERSION}, but has"
            f" {version}: use the physnn that wrote it, of commit"
            f" {facts.get('git_commit')}."
        )
    return load_experiment(folder / "experiment.toml"), facts


def git_commit() -> str | None:
    """The commit of the source tree, with `-dirty` if it was changed; None outside."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() or None


def _differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(set(a) | set(b)):
        x, y = a.get(key), b.get(key)
        if isinstance(x, dict) and isinstance(y, dict):
            found += _differences(x, y, f"{prefix}{key}.")
        elif x != y:
            found.append(f"{prefix}{key}")
    return found
