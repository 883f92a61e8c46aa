"""evaluate: a row of results with its controls, from real runs; operations counted."""

import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits.blocks import GatedRCBlock, GatedUnitBlock
from circuits.blocks.channel import ChannelLayerConfig
from circuits.blocks.memory import MemoryBlock
from circuits.layers import MacLayer
from evals.controls import controls_of, matched_layers, matched_unit, run_controls
from evals.evaluate import evaluate
from evals.wind_tunnel import operations, simulation_energy
from physnn.__main__ import _guarded
from tests.helpers import PROCESS
from train.classifier import ClassifierConfig
from train.experiment import Experiment, from_table
from train.loop import load_run, train
from train.metrics import read_metrics
from train.model import PhysicalConfig
from train.run_folder import RunFolderError
from train.tasks.images import ImagesConfig
from train.tasks.text import Text

pytestmark = pytest.mark.usefixtures("plain_promotion")

ASKED = {"split": "test", "n_chips": 2, "windows": 4, "seed": 0}


def table(text, **changes):
    layer = [
        {"kind": "gated_rc", "n_states": 6, "n_taps": 2},
        {"kind": "gated_unit", "n_hidden": 6},
    ]
    return {
        "name": "tiny",
        "steps": 12,
        "batch": 4,
        "task": {"kind": "text", "path": str(text), "context": 32},
        "model": {"kind": "physical", "width": 8, "n_layers": 1, "layer": layer},
        "noise": {"chips_per_batch": 2},
    } | changes


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    rng = np.random.default_rng(0)
    words = [b"the", b"cat", b"sat", b"on", b"a", b"mat", b"and", b"ran.\n"]
    path.write_bytes(b" ".join(words[i] for i in rng.integers(0, 8, 3000)))
    return path


@pytest.fixture(scope="module")
def seeds(tmp_path_factory, text, plain_promotion):
    """Two runs of one experiment."""
    folder = tmp_path_factory.mktemp("seeds")
    of = lambda seed: from_table(table(text, seed=seed))
    for seed in (0, 1):
        train(of(seed), folder / f"s{seed}", progress=False)
    return [folder / "s0", folder / "s1"]


def test_a_row_says_what_was_measured(seeds):
    row = evaluate(seeds, **ASKED)
    assert row.seeds == (0, 1)
    assert row.tokens == 12 * 4 * 32
    assert len(row.bits.values) == 2
    assert row.bits.low <= row.bits.median <= row.bits.high
    model = load_run(seeds[0]).model
    leaves = [x for x in jax.tree.leaves(model) if hasattr(x, "dtype")]
    floats = sum(x.size for x in leaves if jnp.issubdtype(x.dtype, jnp.floating))
    assert row.parameters == floats
    assert set(row.energy_J) == {"analog28"}
    assert row.wind_tunnel is not None
    assert row.wind_tunnel.low < row.wind_tunnel.nominal < row.wind_tunnel.high
    fast, diffrax = row.other_solver or (0.0, 1.0)
    assert fast == pytest.approx(diffrax, abs=0.01)
    assert row.accuracy is None
    said = str(row)
    assert "tiny: 2 seeds" in said
    assert "Diffrax" in said
    # What was on when it was scored.
    acting = {each.name: each.acts_on for each in row.sources}
    assert set(acting) == {"thermal", "shot", "mismatch"}
    assert acting["mismatch"]
    assert acting["thermal"]
    assert f"mismatch = 1 of the process: {len(acting['mismatch'])} of" in said
    one = evaluate(seeds[:1], **ASKED)
    assert one.bits.n_chips == 2
    assert one.bits.median == row.bits.values[0]


