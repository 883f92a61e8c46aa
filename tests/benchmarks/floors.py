"""Every family's kernel against its floor, and training steps against the peak.

    python -m tests.benchmarks.floors

Two tables in Markdown. The first: value and gradient of each family and of the same
written by hand (`floors_by_hand.py` says what each floor contains), in turns, and what
both hold in memory at most, from the compiled program's own analysis. The second: one
training step of gated RC states and of the transformer of its budget, its products of
matrices counted in the compiled program, over what one large product reaches here; all
in turns. `--small` is the same in miniature, to see that it runs.
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
from physnn.configs import find_config
from physnn.process import load_process
from tests.benchmarks.floors_by_hand import CASES, Sizes, gradient
from tests.benchmarks.interleaved import interleaved
from tests.benchmarks.memory import held_bytes
from train.experiment import load_experiment
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


def training_step(name: str, *, small: bool) -> tuple[Callable, float, int]:
    """A step, the operations of its products of matrices, and its bytes at most."""
    experiment = load_experiment(find_config("experiments", name))
    if small:
        task = dataclasses.replace(experiment.task, context=16)
        experiment = dataclasses.replace(experiment, task=task, batch=2)
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

    return step, cost_of(text).flops, held_bytes(program)


def steps(*, small: bool, rounds: int) -> None:
    """Print the second table."""
    n = 128 if small else 2048
    a = jr.normal(jr.key(0), (n, n))
    product = functools.partial(jax.jit(jnp.matmul), a, a)
    built = {
        called: training_step(name, small=small) for called, name in EXPERIMENTS.items()
    }
    called = f"product of {n} x {n} matrices"
    functions = {called: product} | {key: each[0] for key, each in built.items()}
    medians = interleaved(functions, rounds=rounds)
    peak = 2 * n**3 / medians[called]
    print("\n| training step | ms | GFLOP of products | GFLOP/s | of peak | MB |")
    print("|---|---|---|---|---|---|")
    print(f"| {called} | {medians[called] * 1e3:.1f} | {2e-9 * n**3:.2f} ", end="")
    print(f"| {peak / 1e9:.0f} | 1 | |")
    for key, (_, flops, held_B) in built.items():
        rate = flops / medians[key]
        print(f"| {key} | {medians[key] * 1e3:.1f} | {flops / 1e9:.2f} ", end="")
        print(f"| {rate / 1e9:.0f} | {rate / peak:.2f} | {held_B / 1e6:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, help="of each kernel")
    parser.add_argument("--only", default="", help="families whose name holds this")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    print(f"JAX {jax.__version__}, {jax.default_backend()}, medians of turns\n")
    sizes = SMALL if given.small else Sizes()
    kernels(sizes, rounds=given.rounds, only=given.only)
    if not given.only:
        steps(small=given.small, rounds=max(1, given.rounds // 3))


if __name__ == "__main__":
    main()
