"""Loader: batches by position, whoever asks; bits of tokens become bits of bytes."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from evals.quality import score
from physnn.process import load_process
from train.baseline import TransformerConfig
from train.experiment import Experiment
from train.loader import Loader
from train.loop import begin
from train.objective import make_update
from train.sharding import MeshConfig, own_rows, spread_rows
from train.tasks import TextConfig, Windows

pytestmark = pytest.mark.usefixtures("plain_promotion")
PROCESS = load_process("cmos28")


@pytest.fixture
def task(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"word {i} " for i in range(2000)))
    return TextConfig(path=str(tmp_path / "text.txt"), context=16).build(
        cache=tmp_path / "cache"
    )


def test_a_position_has_its_batch_however_one_comes_there(task):
    wanted = {t: task.batch(t, seed=3, batch=4) for t in range(60)}
    with Loader(task, seed=3, batch=4) as data:
        # On, on, back, far ahead, and on from there: as a run with rollbacks asks.
        for t in (0, 1, 2, 1, 2, 3, 50, 51, 7):
            assert np.array_equal(data.at(t), wanted[t])
    with Loader(task, seed=3, batch=4) as continued:
        assert np.array_equal(continued.at(51), wanted[51])


@pytest.mark.parametrize("shares", [1, 2, 4])
def test_processes_that_read_their_rows_read_the_batch(task, shares):
    """The same data at the same step on 1, 2 and 4 processes."""
    found = []
    for i in range(shares):
        rows = slice(8 // shares * i, 8 // shares * (i + 1))
        with Loader(task, seed=0, batch=8, rows=rows) as data:
            found.append(data.at(5))
    assert np.array_equal(np.concatenate(found), task.batch(5, seed=0, batch=8))


def test_one_process_feeds_all_rows(task):
    mesh = MeshConfig().build(batch=8)
    rows = own_rows(mesh, 8)
    assert rows == slice(0, 8)
    tokens = task.batch(0, seed=0, batch=8)
    assert np.array_equal(spread_rows(tokens, rows, 8, mesh), tokens)


def test_what_a_task_raises_reaches_the_run(task, monkeypatch):
    def gone(*_, **__):
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(task), "batch", gone)
    with (
        Loader(task, seed=0, batch=4) as data,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        data.at(0)


@pytest.fixture(scope="module")
def small():
    config = TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=16)
    experiment = Experiment(batch=2, steps=4, model=config, task=TextConfig(context=8))
    tokens = jr.randint(jr.key(1), (2, 9), 0, 300)
    return experiment, np.asarray(tokens, np.uint16)


def test_the_loss_is_in_bits_per_byte_of_any_vocabulary(small):
    experiment, tokens = small
    found = {}
    for rate in (1.0, 2.5):
        held, static = begin(experiment, vocabulary=300, process=PROCESS)
        rest = jax.tree.map(lambda x: x, static)
        update = make_update(
            rest, experiment=experiment, process=PROCESS, bytes_per_token=rate
        )
        _, measured = update(held.state, jnp.asarray(tokens))
        found[rate] = float(measured.bits_per_byte)
    # A fresh model knows nothing: log2 of its vocabulary for a token.
    assert found[1.0] == pytest.approx(np.log2(300), abs=1)
    assert found[2.5] == pytest.approx(found[1.0] / 2.5, rel=1e-6)


def test_a_score_is_in_bits_per_byte_over_the_bytes_that_were_scored(small):
    experiment, tokens = small
    model = experiment.model.build(vocabulary=300, process=PROCESS, key=jr.key(0))
    scored = np.ones((2, 8), bool)
    found = {
        rate: score(
            model,
            [Windows(tokens, scored, rate)],
            process=PROCESS,
            n_chips=1,
            key=jr.key(2),
        )
        for rate in (1.0, 2.5)
    }
    assert found[2.5].median == pytest.approx(found[1.0].median / 2.5, rel=1e-6)
    assert (found[1.0].n_bytes, found[2.5].n_bytes) == (16, 40)
