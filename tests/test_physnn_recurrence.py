"""The linear recurrence: values and hand-written gradient, all kernels."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from physnn import recurrence
from physnn.recurrence import KERNELS, computed_by, kernel_here, linear_recurrence
from tests.systems import recurrence_by_loop


def problem(time=37, shape=(2, 3), seed=0):
    a, b, c = jr.split(jr.key(seed), 3)
    alpha = jr.uniform(a, (time, *shape), minval=-0.2, maxval=1.0)
    return alpha, jr.normal(b, (time, *shape)), jr.normal(c, shape)


def plain(alpha, beta, v0):
    def body(v, inputs):
        v = inputs[0] * v + inputs[1]
        return v, v

    return jax.lax.scan(body, v0, (alpha, beta))[1]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("time", [1, 2, 37])
def test_values_are_those_of_a_loop(kernel, time):
    args = problem(time)
    with computed_by(kernel):
        found = jax.jit(linear_recurrence)(*args)
    np.testing.assert_allclose(found, recurrence_by_loop(*args), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def short_chunks():
    """Chunks of 4, so that short sequences have several."""
    before, recurrence.CHUNK = recurrence.CHUNK, 4
    yield
    recurrence.CHUNK = before


@jax.jit
def gradients(args, weights):
    """Of a weighted sum of all states, by a plain scan and by every kernel."""
    loss = lambda solve: lambda *args: jnp.sum(weights * solve(*args))
    found = [jax.grad(loss(plain), argnums=(0, 1, 2))(*args)]
    for kernel in KERNELS:
        with computed_by(kernel):
            ours = jax.grad(loss(linear_recurrence), argnums=(0, 1, 2))(*args)
        found.append(ours)
    return found


# Within one chunk, of whole chunks, and of chunks and a part; few lengths, as each is
# compiled.
@settings(max_examples=8)
@example(time=1, seed=0)
@example(time=8, seed=0)
@given(time=st.sampled_from([3, 5, 11]), seed=st.integers(0, 2**16))
def test_gradients_are_those_of_a_plain_scan(short_chunks, time, seed):
    args = problem(time, seed=seed)
    theirs, *ours = gradients(args, jr.normal(jr.key(9), args[1].shape))
    for each in ours:
        for a, b in zip(each, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_kernel_is_chosen_where_it_is_traced():
    args = problem(100)
    primitives = {}
    for kernel in KERNELS:
        with computed_by(kernel):
            assert kernel_here() == kernel
            with computed_by("auto"):
                assert kernel_here() == kernel
            text = str(jax.make_jaxpr(linear_recurrence)(*args))
        primitives[kernel] = ("scan[" in text, "concatenate" in text or "pad" in text)
    assert primitives == {
        "sequential": (True, False),
        "associative": (False, True),
        "chunked": (True, True),
    }
    on_cpu = jax.default_backend() == "cpu"
    assert kernel_here() == ("sequential" if on_cpu else "associative")


def test_a_compiled_function_is_traced_again_for_another_kernel():
    traced = []

    @jax.jit
    def function(alpha, beta, v0):
        traced.append(kernel_here())
        return linear_recurrence(alpha, beta, v0)

    for kernel in ("sequential", "chunked", "sequential"):
        with computed_by(kernel):
            function(*problem(9))
    assert traced == ["sequential", "chunked"]


def test_the_gradient_has_the_kernel_of_its_values():
    """Also where it is traced outside of the choice."""
    args = problem(9)
    with computed_by("associative"):
        _, pull = jax.vjp(linear_recurrence, *args)
    text = str(jax.make_jaxpr(pull)(args[1]))
    assert "scan[" not in text


def test_an_unknown_kernel_is_refused_in_a_sentence():
    message = r"`kernel` must be one of .*, but is 'parallel'"
    with pytest.raises(ValueError, match=message), computed_by("parallel"):
        pass


@pytest.mark.parametrize("kernel", KERNELS)
def test_nothing_is_remembered_behind_a_zero(kernel):
    alpha, beta, v0 = problem()
    alpha = alpha.at[20].set(0.0)
    last = lambda beta, v0: jnp.sum(linear_recurrence(alpha, beta, v0)[-1])
    with computed_by(kernel):
        to_beta, to_v0 = jax.jit(jax.grad(last, argnums=(0, 1)))(beta, v0)
    np.testing.assert_array_equal(to_v0, 0)
    np.testing.assert_array_equal(to_beta[:20], 0)
    assert np.all(to_beta[20:] != 0)
