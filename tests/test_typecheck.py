"""The annotations of all four packages are really checked while tests run."""

import jax.numpy as jnp
import jax.random as jr
import pytest
from jaxtyping import TypeCheckError

from circuits.mac import ChargeMac
from evals.generate import generate
from physnn.process import load_process
from physnn.recurrence import linear_recurrence
from tests.helpers import physical_config

PROCESS = load_process("cmos28")
TWO_KEYS = jr.split(jr.key(0))


def test_physnn_refuses_a_wrong_shape():
    alpha, beta = (jnp.ones((n, 2)) for n in (3, 4))
    with pytest.raises(TypeCheckError, match="linear_recurrence"):
        linear_recurrence(alpha, beta, jnp.ones(2))


def test_circuits_refuses_a_wrong_shape():
    with pytest.raises(TypeCheckError, match="ChargeMac"):
        ChargeMac(2, 2, bits=4, process=PROCESS, key=TWO_KEYS)


def test_train_refuses_a_wrong_shape():
    config = physical_config(width=4, n_layers=1, n_states=4, n_hidden=4)
    model = config.build(vocabulary=8, process=PROCESS, key=jr.key(0))
    one_text = jnp.zeros(5, jnp.int32)
    with pytest.raises(TypeCheckError, match="logits"):
        model.logits(one_text, process=PROCESS, key=jr.key(0))


def test_evals_refuses_a_wrong_shape():
    with pytest.raises(TypeCheckError, match="generate"):
        next(
            generate(
                None,
                b"a",
                n_tokens=1,
                temperature=1.0,
                context=1,
                energy_per_token_J=0.0,
                process=PROCESS,
                key=TWO_KEYS,
            )
        )
