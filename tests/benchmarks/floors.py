"""Every family's kernel against its floor, and training steps against the peak.

    python -m tests.benchmarks.floors

Two tables in Markdown. The first: value and gradient of each family and of the same
written by hand (`floors_by_hand.py` says what each floor contains), in turns, and what
both hold in memory at most, from the compiled program's own analysis. The second: one
training step of gated RC states and of the transformer of its budget, its products of
matrices counted in the compiled program, over what one large product reaches here; all
in turns. `--small` is the same in miniature, to see that it runs.

    python -m tests.benchmarks.floors --parameters 100e6 --batch 16 --context 1024

On an accelerator: the second table alone, of both models grown to that size (the
circuits' layers compiled once and run in a loop).
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from evals.compiled_cost import cost_of
from evals.scale import grown
from physnn.configs import find_config
from physnn.process import load_process
from tests.benchmarks.floors_by_hand import CASES, Sizes, gradient
from tests.benchmarks.interleaved import interleaved
from tests.benchmarks.memory import held_bytes
from train.experiment import Experiment, load_experiment
from train.loop import begin
from train.objective import make_update

EXPERIMENTS = {
    "gated RC states": "wikitext2_gated_rc",
    "transformer": "wikitext2_transformer_l",
}
SMALL = Sizes(rows=8, width=16, time=8, batch=2)


def kernels(sizes: Sizes, *, rounds: int, only: str) -> None:
    """Print the first table, a row as soon as it is measured."""
    print("| family | by hand, ms | here, ms | times | by hand, MB | here, MB |")
    print("|---|---|---|---|---|---|")
    for name, build in CASES.items():
        if only not in name:
            continue
        case = build(sizes)
        floor, floor_B = gradient(case.floor, case.arguments)
        ours, ours_B = gradient(case.ours, case.arguments)
        medians = interleaved({"floor": floor, "ours": ours}, rounds=rounds)
        a, b = medians["floor"], medians["ours"]
        times = f"{a * 1e3:.2f} | {b * 1e3:.2f} | {b / a:.2f}"
        print(f"| {name} | {times} | {floor_B / 1e6:.1f} | {ours_B / 1e6:.1f} |")
        sys.stdout.flush()


@dataclasses.dataclass(frozen=True)
class Asked:
    """Of training steps: parameters (0: as the experiments are), batch and context."""

    parameters: float = 0.0
    batch: int = 0
    context: int = 0

    def of(self, experiment: Experiment) -> Experiment:
        batch = self.batch or experiment.batch
        context = self.context or experiment.task.context
        task = dataclasses.replace(experiment.task, context=context)
        experiment = dataclasses.replace(experiment, task=task, batch=batch)
        if not self.parameters:
            return experiment
        process = load_process(experiment.process)
        model = grown(
            experiment.model, self.parameters, vocabulary=256, process=process
        )
        looped = experiment.is_physical and getattr(model, "n_layers", 1) > 1
        compute = dataclasses.replace(experiment.compute, scan_layers=looped)
        return dataclasses.replace(experiment, model=model, compute=compute)


def training_step(name: str, asked: Asked) -> tuple[Callable, float, int, int]:
    """A step, the operations of its products of matrices, its bytes at most, tokens."""
    experiment = asked.of(load_experiment(find_config("experiments", name)))
    process = load_process(experiment.process)
    held, static = begin(experiment, vocabulary=256, process=process)
    rest = eqx.combine(held.fixed, static)
    shape = (experiment.batch, experiment.task.context + 1)
    tokens = jr.randint(jr.key(2), shape, 0, 256).astype(jnp.uint8)
    update = make_update(rest, experiment=experiment, process=process)
    program = update.lower(held.state, tokens).compile()
    text, state = program.as_text(), [held.state]
    assert text is not None

    def step():
        state[0], measured = program(state[0], tokens)
        return measured

    return step, cost_of(text).flops, held_bytes(program), experiment.tokens_per_step


def steps(asked: Asked, *, size: int, rounds: int) -> None:
    """Print the second table; `size` is that of the large product."""
    a = jr.normal(jr.key(0), (size, size))
    product = functools.partial(jax.jit(jnp.matmul), a, a)
    built = {called: training_step(name, asked) for called, name in EXPERIMENTS.items()}
    called = f"product of {size} x {size} matrices"
    functions = {called: product} | {key: each[0] for key, each in built.items()}
    medians = interleaved(functions, rounds=rounds)
    peak = 2 * size**3 / medians[called]
    head = "training step | ms | tokens/s | GFLOP of products | GFLOP/s | of peak | MB"
    print(f"\n| {head} |\n|{'---|' * 7}")
    print(f"| {called} | {medians[called] * 1e3:.1f} | | {2e-9 * size**3:.2f} ", end="")
    print(f"| {peak / 1e9:.0f} | 1 | |")
    for key, (_, flops, held_B, tokens) in built.items():
        rate, pace = flops / medians[key], tokens / medians[key]
        print(f"| {key} | {medians[key] * 1e3:.1f} | {pace:,.0f} ", end="")
        print(f"| {flops / 1e9:.2f} | {rate / 1e9:.0f} ", end="")
        print(f"| {rate / peak:.2f} | {held_B / 1e6:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="of each kernel")
    parser.add_argument("--only", default="", help="families whose name holds this")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parameters", type=float, default=0.0, help="grown to")
    parser.add_argument("--batch", type=int, default=0, help="windows of a step")
    parser.add_argument("--context", type=int, default=0, help="bytes of a window")
    given = parser.parse_args()
    if given.only and given.parameters:
        parser.error("--only names kernels, --parameters asks for steps: give one.")
    print(f"JAX {jax.__version__}, {jax.default_backend()}, medians of turns\n")
    sizes = SMALL if given.small else Sizes()
    asked = Asked(given.parameters, given.batch, given.context)
    if given.small:
        asked = Asked(given.parameters, given.batch or 2, given.context or 16)
    if not given.parameters:
        kernels(sizes, rounds=given.rounds, only=given.only)
    if not given.only:
        size = 128 if given.small else 2048
        steps(asked, size=size, rounds=max(1, given.rounds // 3))


if __name__ == "__main__":
    main()
