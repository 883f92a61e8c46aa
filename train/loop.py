"""train(experiment, folder): read it top to bottom."""

import contextlib
import hashlib
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree

from circuits.lookup import has_tables
from physnn.dynamics import integrated
from physnn.keys import stream
from physnn.process import Process, load_process
from train.calibrated import is_calibrated, read_calibrated
from train.checkpoint import Checkpoints
from train.counts import CountedModel, CountsConfig
from train.distributed import (
    StopTogether,
    check_alike,
    local,
    on_first,
    one_sentence,
)
from train.experiment import Experiment, to_text
from train.hardware import plain_errors
from train.journal import Journal
from train.loader import Loader
from train.metrics import MetricsFile, read_metrics
from train.objective import TrainState, make_score, make_update, split
from train.profile import Profile
from train.run_folder import RunFolderError, lock, open_run_folder, read_run_folder
from train.schedules import schedule_of
from train.sharding import (
    built_on_host,
    own_rows,
    shardings_of,
    spread,
    spread_batch,
    spread_rows,
)
from train.stopping import Interrupted, StopSignals
from train.surroundings import surroundings_of
from train.tasks.text import Text


class TrainedRun(NamedTuple):
    """A run, loaded."""

    folder: Path
    experiment: Experiment
    model: Any  # a PhysicalModel, a FlaxModel or a CountedModel
    process: Process
    step: int  # updates the model has seen
    best_bits_per_byte: float  # on the validation windows; inf before the first score


class Held(NamedTuple):
    """What a checkpoint holds."""

    state: TrainState
    fixed: PyTree  # the arrays of the model that are not trained
    best_bits_per_byte: Float[Array, ""]


def train(
    experiment: Experiment,
    folder: str | Path,
    *,
    resume: bool = True,
    progress: bool = True,
    profile: str | None = None,
) -> TrainedRun:
    """Train an experiment in a run folder, or continue the run that is there.

    The folder holds `experiment.toml`, `run.json` (schema, git commit, versions, digest
    of the data), `metrics.jsonl` and `checkpoints/`. A run that was stopped in whatever
    way and continued ends with the same weights, bit for bit, as one that was not. A
    counted model has nothing to train: its text is counted, and no checkpoint written.
    On another mesh, or in other processes (`train.distributed.join`; all call this,
    with a folder they share), it is the same run but for rounding; process 0 writes.
    `profile`: FIRST:LAST, steps of which a trace is written to `profile/` (`Profile`).

    Raises `Interrupted` when SIGINT or SIGTERM stopped the run and it was saved, and
    one sentence as `DataError`, `RunFolderError`, `CheckpointError` or
    `TrainingDiverged`, or `OtherProcess`.
    """
    folder = Path(folder)
    mesh = experiment.mesh.build(batch=experiment.batch)
    experiment.compute.check_backend()
    on_first(experiment.metrics.require)
    # Prepared by one process first: the others may share its cache.
    task = on_first(experiment.task.build) or experiment.task.build()
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_sentence())
        if is_calibrated(folder):
            raise RunFolderError(
                f"The run in {folder} must be a design to be trained, but is of one"
                " measured chip: continue the run it was made from."
            )
        on_first(lambda: stack.enter_context(lock(folder)))
        stop = stack.enter_context(StopSignals())
        teacher, taught_by = _teacher(experiment, vocabulary=task.vocabulary)
        opened = {"task": task, "resume": resume, "teacher": taught_by}
        on_first(lambda: open_run_folder(folder, experiment, **opened))
        check_alike(
            experiment=to_text(experiment), text=task.digest, teacher=taught_by or ""
        )
        process = load_process(experiment.process)
        if isinstance(experiment.model, CountsConfig):
            return _count(experiment, folder, task=task, process=process)
        with built_on_host():
            held, static = begin(
                experiment, vocabulary=task.vocabulary, process=process
            )
        model = eqx.combine(held.state.trained, held.fixed, static)
        surroundings = surroundings_of(experiment, model, process)
        checkpoints = Checkpoints(
            folder / "checkpoints",
            keep=experiment.keep_checkpoints,
            every=experiment.keep_every,
        )
        held = spread(held, shardings_of(held, mesh))
        template = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), held
        )
        _, held = checkpoints.restore(held) or (0, held)
        state, fixed, best = held.state, local(held.fixed), held.best_bits_per_byte
        done, best = int(state.step), float(best)
        rest = eqx.combine(fixed, static)

        device = experiment.hardware and experiment.hardware.device.build()
        asked = {
            "experiment": experiment,
            "process": process,
            "mesh": mesh,
            "device": device,
            "surroundings": surroundings,
        }
        rate = task.bytes_per_token("train")
        update = make_update(rest, **asked, teacher=teacher, bytes_per_token=rate)
        score = make_score(rest, **asked)
        soft = make_score(rest, **asked, soft=True) if has_tables(rest) else None
        stack.enter_context(plain_errors(device))
        journal = stack.enter_context(
            Journal(experiment, folder, done=done, progress=progress)
        )
        traced = stack.enter_context(
            Profile(profile, folder / "profile", done=done, last=experiment.steps)
        )
        rows, size = own_rows(mesh, experiment.batch), experiment.batch
        data = stack.enter_context(
            Loader(task, seed=experiment.seed, batch=size, rows=rows)
        )
        together = StopTogether(mesh)
        stack.enter_context(checkpoints)
        state = _moved_on(state, experiment, by=journal.shift)

        # A step whose result is fetched while the next one computes.
        pending: tuple[int, Any] | None = None
        step, saved = done, done > 0
        while step < experiment.steps:
            step += 1
            position = step - 1 + journal.shift
            tokens = spread_rows(data.at(position), rows, size, mesh)
            traced.before(step)
            state, measured = update(state, tokens)
            traced.after(step, measured)
            last = step == experiment.steps
            evaluate = last or step % experiment.evaluate_every == 0
            save = last or step % experiment.checkpoint_every == 0
            # Asked once: a signal after this line is for the next step.
            stopped_by = together.heard(stop.received)
            to_fetch, pending = [pending, (step, measured)], None
            if not (evaluate or save or stopped_by):
                pending = to_fetch.pop()
            # The first of them that is a spike; the others come after it.
            spike = next(
                (x[0] for x in to_fetch if x and journal.step(*x, saved=saved)), None
            )
            if spike is not None:
                checkpoints.wait()
                step, held = checkpoints.restore(template) or _nowhere(folder)
                journal.back(spike, to=step)
                state, best = held.state, float(held.best_bits_per_byte)
                state, pending = _moved_on(state, experiment, by=journal.shift), None
                continue
            if not (evaluate or save or stopped_by):
                continue

            paused = time.monotonic()
            if evaluate:
                seen = (state.trained, task, experiment)
                bits_per_byte = validate(score, *seen, mesh=mesh)
                best = min(best, bits_per_byte)
                twin = validate(soft, *seen, mesh=mesh) if soft else None
                journal.validation(step, bits_per_byte, soft=twin)
            if save or stopped_by:
                journal.flush()
                whole = Held(state, fixed, jnp.asarray(best))
                checkpoints.save(step, whole, wait=last or bool(stopped_by))
                saved = True
            journal.paused(time.monotonic() - paused)
            if stopped_by and not last:
                raise Interrupted(stopped_by, step=step, folder=folder)
        model = eqx.combine(state.trained, rest)
        return TrainedRun(folder, experiment, model, process, experiment.steps, best)


