"""Plan: what a device holds, does and sends when an experiment is trained on a mesh.

From the compiled program of one training step on simulated CPU devices: no array is
made, and no accelerator is needed.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from evals.accelerator import Accelerator, Roofline
from evals.compiled_cost import Cost, cost_of
from evals.scale import grown
from physnn.process import Process, load_process
from train.experiment import Experiment
from train.loop import begin
from train.objective import make_update
from train.sharding import MeshConfig, shardings_of
from train.tasks import TextConfig

# A deeper model is compiled with so many layers, twice: what a layer adds is linear.
# Fewer would mislead: temporary memory is that of the fullest moment, and in a shallow
# model that moment is another.
FEW_LAYERS = (8, 12)
# Code that will not run: without the passes that take half of the compiler's time. They
# come after what is analyzed, which stays the same to the byte.
_UNOPTIMIZED = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@dataclass(frozen=True)
class Plan:
    """One row: a model on a mesh."""

    name: str
    parameters: int  # trained ones
    layers: int
    compiled_layers: tuple[int, ...]  # without `layers`: extrapolated from these two
    data: int
    model: int
    sequence: int
    tokens_per_step: int
    # Of one device, in one step:
    state_bytes: int  # parameters and optimizer, and the batch
    temporary_bytes: int  # activations, gradients, gathered parameters
    cost: Cost
    compile_s: float
    # On a machine: its name, memory of a device, and the time of a step.
    on: str | None = None
    memory_bytes: float | None = None
    step: Roofline | None = None

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self):
        sent = ", ".join(
            f"{kind} {n / 1e9:.3g} GB" for kind, n in self.cost.sent_bytes.items()
        )
        held = self.state_bytes + self.temporary_bytes
        lines = [
            f"{self.name}: {self.parameters:,} trained parameters in {self.layers}"
            f" layers on {self.data} x {self.model} x {self.sequence} devices,"
            f" {self.tokens_per_step:,} tokens per step",
            f"  per device  state {self.state_bytes / 1e9:.3g} GB, temporary"
            f" {self.temporary_bytes / 1e9:.3g} GB",
            f"  per step    {self.cost.flops / 1e12:.3g} TFLOP of products, memory"
            f" moves {self.cost.moved_bytes / 1e9:.3g} GB, {sent or 'nothing is sent'}",
        ]
        if self.step and self.memory_bytes:
            lines += [
                f"  on {self.on}, estimated: {held / self.memory_bytes:.0%} of memory;"
                f" products {self.step.products_s:.3g} s, memory"
                f" {self.step.memory_s:.3g} s, links {self.step.links_s:.3g} s: a step"
                f" takes {self.step.least_s:.3g} to {self.step.most_s:.3g} s, most of"
                f" it {self.step.bound}",
            ]
        if self.layers not in self.compiled_layers:
            few, more = self.compiled_layers
            lines.append(
                f"  extrapolated in depth from programs of {few} and {more} layers"
            )
        return "\n".join([*lines, f"  compiled in {self.compile_s:.0f} s"])


def plan(
    experiment: Experiment,
    *,
    parameters: float | None = None,
    on: Accelerator | None = None,
    whole: bool = False,
) -> Plan:
    """The row of an experiment on its own mesh, grown to `parameters` if given.

    A model of more layers than `FEW_LAYERS` is compiled with so many and extrapolated
    linearly in depth, unless it is to be compiled `whole`. `on`: a machine whose memory
    and time are to be told, too.

    Simulates as many CPU devices as the mesh asks for, so JAX must not have been used
    before. Raises `ValueError` if it has, and what `grown` and `roofline` raise.
    """
    _simulate(experiment.mesh)
    process = load_process(experiment.process)
    task = experiment.task
    vocabulary = task.symbols()[0] if isinstance(task, TextConfig) else 10
    if parameters is not None:
        model = grown(
            experiment.model, parameters, vocabulary=vocabulary, process=process
        )
        experiment = dataclasses.replace(experiment, model=model)
    asked = {"vocabulary": vocabulary, "process": process}
    held, _ = eqx.filter_eval_shape(begin, experiment, **asked)
    depth = next((n for n in _DEPTHS if hasattr(experiment.model, n)), None)
    layers = getattr(experiment.model, depth) if depth else 1
    compiled = (layers,)
    if depth and not whole and layers > max(FEW_LAYERS):
        compiled = FEW_LAYERS
    began = time.monotonic()
    programs = []
    for n in compiled:
        model = experiment.model
        if depth and n != layers:
            model = dataclasses.replace(model, **{depth: n})
        each = dataclasses.replace(experiment, model=model)
        programs.append(_program(each, **asked))
    found = programs[0]
    if len(programs) > 1:
        found = _extrapolated(programs, compiled, layers)
    step = None
    if on is not None:
        precision = experiment.compute.matmul_precision
        step = on.roofline(found.cost, precision=precision)
    return Plan(
        experiment.name,
        sum(leaf.size for leaf in jax.tree.leaves(held.state.trained)),
        layers,
        compiled,
        experiment.mesh.data,
        experiment.mesh.model,
        experiment.mesh.sequence,
        experiment.tokens_per_step,
        round(found.state_bytes),
        round(found.temporary_bytes),
        found.cost,
        time.monotonic() - began,
        on.name if on else None,
        on.memory_bytes if on else None,
        step,
    )


# What the configs of models call their depth.
_DEPTHS = ("n_layers", "n_blocks")


@dataclass(frozen=True)
class _Program:
    """What the compiler says of one program."""

    state_bytes: float
    temporary_bytes: float
    cost: Cost


def _program(experiment: Experiment, *, vocabulary: int, process: Process) -> _Program:
    mesh = experiment.mesh.build(batch=experiment.batch)
    held, static = eqx.filter_eval_shape(
        begin, experiment, vocabulary=vocabulary, process=process
    )
    placed = lambda x, sharding: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=sharding
    )
    state = jax.tree.map(placed, held.state, shardings_of(held.state, mesh))
    # What is not trained is small, and its values change no size.
    fixed = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), held.fixed)
    tokens = jax.ShapeDtypeStruct(
        (experiment.batch, experiment.task.context + 1),
        jnp.uint8 if vocabulary <= 1 << 8 else jnp.uint32,
        sharding=NamedSharding(mesh, PartitionSpec("data")),
    )
    update = make_update(
        eqx.combine(fixed, static), experiment=experiment, process=process, mesh=mesh
    )
    compiled = update.lower(state, tokens).compile(compiler_options=_UNOPTIMIZED)
    memory, program = compiled.memory_analysis(), compiled.as_text()
    if memory is None or program is None:
        raise ValueError(
            "The compiler must analyze the memory of its programs to plan, but this"
            f" one ({jax.default_backend()}) does not: plan on a CPU."
        )
    return _Program(
        memory.argument_size_in_bytes, memory.temp_size_in_bytes, cost_of(program)
    )


def _extrapolated(
    programs: list[_Program], depths: tuple[int, ...], layers: int
) -> _Program:
    """A program of `layers` layers, on the line through two of fewer."""
    few, more = programs
    share = (layers - depths[0]) / (depths[1] - depths[0])
    at = lambda name: (1 - share) * getattr(few, name) + share * getattr(more, name)
    cost = Cost()
    cost.add(few.cost, 1 - share)
    cost.add(more.cost, share)
    return _Program(at("state_bytes"), at("temporary_bytes"), cost)


def _simulate(mesh: MeshConfig) -> None:
    """Let this process have the CPU devices of a mesh."""
    wanted = max(mesh.data, 1) * mesh.model * mesh.sequence
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        if len(jax.devices()) < wanted:
            raise ValueError(
                f"The {wanted} devices of a plan must be simulated before JAX is used,"
                " but it was used: plan in a process of its own."
            ) from error
