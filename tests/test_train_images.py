"""Images: files read or refused, batches by (seed, step), a classifier that learns."""

import gzip
import struct
from dataclasses import replace

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks import GatedRCBlock
from circuits.layers import MacLayer
from evals.controls import run_controls
from evals.evaluate import evaluate
from tests.helpers import PROCESS, QUIET, totals
from train.classifier import ClassifierConfig
from train.corpus.files import DataError
from train.experiment import ConfigError, from_table
from train.loop import train
from train.tasks.images import Images, ImagesConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

SIDE = 6


def write(path, array):
    magic = {1: 0x801, 3: 0x803}[array.ndim]
    head = struct.pack(f">I{array.ndim}I", magic, *array.shape)
    data = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def folder(tmp_path):
    """Three classes, told apart by which rows are bright; in noise."""
    rng = np.random.default_rng(0)
    for part, n, end in (("train", 600, ""), ("t10k", 90, ".gz")):
        labels = rng.integers(0, 3, n)
        images = rng.integers(0, 60, (n, SIDE, SIDE))
        for row in (0, 1):
            images[np.arange(n), 2 * labels + row] += 150
        write(tmp_path / f"{part}-images-idx3-ubyte{end}", images)
        write(tmp_path / f"{part}-labels-idx1-ubyte{end}", labels)
    return tmp_path


def test_splits_and_windows(folder):
    task = ImagesConfig(path=str(folder)).build()
    assert task.vocabulary == 3
    assert task.shape == (SIDE, SIDE)
    assert [task.n_bytes(s) for s in ("train", "validation", "test")] == [500, 100, 90]
    windows = [*task.windows("test", batch=32)]
    assert [int(w.scored.sum()) for w in windows] == [32, 32, 26]
    rows = np.concatenate([w.tokens[w.scored[:, 0]] for w in windows])
    np.testing.assert_array_equal(rows[:, -1], task.labels("test"))
    bright = rows[:, :-1].reshape(90, SIDE, SIDE).sum(axis=2).argmax(axis=1)
    np.testing.assert_array_equal(bright // 2, task.labels("test"))
    (few,) = task.windows("test", batch=32, limit=10)
    assert few.scored.sum() == 10


def test_batches_are_a_function_of_seed_and_step(folder):
    task = ImagesConfig(path=str(folder), mirror=True, shift=1).build()
    first = task.batch(3, seed=0, batch=8)
    assert first.shape == (8, SIDE * SIDE + 1)
    np.testing.assert_array_equal(first, task.batch(3, seed=0, batch=8))
    for other in (task.batch(4, seed=0, batch=8), task.batch(3, seed=1, batch=8)):
        assert np.any(first != other)


def test_augmented_images_are_mirrored_or_shifted_ones(folder):
    plain = ImagesConfig(path=str(folder)).build().batch(0, seed=0, batch=64)
    moved = ImagesConfig(path=str(folder), mirror=True, shift=1).build()
    moved = moved.batch(0, seed=0, batch=64)
    np.testing.assert_array_equal(plain[:, -1], moved[:, -1])
    seen = set()
    for a, b in zip(plain[:, :-1], moved[:, :-1], strict=True):
        image, found = a.reshape(SIDE, SIDE), b.reshape(SIDE, SIDE)
        ways = [
            (mirrored, down, right)
            for mirrored in (False, True)
            for down in (0, 1, 2)
            for right in (0, 1, 2)
            if np.array_equal(
                np.pad(image[:, ::-1] if mirrored else image, 1)[
                    down : down + SIDE, right : right + SIDE
                ],
                found,
            )
        ]
        assert len(ways) == 1
        seen.add(ways[0])
    assert len(seen) > 12, "most of the 18 ways occur among 64 images"


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-images-idx3-ubyte", None, "must hold train-images-idx3-ubyte or"),
        ("train-labels-idx1-ubyte", b"", "must be an IDX file of bytes in 1 dimension"),
        ("train-images-idx3-ubyte", b"\0\0\x08\x03" * 4 + b"x", "2051.* and 1 bytes"),
        ("t10k-images-idx3-ubyte.gz", b"no gzip", "must be a gzip file, but"),
        ("t10k-labels-idx1-ubyte.gz", None, "must hold t10k-labels-idx1-ubyte or"),
    ],
)
def test_damaged_files_are_refused(folder, name, damage, message):
    path = folder / name
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(DataError, match=message):
        ImagesConfig(path=str(folder)).build()


def test_images_need_a_label_each(folder):
    write(folder / "train-labels-idx1-ubyte", np.zeros(599))
    with pytest.raises(DataError, match=r"a label each, but .*600.* 599 labels"):
        ImagesConfig(path=str(folder)).build()


