"""Experiment: everything a run depends on, frozen; and its TOML file."""

import dataclasses
import json
import math
import os
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import cattrs
from cattrs.gen import make_dict_structure_fn

from circuits.blocks import BlockConfig, LayerConfig
from physnn.dynamics import SolverConfig
from train.baseline import TransformerConfig
from train.classifier import ClassifierConfig
from train.compute import Compute
from train.counts import CountsConfig
from train.decode import problems_of, strict_converter
from train.devices import DeviceConfig, HardwareInTheLoop
from train.image_baseline import ImageNetworkConfig
from train.model import PhysicalConfig
from train.noise_aware import Distillation, NoiseAware
from train.optimizer import OptimizerConfig
from train.recovery import Recovery
from train.schedules import TRAINING_AMOUNTS, Schedule
from train.sharding import MeshConfig
from train.sinks import MetricsConfig
from train.tasks import ImagesConfig, TaskConfig, TextConfig

ModelConfig = (
    PhysicalConfig
    | TransformerConfig
    | CountsConfig
    | ClassifierConfig
    | ImageNetworkConfig
)


class ConfigError(ValueError):
    """A config file is wrong; the message names the file and the key."""


@dataclass(frozen=True)
class Experiment:
    """Everything a run depends on. The same experiment gives the same weights."""

    name: str = "experiment"
    seed: int = 0
    process: str = "cmos28"  # a name in configs/processes, or a TOML file
    steps: int = 1000
    batch: int = 16  # windows per step
    # Parts of the batch that are computed one after the other, in as little memory, and
    # their gradients added: the same step, with the same chips. One of this and of
    # `noise.chips_per_batch` must divide the other; a chip whose windows come in parts
    # has other draws of its noise.
    accumulate: int = 1
    checkpoint_every: int = 200  # steps
    keep_checkpoints: int = 2  # the newest ones
    keep_every: int = 0  # also those of steps that this divides; 0: none
    evaluate_every: int = 200  # steps
    evaluation_windows: int = 64  # of the validation split, evenly spaced
    task: TaskConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=PhysicalConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    noise: NoiseAware = field(default_factory=NoiseAware)
    # Amounts that change in the course of training; a table `[[schedules]]` each.
    schedules: tuple[Schedule, ...] = ()
    distillation: Distillation | None = None
    # A device that computes forward while the model gives the gradient.
    hardware: HardwareInTheLoop | None = None
    # Parameters whose path matches this regular expression stay as they start.
    frozen: str | None = None
    # Diffrax under every dynamic circuit, in training and after; None: its fast path.
    solver: SolverConfig | None = None
    # What is done about gradients that are no numbers, and about leaps of the loss.
    recovery: Recovery = field(default_factory=Recovery)
    # How a step is carried out: its generator, what it keeps, compiles and rounds.
    compute: Compute = field(default_factory=Compute)
    # The devices it runs on: the same run but for rounding, so a run may change them.
    mesh: MeshConfig = field(default_factory=MeshConfig)
    # Who else is told the metrics: of no effect on the run, so it may change, too.
    metrics: MetricsConfig = field(default_factory=MetricsConfig)

    def __post_init__(self):
        for name in (
            "steps",
            "batch",
            "accumulate",
            "checkpoint_every",
            "keep_checkpoints",
            "evaluate_every",
            "evaluation_windows",
        ):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"Argument `{name}` must be at least 1, but is"
                    f" {getattr(self, name)}."
                )
        try:
            re.compile(self.frozen or "")
        except re.error as error:
            raise ValueError(
                "Argument `frozen` must be a regular expression, but"
                f" {self.frozen!r} is not: {error}."
            ) from error
        sees_images = isinstance(self.model, ClassifierConfig | ImageNetworkConfig)
        if sees_images != isinstance(self.task, ImagesConfig):
            raise ValueError(
                "A model of kind `classifier` or `image_network` goes with a task of"
                " kind `images`, but"
                f" they are `{self.model.kind}` and `{self.task.kind}`."
            )
        if self.solver is not None and not self.is_physical:
            raise ValueError(
                "Argument `solver` must be left out of a model that is no circuit, but"
                f" the model is of kind `{self.model.kind}`."
            )
        self.compute.check_model(self.model, in_the_loop=self.in_the_loop)
        self._check_awareness()
        for name in ("seed", "keep_every"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"Argument `{name}` must not be negative, but is"
                    f" {getattr(self, name)}."
                )
        self.mesh.check_batch(self.batch)
        context = getattr(self.task, "context", 1)
        self.mesh.check_time(self.model, context=context, solver=self.solver)
        self._check_parts()
        alone = self.hardware is not None or isinstance(self.model, CountsConfig)
        if alone and not self.mesh.is_one_device:
            raise ValueError(
                "Argument `mesh` must be left out of an experiment with hardware in the"
                " loop, and of a model that is counted: both run on one device."
            )
        if self.batch % max(self.chips, 1):
            raise ValueError(
                "Argument `batch` must be a multiple of `chips_per_batch`, but they are"
                f" {self.batch} and {self.chips}."
            )

    def _check_parts(self) -> None:
        parts, chips = self.accumulate, max(self.chips, 1)
        if parts == 1:
            return
        if self.in_the_loop or isinstance(self.model, CountsConfig):
            raise ValueError(
                "Argument `accumulate` must be 1 with hardware in the loop and for a"
                f" model that is counted, but is {parts}."
            )
        if chips % parts and parts % chips:
            raise ValueError(
                "One of `accumulate` and `noise.chips_per_batch` must divide the other,"
                f" but they are {parts} and {chips}."
            )
        if self.batch % (parts * max(self.mesh.data, 1)):
            raise ValueError(
                "Argument `batch` must be a multiple of `accumulate` times `mesh.data`,"
                f" but they are {self.batch}, {parts} and {self.mesh.data}."
            )

    def _check_awareness(self) -> None:
        """Nothing that is asked for may go without effect."""
        names = [each.amount for each in self.schedules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"An amount must have one of the `schedules`, but `{name}` has"
                    f" {names.count(name)}."
                )
            where = TRAINING_AMOUNTS.get(name)
            if where and not _at(self, where):
                raise ValueError(
                    f"Argument `{where}` must be above zero for a schedule of"
                    f" `{name}` to change it, but is {_at(self, where)}."
                )
        physical_only = {
            "noise.clip_sigma": self.noise.clip_sigma < math.inf,
            "noise.card": self.noise.card,
            "noise.energy_weight": self.noise.energy_weight > 0,
            "noise.environment": self.noise.environment is not None,
            "noise.sampled": self.noise.sampled is not None,
            "hardware": self.hardware is not None,
            "schedules": any(name not in TRAINING_AMOUNTS for name in names),
        }
        for name, given in physical_only.items():
            if given and not self.is_physical:
                raise ValueError(
                    f"Argument `{name}` goes with a physical model, but the model is of"
                    f" kind `{self.model.kind}`: leave it out."
                )
        if self.distillation and isinstance(self.model, CountsConfig):
            raise ValueError(
                "Argument `distillation` goes with a model that is trained, but counts"
                " are not: leave it out."
            )
        if self.in_the_loop and self.noise.chips_per_batch != 1:
            raise ValueError(
                "Argument `noise.chips_per_batch` must be 1 with the one device of"
                f" `hardware` in the loop, but is {self.noise.chips_per_batch}."
            )
        surrounded = self.noise.card or self.noise.environment or self.noise.sampled
        if self.in_the_loop and (surrounded or set(names) - set(TRAINING_AMOUNTS)):
            raise ValueError(
                "A device in the loop brings its own environment, but `noise` or the"
                " `schedules` ask for another: leave that out."
            )

    @property
    def is_physical(self) -> bool:
        return isinstance(self.model, PhysicalConfig | ClassifierConfig)

    @property
    def chips(self) -> int:
        """Chips fabricated per batch; 0 for a digital model, which has none."""
        return self.noise.chips_per_batch if self.is_physical else 0

    @property
    def in_the_loop(self) -> bool:
        """Whether a device computes forward in training."""
        return self.hardware is not None and self.hardware.training != "in_silico"

    def anonymous(self) -> "Experiment":
        """Without name, seed, mesh, sinks: equal for the runs of one row of a table."""
        free = {"mesh": MeshConfig(), "metrics": MetricsConfig()}
        return dataclasses.replace(self, name="", seed=0, **free)

    @property
    def tokens_per_step(self) -> int:
        return self.batch * self.task.context


