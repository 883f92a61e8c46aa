"""Plan: what a device holds and sends when an experiment is trained on a mesh.

From the compiled program of one training step on simulated CPU devices: no array is
made, and no accelerator is needed.
"""

import dataclasses
import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from evals.scale import grown
from physnn.process import load_process
from train.experiment import Experiment
from train.loop import begin
from train.objective import make_update
from train.sharding import MeshConfig, shardings_of
from train.tasks import TextConfig

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "f64": 8,
    "s64": 8,
    "u64": 8,
}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r" = (.*?) ([a-z][a-z\-]*)\(")
_CALLED = re.compile(r"(?:body|calls|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Plan:
    """One row: a model on a mesh."""

    name: str
    parameters: int  # trained ones
    data: int
    model: int
    tokens_per_step: int
    state_bytes: int  # per device: parameters and optimizer, and the batch
    temporary_bytes: int  # per device: activations, gradients, gathered parameters
    sent_bytes: dict[str, int]  # per device and step: results of collectives, by kind
    compile_s: float

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def __str__(self):
        sent = ", ".join(f"{k} {v / 1e9:.3g} GB" for k, v in self.sent_bytes.items())
        return (
            f"{self.name}: {self.parameters:,} trained parameters on {self.data} x"
            f" {self.model} devices, {self.tokens_per_step:,} tokens per step\n"
            f"  per device  state {self.state_bytes / 1e9:.3g} GB, temporary"
            f" {self.temporary_bytes / 1e9:.3g} GB\n"
            f"  per step    {sent or 'nothing is sent'}\n"
            f"  compiled in {self.compile_s:.0f} s"
        )


def plan(experiment: Experiment, *, parameters: float | None = None) -> Plan:
    """The row of an experiment on its own mesh, grown to `parameters` if given.

    Simulates as many CPU devices as the mesh asks for, so JAX must not have been used
    before. Raises `ValueError` if it has, and what `grown` raises.
    """
    mesh_config = experiment.mesh
    _simulate(mesh_config)
    process = load_process(experiment.process)
    task = experiment.task
    vocabulary = task.symbols()[0] if isinstance(task, TextConfig) else 10
    if parameters is not None:
        model = grown(
            experiment.model, parameters, vocabulary=vocabulary, process=process
        )
        experiment = dataclasses.replace(experiment, model=model)
    mesh = mesh_config.build(batch=experiment.batch)
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
    began = time.monotonic()
    compiled = update.lower(state, tokens).compile()
    memory, program = compiled.memory_analysis(), compiled.as_text()
    if memory is None or program is None:
        raise ValueError(
            "The compiler must analyze the memory of its programs to plan, but this"
            f" one ({jax.default_backend()}) does not: plan on a CPU."
        )
    return Plan(
        experiment.name,
        sum(leaf.size for leaf in jax.tree.leaves(held.state.trained)),
        mesh.shape["data"],
        mesh.shape["model"],
        experiment.tokens_per_step,
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        sent_bytes(program),
        time.monotonic() - began,
    )


def sent_bytes(program: str) -> dict[str, int]:
    """Bytes of the results of a compiled program's collectives, by kind, per device.

    Those inside a loop count as often as it runs, where XLA knows how often.
    """
    own: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    here, entry = "", ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            here = header[2]
            entry = here if header[1] else entry
            continue
        found = _INSTRUCTION.search(line)
        if not found:
            continue
        kind = found[2].removesuffix("-start")
        if kind in COLLECTIVES:
            own[here][kind] += _size(found[1])
        trips = _TRIPS.search(line)
        times = int(trips[1]) if trips else 1
        calls[here] += [(name, times) for name in _CALLED.findall(line)]

    def total(name: str) -> Mapping[str, int]:
        result = dict(own.get(name, {}))
        for called, times in calls.get(name, []):
            for kind, n in total(called).items():
                result[kind] = result.get(kind, 0) + times * n
        return result

    return dict(sorted(total(entry).items()))


def _size(result: str) -> int:
    """Bytes of the arrays in the type of a result."""
    total = 0
    for kind, shape in _ARRAY.findall(result):
        n = _BYTES.get(kind, 4)
        for length in filter(None, shape.split(",")):
            n *= int(length)
        total += n
    return total


def _simulate(mesh: MeshConfig) -> None:
    """Let this process have the CPU devices of a mesh."""
    wanted = max(mesh.data, 1) * mesh.model
    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", wanted)
    except RuntimeError as error:
        if len(jax.devices()) < wanted:
            raise ValueError(
                f"The {wanted} devices of a plan must be simulated before JAX is used,"
                " but it was used: plan in a process of its own."
            ) from error