def test_controls_are_trained_once_beside_the_runs(seeds):
    of = evaluate(seeds[:1], **ASKED).bits
    found = run_controls(seeds[:1], of=of, **ASKED)
    assert set(found.rows) == {"chance", "removed", "frozen", "conventional"}
    assert found.left_out == {}
    for name, row in found.rows.items():
        assert found.worth[name] == (pytest.approx(row.median - of.median),) * 3
    run = load_run(seeds[0])
    removed = load_run(seeds[0].with_name("s0-removed"))
    assert removed.step == run.step
    models = [removed.experiment.model, run.experiment.model]
    assert all(isinstance(model, PhysicalConfig) for model in models)
    without, layers = (vars(model)["layer"] for model in models)
    assert without == tuple(each.without_mechanism() or each for each in layers)
    frozen = load_run(seeds[0].with_name("s0-frozen"))
    cell = lambda run: run.model.stack.blocks[0].inner
    start = train(
        from_table(table(run.experiment.task.path, steps=1)),
        seeds[0].with_name("start"),
        progress=False,
    )
    mechanism = GatedRCBlock.mechanism
    begun, held, trained = (
        jax.tree.leaves(getattr(cell(each), mechanism)) for each in (start, frozen, run)
    )
    # One step at a warming rate moves next to nothing, twelve do.
    far = lambda a, b: max(
        float(jnp.max(jnp.abs(x - y))) for x, y in zip(a, b, strict=True)
    )
    assert far(held, trained) > 0
    assert far(held, begun) <= far(trained, begun)
    folders = sorted(seeds[0].parent.glob("s0-*"))
    before = [read_metrics(folder / "metrics.jsonl") for folder in folders]
    again = run_controls(seeds[:1], of=of, **ASKED)
    assert again.to_json() == found.to_json()
    assert [read_metrics(f / "metrics.jsonl") for f in folders] == before


def test_what_a_mechanism_is_worth_is_paired_by_seed(seeds):
    of = evaluate(seeds, **ASKED).bits
    found = run_controls(seeds, of=of, kinds=["removed"], **ASKED)
    assert set(found.rows) == {"chance", "removed"}  # only what was asked for
    assert not seeds[1].with_name("s1-frozen").exists()
    pairs = zip(of.values, found.rows["removed"].values, strict=True)
    better = sorted(control - own for own, control in pairs)
    low, high = better
    assert found.worth["removed"] == pytest.approx((sum(better) / 2, low, high))
    assert f"({low:.4f} to {high:.4f} by seed)" in str(found)


def test_chance_is_the_entropy_of_the_letters(seeds):
    task = load_run(seeds[0]).experiment.task.build()
    assert isinstance(task, Text)
    of = evaluate(seeds[:1], **ASKED).bits
    found = run_controls(seeds[:1], of=of, **ASKED).rows["chance"].median
    counts = np.bincount(task.tokens("test"), minlength=256)
    p = counts[counts > 0] / counts.sum()
    # That of train scores test a little worse than test's own.
    entropy = -np.sum(p * np.log2(p))
    assert entropy <= found < entropy + 0.02


def test_the_conventional_control_has_as_many_parameters():
    block = GatedRCBlock(n_states=40)
    unit = matched_unit(block, 24, PROCESS)
    assert isinstance(unit, GatedUnitBlock)
    from evals.controls import _size

    a, b = (_size(each, 24, PROCESS) for each in (block, unit))
    assert a == pytest.approx(b, rel=0.02)


def test_the_controls_of_a_classifier_are_charge_macs():
    layers = (ChannelLayerConfig(n_out=60), ChannelLayerConfig(n_out=10))
    model = ClassifierConfig(layers=layers)
    hidden, last = matched_layers(model, PROCESS, vocabulary=10)
    assert last.n_out == 10
    assert hidden.n_out == pytest.approx(60, abs=2)
    found = controls_of(
        Experiment(task=ImagesConfig(path="x"), model=model), vocabulary=10
    )
    assert isinstance(found["conventional"], Experiment)
    assert isinstance(found["frozen"], Experiment)
    conventional = found["conventional"].model
    left_out = controls_of(
        Experiment(task=ImagesConfig(path="x"), model=conventional), vocabulary=10
    )["conventional"]
    assert left_out == "the model is conventional itself"
    assert isinstance(conventional, ClassifierConfig)
    assert all(isinstance(layer, MacLayer) for layer in conventional.layers)