def load_run(folder: str | Path) -> TrainedRun:
    """The newest checkpoint of a run, as a model.

    Raises `RunFolderError` if the folder is no run or has no checkpoint yet, and
    `CheckpointError` if none can be read.
    """
    folder = Path(folder)
    experiment, facts = read_run_folder(folder)
    process = load_process(experiment.process)
    if isinstance(experiment.model, CountsConfig):
        return _recount(experiment, folder, facts["data_digest"], process=process)
    template, static = eqx.filter_eval_shape(
        begin, experiment, vocabulary=facts["vocabulary"], process=process
    )
    restored = Checkpoints(folder / "checkpoints").restore(template)
    if restored is None:
        raise RunFolderError(
            f"The run in {folder} must have a checkpoint, but has none yet: train it."
        )
    step, (state, fixed, best) = restored
    model = read_calibrated(folder, eqx.combine(state.trained, fixed, static))
    return TrainedRun(folder, experiment, model, process, step, float(best))


def load_finished(folder: str | Path) -> TrainedRun:
    """`load_run` of a run that was trained to its last step, fit for a table.

    Raises `RunFolderError` for one that was not, and what `load_run` raises.
    """
    run = load_run(folder)
    if run.step < run.experiment.steps and not isinstance(run.model, CountedModel):
        raise RunFolderError(
            f"The run in {folder} must be trained to its end to be compared, but stands"
            f" at step {run.step} of {run.experiment.steps}: `physnn train {folder}`"
            " continues it."
        )
    return run


def _teacher(experiment: Experiment, *, vocabulary: int) -> tuple[Any, str | None]:
    """The digital model that teaches, and the digest of its weights."""
    if experiment.distillation is None:
        return None, None
    folder = experiment.distillation.teacher
    run = load_run(folder)
    if run.experiment.is_physical or isinstance(run.experiment.model, CountsConfig):
        raise ValueError(
            f"The teacher in {folder} must be a trained digital model, but is of kind"
            f" `{run.experiment.model.kind}`: give the run of another."
        )
    if run.model.vocabulary != vocabulary:
        raise ValueError(
            f"The teacher in {folder} must know the {vocabulary} symbols of the task,"
            f" but knows {run.model.vocabulary}: give a teacher of the same task."
        )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(eqx.filter(run.model, eqx.is_array)):
        digest.update(np.asarray(leaf).tobytes())
    return run.model, digest.hexdigest()


