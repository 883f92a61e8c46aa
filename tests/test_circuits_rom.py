"""ROM: flips as it is read, faults of what it holds, and who is told of them."""

import math

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.memory import ROW_RANGE, HashedMemory
from circuits.rom import ROM_BIT_M2, EmbeddingRom, read_flip_probability
from physnn.deploy import active_sources, deploy
from physnn.environment import Environment
from physnn.fabricate import fabricate
from physnn.units import BOLTZMANN_J_PER_K
from tests.helpers import PERIOD_S, PROCESS, QUIET, banks, physical_config, run_jit

ROWS = 0.5 * jr.normal(jr.key(0), (11, 8))
ROM = EmbeddingRom(ROWS, bits=8)
TOKENS = jr.randint(jr.key(1), (20_000,), 0, 11)
# Of the supply: where bits of ROMs this small flip every few reads.
LOW = (0.004, 0.006, 0.008, 0.011)


def at(supply, **amounts):
    return PROCESS.at(Environment(supply=supply, **amounts))


def memory(**kwargs):
    sizes = {"longest": 3, "index_bits": 5, "row": 3, "row_bits": 4, **kwargs}
    return HashedMemory(
        4, **sizes, bits=6, output_gain=0.5, process=PROCESS, key=jr.key(0)
    )


@pytest.mark.parametrize("stored_bits", [704, 384])
def test_a_bit_flips_by_the_noise_of_the_line_that_is_billed(stored_bits):
    line_F = (stored_bits * ROM_BIT_M2) ** 0.5 * PROCESS.wire_F_per_m + 1e-15
    found = []
    for supply in LOW:
        kT_per_C = BOLTZMANN_J_PER_K * PROCESS.temperature_K / line_F
        sigma_V = math.sqrt(PROCESS.thermal_noise * kT_per_C)
        margin_V = supply * PROCESS.supply_V / 2
        expected = 0.5 * math.erfc(margin_V / (math.sqrt(2) * sigma_V))
        found.append(read_flip_probability(stored_bits, at(supply)))
        assert found[-1] == pytest.approx(expected, rel=1e-6)
    assert found == sorted(found, reverse=True)
    longer = [read_flip_probability(100 * stored_bits, at(s)) for s in LOW]
    assert all(a < b for a, b in zip(longer, found, strict=True))
    assert read_flip_probability(stored_bits, QUIET) == 0
    assert read_flip_probability(stored_bits, PROCESS) < 1e-30


def share_of_wrong_bits(rom, process):
    """Bits that differ from those stored, over all that were read."""
    read = rom.read(TOKENS, process=process, key=jr.key(2))
    codes = lambda values: np.rint(np.asarray(values) * 127).astype(int)
    found, stored = codes(read), codes(rom.codes())[np.asarray(TOKENS)]
    # Of the code that no converter has nothing can be said.
    kept = found != -127
    return np.bitwise_count((found ^ stored)[kept] & 0xFF).mean() / 8, kept.sum() * 8


def test_bits_of_the_embedding_flip_as_often_as_they_should():
    shares = []
    for supply in LOW:
        share, n = share_of_wrong_bits(ROM, at(supply))
        p = read_flip_probability(11 * 8 * 8, at(supply))
        assert abs(share - p) < 3 * np.sqrt(p * (1 - p) / n) + 1e-3 * p, supply
        shares.append(share)
    assert shares == sorted(shares, reverse=True)
    assert share_of_wrong_bits(ROM, at(LOW[0], thermal=0.0))[0] == 0


def test_at_the_nominal_supply_a_rom_says_what_it_holds():
    stored = np.asarray(ROM.codes())[np.asarray(TOKENS)]
    read = eqx.filter_jit(lambda rom, p: rom.read(TOKENS, process=p, key=jr.key(0)))
    for process in (PROCESS, PROCESS.traced(), at(0.7).traced()):
        np.testing.assert_array_equal(read(ROM, process), stored)
    circuit = memory()
    indices = jr.randint(jr.key(3), (2, 50), 0, 32)
    rows = eqx.filter_jit(
        lambda p: circuit.read_noisy(indices, process=p, key=jr.key(0))
    )
    for process in (PROCESS, PROCESS.traced()):
        np.testing.assert_array_equal(rows(process), circuit.read(indices))


def test_a_token_is_the_number_on_its_lines():
    assert (ROM.n_in, ROM.n_out) == (4, 8)
    lines = 2.0 * ((np.arange(11)[:, None] >> np.arange(4)) & 1) - 1
    found = run_jit(ROM, jnp.asarray(lines), process=PROCESS, key=jr.key(0))
    np.testing.assert_array_equal(found, ROM.codes())
    assert np.max(np.abs(found)) == 1


