"""How a step is carried out: the same run with less memory and less to compile."""

import dataclasses
from functools import partial
from typing import Any, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from circuits.blocks import (
    BlockConfig,
    GatedRCBlock,
    GatedUnitBlock,
    MemoryBlock,
    OscillatorBlock,
)
from physnn.materialized import compiler_options
from physnn.noise import white
from tests.helpers import PROCESS
from train.checkpoint import Checkpoints
from train.compute import Compute
from train.experiment import ConfigError, Experiment, from_table
from train.loop import begin
from train.model import PhysicalConfig
from train.objective import make_update
from train.stack import Stack
from train.tasks import TextConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

GENERATORS = ("triple32", "threefry2x32", "rbg", "unsafe_rbg")
# A block with states and charge MACs, and a generator that is one instruction.
LAYER = (GatedRCBlock(n_states=4, n_taps=2),)
KEY = jr.key(1, impl="rbg")
WAYS = {
    "usual": Compute(),
    "rematerialized": Compute(rematerialize="blocks"),
    "in a loop": Compute(scan_layers=True),
    "both": Compute(rematerialize="blocks", scan_layers=True),
}
# Little is computed: unoptimized code is soon there.
QUICK: Any = {"xla_backend_optimization_level": 0}


def stack_of(layer=LAYER, n_layers=2) -> Stack:
    sizes = {"n_layers": n_layers, "width": 8, "period_s": 1e-6, "weight_bits": 6}
    return Stack.build(layer, **sizes, process=PROCESS, key=jr.key(0))


def loss_of(way: Compute, stack: Stack):
    """A loss with noise, of the trained arrays and the inputs."""
    arrays, rest = eqx.partition(stack, eqx.is_inexact_array)

    def loss(arrays, xs):
        model = way.applied(eqx.combine(arrays, rest))
        start = model.init_state(xs.shape[1:-1])
        state, ys = model.run("scan", start, xs, process=PROCESS, key=KEY)
        return jnp.sum(jnp.square(ys)), (state, ys)

    return loss, arrays


@pytest.fixture(scope="module")
def found():
    """(gradient, (state, outputs)) and temporary bytes of every way."""
    xs, results = 0.3 * jr.normal(jr.key(2), (64, 4, 8)), {}
    for name in ("usual", "rematerialized", "both"):
        way = WAYS[name]
        loss, arrays = loss_of(way, stack_of())
        # Without these options, XLA's CPU compiler finds out that what is computed
        # again was there before, and keeps it.
        options = QUICK | (compiler_options() or {})
        program = jax.jit(jax.grad(loss, has_aux=True)).lower(arrays, xs)
        compiled = program.compile(compiler_options=options)
        memory = compiled.memory_analysis()
        assert memory is not None
        results[name] = (compiled(arrays, xs), memory.temp_size_in_bytes)
    return results


@pytest.mark.parametrize("name", ["rematerialized", "both"])
def test_it_is_the_same_loss_and_gradient_but_for_rounding(found, name):
    for ours, theirs in zip(
        jax.tree.leaves(found[name][0]),
        jax.tree.leaves(found["usual"][0]),
        strict=True,
    ):
        scale = float(jnp.max(jnp.abs(theirs)))
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * scale + 1e-7)


def test_what_is_computed_again_is_not_kept(found):
    temporary = {name: bytes for name, (_, bytes) in found.items()}
    assert temporary["rematerialized"] < 0.7 * temporary["usual"]
    assert temporary["both"] < 0.7 * temporary["usual"]


def test_a_token_goes_through_a_loop_of_layers_as_without():
    state, x = stack_of().init_state((3,)), 0.3 * jr.normal(jr.key(2), (3, 8))
    names = ("usual", "in a loop")

    @partial(jax.jit, compiler_options=QUICK)
    def step(stack, state, x):
        ways = [WAYS[name].applied(stack) for name in names]
        return [w.run("step", state, x, process=PROCESS, key=KEY) for w in ways]

    results = step(stack_of(), state, x)
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])


def of_loop(program, n_layers: int) -> tuple[int, set[str]]:
    """Equations inside of the loop over layers, and the kinds of those beside it."""

    def count(jaxpr) -> int:
        subs = [sub for e in jaxpr.eqns for sub in jaxprs_in_params(e.params)]
        return len(jaxpr.eqns) + sum(map(count, subs))

    is_loop = lambda e: e.primitive.name == "scan" and e.params["length"] == n_layers
    (loop,) = [e for e in program.eqns if is_loop(e)]
    beside = {e.primitive.name for e in program.eqns if e is not loop}
    return count(loop.params["jaxpr"].jaxpr), beside


