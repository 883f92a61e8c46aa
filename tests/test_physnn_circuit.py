"""The verb `run` refuses what does not fit."""

import jax.numpy as jnp
import jax.random as jr
import pytest

from circuits.parts import DelayLine, GilbertGate
from physnn.circuit import run
from tests.helpers import PROCESS, QUIET


@pytest.mark.parametrize("shape", [(5, 4), (5, 2, 3)])
def test_inputs_of_the_wrong_width_are_refused(shape):
    with pytest.raises(ValueError, match=r"`xs` must .* 6 inputs, but has shape"):
        run(GilbertGate(3), jnp.zeros(shape), process=PROCESS, key=jr.key(0))


def test_run_takes_any_batch_axes():
    delay = DelayLine(3, n_taps=2, process=PROCESS)
    for batch in ((), (2,), (2, 1, 4)):
        xs = jnp.zeros((5, *batch, 3))
        assert run(delay, xs, process=QUIET, key=jr.key(0)).shape == xs.shape
