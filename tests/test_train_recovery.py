"""Long runs: bad steps skipped and counted, spikes undone, batches in parts, traces."""

import dataclasses
import json
import random
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from circuits.blocks import GatedUnitBlock
from physnn.process import load_process
from train.baseline import TransformerConfig
from train.checkpoint import Checkpoints
from train.experiment import Experiment, from_table
from train.loop import begin, load_run, train
from train.metrics import read_metrics
from train.model import PhysicalConfig
from train.noise_aware import NoiseAware
from train.objective import make_update
from train.optimizer import OptimizerConfig
from train.profile import Profile
from train.recovery import Recovery, Spikes, TrainingDiverged
from train.tasks import TextConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

# Charge MACs, quantizers and noise without a recurrence: that compiles sooner.
MEMORYLESS = PhysicalConfig(width=8, n_layers=1, layer=(GatedUnitBlock(n_hidden=8),))
QUICK: Any = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("home")
    rng = random.Random(0)
    words = ["circuit", "noise", "charge", "token", "Joule", "gate", "chip"]
    text = " ".join(rng.choice(words) for _ in range(5_000))
    (folder / "text.txt").write_text(text)
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    yield folder
    patch.undo()


def tiny(home, **changes) -> Experiment:
    fields = {
        "name": "tiny",
        "steps": 30,
        "batch": 4,
        "checkpoint_every": 5,
        "evaluate_every": 30,
        "evaluation_windows": 4,
        "task": TextConfig(path=str(home / "text.txt"), context=16),
        "model": TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=8),
        "optimizer": OptimizerConfig(peak_rate=1e-2),
    }
    return Experiment(**(fields | changes))


def lines(folder) -> list[dict]:
    found = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in x.items() if k != "seconds"} for x in found]


def arrays(run) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(run.model) if hasattr(x, "dtype")]


def one_update(experiment: Experiment, process, tokens):
    """State, measured and temporary bytes of one update."""
    held, static = begin(experiment, vocabulary=256, process=process)
    rest = eqx.combine(held.fixed, static)
    update = make_update(rest, experiment=experiment, process=process)
    compiled = update.lower(held.state, tokens).compile(compiler_options=QUICK)
    memory = compiled.memory_analysis()
    assert memory is not None
    state, measured = compiled(held.state, tokens)
    return state, measured, memory.temp_size_in_bytes


def test_a_batch_in_parts_is_the_same_step_in_less_memory():
    """With mismatch and noise: each chip has its windows, errors and draws."""
    tokens = np.random.default_rng(0).integers(0, 256, (32, 33)).astype(np.uint8)
    process = load_process("cmos28")
    whole = Experiment(
        batch=32,
        steps=10,
        task=TextConfig(context=32),
        model=MEMORYLESS,
        noise=NoiseAware(chips_per_batch=4, energy_weight=0.1),
    )
    a = one_update(whole, process, tokens)
    b = one_update(dataclasses.replace(whole, accumulate=4), process, tokens)
    for x, y in zip(a[1][:2], b[1][:2], strict=True):
        assert float(x) == pytest.approx(float(y), rel=1e-5)
    # Its first moments are the gradient, clipped, times 1 - b1.
    for x, y in zip(moments(a[0]), moments(b[0]), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-3, atol=2e-6)
    assert b[2] < a[2] / 2.5


def moments(state) -> list[jax.Array]:
    found = [
        x.mu
        for x in jax.tree.leaves(state.optimizer, is_leaf=lambda x: hasattr(x, "mu"))
        if hasattr(x, "mu")
    ]
    assert len(found) == 1
    return jax.tree.leaves(found[0])


