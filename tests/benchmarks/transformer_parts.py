"""The step of a transformer taken apart, in JAX and in PyTorch, part by part in turns.

    python -m tests.benchmarks.transformer_parts --torch-python .cache/peers/bin/python

`make peers` makes that environment. Every part is computed forward and backward to its
inputs and its parameters, from the same cotangent, alone in a process on either side:
4 blocks of width 128, 4 heads, 16 windows of 256 bytes, float32. What a step has of the
part stands beside it; its sum leaves out the sums of gradients and what is between the
parts. The last rows take plain attention apart, as it was computed here before
`train/kernels.py`; they are not in the sum.

    python -m tests.benchmarks.transformer_parts --part NAME     (the side of JAX)
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx

from physnn.materialized import compiler_options
from tests.benchmarks.peer_process import in_turns, serve
from tests.benchmarks.peers_jax import PROCESS, transformer
from train.baseline import TransformerConfig, rotate
from train.experiment import Experiment
from train.kernels import by_rows, causal_attention
from train.loop import begin
from train.objective import bits

TIME, BATCH, WIDTH, HEADS, HIDDEN = 256, 16, 128, 4, 384
# How often a step has each part; those with 0 are not in the sum.
PARTS = {
    "embedding": 1,
    "rms norm": 9,
    "product to queries, keys, values": 4,
    "rotation of queries and keys": 4,
    "attention": 4,
    "product of the output": 4,
    "product up": 4,
    "gate": 4,
    "product down": 4,
    "head": 1,
    "cross entropy": 1,
    "clipping and AdamW": 1,
    "whole step": 0,
    "plain attention": 0,
    "its scores": 0,
    "its mask and softmax": 0,
    "its sum of values": 0,
}


def normal(*shape: int):
    return jr.normal(jr.key(len(shape)), shape)


def both_ways(function: Callable, *given) -> Callable[[], None]:
    """A step: the value, and its gradient to all that is given."""
    to_y = normal(*jax.eval_shape(function, *given).shape)

    def computed(given, to_y):
        y, back = jax.vjp(function, *given)
        return y, back(to_y)

    program = jax.jit(computed, compiler_options=compiler_options())
    return lambda: jax.block_until_ready(program(given, to_y))


def product(n_in: int, n_out: int) -> Callable[[], None]:
    dense = lambda x, kernel: by_rows(x, kernel, None)
    return both_ways(dense, normal(BATCH, TIME, n_in), normal(n_in, n_out))


def norm() -> Callable[[], None]:
    module, params = nnx.split(nnx.RMSNorm(WIDTH, rngs=nnx.Rngs(0)))
    function = lambda x, params: nnx.merge(module, params)(x)
    return both_ways(function, normal(BATCH, TIME, WIDTH), params)


def heads():
    return [normal(BATCH, TIME, HEADS, WIDTH // HEADS) for _ in "qkv"]


def masked_softmax(scores):
    seen = np.tril(np.ones((TIME, TIME), bool))
    return jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))


def optimizer() -> Callable[[], None]:
    experiment = Experiment(model=TransformerConfig(), batch=BATCH)
    held, _ = begin(experiment, vocabulary=256, process=PROCESS)
    build = experiment.optimizer.build(steps=experiment.steps)

    def change(trained, state, gradient):
        changes, state = build.update(
            gradient, state, trained, slope=lambda _: gradient, step=0
        )
        return jax.tree.map(jnp.add, trained, changes), state

    program = jax.jit(change, donate_argnums=(0, 1))
    gradient = jax.tree.map(jnp.ones_like, held.state.trained)
    kept = [held.state.trained, held.state.optimizer]

    def step():
        kept[:] = program(*kept, gradient)
        jax.block_until_ready(kept)

    return step


def in_jax(part: str) -> Callable[[], None]:
    """A step of a part; what it needs is made before."""
    tokens = jr.randint(jr.key(0), (BATCH, TIME), 0, 256)
    scores, shape = (BATCH, HEADS, TIME, TIME), (BATCH, TIME, HEADS, WIDTH // HEADS)
    plain = lambda q, k, v: jax.nn.dot_product_attention(q, k, v, is_causal=True)
    steps: dict[str, Callable[[], Callable[[], None]]] = {
        "embedding": lambda: both_ways(lambda table: table[tokens], normal(256, WIDTH)),
        "rms norm": norm,
        "product to queries, keys, values": lambda: product(WIDTH, 3 * WIDTH),
        "rotation of queries and keys": lambda: both_ways(
            lambda q, k: jnp.stack([rotate(q), rotate(k)]), *heads()[:2]
        ),
        "attention": lambda: both_ways(causal_attention, *heads()),
        "product of the output": lambda: product(WIDTH, WIDTH),
        "product up": lambda: product(WIDTH, 2 * HIDDEN),
        "gate": lambda: both_ways(
            lambda a, b: a * jax.nn.silu(b),
            *(normal(BATCH, TIME, HIDDEN) for _ in "ab"),
        ),
        "product down": lambda: product(HIDDEN, WIDTH),
        "head": lambda: product(WIDTH, 256),
        "cross entropy": lambda: both_ways(
            lambda logits: jnp.mean(bits(logits, tokens)), normal(BATCH, TIME, 256)
        ),
        "clipping and AdamW": optimizer,
        "whole step": transformer,
        "plain attention": lambda: both_ways(plain, *heads()),
        "its scores": lambda: both_ways(
            lambda q, k: jnp.einsum("bthc,bshc->bhts", q, k), *heads()[:2]
        ),
        "its mask and softmax": lambda: both_ways(masked_softmax, normal(*scores)),
        "its sum of values": lambda: both_ways(
            lambda weights, v: jnp.einsum("bhts,bshc->bthc", weights, v),
            normal(*scores),
            normal(*shape),
        ),
    }
    assert list(steps) == list(PARTS)
    return steps[part]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", help="of an environment with PyTorch")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="parts whose name holds this")
    parser.add_argument("--part", choices=[*PARTS])
    given = parser.parse_args()
    if given.part:
        serve(in_jax(given.part))
        return
    own = [sys.executable, "-m", "tests.benchmarks.transformer_parts", "--part"]
    other = Path(__file__).parent / "transformer_parts_torch.py"
    print(
        "| part | in a step | JAX, ms | PyTorch, ms | times | JAX − PyTorch in a step |"
    )
    print("|---|---|---|---|---|---|")
    total = {"JAX": 0.0, "PyTorch": 0.0}
    for part, n in PARTS.items():
        if given.only not in part:
            continue
        commands = {"JAX": [*own, part]}
        if given.torch_python:
            commands["PyTorch"] = [given.torch_python, str(other), part]
        medians = in_turns(commands, rounds=given.rounds)
        a, b = (1e3 * medians.get(side, float("nan")) for side in total)
        for side in total:
            total[side] += n * 1e3 * medians.get(side, float("nan"))
        more = f"{n * (a - b):+.1f}" if n else ""
        print(f"| {part} | {n or ''} | {a:.2f} | {b:.2f} | {a / b:.2f} | {more} |")
        sys.stdout.flush()
        if part == "clipping and AdamW":
            a, b = total.values()
            print(f"| sum | | {a:.1f} | {b:.1f} | {a / b:.2f} | {a - b:+.1f} |")


if __name__ == "__main__":
    main()
