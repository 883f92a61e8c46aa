"""Counted tables: against counting by hand, as a run, and under a network."""

import json
import math
from collections import Counter

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.compare import compare_runs, summary
from evals.evaluate import evaluate
from evals.mixture import Mixture, fit_share, mixed_bits, score_with_counts
from evals.quality import score_run
from physnn.energy import bill, load_prices
from physnn.process import load_process
from train.baseline import TransformerConfig
from train.counts import CountedTables, CountsConfig
from train.experiment import from_table, load_experiment
from train.loop import load_run, train
from train.run_folder import RunFolderError
from train.tasks.text import Text

PROCESS = load_process("cmos28")
TEXT = b"the cat sat on the mat; the rat sat on the cat, and that was that. " * 3


def array(text: bytes) -> np.ndarray:
    return np.frombuffer(text, np.uint8)


def by_hand(text: bytes, context: bytes, symbol: int) -> float:
    """Witten-Bell as it is written, with a dictionary."""
    p = 1 / 256
    for k in range(len(context) + 1):
        end = context[len(context) - k :]
        followers = Counter(
            text[i + k] for i in range(len(text) - k) if text[i : i + k] == end
        )
        n, t = followers.total(), len(followers)
        if n:
            p = (followers[symbol] + t * p) / (n + t)
    return p


@given(st.integers(0, 7), st.binary(min_size=8, max_size=60), st.data())
@settings(max_examples=30)
def test_probabilities_are_those_counted_by_hand(order, text, data):
    tables = CountedTables.count(array(text), order)
    at = data.draw(st.integers(0, len(text) - order))
    context = text[at : at + order]
    row = np.exp(tables.log_probabilities(array(context).astype(int)[None])[0])
    assert row.sum() == pytest.approx(1, abs=1e-12)
    for symbol in {text[0], text[-1], 255}:
        assert row[symbol] == pytest.approx(by_hand(text, context, symbol), rel=1e-12)


def test_unseen_and_unknown_contexts_fall_back():
    tables = CountedTables.count(array(TEXT), 3)
    whole = tables.log_probabilities(np.asarray([[*b"zat"], [-1, *b"at"], [0, 0, 0]]))
    shorter = CountedTables.count(array(TEXT), 2).log_probabilities(
        np.asarray([[*b"at"]] * 2 + [[0, 0]])
    )
    np.testing.assert_allclose(whole, shorter, rtol=1e-12)
    alone = CountedTables.count(array(TEXT), 0)
    np.testing.assert_allclose(
        whole[2], alone.log_probabilities(np.zeros((1, 0), int))[0]
    )


def test_bits_of_a_text_are_those_of_its_contexts():
    tables = CountedTables.count(array(TEXT), 4)
    text = b"xthe hat sat on that mat."
    found = tables.bits(array(text), start=1)
    for i in range(1, len(text)):
        context = text[max(0, i - 4) : i]
        expected = -math.log2(by_hand(TEXT, context, text[i]))
        assert found[i - 1] == pytest.approx(expected, rel=1e-9)


def test_logits_are_log_probabilities_of_windows():
    model = CountsConfig(order=4).count(array(TEXT))
    tokens = array(b"sat on the hat").astype(np.int32).reshape(2, 7)

    @jax.jit
    def logits(tokens):
        return model.logits(tokens, process=PROCESS, key=jr.key(0))

    ys = logits(tokens)
    assert ys.dtype == jnp.float32
    for row, t in ((0, 0), (0, 6), (1, 2)):
        context = bytes(tokens[row, max(0, t - 3) : t + 1].tolist())
        for symbol in b"a t":
            expected = math.log(by_hand(TEXT, context, symbol))
            assert ys[row, t, symbol] == pytest.approx(expected, rel=1e-5)
    np.testing.assert_array_equal(jax.vmap(logits)(tokens[:, None])[:, 0], ys)


def test_a_count_of_zero_order_reads_as_well():
    model = CountsConfig(order=0).count(array(TEXT))
    ys = model.logits(jnp.zeros((2, 3), int), process=PROCESS, key=jr.key(0))
    assert ys.shape == (2, 3, 256)
    assert np.ptp(ys, axis=(0, 1)).max() == 0


