"""Surroundings: the environment that chips are fabricated and run in while training."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from physnn.deploy import active_sources, deploy, honored
from physnn.environment import AMOUNTS, Environment
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.process import Process, default_environment
from train.experiment import Experiment
from train.schedules import TRAINING_AMOUNTS

# A chip of a model, and the process at the operating point it runs at.
ChipOf = Callable[[Any, Process, Key[Array, ""]], tuple[Any, Process]]


def nominal_chip(
    model: Any, process: Process, key: Key[Array, ""]
) -> tuple[Any, Process]:
    """A chip with the mismatch that the process states, at its nominal point."""
    return fabricate(model, process, key=key), process


class Surroundings(NamedTuple):
    """The environment of an experiment, step by step."""

    environment: Environment | None  # None: nominal, with nothing to change
    experiment: Experiment

    def chip_of(self, step: Int[Array, ""] | None = None) -> ChipOf:
        """How a chip is made at a step of training; None: when all is as configured."""
        if self.environment is None:
            return nominal_chip
        environment = self.environment
        if step is not None:
            environment = self._changed(environment, step)
        sampled = self.experiment.noise.sampled

        def chip_of(model, process, key):
            there = environment
            if sampled is not None:
                there = sampled.draw(there, stream(key, "sampled"))
            period_s = model.config.period_s
            # `surroundings_of` has asked what acts, once.
            return deploy(
                model, process, there, key=key, period_s=period_s, strict=False
            )

        return chip_of

    def _changed(self, environment, step):
        steps = self.experiment.steps
        severity: Float[Array, ""] | None = None
        for each in self.experiment.schedules:
            if each.amount in TRAINING_AMOUNTS:
                continue
            multiple = jnp.asarray(each.build(steps)(step), jnp.float32)
            if each.amount == "severity":
                severity = multiple
                continue
            now = getattr(environment, each.amount) * multiple
            environment = environment.replace(**{each.amount: now})
        return environment if severity is None else environment.scaled(severity)


def surroundings_of(
    experiment: Experiment, model: Any, process: Process
) -> Surroundings:
    """The surroundings an experiment asks for, once it is known what `model` honors.

    Of the card's environment, made for all models, what no part can honor is left out,
    with a warning that names it. Raises `ValueError` for an amount of the experiment's
    own table, or of what it samples, that no part can honor, and for a schedule of an
    amount that is none.
    """
    noise, amounts = experiment.noise, _scheduled(experiment)
    for name in amounts:
        if name not in AMOUNTS and name != "severity":
            known = sorted({*TRAINING_AMOUNTS, *AMOUNTS, "severity"})
            raise ValueError(
                f"Argument `amount` of a schedule must be one of {known}, but is"
                f" {name!r}."
            )
        if name in AMOUNTS and AMOUNTS[name].grows == "point" and name != "age_s":
            raise ValueError(
                f"Argument `amount` of a schedule must be noise or age, but {name!r} is"
                " an operating point, which a multiple does not move in a sensible way:"
                " sample it (`noise.sampled`)."
            )
        if noise.sampled and name in noise.sampled.drawn:
            raise ValueError(
                f"Amount {name!r} must be drawn or scheduled, but `noise.sampled` and"
                " `schedules` both name it: leave it out of one."
            )
    if not is_surrounded(experiment):
        return nominal(experiment)
    environment = noise.environment or Environment()
    if noise.card:
        environment, left_out = honored(model, process, default_environment(process))
        if left_out:
            warnings.warn(
                "No part of the model can honor these amounts of the card, which are"
                f" left out of training: {', '.join(left_out)}.",
                stacklevel=2,
            )
    # What was asked for by name must act; `left_out` of a card is none by now.
    asked = noise.sampled.named(environment) if noise.sampled else environment
    active_sources(model, process, asked)
    for name in amounts:
        if name != "severity" and environment.is_none(name):
            raise ValueError(
                f"Argument `noise.environment.{name}` must be more than none for a"
                " schedule to change it, but is none."
            )
    noisy = [name for name, amount in AMOUNTS.items() if amount.grows != "point"]
    if "severity" in amounts and all(map(environment.is_none, noisy)):
        raise ValueError(
            "A schedule of `severity` must have some noise to multiply, but all of the"
            " environment is none: leave it out."
        )
    return Surroundings(environment, experiment)


def nominal(experiment: Experiment) -> Surroundings:
    """Noise and mismatch as the process states them; nothing else was asked for."""
    if is_surrounded(experiment):
        raise ValueError(
            "Argument `surroundings` must be given where an experiment asks for an"
            " environment: take them from `surroundings_of`."
        )
    return Surroundings(None, experiment)


def is_surrounded(experiment: Experiment) -> bool:
    """Whether an experiment asks for more than the nominal environment."""
    noise = experiment.noise
    asked = noise.card or noise.environment is not None or noise.sampled is not None
    return asked or bool(_scheduled(experiment))


def _scheduled(experiment: Experiment) -> list[str]:
    """Amounts of the environment that schedules change."""
    names = [each.amount for each in experiment.schedules]
    return [name for name in names if name not in TRAINING_AMOUNTS]