def experiment(folder, **model):
    layers = [{"kind": "mac_layer", "n_out": 12}, {"kind": "mac_layer", "n_out": 3}]
    model = {"kind": "classifier", "n_pixels": SIDE**2, "layers": layers} | model
    return from_table(
        {
            "steps": 60,
            "batch": 32,
            "task": {"kind": "images", "path": str(folder)},
            "model": model,
            "optimizer": {"peak_rate": 0.03, "warmup": 0.1},
            "noise": {"chips_per_batch": 2},
        }
    )


def test_a_classifier_learns_what_rows_are_bright(folder, tmp_path):
    run = train(experiment(folder), tmp_path / "run", progress=False)
    task = run.experiment.task.build()
    assert isinstance(task, Images)
    (batch,) = task.windows("test", batch=90)
    ask = eqx.filter_jit(run.model.logits)
    logits = ask(
        jnp.asarray(batch.tokens[:, :-1], jnp.int32), process=run.process, key=jr.key(0)
    )
    assert logits.shape == (90, 1, 3)
    assert np.mean(np.argmax(logits[:, 0], axis=1) == task.labels("test")) > 0.95


def test_a_row_of_images_is_in_accuracy_with_its_controls(folder, tmp_path):
    table = [
        {
            "kind": "lookup_network",
            "n_tables": 60,
            "n_candidates": 16,
            "group": 5,
            "n_classes": 3,
        }
    ]
    wanted = experiment(folder, layers=table)
    run = train(replace(wanted, steps=10), tmp_path / "run", progress=False)
    asked = {"split": "test", "n_chips": 2, "windows": 60, "seed": 0}
    row = evaluate([run.folder], **asked)
    assert row.accuracy is not None
    assert row.accuracy.n_bytes == 60
    assert row.tokens == 10 * 32
    assert row.soft is not None
    assert 0 <= row.soft <= 1
    assert "accuracy" in str(row)
    found = run_controls([run.folder], of=row.accuracy, **asked)
    assert set(found.rows) == {"chance", "frozen", "conventional"}
    chance = found.rows["chance"].median
    assert found.worth["chance"][0] == pytest.approx(row.accuracy.median - chance)
    assert all(0 <= each.median <= 1 for each in found.rows.values())
    task = run.experiment.task.build()
    assert isinstance(task, Images)
    counts = np.bincount(task.labels("test"), minlength=3)
    assert found.rows["chance"].median in counts / counts.sum()


def test_a_row_of_images_says_what_another_solver_makes_of_it(folder, tmp_path):
    layers = [
        {"kind": "mac_layer", "n_out": 4},
        {"kind": "gated_rc", "n_states": 4},
        {"kind": "mac_layer", "n_out": 3},
    ]
    wanted = replace(experiment(folder, layers=layers), steps=60)
    run = train(wanted, tmp_path / "run", progress=False)
    row = evaluate([run.folder], split="test", n_chips=1, windows=90, seed=0)
    assert row.other_solver is not None
    ours, theirs = row.other_solver
    assert ours > 0.5
    # The fast path is the closed form.
    assert ours == pytest.approx(theirs, abs=0.02)


def test_patches_arrive_in_the_order_of_rows():
    layers = (GatedRCBlock(n_states=4, n_taps=2), MacLayer(n_out=3))
    whole = {"vocabulary": 3, "process": PROCESS, "key": jr.key(0)}
    config = ClassifierConfig(layers=layers, n_pixels=SIDE**2, patch=SIDE)
    model = replace(config, converter_bits=16).build(**whole)
    image = jnp.arange(SIDE**2).reshape(1, -1) * 7
    ask = {"process": QUIET, "key": jr.key(0)}
    changed = model.logits(image.at[:, :SIDE].add(90), **ask)
    assert np.any(changed != model.logits(image, **ask)), "the first row is remembered"
    count = lambda model: totals(model.events(PROCESS, period_s=1e-6))
    one = ClassifierConfig(layers=layers, n_pixels=SIDE).build(**whole)
    charge = "supply_charge_C"
    assert count(config.build(**whole))[charge] == pytest.approx(
        SIDE * count(one)[charge], rel=0.01, abs=0
    )
    with pytest.raises(ValueError, match=r"must have 36 pixels, but has 35"):
        model.logits(image[:, :-1], **ask)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": []}, "`layers` must hold a layer, but is empty"),
        ({"patch": 7}, "`patch` must divide the 36 pixels of an image, but is 7"),
    ],
)
def test_an_impossible_classifier_is_refused(folder, changes, message):
    with pytest.raises(ConfigError, match=message):
        experiment(folder, **changes)


def test_a_wrong_number_of_classes_is_refused(folder, tmp_path):
    wrong = experiment(folder, layers=[{"kind": "mac_layer", "n_out": 4}])
    with pytest.raises(ValueError, match="one output for each of 3 classes, but has 4"):
        train(wrong, tmp_path / "run", progress=False)


def test_text_and_images_are_not_mixed_up(folder):
    with pytest.raises(ConfigError, match="classifier"):
        from_table({"model": {"kind": "classifier"}})