@pytest.mark.parametrize("order", [-1, 8])
def test_an_order_out_of_range_is_refused(order):
    with pytest.raises(ValueError, match=r"from 0 to 7"):
        CountsConfig(order=order)
    with pytest.raises(ValueError, match=r"from 0 to 7"):
        CountedTables.count(array(TEXT), order)


def test_a_text_shorter_than_its_contexts_is_refused():
    with pytest.raises(ValueError, match=r"more than 4 bytes, but holds 4"):
        CountedTables.count(array(b"abcd"), 4)


def test_sizes_are_counted():
    tables = CountedTables.count(array(b"abababac"), 1)
    a, b, c = (ord(x) for x in "abc")
    assert tables.entries() == (3, 3)  # a b c; ab ac ba
    # After a: b or c, 4 times; after b: a, 3 times.
    assert tables.grams_read() == (3.0, pytest.approx((4 * 2 + 3 * 1) / 7))
    row = np.exp(tables.log_probabilities(np.asarray([[a]]))[0])
    p0 = lambda n: (n + 3 / 256) / (8 + 3)
    assert row[b] == pytest.approx((3 + 2 * p0(3)) / 6)
    assert row[c] == pytest.approx((1 + 2 * p0(1)) / 6)
    header = [8 * k + 32 + 9 + 2 for k in (0, 1)]
    gram = [8 + 3, 8 + 2]
    assert tables.stored_bits() == (
        2 * header[0] + 3 * gram[0],
        2 * 2 * header[1] + 3 * gram[1],
    )


def test_only_what_is_read_costs():
    model = CountsConfig(order=3).count(array(TEXT))
    tables, rom = model.tables, load_prices("analog28")
    found = bill(model, rom, process=PROCESS)
    read = {row.part: row.count for row in found.rows if row.event == "rom_bit"}
    for k, grams in enumerate(tables.grams_read()):
        probes = 2.5 if k else 1.0
        bits = probes * tables.header_bits(k) + grams * tables.gram_bits(k)
        assert read[f"order{k}"] == pytest.approx(bits)
    assert not any(row.event == "stored_bit_s" for row in found.rows)
    # A ROM does not leak; SRAM does, for as long as a token takes.
    digital = model.table_events(PROCESS, period_s=2e-6, digital=True)
    (leak,) = (e.count for e in digital if e.name == "stored_bit_s")
    assert leak == pytest.approx(2e-6 * sum(tables.stored_bits()))
    # More text of the same kind makes no token dearer.
    more = CountsConfig(order=3).count(array(TEXT * 5))
    assert more.tables.grams_read() == pytest.approx(tables.grams_read(), rel=0.05)


def test_the_share_is_the_best_one():
    rng = np.random.default_rng(0)
    network, counts = rng.exponential(2, 500), rng.exponential(2, 500)
    share = fit_share(network, counts)
    shares = np.linspace(0.001, 0.999, 999)
    best = min(np.mean(mixed_bits(network, counts, s)) for s in shares)
    assert np.mean(mixed_bits(network, counts, share)) <= best + 1e-7
    assert fit_share(network, network + 1) == 0.0
    assert fit_share(network + 1, network) == 1.0
    np.testing.assert_allclose(mixed_bits(network, counts, 0.0), network)
    np.testing.assert_allclose(mixed_bits(network, counts, 1.0), counts)
    half = -np.log2((2.0**-network + 2.0**-counts) / 2)
    np.testing.assert_allclose(mixed_bits(network, counts, 0.5), half)


COMMON = {"steps": 2, "batch": 4, "checkpoint_every": 2, "evaluation_windows": 8}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    rng = np.random.default_rng(0)
    words = [b"the", b"cat", b"sat", b"on", b"a", b"mat", b"and", b"ran.\n"]
    path.write_bytes(b" ".join(words[i] for i in rng.integers(0, 8, 3000)))
    return path