def test_bits_of_rows_and_hashes_of_a_memory_flip():
    # Each row holds one value in all its places, and no two heads read the same.
    table = jnp.linspace(-0.4, 0.4, 64).reshape(2, 32, 1) * jnp.ones(3)
    circuit = eqx.tree_at(lambda c: c.table, memory(), table)
    indices = jnp.full((2, 20_000), 9)
    process = at(0.012)
    p_row = read_flip_probability(32 * 3 * 4, process)
    p_hash = read_flip_probability(256 * 5, process)
    read = circuit.read_noisy(indices, process=process, key=jr.key(4))
    codes = np.rint(np.asarray(read) * 7 / ROW_RANGE).astype(int).reshape(-1, 2, 3)
    rows = circuit.read(jnp.tile(jnp.arange(32), (2, 1)))
    stored = np.rint(np.asarray(rows) * 7 / ROW_RANGE).reshape(32, 2, 3)
    stored = np.swapaxes(stored, 0, 1)
    right = np.all(codes == stored[:, 9], axis=-1).mean(axis=0)
    # A hash of n words finds its row if an even number flips at each of five places;
    # another row may hold the same codes, which the flip of a low place finds.
    for head, n in enumerate((2, 3)):
        even = (1 + (1 - 2 * p_hash) ** n) / 2
        same = np.all(stored[head] == stored[head, 9], axis=-1)
        odd = np.bitwise_count(np.arange(32) ^ 9)
        finds = np.sum(same * (1 - even) ** odd * even ** (5 - odd))
        expected = finds * (1 - p_row) ** 12
        # To be wrong and yet right takes flips of both: p squared.
        error = np.sqrt(expected * (1 - expected) / 20_000)
        assert abs(right[head] - expected) < 3 * error + p_row * p_hash
    assert p_row > 1e-3
    assert p_hash > 1e-6
    real = memory(row_bits=None)
    np.testing.assert_array_equal(
        real.read_noisy(indices, process=process, key=jr.key(4)), real.read(indices)
    )


@pytest.fixture(scope="module")
def model():
    config = physical_config(width=64, n_states=3, n_hidden=4, n_taps=2)
    return config.build(vocabulary=128, process=PROCESS, key=jr.key(0))


def test_faults_of_the_embedding_are_as_many_as_drawn(model):
    e = Environment(dead=0.2, stuck_full=0.1)
    chip = fabricate(model, PROCESS, key=jr.key(1), environment=e)
    held, n = np.asarray(chip.embedding), model.embedding.size
    for share, where in ((0.2, held == 0), (0.1, np.abs(held) == 1)):
        assert abs(where.mean() - share) < 3 * np.sqrt(share * (1 - share) / n)
    others = (held != 0) & (np.abs(held) != 1)
    np.testing.assert_array_equal(held[others], np.asarray(model.embedding)[others])
    # At the range of its converters, where that is trained.
    wide = eqx.tree_at(
        lambda m: m.input_range, model, jnp.log(0.5), is_leaf=lambda x: x is None
    )
    stuck = fabricate(wide, PROCESS, key=jr.key(1), environment=e)
    np.testing.assert_allclose(
        stuck.embedding[np.abs(held) == 1], held[np.abs(held) == 1] / 2
    )


def test_a_model_draws_faults_as_its_circuits_do(model):
    # The embedding has a stream of its own, and reseeds no other.
    e = Environment(dead=0.2)
    chip = fabricate(model, PROCESS, key=jr.key(1), environment=e)
    alone = fabricate(
        eqx.tree_at(lambda m: m.embedding, model, model.embedding[:5]),
        PROCESS,
        key=jr.key(1),
        environment=e,
    )
    for path, bank in banks(chip).items():
        assert eqx.tree_equal(bank, banks(alone)[path]), path
    again = fabricate(model, PROCESS, key=jr.key(2), environment=e)
    assert np.mean((again.embedding == 0) != (chip.embedding == 0)) > 0.2


def test_a_report_names_the_embedding_and_the_memory(model):
    e = Environment(supply=0.9, dead=0.1)
    sources = {s.name: s for s in active_sources(model, PROCESS, e)}
    for name in ("supply", "thermal", "dead"):
        assert ".embedding" in sources[name].acts_on, name
    assert ".embedding" in sources["mismatch"].deaf
    quiet = active_sources(model, PROCESS, Environment.ideal().replace(supply=0.9))
    (supply,) = quiet
    assert ".embedding" in supply.deaf
    sources = {s.name: s for s in active_sources(memory(), PROCESS, e)}
    assert all("" in sources[name].acts_on for name in ("supply", "thermal", "dead"))


def test_a_low_supply_spoils_what_a_model_reads(model):
    tokens = jnp.arange(80) % 128
    e = Environment(supply=1e-3)
    chip, there = deploy(model, PROCESS, e, key=jr.key(0), period_s=PERIOD_S)
    seen = np.asarray(chip.rom.read(tokens, process=there, key=jr.key(0)))
    p = read_flip_probability(128 * 64 * 8, there)
    spoiled, n = 1 - (1 - p) ** 8, 80 * 64
    share = np.mean(seen != np.asarray(model.rom.codes())[tokens])
    # One word in 256 would be the code that no converter has.
    assert abs(share - spoiled) < 3 * np.sqrt(spoiled * (1 - spoiled) / n) + 1 / 256
    logits = lambda there: model.logits(tokens[None, :5], process=there, key=jr.key(0))
    assert np.any(logits(there) != logits(PROCESS))
