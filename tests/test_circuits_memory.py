"""Hashed memory: collisions, low-bit rows, streaming, noise, what a read costs."""

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks.base import Site
from circuits.blocks.memory import MemoryBlock
from circuits.memory import (
    ROW_RANGE,
    HashedMemory,
    bytes_of,
    hash_table,
)
from circuits.parts import NODE_F
from circuits.rom import ROM_BIT_M2, rom_wires_C
from physnn.circuit import run, run_stepwise
from tests.helpers import PERIOD_S, PROCESS, QUIET, assert_variance, run_jit, totals

# Text with the structure that a weak hash would show.
TEXT = b"\n".join(
    b"%d green bottle%s hanging on the wall, and %d more." % (i, b"s" * (i > 1), 7 * i)
    for i in range(1500)
)


def memory(width=4, **kwargs):
    sizes = {"longest": 4, "index_bits": 5, "row": 3, **kwargs}
    return HashedMemory(
        width, bits=6, output_gain=0.5, process=PROCESS, key=jr.key(0), **sizes
    )


def lines_of(text) -> np.ndarray:
    codes = np.asarray(text)[..., None] >> np.arange(8) & 1
    return (2.0 * codes - 1).astype(np.float32)


def index_by_hand(head: int, gram: bytes, bits: int) -> int:
    flips, index = hash_table(head, len(gram), bits), 0
    for place, byte in enumerate(reversed(gram)):
        index ^= int(flips[place, byte])
    return index


def hashed(grams: np.ndarray, head: int, bits: int) -> np.ndarray:
    """Rows of `(n, n_bytes)` grams, the newest byte first."""
    flips = hash_table(head, grams.shape[1], bits)
    index = np.zeros(len(grams), np.int64)
    for place in range(grams.shape[1]):
        index ^= flips[place][grams[:, place]]
    return index


def distinct_grams(n: int) -> np.ndarray:
    text = np.frombuffer(TEXT, np.uint8)
    return np.unique(np.lib.stride_tricks.sliding_window_view(text, n), axis=0)


@pytest.mark.parametrize("n", [3, 5])
def test_collisions_are_those_of_the_birthday_formula(n):
    grams, bits = distinct_grams(n), 10
    N, rows = len(grams), 2**bits
    assert rows / 2 < N
    colliding, occupied = [], []
    for head in range(64):
        counts = np.bincount(hashed(grams, head, bits), minlength=rows)
        colliding.append(np.sum(counts * (counts - 1)) / 2)
        occupied.append(np.mean(counts > 0))
    # Any two grams meet with probability 1/rows over the draws of the words.
    expected = N * (N - 1) / 2 / rows
    error = np.std(colliding) / np.sqrt(len(colliding))
    assert abs(np.mean(colliding) - expected) < 3 * error
    assert error < 0.05 * expected
    # Rows that any gram finds, if each fell at random.
    fraction = 1 - (1 - 1 / rows) ** N
    assert np.mean(occupied) == pytest.approx(fraction, abs=0.01)


def test_rows_are_used_uniformly():
    grams, bits = distinct_grams(5), 8
    rows = 2**bits
    deviations = []
    for head in range(32):
        counts = np.bincount(hashed(grams, head, bits), minlength=rows)
        expected = len(grams) / rows
        chi_square = np.sum((counts - expected) ** 2 / expected)
        deviations.append((chi_square - (rows - 1)) / np.sqrt(2 * (rows - 1)))
    # Standard scores of a chi-square. Words of any three grams are independent, which
    # fixes the mean; numbered bottles fill a space of products, which widens the rest.
    assert abs(np.mean(deviations)) < 3 * np.std(deviations) / np.sqrt(32)
    assert np.median(np.abs(deviations)) < 3
    plain = np.bincount(grams.sum(axis=1, dtype=int) % rows, minlength=rows)
    plain_chi_square = np.sum((plain - len(grams) / rows) ** 2) * rows / len(grams)
    assert (plain_chi_square - rows) / np.sqrt(2 * rows) > 100