def run_of(model: dict, name: str, text, folder):
    task = {"path": str(text), "context": 32}
    table = {**COMMON, "name": name, "task": task, "model": model}
    return train(from_table(table), folder / name, progress=False).folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory, text, plain_promotion):
    folder = tmp_path_factory.mktemp("runs")
    sizes = {"width": 8, "n_layers": 1}
    models = {
        "counts": {"kind": "counts", "order": 3},
        "physical": {"kind": "physical", **sizes, "layer": [{"kind": "gated_unit"}]},
        "transformer": {"kind": "transformer", "width": 8, "n_blocks": 1, "n_heads": 1},
    }
    return {name: run_of(models[name], name, text, folder) for name in models}


def test_a_counted_run_is_scored_as_any_other(runs, text):
    run = load_run(runs["counts"])
    task = run.experiment.task.build()
    assert isinstance(task, Text)
    quality = score_run(runs["counts"], split="test", n_chips=3, windows=0, seed=0)
    assert quality.n_chips == 1
    assert quality.n_bytes == task.n_bytes("test")
    # Windows forget: a little worse than the whole text read at once.
    whole = np.mean(run.model.tables.bits(task.tokens("test")))
    assert whole < quality.median < whole + 0.2
    assert load_experiment(runs["counts"] / "experiment.toml") == run.experiment
    (line,) = (runs["counts"] / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["tokens"] == task.n_bytes("train")
    row = evaluate([runs["counts"]], windows=4, n_chips=2)
    assert set(row.energy_J) == {"analog28"}
    assert row.bits.n_chips == 1
    assert run.best_bits_per_byte == json.loads(line)["validation_bits_per_byte"]
    # Counted again is the same run.
    again = train(run.experiment, runs["counts"], progress=False)
    assert again.best_bits_per_byte == run.best_bits_per_byte


def test_a_run_without_its_text_is_refused(runs, tmp_path, text):
    other = tmp_path / "other.txt"
    other.write_bytes(text.read_bytes()[:-10])
    table = {**COMMON, "task": {"path": str(other), "context": 32}}
    train(from_table({**table, "model": {"kind": "counts"}}), tmp_path / "run")
    other.write_bytes(text.read_bytes())
    with pytest.raises(RunFolderError, match=r"the text it counted"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("kind", ["physical", "transformer"])
def test_counts_under_a_network(runs, kind):
    asked = {"split": "test", "windows": 8, "n_chips": 2, "seed": 0}
    found = score_with_counts(runs[kind], order=3, **asked)
    alone = score_run(runs[kind], **asked)
    assert found.network.values == alone.values
    # Two steps of training are behind any table: the share says so.
    assert found.share > 0.5
    assert found.mixed.median < found.network.median
    assert found.mixed.median < found.counts.median + 0.05
    assert set(found.bills) == ({"analog28"} if kind == "physical" else {*"GAR"})
    for name, (alone, both) in found.bills.items():
        more = both.total.nominal - alone.total.nominal
        # What a GPU spends on so small a model is all its host.
        assert more == 0 if name == "G" else more > 0
    assert found.to_json()["share"] == found.share
    assert "mixed, share of the counts" in str(found)


def test_a_count_is_not_put_under_a_count(runs):
    with pytest.raises(ValueError, match=r"must be a network of text"):
        score_with_counts(
            runs["counts"], order=2, split="test", windows=1, n_chips=1, seed=0
        )


def test_a_mixture_has_one_sampler(text):
    network = TransformerConfig(width=8, n_blocks=1, n_heads=1).build(
        vocabulary=256, process=PROCESS, key=jr.key(0)
    )
    counts = CountsConfig(order=2).count(array(TEXT))
    mixed = Mixture(network, counts, digital=True).events(PROCESS, period_s=1e-6)
    parts = [(event.name, event.part) for event in mixed]
    assert len(set(parts)) == len(parts)
    assert sum(event.name == "host_token" for event in mixed) == 1


def test_counts_are_a_row_of_a_comparison(runs):
    results = compare_runs(runs.values(), n_chips=1, windows=4)
    kinds = {system["name"]: system["kind"] for system in results["systems"]}
    assert kinds == {name: name for name in runs}
    row = results["systems"][-1]
    assert row["kind"] == "counts"
    assert row["parameters"] == 0
    assert row["bills"]["analog28"]["total_J"]["nominal"] > 0
    assert "counts: nothing is learned" in summary(results)
    assert "physical was scored with thermal = 1 of the process" in summary(results)
    assert "transformer was scored" not in summary(results)