def validate(
    score, trained, task, experiment: Experiment, *, mesh: Mesh | None = None
) -> float:
    """Bits per byte on the validation windows: noise on, the same draws each time."""
    mesh = mesh or experiment.mesh.build(batch=experiment.batch)
    key = stream(jr.key(experiment.seed), "validation")
    total, count = 0.0, 0
    windows = task.windows(
        "validation", batch=experiment.batch, limit=experiment.evaluation_windows
    )
    for i, (tokens, scored, bytes_per_token) in enumerate(windows):
        seen = spread_batch((tokens, scored), mesh)
        total += float(score(trained, *seen, jr.fold_in(key, i)))
        count += int(scored.sum()) * bytes_per_token
    # Rounded as a checkpoint holds it.
    return float(np.float32(total / count))


def begin(
    experiment: Experiment, *, vocabulary: int, process: Process
) -> tuple[Held, PyTree]:
    """The run before its first step, and what of its model is no array."""
    key = jr.key(experiment.seed)
    if isinstance(experiment.model, CountsConfig):
        raise ValueError("A model of kind `counts` has no first step: `train` counts.")
    model = experiment.model.build(
        vocabulary=vocabulary, process=process, key=stream(key, "model")
    )
    if experiment.solver is not None:
        model = integrated(model, experiment.solver)
    trained, rest = split(model, experiment)
    steps = experiment.steps
    decay = schedule_of(experiment.schedules, "weight_decay", steps=steps)
    optimizer = experiment.optimizer.build(
        steps=steps, decay=decay, skip=experiment.recovery.skip
    )
    state = TrainState(
        trained,
        jax.jit(optimizer.init)(trained),
        step=jnp.zeros((), jnp.int32),
        key=jr.key_data(experiment.compute.training_key(experiment.seed)),
    )
    fixed, static = eqx.partition(rest, eqx.is_array)
    return Held(state, fixed, jnp.asarray(jnp.inf)), static


def _moved_on(state: TrainState, experiment: Experiment, *, by: int) -> TrainState:
    """After rollbacks, which moved the data on: other noise and other chips, too."""
    if not by:
        return state
    key = jr.fold_in(experiment.compute.training_key(experiment.seed), by)
    return state._replace(key=spread(jr.key_data(key), state.key.sharding))


def _nowhere(folder: Path) -> NoReturn:
    raise RunFolderError(
        f"The run in {folder} must have its checkpoints to go back to, but they were"
        " removed while it trained: train it in a new folder."
    )


def _count(experiment: Experiment, folder: Path, *, task, process) -> TrainedRun:
    """What `train` is for counted tables: count the text, score it once."""
    began = time.monotonic()
    model = _counted_model(experiment, task)
    trained, rest = split(model, experiment)
    score = make_score(rest, experiment=experiment, process=process)
    bits_per_byte = validate(score, trained, task, experiment)
    with MetricsFile(folder / "metrics.jsonl", step=-1) as metrics:
        metrics.write(
            {
                "step": 0,
                "tokens": model.tables.n_tokens,
                "validation_bits_per_byte": bits_per_byte,
                "seconds": round(time.monotonic() - began, 3),
            }
        )
    return TrainedRun(folder, experiment, model, process, 0, bits_per_byte)


def _recount(
    experiment: Experiment, folder: Path, digest: str, *, process
) -> TrainedRun:
    """Counted tables again: a function of the text, and no slower than a disk."""
    task = experiment.task.build()
    if task.digest != digest:
        raise RunFolderError(
            f"The run in {folder} must be read with the text it counted, but the text"
            f" at {experiment.task.path or 'the standard library'} has changed."
        )
    lines = read_metrics(folder / "metrics.jsonl")
    if not lines:
        raise RunFolderError(
            f"The run in {folder} must have been counted, but was not yet: train it."
        )
    best = lines[-1]["validation_bits_per_byte"]
    model = _counted_model(experiment, task)
    return TrainedRun(folder, experiment, model, process, 0, best)


def _counted_model(experiment: Experiment, task) -> CountedModel:
    if not (isinstance(experiment.model, CountsConfig) and isinstance(task, Text)):
        raise ValueError(
            "A model of kind `counts` must have a task of kind `text`, but the task is"
            f" of kind {experiment.task.kind!r}."
        )
    return experiment.model.count(task.tokens("train"))