def test_what_is_compiled_does_not_grow_with_depth():
    xs, grown = jnp.zeros((3, 2, 8)), []
    for n_layers in (4, 8):
        loss, arrays = loss_of(WAYS["in a loop"], stack_of(n_layers=n_layers))
        program = jax.make_jaxpr(loss)(arrays, xs).jaxpr
        grown.append(of_loop(program, n_layers))
    four, eight = grown
    assert four[0] == eight[0] > 100
    # What is left for each layer is to stack its arrays and to take its state out.
    assert "stack" in eight[1] or "concatenate" in eight[1]
    assert not eight[1] & {"dot_general", "random_bits", "tanh", "exp", "jit", "scan"}


@pytest.mark.parametrize("block", get_args(BlockConfig), ids=lambda b: b.__name__)
def test_every_family_runs_in_a_loop(block):
    sizes: dict[str, Any] = {
        "n_states": 8,
        "n_hidden": 8,
        "n_tables": 8,
        "index_bits": 4,
        "row": 2,
    }
    names = {f.name for f in dataclasses.fields(block)}
    if block is OscillatorBlock:
        sizes = {"n": 12, "n_hidden": 0}
    config = block(**{k: v for k, v in sizes.items() if k in names})
    stack = WAYS["both"].applied(stack_of((config,), n_layers=2))
    arrays, rest = eqx.partition(stack, eqx.is_inexact_array)
    side = jnp.ones((5, 2, 8)) if block is MemoryBlock else None

    def outputs(arrays, xs):
        stack = eqx.combine(arrays, rest)
        ask = {"side": side, "process": PROCESS, "key": jr.key(0)}
        return stack.run("scan", stack.init_state((2,)), xs, **ask)[1]

    shape = jax.ShapeDtypeStruct((5, 2, 8), jnp.float32)
    assert jax.eval_shape(outputs, arrays, shape).shape == (5, 2, 8)


def test_layers_that_differ_are_refused_by_name():
    stack = stack_of((GatedUnitBlock(n_hidden=4),), n_layers=2)
    other = stack_of((GatedUnitBlock(n_hidden=5),), n_layers=2)
    mixed = dataclasses.replace(stack, blocks=(stack.blocks[0], other.blocks[1]))
    wider = WAYS["in a loop"].applied(mixed)
    ask = {"process": PROCESS, "key": jr.key(0)}
    with pytest.raises(ValueError, match=r"must be alike .* of layer 1 differs .* out"):
        wider.run("step", wider.init_state(), jnp.zeros(8), **ask)
    # Of equal structure, with another value that is no array of JAX.
    offset = lambda stack: stack.blocks[1].inner.output.offset.value
    longer = eqx.tree_at(offset, stack, jnp.zeros(9))
    longer = WAYS["in a loop"].applied(longer)
    with pytest.raises(ValueError, match=r"`\[0\]\.inner\.output\.offset\.value` of"):
        longer.run("step", longer.init_state(), jnp.zeros(8), **ask)


@pytest.mark.parametrize("generator", GENERATORS)
def test_white_noise_of_every_generator_is_white(generator):
    """Also for several chips at once, where `rbg` draws from the key of the first."""
    keys = jr.split(Compute(generator=generator).training_key(0), 3)
    draw = lambda key: white(key, (64, 512))
    x = np.asarray(jax.jit(jax.vmap(draw))(keys), np.float64).reshape(3, -1)
    n = x.shape[1]
    assert np.all(np.abs(x.mean(axis=1)) < 4 / n**0.5)
    # Var s² = (2 + excess kurtosis)/N, at −1/8.
    assert np.all(np.abs(x.var(axis=1) - 1) < 4 * (1.875 / n) ** 0.5)
    between = x @ x.T / n
    assert np.all(np.abs(between[~np.eye(3, dtype=bool)]) < 4 / n**0.5)
    within = np.mean(x[:, 1:] * x[:, :-1], axis=1)
    assert np.all(np.abs(within) < 4 / n**0.5)


def small(**compute) -> Experiment:
    """Charge MACs alone: that compiles soon."""
    return Experiment(
        steps=4,
        batch=2,
        checkpoint_every=2,
        evaluate_every=4,
        evaluation_windows=2,
        task=TextConfig(context=8),
        model=PhysicalConfig(width=8, n_layers=2, layer=(GatedUnitBlock(n_hidden=4),)),
        compute=Compute(**compute),
    )


