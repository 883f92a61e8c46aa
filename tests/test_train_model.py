"""The physical sequence model."""

import dataclasses
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.fabricate import fabricate
from tests.helpers import PROCESS, QUIET, fabricate_jit, physical_config

TINY = physical_config(
    width=8, n_layers=1, n_states=6, n_hidden=10, n_taps=3, longest_memory=16.0
)
TOKENS = jr.randint(jr.key(1), (2, 7), 0, 11)


@cache
def model():
    return TINY.build(vocabulary=11, process=PROCESS, key=jr.key(0))


logits = eqx.filter_jit(
    lambda model, tokens, process, key: model.logits(tokens, process=process, key=key)
)


def test_stepping_through_a_text_gives_the_same_logits():
    whole = logits(model(), TOKENS, QUIET, jr.key(0))
    step = eqx.filter_jit(model().step)
    state = model().init_state((2,))
    for t in range(TOKENS.shape[1]):
        state, y = step(state, TOKENS[:, t], process=QUIET, key=jr.key(t))
        # One converter step is 16 nats / 127.
        np.testing.assert_allclose(y, whole[:, t], atol=1e-4)


def test_no_logit_depends_on_a_later_token():
    # By gradient: tokens enter through their own row of the embedding.
    tokens = jnp.arange(7)[None]
    # Converters of 8 bits hide small effects from values, not from gradients.
    rows = jnp.asarray(model().embedding)

    def total(rows):
        seen = eqx.tree_at(lambda m: m.embedding, model(), rows)
        return jnp.sum(seen.logits(tokens, process=QUIET, key=jr.key(0))[0], axis=-1)

    influence = jnp.abs(jax.jit(jax.jacrev(total))(rows)).sum(-1)[:, :7]
    assert np.all(np.triu(influence, k=1) == 0)
    assert np.all(influence[-1] > 0), "the last logits must see every token before"


def test_chips_differ_and_runs_of_a_chip_differ_by_noise():
    one, two = (fabricate_jit(model(), PROCESS, key=jr.key(seed)) for seed in (1, 2))
    quiet = [logits(chip, TOKENS, QUIET, jr.key(0)) for chip in (one, one, two)]
    np.testing.assert_array_equal(quiet[0], quiet[1])
    assert np.mean(quiet[0] != quiet[2]) > 0.2
    noisy = [logits(one, TOKENS, PROCESS, jr.key(seed)) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(noisy[0], noisy[1])
    assert np.mean(noisy[0] != noisy[2]) > 0.2


def test_texts_of_a_batch_do_not_see_each_other():
    together = logits(model(), TOKENS, QUIET, jr.key(0))
    for i in range(2):
        alone = logits(model(), TOKENS[i : i + 1], QUIET, jr.key(0))
        np.testing.assert_allclose(alone[0], together[i], atol=1e-4)


def test_logits_are_codes_of_the_converter():
    y = logits(model(), TOKENS, PROCESS, jr.key(0))
    codes = y / 16 * 127
    np.testing.assert_allclose(codes, np.round(codes), atol=1e-3)


def test_every_trained_array_gets_a_finite_gradient():
    def loss(model):
        chip = fabricate(model, PROCESS, key=jr.key(3))
        y = chip.logits(TOKENS[:, :-1], process=PROCESS, key=jr.key(4))
        picked = jnp.take_along_axis(jax.nn.log_softmax(y), TOKENS[:, 1:, None], -1)
        return -jnp.mean(picked)

    gradients = eqx.filter_jit(eqx.filter_grad(loss))(model())
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)), jax.tree_util.keystr(path)
        assert np.any(leaf != 0), jax.tree_util.keystr(path)


def test_a_converter_without_levels_is_refused():
    config = physical_config(
        width=4, n_layers=1, n_states=2, n_hidden=2, converter_bits=1
    )
    with pytest.raises(ValueError, match=r"bits` must be"):
        config.build(vocabulary=5, process=PROCESS, key=jr.key(0)).logits(
            jnp.zeros((1, 2), jnp.int32), process=QUIET, key=jr.key(0)
        )


@cache
def equipped(**parts) -> Any:
    config = dataclasses.replace(TINY, **parts)
    return config.build(vocabulary=11, process=PROCESS, key=jr.key(0))


def test_converters_as_circuits_are_codes_with_mismatch_and_their_own_bill():
    real = equipped(converters="circuits")
    np.testing.assert_array_equal(real.head.weight.value, model().head.weight.value)
    ideal, codes = (logits(m, TOKENS, QUIET, jr.key(0)) for m in (model(), real))
    # Symmetric codes of k/127 against those of a SAR converter, (2k + 1)/256.
    np.testing.assert_allclose(codes, ideal, atol=3 * 16 / 127)
    steps = np.asarray(codes) * 256 / 16
    np.testing.assert_array_equal(steps % 2, np.ones_like(steps))
    chip: Any = fabricate_jit(real, PROCESS, key=jr.key(2))
    weights = [m.readout.weights() for m in (chip, real)]
    assert np.any(weights[0] != weights[1])
    names = {e.name for e in real.events(PROCESS, period_s=1e-6)}
    assert not any(name.startswith(("adc_", "dac_")) for name in names)
    parts = {e.part.split(".")[0] for e in real.events(PROCESS, period_s=1e-6)}
    assert {"dac", "readout", "sampling"} <= parts


def test_a_race_draws_from_the_logits_that_are_scored():
    racing = equipped(sampler="winner_take_all")
    chip = fabricate_jit(racing, PROCESS, key=jr.key(2))
    scored = logits(chip, TOKENS, PROCESS, jr.key(0))[0, -1]
    plain = logits(racing, TOKENS, PROCESS, jr.key(0))[0, -1]
    assert np.any(scored != plain), "mismatch of the race moves its logits"
    n = 20_000
    for temperature in (1.0, 0.5):
        drawn = racing.draw(
            jnp.broadcast_to(scored, (n, 11)),
            temperature=temperature,
            process=PROCESS,
            key=jr.key(3),
        )
        counts = np.bincount(drawn, minlength=11)
        expected = n * np.asarray(jax.nn.softmax(scored / temperature), np.float64)
        deviation = np.abs(counts - expected) / np.sqrt(expected * (1 - expected / n))
        assert np.max(deviation) < 4
    first = racing.draw(scored, temperature=1.0, process=QUIET, key=jr.key(0))
    assert first == jnp.argmax(scored)
    events = racing.events(PROCESS, period_s=1e-6)
    assert not any(e.name.startswith("adc_") for e in events)
    assert "sampling" not in {e.part for e in events}
    assert "readout" in {e.part.split(".")[0] for e in events}