def test_heads_hash_differently_and_always_alike():
    a, b = (hash_table(head, 3, 14) for head in (0, 1))
    assert np.mean(a == b) < 0.01
    # Pinned: a mask ROM that was ordered must find its rows tomorrow.
    assert a[:, 1].tolist() == [12266, 7604, 4236]


@given(st.lists(st.integers(0, 255), min_size=1, max_size=9), st.integers(2, 5))
@settings(max_examples=15)
def test_indices_are_hashes_of_the_last_bytes(text, longest):
    circuit = memory(longest=longest, n_heads=2)
    lines = jnp.asarray(lines_of(text))
    np.testing.assert_array_equal(bytes_of(lines), text)
    past = circuit.init_state()
    found = np.asarray(circuit.indices(jnp.concatenate([past, bytes_of(lines)])))
    padded = bytes(longest - 1) + bytes(text)
    assert circuit.orders == tuple(np.repeat(np.arange(2, longest + 1), 2))
    for head, n in enumerate(circuit.orders):
        for t in range(len(text)):
            gram = padded[t + longest - n : t + longest]
            assert found[head, t] == index_by_hand(head, gram, 5)


def test_streaming_is_a_scan_of_text():
    circuit = memory()
    text = np.frombuffer(TEXT[:40], np.uint8).reshape(20, 2)
    x = 0.3 * jr.normal(jr.key(1), (20, 2, 4))
    xs = jnp.concatenate([x, jnp.asarray(lines_of(text))], axis=-1)
    scanned = run_jit(circuit, xs, process=QUIET, key=jr.key(0))
    stepped = eqx.filter_jit(run_stepwise)(circuit, xs, process=QUIET, key=jr.key(0))
    np.testing.assert_allclose(scanned, stepped, rtol=1e-5, atol=1e-6)
    state, _ = circuit.scan(circuit.init_state((2,)), xs, process=QUIET, key=jr.key(0))
    np.testing.assert_array_equal(state, text[-3:])


@pytest.mark.parametrize("bits", [2, 4])
def test_rows_are_codes_of_few_bits(bits):
    circuit = memory(row_bits=bits)
    circuit = eqx.tree_at(
        lambda c: c.table, circuit, 0.4 * jr.normal(jr.key(1), circuit.table.shape)
    )
    indices = jnp.tile(jnp.arange(32), (3, 1))
    codes = np.asarray(circuit.read(indices))
    levels = 2 ** (bits - 1) - 1
    steps = codes / ROW_RANGE * levels
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    assert np.ptp(np.round(steps)) == 2 * levels
    table = np.concatenate(list(np.asarray(circuit.table)), axis=-1)
    inside = np.abs(table) <= ROW_RANGE
    assert np.abs(codes - table)[inside].max() <= ROW_RANGE / levels / 2 + 1e-6


def test_only_rows_that_are_read_are_trained():
    circuit = memory(longest=3)
    xs = jnp.concatenate([jnp.full((6, 4), 0.2), lines_of([*b"banana"])], axis=-1)

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(circuit):
        return jnp.sum(run(circuit, xs, process=QUIET, key=jr.key(0)) ** 2)

    touched = np.any(np.asarray(gradient(circuit).table) != 0, axis=-1)
    padded = b"\0\0banana"
    for head, n in enumerate(circuit.orders):
        grams = {padded[t + 3 - n : t + 3] for t in range(6)}
        rows = {index_by_hand(head, gram, 5) for gram in grams}
        assert set(np.flatnonzero(touched[head])) == rows