def test_a_chip_whose_windows_come_in_parts_stays_one_chip():
    """Without noise, so that its mismatch alone is compared."""
    tokens = np.random.default_rng(1).integers(0, 256, (8, 17)).astype(np.uint8)
    process = load_process("cmos28").noiseless()
    whole = Experiment(
        batch=8,
        steps=10,
        task=TextConfig(context=16),
        model=MEMORYLESS,
        noise=NoiseAware(chips_per_batch=2),
    )
    losses = {
        parts: float(
            one_update(dataclasses.replace(whole, accumulate=parts), process, tokens)[
                1
            ].bits_per_byte
        )
        for parts in (1, 4)
    }
    assert losses[4] == pytest.approx(losses[1], rel=1e-5)


def broken(trained):
    """Weights that give no number."""
    return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), trained)


def test_a_gradient_that_is_no_number_changes_nothing_but_the_count(home):
    experiment = tiny(home, recovery=Recovery(skip=2))
    tokens = np.random.default_rng(0).integers(0, 256, (4, 17)).astype(np.uint8)
    process = load_process("cmos28")
    held, static = begin(experiment, vocabulary=256, process=process)
    rest = eqx.combine(held.fixed, static)
    update = make_update(rest, experiment=experiment, process=process)
    good = held.state.trained
    state, counts = held.state, []
    copied = lambda tree: jax.tree.map(jnp.copy, tree)
    for is_bad in (False, True, True, False):
        if is_bad:
            before = copied(good)
            state, measured = update(state._replace(trained=broken(good)), tokens)
            assert np.isnan(measured.bits_per_byte)
            moment = jax.tree.leaves(state.optimizer.inner_state)
            assert all(np.all(np.isfinite(x)) for x in moment)
            good = before
            state = state._replace(trained=copied(good))
        else:
            state, measured = update(state, tokens)
            good = copied(state.trained)
        counts.append((int(measured.skipped), int(measured.skipped_in_a_row)))
    assert counts == [(0, 0), (1, 1), (2, 2), (2, 0)]
    # The position in the data has moved on all the same.
    assert int(state.step) == 4


def test_skipped_steps_are_counted_in_the_metrics_and_end_the_run(home, capfd):
    # So large a rate that the loss overflows after a step or two, for good.
    wild = OptimizerConfig(peak_rate=1e30, clip_norm=1e30)
    experiment = tiny(home, optimizer=wild, recovery=Recovery(skip=5))
    with pytest.raises(TrainingDiverged, match=r"at step \d+, the 6 in a row:"):
        train(experiment, home / "skipped")
    found = lines(home / "skipped")
    assert [x["skipped"] for x in found][-5:] == [1, 2, 3, 4, 5]
    text = (home / "skipped" / "metrics.jsonl").read_text()
    json.loads(text.splitlines()[-1], parse_constant=pytest.fail)
    assert not any(np.isnan(x.get("bits_per_byte", 0)) for x in found)


def spiking(home, monkeypatch, **changes) -> Experiment:
    """A run whose data hold a stretch that it cannot know, at positions 17 to 18."""
    from train.tasks.text import Text

    batch = Text.batch

    def with_spike(self, position, **asked):
        found = batch(self, position, **asked)
        if position in (17, 18):
            found = np.random.default_rng(position).integers(
                128, 256, found.shape, dtype=found.dtype
            )
        return found

    monkeypatch.setattr(Text, "batch", with_spike)
    recovery = Recovery(spike_bits=1.0, spike_steps=5)
    fast = OptimizerConfig(peak_rate=5e-2)
    return tiny(home, recovery=recovery, optimizer=fast, **changes)