def load_experiment(path: str | Path) -> Experiment:
    """Read an experiment from a TOML file.

    Keys that are left out have their default. Raises `ConfigError` for a file that is
    missing or no TOML, a key that is unknown, and a value that is wrong.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"The experiment {path} must be a TOML file, but there is none."
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} must be a TOML file, but is not: {error}."
        ) from error
    try:
        experiment = from_table(table)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return _absolute(experiment, path.resolve().parent)


def save_experiment(experiment: Experiment, path: str | Path) -> None:
    """Write an experiment as TOML: beside first, then renamed into place."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(to_text(experiment), "utf-8")
    beside.replace(path)


def to_text(experiment: Experiment) -> str:
    """The TOML of an experiment."""
    return _toml(to_table(experiment))


def from_table(table: dict[str, Any]) -> Experiment:
    """An experiment from the nested dictionary that a TOML file holds."""
    try:
        return _converter().structure(table, Experiment)
    except cattrs.BaseValidationError as error:
        raise ConfigError(problems_of(error)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(str(error)) from error


def to_table(experiment: Experiment) -> dict[str, Any]:
    """The nested dictionary of an experiment; TOML has no None, so it is left out."""

    def table(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            items = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {k: table(v) for k, v in items.items() if v is not None}
        if isinstance(value, tuple):
            return [table(v) for v in value]
        return value

    return table(experiment)


def to_json_table(experiment: Experiment) -> dict[str, Any]:
    """`to_table` for JSON, which has no infinity: it is spelled `inf`, as in TOML."""

    def spelled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: spelled(each) for key, each in value.items()}
        if isinstance(value, list):
            return [spelled(each) for each in value]
        if isinstance(value, float) and not math.isfinite(value):
            return str(value)
        return value

    return spelled(to_table(experiment))


def _converter() -> cattrs.Converter:
    converter = strict_converter()
    # What is inside another comes first.
    unions = (BlockConfig, LayerConfig | BlockConfig, ModelConfig, TaskConfig)
    for union in (*unions, DeviceConfig):
        converter.register_structure_hook(union, _tagged(converter, get_args(union)))
    return converter


def _tagged(converter: cattrs.Converter, members: tuple[type, ...]):
    """Chooses the member that `kind` names; a task without one is text."""
    known = {
        member().kind: make_dict_structure_fn(
            member, converter, _cattrs_forbid_extra_keys=True
        )
        for member in members
    }
    default = "text" if "text" in known else None

    def structure(value, _):
        kind = value.get("kind", default) if isinstance(value, dict) else value
        if not isinstance(value, dict) or kind not in known:
            raise ValueError(f"`kind` must be one of {sorted(known)}, but is {kind!r}")
        return known[kind](value, _)

    return structure


def _absolute(experiment: Experiment, folder: Path) -> Experiment:
    """Paths inside a config are relative to that config."""

    def absolute(path: str) -> str:
        return os.path.normpath(folder / Path(path).expanduser())

    task, process = experiment.task, experiment.process
    if task.path is not None:
        task = dataclasses.replace(task, path=absolute(task.path))
    if process.endswith(".toml"):
        process = absolute(process)
    lesson = experiment.distillation
    if lesson is not None:
        lesson = dataclasses.replace(lesson, teacher=absolute(lesson.teacher))
    return dataclasses.replace(
        experiment, task=task, process=process, distillation=lesson
    )


def _at(node: Any, path: str) -> Any:
    """What stands at `path`; None where the way ends before."""
    for name in path.split("."):
        node = getattr(node, name, None)
    return node


def _toml(table: dict[str, Any], heading: str = "") -> str:
    is_tables = lambda value: (
        isinstance(value, list) and isinstance(next(iter(value), None), dict)
    )
    within = lambda key: f"{heading}.{key}" if heading else key
    inner = {k: v for k, v in table.items() if isinstance(v, dict) or is_tables(v)}
    lines = [f"{k} = {_literal(v)}" for k, v in table.items() if k not in inner]
    text = "\n".join(lines) + "\n"
    for key, value in inner.items():
        if isinstance(value, dict):
            text += f"\n[{within(key)}]\n" + _toml(value, within(key))
            continue
        for each in value:
            text += f"\n[[{within(key)}]]\n" + _toml(each, within(key))
    return text


def _literal(value: str | int | float | list) -> str:
    if isinstance(value, str):
        # A TOML basic string is a JSON string, except that DEL must be escaped too.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else f"{value:+}"
    return repr(value)
