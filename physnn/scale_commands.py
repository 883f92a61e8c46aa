"""Commands about training on many devices; `physnn.commands` lists them."""

import dataclasses
import json as json_format
from pathlib import Path
from typing import Annotated

import jax
import tyro


def plan(
    config: Annotated[Path, tyro.conf.Positional],
    parameters: float | None = None,
    on: str | None = None,
    data: int | None = None,
    model: int = 1,
    sequence: int = 1,
    batch: int | None = None,
    context: int | None = None,
    accumulate: int | None = None,
    whole: bool = False,
    json: bool = False,
) -> int:
    """Memory, bytes sent and time of a step on a mesh; nothing is trained.

    Args:
        config: An experiment's TOML file or name.
        parameters: Grow the design to so many parameters (evals/scale.py has the rule).
        on: A machine of configs/accelerators, by name or file: how full it is, and a
            step's time by its data sheet.
        data: Devices the batch and the parameters are cut over, simulated; without it
            those of the machine, or 8.
        model: Parts the matrices of wide circuits are cut into beside that.
        sequence: Parts the time of each window is cut into beside that.
        batch: Windows per step; without it that of the experiment.
        context: Bytes of a window; without it that of the experiment.
        accumulate: Parts of a batch, one after another; without it those of the
            experiment.
        whole: Compile all layers of a deep model, not a few to extrapolate from.
        json: Print JSON.
    """
    from evals.accelerator import load_accelerator
    from evals.scaling import plan as plan_step
    from physnn.configs import find_config
    from train.experiment import load_experiment
    from train.sharding import MeshConfig

    experiment = load_experiment(find_config("experiments", config))
    machine = load_accelerator(on) if on else None
    if data is None:
        data = machine.devices // (model * sequence) if machine else 8
    task = experiment.task
    if context is not None:
        task = dataclasses.replace(task, context=context)
    experiment = dataclasses.replace(
        experiment,
        task=task,
        batch=batch or experiment.batch,
        accumulate=accumulate or experiment.accumulate,
        mesh=MeshConfig(data=data, model=model, sequence=sequence),
    )
    # How long it takes to compile is part of the answer.
    jax.config.update("jax_enable_compilation_cache", False)
    found = plan_step(experiment, parameters=parameters, on=machine, whole=whole)
    print(json_format.dumps(found.to_json(), indent=2) if json else found)
    return 0