def test_a_generator_moves_noise_and_not_the_start():
    starts = [
        begin(small(generator=name), vocabulary=256, process=PROCESS)[0]
        for name in ("threefry2x32", "rbg")
    ]
    for a, b in zip(*(jax.tree.leaves(s.state.trained) for s in starts), strict=True):
        np.testing.assert_array_equal(a, b)
    assert starts[0].state.key.shape == (2,)
    assert starts[1].state.key.shape == (4,)


TOKENS = jr.randint(jr.key(5), (2, 9), 0, 256).astype(jnp.uint8)


def lowered(experiment: Experiment):
    held, static = begin(experiment, vocabulary=256, process=PROCESS)
    rest = eqx.combine(held.fixed, static)
    update = make_update(rest, experiment=experiment, process=PROCESS)
    return held.state, update.lower(held.state, TOKENS)


@pytest.fixture(scope="module")
def by_hardware():
    """A state and the update of a run whose generator is the hardware's."""
    return lowered(small(generator="rbg"))


def test_a_run_with_another_generator_continues_bit_for_bit(by_hardware, tmp_path):
    state, program = by_hardware
    assert "rng_bit_generator" in program.as_text()
    update = program.compile(compiler_options=QUICK)
    losses = []
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2, 3, 4):
            state, measured = update(state, TOKENS)
            losses.append(float(measured.bits_per_byte))
            if step == 2:
                checkpoints.save(step, state, wait=True)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
        restored = checkpoints.restore(shapes)
    assert restored is not None
    step, again = restored
    assert step == 2
    for loss in losses[2:]:
        again, measured = update(again, TOKENS)
        assert float(measured.bits_per_byte) == loss
    assert len(set(losses)) == 4
    for a, b in zip(*map(jax.tree.leaves, (state, again)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_products_of_training_are_told_their_precision(by_hardware):
    rounded = small(generator="rbg", matmul_precision="bfloat16")
    usual, rounded = by_hardware[1].as_text(), lowered(rounded)[1].as_text()
    products = lambda text: [x for x in text.splitlines() if "dot_general" in x]
    assert len(products(usual)) == len(products(rounded)) > 4
    assert not any("bf16" in each for each in products(usual))
    assert all("lhs_precision_type = bf16" in each for each in products(rounded))
    # All that is kept stays in float32.
    assert "xbf16>" not in rounded


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="about CPUs")
def test_a_precision_that_the_machine_ignores_is_refused():
    with pytest.raises(
        ValueError, match=r"matmul_precision.* its cpu does not compute"
    ):
        Compute(matmul_precision="bfloat16").check_backend()
    Compute(matmul_precision="float32").check_backend()
    Compute().check_backend()


@pytest.mark.gpu
def test_products_of_eight_bits_leave_the_loss_where_it_was():
    found = {}
    for precision in ("float32", "bfloat16"):
        experiment = small(matmul_precision=precision)
        experiment.compute.check_backend()
        state, program = lowered(experiment)
        _, measured = program.compile()(state, TOKENS)
        found[precision] = float(measured.bits_per_byte)
    assert found["bfloat16"] != found["float32"]
    assert found["bfloat16"] == pytest.approx(found["float32"], abs=0.05)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            {"compute": {"generator": "xorshift"}},
            r"one of \['triple32', .*, but is 'xorshift' @ \$\.compute\.generator",
        ),
        ({"compute": {"scan": "fast"}}, r"but is 'fast' @ \$\.compute\.scan"),
        (
            {"compute": {"generator": "rbg"}, "model": {"kind": "transformer"}},
            r"`compute.generator` goes with a model of kind `physical` or `classifier`",
        ),
        (
            {
                "compute": {"scan_layers": True},
                "model": {"kind": "classifier"},
                "task": {"kind": "images"},
            },
            r"`compute.scan_layers` goes with a model of kind `physical`, but",
        ),
        (
            {"compute": {"matmul_precision": "bfloat16"}, "model": {"kind": "counts"}},
            r"`compute.matmul_precision` goes with a model that is trained",
        ),
        (
            {
                "compute": {"scan_layers": True},
                "model": {"kind": "physical", "n_layers": 1},
            },
            r"must have at least 2 layers .* `model.n_layers` is 1",
        ),
        (
            {
                "compute": {"rematerialize": "blocks"},
                "hardware": {},
                "noise": {"chips_per_batch": 1},
            },
            r"`compute.rematerialize` must be left out with a device in the loop",
        ),
    ],
)
def test_what_would_be_without_effect_is_refused_in_a_sentence(table, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_table(table)
    assert "\n" not in str(caught.value)
