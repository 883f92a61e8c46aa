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
    data: int = 8,
    model: int = 1,
    batch: int | None = None,
    context: int | None = None,
    json: bool = False,
) -> int:
    """Memory per device and bytes sent when training on a mesh; nothing is trained.

    Args:
        config: An experiment's TOML file or name.
        parameters: Grow the design to so many parameters (evals/scale.py has the rule).
        data: Devices the batch and the parameters are cut over; simulated.
        model: Parts the matrices of wide circuits are cut into beside that.
        batch: Windows per step; without it that of the experiment.
        context: Bytes of a window; without it that of the experiment.
        json: Print JSON.
    """
    from evals.scaling import plan as plan_step
    from physnn.configs import find_config
    from train.experiment import load_experiment
    from train.sharding import MeshConfig

    experiment = load_experiment(find_config("experiments", config))
    task = experiment.task
    if context is not None:
        task = dataclasses.replace(task, context=context)
    experiment = dataclasses.replace(
        experiment,
        task=task,
        batch=batch or experiment.batch,
        mesh=MeshConfig(data=data, model=model),
    )
    # How long it takes to compile is part of the answer.
    jax.config.update("jax_enable_compilation_cache", False)
    found = plan_step(experiment, parameters=parameters)
    print(json_format.dumps(found.to_json(), indent=2) if json else found)
    return 0
