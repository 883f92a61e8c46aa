"""Barriers hold where they are asked for, and change no value and no gradient."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.parts import tapped
from physnn.materialized import compiled, compiler_options, materialized


def program(*, options) -> str:
    """What XLA makes of a cheap vector that two axes of samples are added to."""

    def add(v, x):
        return jnp.tanh(materialized(3 * v * v + v) + x)

    shapes = (
        jax.ShapeDtypeStruct((96,), jnp.float32),
        jax.ShapeDtypeStruct((64, 8, 96), jnp.float32),
    )
    compiled = jax.jit(add, compiler_options=options).lower(*shapes).compile()
    return compiled.as_text() or ""


def test_a_barrier_reaches_the_code_generator():
    assert "opt-barrier" in program(options=compiler_options())


def test_without_the_options_xla_takes_barriers_out():
    # The reason why there are options; without it `compiler_options` can go.
    if compiler_options() is None:
        pytest.skip("this backend keeps its barriers by itself")
    assert "opt-barrier" not in program(options=None)


def test_products_and_sums_are_those_of_xla():
    square = jax.ShapeDtypeStruct((256, 256), jnp.float32)
    product = jax.jit(
        lambda a, b: jnp.sum(a @ b, axis=0), compiler_options=compiler_options()
    )
    assert "ynn" not in (product.lower(square, square).compile().as_text() or "")


def test_it_holds_under_compiled():
    @compiled
    def add(v, x):
        return jnp.tanh(materialized(3 * v * v + v) + x)

    v, x = jr.normal(jr.key(0), (96,)), jr.normal(jr.key(1), (64, 8, 96))
    assert "opt-barrier" in add.lower(v, x).compile().compiled.as_text()
    np.testing.assert_allclose(add(v, x), jnp.tanh(3 * v * v + v + x), rtol=1e-5)


def test_what_is_compiled_starts_no_device_before_its_first_call():
    # The commands choose their devices after all modules are imported.
    script = (
        "import jax; from physnn.materialized import compiled; import evals.quality,"
        " evals.robustness, evals.compare, evals.evaluate, evals.mixture, evals.rulers;"
        " doubled = compiled(lambda x: 2 * x);"
        " jax.config.update('jax_num_cpu_devices', 3);"
        " print(int(doubled(4)), jax.device_count())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True
    )
    assert (done.stdout.split(), done.returncode) == (["8", "3"], 0), done.stderr


def test_it_is_the_identity_with_its_gradient():
    x = jr.normal(jr.key(0), (5, 3))
    square = lambda x: jnp.sum(jnp.square(materialized(x)))
    value, slope = jax.jit(
        jax.value_and_grad(square), compiler_options=compiler_options()
    )(x)
    np.testing.assert_allclose(value, np.sum(np.square(x)), rtol=1e-6)
    np.testing.assert_allclose(slope, 2 * x, rtol=1e-6)


@pytest.mark.parametrize("n_taps", [1, 2, 8])
@pytest.mark.parametrize("time", [1, 5, 20])
def test_taps_and_their_gradient_are_those_of_the_plain_sum(n_taps, time):
    taps = jr.normal(jr.key(0), (n_taps, 3))
    held = jr.normal(jr.key(1), (n_taps - 1 + time, 2, 3))
    back = jr.normal(jr.key(2), (time, 2, 3))

    def plain(taps, held):
        past = n_taps - 1
        return sum(taps[k] * held[past - k :][:time] for k in range(n_taps))

    ours, pull = jax.vjp(tapped, taps, held)
    theirs, pull_plain = jax.vjp(plain, taps, held)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    for a, b in zip(pull(back), pull_plain(back), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
