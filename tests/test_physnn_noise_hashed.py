"""The generator of training noise: its words, its avalanche, its reach."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from physnn.noise import hashed, white
from physnn.noise.hashed import HASHED, hashed_bits

ROOT = jr.key(0, impl=HASHED)


def test_words_are_those_of_the_program_that_testu01_was_run_on():
    """`tests/benchmarks/crush.c` with the argument `words`."""
    drawn = [jr.bits(key, (4,)).tolist() for key in jr.split(ROOT, 2)]
    assert drawn == [
        [1002424908, 2000762424, 3580362034, 2808950682],
        [2874997402, 2754577730, 3831889464, 3397725001],
    ]


def test_each_bit_of_the_counter_flips_half_of_the_bits():
    n = 1 << 15
    key = jr.key_data(ROOT)
    at = jr.bits(jr.key(1), (n,), jnp.uint32)
    # A key moved by x draws at place 0 what the key itself draws at place x.
    word = jax.vmap(lambda x: hashed_bits(key.at[0].set(x), 32, ()))
    for bit in range(32):
        flipped = np.asarray(word(at) ^ word(at ^ jnp.uint32(1 << bit)))
        share = ((flipped[:, None] >> np.arange(32)) & 1).mean(axis=0)
        assert np.all(np.abs(share - 0.5) < 5 * 0.5 / n**0.5)


def test_no_word_comes_twice_under_a_key():
    words = np.asarray(jr.bits(ROOT, (1 << 20,)))
    assert len(np.unique(words)) == 1 << 20


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_bits_of_every_width_are_even(width):
    with jax.enable_x64(width == 64):
        words = np.asarray(jr.bits(ROOT, (1 << 14,), f"uint{width}"))
        assert words.dtype == f"uint{width}"
        ones = (words[:, None] >> np.arange(width, dtype=words.dtype)) & 1
    assert np.all(np.abs(ones.mean(axis=0) - 0.5) < 5 * 0.5 / 2**7)
    each = ones - 0.5
    between = each.T @ each / len(words) * 4
    assert np.all(np.abs(between[~np.eye(width, dtype=bool)]) < 5 / 2**7)


def test_an_array_has_the_bits_of_its_places_whatever_its_axes():
    flat = np.asarray(jr.bits(ROOT, (120,)))
    for shape in [(120, 1), (2, 60), (4, 5, 6), (1, 120)]:
        np.testing.assert_array_equal(jr.bits(ROOT, shape).ravel(), flat)
    assert jr.bits(ROOT, ()) == flat[0]
    assert jr.bits(ROOT, (0, 3)).shape == (0, 3)


def test_beyond_a_counter_the_key_moves_on(monkeypatch):
    """As arrays of more than 2^32 elements would: here counters end at 2^6."""
    monkeypatch.setattr(hashed, "_WORDS", 2**6)
    words = np.asarray(hashed_bits(jr.key_data(ROOT), 32, (5, 7, 16)))
    assert len(np.unique(words)) == words.size
    x = np.asarray(white(ROOT, (20, 40, 64))).reshape(800, 64)
    assert abs((x[1:] * x[:-1]).mean()) < 4 / x.size**0.5


def test_chips_draw_as_they_would_alone():
    keys = jr.split(ROOT, 3)
    together = jax.vmap(lambda key: white(key, (4, 5)))(keys)
    for key, drawn in zip(keys, together, strict=True):
        np.testing.assert_array_equal(white(key, (4, 5)), drawn)


def test_normals_have_normal_tails():
    n = 1 << 20
    x = np.asarray(jr.normal(ROOT, (n,)), np.float64)
    assert abs(x.mean()) < 4 / n**0.5
    assert abs((x**2).mean() - 1) < 4 * (2 / n) ** 0.5
    # Beyond 4 sigma: 66 expected of 2^20.
    assert abs(np.sum(np.abs(x) > 4) - 66.4) < 4 * 66.4**0.5
