"""Named streams."""

import jax.random as jr
import numpy as np

from physnn.keys import stream


def test_a_stream_is_its_key_and_its_name():
    draw = lambda seed, name: float(jr.normal(stream(jr.key(seed), name)))
    assert draw(0, "mixer") == draw(0, "mixer")
    draws = [draw(seed, name) for seed in (0, 1) for name in ("a", "b", "ab", "ba", "")]
    assert len(set(draws)) == len(draws)


def test_streams_are_the_same_on_every_machine():
    # CRC-32 of "123456789" is the check value of its definition, 0xCBF43926; Python's
    # own `hash` of a string would differ in every process.
    expected = jr.fold_in(jr.key(0), np.uint32(0xCBF43926))
    assert jr.key_data(stream(jr.key(0), "123456789")).tolist() == (
        jr.key_data(expected).tolist()
    )