def test_a_spike_is_undone_and_its_data_passed_over(home, monkeypatch):
    experiment = spiking(home, monkeypatch)
    run = train(experiment, home / "spike", progress=False)
    found = lines(home / "spike")
    back = [x for x in found if "rolled_back_from" in x]
    # Position 17 is that of step 18; after it, step 16 takes position 18, the second
    # bad one; after that, steps move on.
    assert [x["rolled_back_from"] for x in back] == [18, 16]
    assert [x["step"] for x in back] == [15, 15]
    assert [x["data_shift"] for x in back] == [3, 1]
    steps = [x["step"] for x in found if "bits_per_byte" in x]
    assert steps == list(range(1, 31))
    losses = [x["bits_per_byte"] for x in found if "bits_per_byte" in x]
    assert max(losses[10:]) < losses[9] + 1.0
    # Killed right after a rollback and continued, it is the same run.
    folder = home / "killed"
    from train.journal import Journal

    back_of = Journal.back

    def killed(self, spike, *, to):
        back_of(self, spike, to=to)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "back", killed)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train(experiment, folder, progress=False)
    again = train(experiment, folder, progress=False)
    assert all(
        np.array_equal(x, y) for x, y in zip(arrays(run), arrays(again), strict=True)
    )
    assert lines(folder) == found


def test_too_many_rollbacks_end_the_run_in_a_sentence(home, monkeypatch):
    experiment = spiking(home, monkeypatch)
    recovery = dataclasses.replace(experiment.recovery, rollbacks=1)
    experiment = dataclasses.replace(experiment, recovery=recovery)
    with pytest.raises(TrainingDiverged, match="at step 16 after 1 rollbacks") as told:
        train(experiment, home / "twice", progress=False)
    assert "\n" not in str(told.value)
    assert load_run(home / "twice").step == 15


def test_a_spike_needs_a_past_and_a_checkpoint():
    spikes = Spikes(Recovery(spike_bits=0.5, spike_steps=2), [])
    assert not spikes.heard(1, 8.0, saved=True)
    assert not spikes.heard(2, 20.0, saved=True)  # one loss is no mean of two
    assert not spikes.heard(3, 30.0, saved=False)
    assert spikes.heard(4, 25.6, saved=True)
    assert not spikes.heard(4, 25.4, saved=True)
    assert spikes.heard(5, float("nan"), saved=True)
    assert not Spikes(Recovery(), []).heard(1, float("nan"), saved=True)


def test_old_checkpoints_are_kept_as_asked(home):
    experiment = tiny(home, keep_checkpoints=1, keep_every=10)
    train(experiment, home / "kept", progress=False)
    assert Checkpoints(home / "kept" / "checkpoints").steps() == [10, 20, 30]


def test_a_trace_of_some_steps_is_written(home):
    train(tiny(home, steps=8), home / "traced", progress=False, profile="3:4")
    (trace,) = (home / "traced" / "profile").rglob("*.xplane.pb")
    assert b"jit_update" in trace.read_bytes()
    for wrong in ("3", "0:4", "4:3", "5:31", "10"):
        with pytest.raises(ValueError, match=r"`profile` must be FIRST:LAST, steps"):
            Profile(wrong, home, done=0, last=30)
    with pytest.raises(ValueError, match="steps from 6 to 30"):
        Profile("5:7", home, done=5, last=30)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"accumulate": 0}, "`accumulate` must be at least 1"),
        ({"accumulate": 3, "batch": 12}, "must divide the other, but they are 3 and 2"),
        ({"accumulate": 4, "batch": 6}, "multiple of `accumulate` times `mesh.data`"),
        (
            {"accumulate": 2, "model": {"kind": "counts"}},
            "`accumulate` must be 1 with hardware .* counted, but is 2",
        ),
        ({"keep_checkpoints": 0}, "`keep_checkpoints` must be at least 1"),
        ({"keep_every": -1}, "`keep_every` must not be negative"),
        ({"recovery": {"skip": -1}}, r"`recovery.skip` must be at least 0"),
        ({"recovery": {"spike_bits": 0.0}}, r"`recovery.spike_bits` must be positive"),
        ({"recovery": {"rollbacks": 0}}, r"`recovery.rollbacks` must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(table, message):
    with pytest.raises(ValueError, match=message) as caught:
        from_table(table)
    assert "\n" not in str(caught.value)