def test_noise_is_that_of_the_dacs_and_the_column():
    circuit = memory(1, longest=2, row=1)
    weight, offset = jnp.full((1, 1), 0.8), 0.7 * PROCESS.linear_range()
    circuit = eqx.tree_at(
        lambda c: (c.table, c.context.weight.value, c.output.weight.value),
        circuit,
        (jnp.zeros_like(circuit.table), jnp.zeros((1, 1)), weight),
    )
    circuit = eqx.tree_at(
        lambda c: c.context.offset.value, circuit, jnp.full(1, offset)
    )
    ys = run_jit(circuit, jnp.zeros((20_000, 9)), process=PROCESS, key=jr.key(1))
    # A silent row leaves the noise of its DAC, through an open gate and the column.
    dac = PROCESS.thermal_variance(NODE_F) * (0.8 * np.tanh(0.7)) ** 2
    column = float(circuit.output.noise_variance(PROCESS)[0])
    assert dac > 0.1 * column
    # The gate shakes, too, by half a percent of its opening.
    assert_variance(ys, [dac + column])


def test_only_what_is_read_costs():
    small, large = (memory(index_bits=bits) for bits in (4, 8))
    assert large.table_bits() == 16 * small.table_bits() == 3 * 256 * 3 * 4
    a, b = (c.events(PROCESS, period_s=PERIOD_S) for c in (small, large))
    counts = dict(totals(a)), dict(totals(b))
    # Three heads of three values of four bits, whatever the size of the table, and a
    # word of the index for each byte: 2 + 3 + 4 of them.
    assert counts[0]["rom_bit"] == 36 + 9 * 4
    assert counts[1]["rom_bit"] == 36 + 9 * 8
    assert counts[0]["dac_conversion"] == counts[1]["dac_conversion"] == 9
    # Nothing of the table leaks: what is stored are the weights of both MACs.
    assert counts[0]["stored_bit_s"] == counts[1]["stored_bit_s"]
    macs = (4 * 9 + 9 * 4) * 6
    assert counts[0]["stored_bit_s"] == pytest.approx(macs * PERIOD_S)
    # The wires of a larger array are longer.
    wires = [
        next(float(e.count) for e in events if e.part == "table wires")
        for events in (a, b)
    ]
    for charge, bits, circuit in zip(wires, (4, 8), (small, large), strict=True):
        side_m = (circuit.table_bits() / 3 * ROM_BIT_M2) ** 0.5
        per_bit = side_m * PROCESS.wire_F_per_m * PROCESS.supply_V
        assert charge == pytest.approx((36 + 3 * bits) * per_bit, rel=1e-6, abs=0)
    assert rom_wires_C(0, 5, PROCESS) == 0


def test_diagnose_says_how_much_passes():
    circuit = memory()
    circuit = eqx.tree_at(lambda c: c.table, circuit, 0 * circuit.table)
    xs = jnp.concatenate([jnp.zeros((5, 4)), lines_of([*b"seven"])], axis=-1)
    found = circuit.diagnose(xs, process=QUIET, key=jr.key(0))
    assert found["silent"] == 1.0
    assert found["open"] == pytest.approx(np.tanh(0.5), rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"longest": 1}, r"`longest` must be from 2 to 8, but is 1"),
        ({"index_bits": 30}, r"`index_bits` must be from 1 to 24, but is 30"),
        ({"row": 0}, r"`row` must be from 1"),
        ({"row_bits": 1}, r"`row_bits` must be from 2 to 8, but is 1"),
        ({"n_heads": 0}, r"`n_heads` must be from 1"),
    ],
)
def test_impossible_memories_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        memory(**change)


def test_the_block_reads_eight_lines_more():
    site = Site(width=6, process=PROCESS, key=jr.key(0))
    block = MemoryBlock(index_bits=4, row=2).build(site)
    assert (block.n_in, block.n_out) == (14, 6)
    control = MemoryBlock(index_bits=4, row=2).without_mechanism().build(site)
    assert (control.n_in, control.n_out) == (6, 6)
    with pytest.raises(ValueError, match=r"`row` must be positive, but is 0"):
        MemoryBlock(row=0)


def test_a_rom_is_no_netlist():
    with pytest.raises(ValueError, match=r"take the 1,152 bits of `table`"):
        memory(longest=4, index_bits=5).netlist(PROCESS, name="memory")