def test_runs_of_different_experiments_are_no_row(seeds, text, tmp_path):
    other = train(from_table(table(text, batch=8)), tmp_path / "other", progress=False)
    with pytest.raises(ValueError, match="one experiment with different seeds, but"):
        evaluate([seeds[0], other.folder], **ASKED)
    copy = shutil.copytree(seeds[0], tmp_path / "copy")
    with pytest.raises(ValueError, match=r"1 experiments with seeds \[0, 0\]"):
        evaluate([seeds[0], copy], **ASKED)


def test_a_run_that_is_not_finished_is_no_row(seeds, tmp_path):
    folder = shutil.copytree(seeds[0], tmp_path / "copy")
    toml = folder / "experiment.toml"
    toml.write_text(re.sub(r"(?m)^steps = \d+$", "steps = 999", toml.read_text()))
    with pytest.raises(
        RunFolderError, match=r"stands at step \d+ of 999: `physnn train"
    ):
        evaluate([folder, seeds[1]], **ASKED)


def test_the_command_prints_the_row(seeds, capsys):
    arguments = ["--chips", "2", "--windows", "4"]
    assert _guarded(["evaluate", *map(str, seeds), *arguments, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)["row"]
    assert row["seeds"] == [0, 1]
    assert row["bits"]["unit"] == "bits/byte"
    assert [each["name"] for each in row["sources"]] == ["thermal", "shot", "mismatch"]
    assert _guarded(["evaluate", str(seeds[0] / "nowhere")]) != 0
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("named", ["None", "chance"])
def test_controls_that_do_not_exist_are_refused(tmp_path, capsys, named):
    with pytest.raises(SystemExit, match="2"):
        _guarded(["evaluate", str(tmp_path / "run"), "--controls", named])
    assert f"invalid choice '{named}'" in capsys.readouterr().err


def test_no_controls_and_some_are_refused(tmp_path, capsys):
    asked = ["evaluate", str(tmp_path / "run"), "--controls", "none", "removed"]
    assert _guarded(asked) == 2
    assert "must be `none` alone or names of controls" in capsys.readouterr().err


def test_operations_are_counted_as_a_program_does_them():
    a, b = jnp.ones((3, 5)), jnp.ones((5, 7))
    assert operations(lambda a, b: a @ b, a, b).macs == 3 * 5 * 7
    assert operations(lambda a: jnp.tanh(a) + 1, a).elementwise == 30
    assert operations(lambda a: jnp.reshape(a, 15), a).elementwise == 0
    assert operations(jnp.sum, a).elementwise == 15

    def looped(a, w):
        body = lambda x, _: (jnp.tanh(x @ w), None)
        return jax.lax.scan(body, a, None, length=4)[0]

    counted = operations(looped, a, jnp.ones((5, 5)))
    assert counted.macs == 4 * 3 * 5 * 5
    assert counted.elementwise == 4 * 15
    batched = operations(lambda a, b: jnp.einsum("bij,bjk->bik", a, b),
                         jnp.ones((2, 3, 5)), jnp.ones((2, 5, 7)))  # fmt: skip
    assert batched.macs == 2 * 3 * 5 * 7


def test_of_a_table_only_the_rows_that_are_read_are_moved():
    def energy(index_bits):
        layer = (MemoryBlock(longest=2, index_bits=index_bits, row=4),)
        config = PhysicalConfig(width=8, n_layers=1, layer=layer)
        model = config.build(vocabulary=256, process=PROCESS, key=jax.random.key(0))
        return simulation_energy(model, PROCESS, period_s=1e-12).nominal

    # A thousand times the rows, at a period too short to leak.
    assert energy(14) == pytest.approx(energy(4), rel=0.02, abs=0)
