"""Flips: each bit of a word with its probability, in the coding of the ROM."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.export.logic import HashedRoms
from physnn.noise import flipped_places, misread
from physnn.straight_through import quantize


@pytest.mark.parametrize(("p", "n"), [(0.4, 10**5), (0.03, 10**5), (3e-5, 3 * 10**6)])
def test_every_place_flips_alone_with_its_probability(p, n):
    draw = jax.jit(lambda p: flipped_places((n,), bits=5, probability=p, key=jr.key(0)))
    words = np.asarray(draw(p))
    flips = (words[:, None] >> np.arange(5)) & 1
    assert np.all(words < 32)
    assert np.all(np.abs(flips.mean(axis=0) - p) < 3 * np.sqrt(p * (1 - p) / n))
    for a, b in itertools.combinations(flips.T, 2):
        both, error = np.mean(a * b), np.sqrt(p**2 * (1 - p**2) / n)
        assert abs(both - p**2) < max(3 * error, 2 / n)


def test_each_word_may_have_a_probability_of_its_own():
    p = jnp.asarray([0.0, 0.1, 0.5])
    words = flipped_places((40_000, 3), bits=1, probability=p, key=jr.key(0))
    share = np.asarray(words).mean(axis=0)
    assert share[0] == 0
    assert np.all(np.abs(share - p) <= 3 * np.sqrt(p * (1 - p) / 40_000))


VALUES = jnp.tile(jnp.linspace(-0.6, 0.6, 61), 200)
ASKED = {"full_scale": 0.5, "bits": 4}
CODES = quantize(VALUES, **ASKED)


def test_a_flip_of_bit_k_moves_a_value_by_two_to_the_k_steps():
    asked = {"bits": 4, "probability": 0.2, "key": jr.key(1)}
    flips = np.asarray(flipped_places(CODES.shape, **asked))
    read = np.asarray(misread(CODES, full_scale=0.5, **asked)) * 7 / 0.5
    roms = HashedRoms((), (np.zeros((1, 1), int),), 1, 4, np.asarray)
    codes = np.rint(np.asarray(CODES) * 7 / 0.5)
    # The words of the ROM's own file, with some bits inverted.
    bits = roms.to_bits(codes[:, None]) ^ ((flips[:, None] >> np.arange(4)) & 1)
    expected = bits @ [1, 2, 4, -8]
    assert (expected == -8).any()
    np.testing.assert_allclose(read, np.maximum(expected, -7), atol=1e-5)
    alone = np.isin(flips, [1, 2, 4, 8]) & (expected != -8)
    np.testing.assert_allclose(np.abs(read - codes)[alone], flips[alone], atol=1e-5)


def test_without_a_flip_a_value_is_what_it_was():
    assert misread(CODES, **ASKED, probability=1e-11, key=jr.key(0)) is CODES
    traced = jax.jit(lambda p: misread(CODES, **ASKED, probability=p, key=jr.key(0)))
    for p in (0.0, 1e-30, 1e-11):
        np.testing.assert_array_equal(traced(p), CODES)
    # Also the others, where some flip.
    same = np.asarray(
        flipped_places(CODES.shape, bits=4, probability=0.1, key=jr.key(0))
    )
    np.testing.assert_array_equal(traced(0.1)[same == 0], CODES[same == 0])
    assert np.mean(same != 0) > 0.2


def test_the_gradient_passes_as_if_nothing_flipped():
    weights = jr.normal(jr.key(2), VALUES.shape)

    def total(values, p):
        codes = quantize(values, **ASKED)
        read = misread(codes, **ASKED, probability=p, key=jr.key(0))
        return jnp.sum(weights * read)

    slope = jax.grad(total)
    np.testing.assert_array_equal(slope(VALUES, 0.5), slope(VALUES, 0.0))
    assert np.any(slope(VALUES, 0.5) == 0)
