"""Training speed of the physical model against the transformer of equal parameters.

    make bench

One update of the WikiText-2 experiments: noise, mismatch on two chips, quantizers,
gradient, clipping and AdamW; in turns with the transformer's.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

from physnn.configs import config_folder
from physnn.process import load_process
from tests.benchmarks.interleaved import interleaved, report, time_once
from train.baseline import TransformerConfig
from train.experiment import load_experiment
from train.model import PhysicalConfig
from train.objective import TrainState, make_update, split
from train.sharding import MeshConfig, shardings_of, spread, spread_batch

pytestmark = pytest.mark.usefixtures("plain_promotion")

EXPERIMENTS = ("wikitext2_transformer", "wikitext2_physical")
# One size, one budget: the rows of docs/results.md, section 3.
FAMILIES = (
    "gated_rc",
    "resonator",
    "equilibrium",
    "oscillator",
    "channel",
    "lookup",
    "memory",
    "mixed",
    "sparse",
)
ROUNDS = 9


def stepper(name: str, *, batch: int | None = None, n_hidden: int | None = None):
    """A function that does one training step, the model's size, and its tokens.

    `n_hidden`: of a transformer, other than its config says. On all devices there are:
    with `JAX_NUM_CPU_DEVICES=2` each core is one.
    """
    path = config_folder() / "experiments" / f"{name}.toml"
    experiment = load_experiment(path)
    experiment = replace(
        experiment,
        mesh=MeshConfig(data=jax.device_count()),
        batch=batch or experiment.batch,
    )
    mesh = experiment.mesh.build(batch=experiment.batch)
    config = experiment.model
    assert isinstance(config, PhysicalConfig | TransformerConfig)
    if isinstance(config, TransformerConfig) and n_hidden is not None:
        config = replace(config, n_hidden=n_hidden)
    process = load_process(experiment.process)
    model = config.build(vocabulary=256, process=process, key=jr.key(0))
    trained, rest = split(model, experiment)
    update = make_update(rest, experiment=experiment, process=process, mesh=mesh)
    optimizer = experiment.optimizer.build(steps=experiment.steps)
    key = jr.key_data(experiment.compute.training_key(1))
    state = TrainState(trained, optimizer.init(trained), jnp.asarray(0), key)
    shape = (experiment.batch, experiment.task.context + 1)
    tokens = jr.randint(jr.key(2), shape, 0, 256).astype(jnp.uint8)
    if mesh.size > 1:
        state = spread(state, shardings_of(state, mesh))
        (tokens,) = spread_batch((tokens,), mesh)
    held = [state]
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(trained))

    def step():
        held[0], measured = update(held[0], tokens)
        return measured

    return step, n_parameters, experiment.tokens_per_step


def test_training_step(benchmark):
    steps, tokens = {}, {}
    for name in EXPERIMENTS:
        steps[name], n_parameters, tokens[name] = stepper(name)
        print(f"\n  {name}: {n_parameters:,} parameters", end="")
    medians = interleaved(steps, rounds=ROUNDS)
    report(benchmark, medians, floor=EXPERIMENTS[0])
    per_second = {name: tokens[name] / medians[name] for name in EXPERIMENTS}
    for name, rate in per_second.items():
        print(f"  {name:40s} {rate:9,.0f} tokens/s")
    ratio = per_second[EXPERIMENTS[1]] / per_second[EXPERIMENTS[0]]
    print(f"  physical / transformer: {ratio:.2f} of its tokens/s")
    benchmark.extra_info["ratio"] = ratio
    time_once(benchmark, steps[EXPERIMENTS[1]])


def equal_sized(family: str, n_parameters: int) -> tuple[str, int]:
    """The transformer of as many parameters, to a per cent: its config and `n_hidden`.

    Behind a hashed memory where the family has one.
    """
    name = "transformer_l"
    if family in ("memory", "mixed"):
        name = "transformer_memory_kv1"
    path = config_folder() / "experiments" / f"wikitext2_{name}.toml"
    config = load_experiment(path).model
    assert isinstance(config, TransformerConfig)
    shapes = jax.eval_shape(
        lambda: config.build(
            vocabulary=256, process=load_process("cmos28"), key=jr.key(0)
        )
    )
    own = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    each = 8 * 3 * config.width * config.n_blocks  # of eight hidden units more
    return name, config.n_hidden + 8 * round((n_parameters - own) / each)


# With four times the rows, what it costs to start an operation is a quarter.
@pytest.mark.parametrize("batch", [16, 64])
def test_families(benchmark, batch):
    """Training tokens per second of every family and of a transformer as large."""
    built, beside = {}, {}
    for name in FAMILIES:
        built[name] = stepper(f"wikitext2_{name}", batch=batch)
        other, n_hidden = equal_sized(name, built[name][1])
        beside[name] = f"{other}, {n_hidden} hidden"
        if beside[name] not in built:
            path = f"wikitext2_{other}"
            built[beside[name]] = stepper(path, batch=batch, n_hidden=n_hidden)
    timed = {name: each[0] for name, each in built.items()}
    medians = interleaved(timed, rounds=15)
    report(benchmark, medians, floor=beside["gated_rc"])
    print()
    for name, other in beside.items():
        size, opponent = built[name][1], built[other][1]
        assert abs(opponent / size - 1) < 0.015
        ratio = medians[other] / medians[name]
        rate = built[name][2] / medians[name]
        print(
            f"  {name:12s} {size:10,} parameters {rate:8,.0f} tokens/s: {ratio:.2f} of"
            f" {other} ({opponent:,})"
        )
        benchmark.extra_info[name] = ratio
    time_once(benchmark, built["gated_rc"][0])


def test_white_noise(benchmark):
    from physnn.noise import white
    from physnn.noise.hashed import HASHED

    shape = (256, 16, 512)
    functions = {
        "inverse error function": jax.jit(lambda key: jr.normal(key, shape)),
        "binomial (physnn)": jax.jit(lambda key: white(key, shape)),
    }
    drawn = [(name, f, jr.key(0)) for name, f in functions.items()]
    generators = {"triple32": HASHED, "rbg": "rbg", "unsafe_rbg": "unsafe_rbg"}
    for name, made in generators.items():
        called = f"binomial (physnn), {name}"
        drawn.append((called, functions["binomial (physnn)"], jr.key(0, impl=made)))
    keyed = {name: partial(f, key) for name, f, key in drawn}
    medians = interleaved(keyed, rounds=21)
    report(benchmark, medians, floor="inverse error function")
    time_once(benchmark, keyed["binomial (physnn)"])


@pytest.mark.parametrize("shape", [(256, 16, 168), (4096, 2, 96)], ids=str)
def test_recurrence(benchmark, shape):
    from physnn.recurrence import KERNELS, computed_by, linear_recurrence

    alpha = jr.uniform(jr.key(0), shape)
    beta = jr.normal(jr.key(1), shape)
    v0 = jnp.zeros(shape[1:])

    def plain(alpha, beta, v0):
        def body(v, inputs):
            v = inputs[0] * v + inputs[1]
            return v, v

        return jax.lax.scan(body, v0, (alpha, beta))[1]

    def by(kernel):
        def solve(*inputs):
            with computed_by(kernel):
                return linear_recurrence(*inputs)

        return solve

    def gradient(kernel):
        loss = lambda *inputs: jnp.sum(jnp.square(kernel(*inputs)))
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1)))
        return lambda: compiled(alpha, beta, v0)

    functions = {"plain lax.scan": gradient(plain)}
    functions |= {kernel: gradient(by(kernel)) for kernel in KERNELS}
    medians = interleaved(functions, rounds=21)
    report(benchmark, medians, floor="plain lax.scan")
    time_once(benchmark, functions["sequential"])
