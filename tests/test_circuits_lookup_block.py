"""Around lookup tables: codes, counts, the classifier and the block."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from circuits.blocks.base import Site
from circuits.blocks.lookup import LookupBlock, enable_thresholds
from circuits.lookup import softened
from circuits.lookup_encoders import binary_encoder, thermometer
from circuits.lookup_network import LookupNetworkLayer
from circuits.lookup_readout import FULL_SCALE_NATS, GroupSum
from physnn.circuit import run
from tests.helpers import PROCESS, QUIET, assert_variance, run_jit
from train.experiment import Experiment
from train.loop import train, validate
from train.metrics import read_metrics
from train.model import PhysicalConfig
from train.objective import make_score, split
from train.tasks import TextConfig


def site(width=4):
    return Site(width=width, process=PROCESS, key=jr.key(5), output_gain=0.5)


@given(st.integers(1, 5), st.integers(1, 6))
@settings(max_examples=8, deadline=None)
def test_as_many_bits_are_high_as_thresholds_are_passed(n_in, levels):
    encoder = thermometer(n_in, levels, low=0.0, high=1.0)
    x = jr.uniform(jr.key(levels), (7, n_in))
    bits = encoder.apply(x, process=QUIET, key=jr.key(0)).reshape(7, n_in, levels)
    passed = np.asarray(x)[..., None] > (np.arange(levels) + 0.5) / levels
    np.testing.assert_array_equal(bits, np.where(passed, 1.0, -1.0))


def test_gradient_of_a_comparator_is_that_of_its_tanh():
    encoder = thermometer(1, 3, width=0.2)
    x = jnp.asarray([[0.1]])
    total = lambda x: jnp.sum(encoder.apply(x, process=QUIET, key=jr.key(0)))
    u = (0.1 - np.asarray([-2 / 3, 0.0, 2 / 3])) / 0.2
    expected = np.sum((1 - np.tanh(u) ** 2) / 0.2)
    assert jax.grad(total)(x)[0, 0] == pytest.approx(expected, rel=1e-4)


def test_comparator_noise_moves_its_threshold():
    encoder = thermometer(1, 1, comparator_F=1e-17)
    sigma = PROCESS.thermal_variance(1e-17) ** 0.5
    # Between two of the 17 levels of a draw of noise.
    x = jnp.full((20_000, 1), 0.75 * sigma)
    high = np.mean(run_jit(encoder, x, process=PROCESS, key=jr.key(0)) > 0)
    p = binom.sf(6, 16, 0.5)
    assert abs(high - p) < 3 * (p * (1 - p) / 20_000) ** 0.5


@pytest.mark.parametrize("bits", [1, 3, 8])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_a_code_is_the_floor_of_its_input(bits, low):
    x = jnp.linspace(-1.2, 1.2, 97)[:, None]
    encoder = binary_encoder(1, bits, low=low)
    y = run_jit(encoder, x, process=QUIET, key=jr.key(0))
    code = np.sum((np.asarray(y) > 0) << np.arange(bits), axis=-1)
    turns = (np.clip(np.asarray(x)[:, 0], low, 1) - low) / np.float32(1 - low)
    expected = np.minimum(np.floor(turns * 2**bits), 2**bits - 1)
    np.testing.assert_array_equal(code, expected)


def test_logits_are_counts_over_tau():
    readout = GroupSum(24, 3, 2.0)
    x = jnp.sign(jr.normal(jr.key(0), (5, 24)))
    y = FULL_SCALE_NATS * run_jit(readout, x, process=QUIET, key=jr.key(0))
    count = (np.asarray(x) > 0).reshape(5, 3, 8).sum(-1)
    np.testing.assert_allclose(y, (count - 4) / 2.0, atol=1e-5)


def test_noise_of_a_sum_is_that_of_its_capacitors():
    readout = GroupSum(12, 2, 0.5)
    x = jnp.ones((20_000, 12)) * jnp.asarray([1.0, -1.0] * 6)
    y = run_jit(readout, x, process=PROCESS, key=jr.key(0))
    sum_F = 6 * PROCESS.capacitor_min_F
    feedback_F = sum_F / readout.gain
    variance = PROCESS.thermal_variance(sum_F + feedback_F)
    assert_variance(y, variance * ((sum_F + feedback_F) / feedback_F) ** 2)


def small(**changes):
    return LookupNetworkLayer(
        **{
            **{"n_tables": 20, "k": 3, "levels": 2, "n_candidates": 4, "group": 6},
            **{"n_classes": 2, "tau": 1.0, **changes},
        }
    )


def test_a_network_says_how_often_soft_tables_disagree():
    network = small(n_later=10, n_later_layers=2).build(6, site())
    assert [layer.n_out for layer in network.layers] == [20, 10, 10]
    x = jr.uniform(jr.key(0), (40, 6))
    found = network.diagnose(x, process=QUIET, key=jr.key(0))
    assert 0 <= found["soft_hard_disagreement"] <= 1
    coded = small(encoder="binary").build(6, site())
    bits = coded.encoder.apply(x, process=QUIET, key=jr.key(0)).reshape(40, 6, 2)
    np.testing.assert_array_equal(bits[..., 1] > 0, x > 0.5)
    assert coded.apply(x, process=QUIET, key=jr.key(0)).shape == (40, 2)
    sure = lambda leaf: dataclasses.replace(leaf, trained=1e4 * leaf.trained)
    decided = dataclasses.replace(network, layers=tuple(map(sure, network.layers)))
    assert decided.diagnose(x, process=QUIET, key=jr.key(0))[
        "soft_hard_disagreement"
    ] == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_later": -1}, r"`n_later` must not be negative, but is -1"),
        ({"n_later": 5}, r"must both be positive or both be 0, but are 5 and 0"),
    ],
)
def test_impossible_networks_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        small(**change)
    with pytest.raises(ValueError, match="as many bits for each of its 3 outputs"):
        small(n_classes=3).build(6, site())
    with pytest.raises(ValueError, match="`tau` must be positive, but is 0"):
        GroupSum(4, 2, 0.0)


def test_enable_lines_open_in_their_share_of_tokens():
    rms = 0.25
    thresholds = np.asarray(enable_thresholds(5, 64.0, rms))[:, 0]
    np.testing.assert_array_equal(thresholds[:5], 0.0)
    share = norm.sf(thresholds[5:] / rms)
    np.testing.assert_allclose(share, np.geomspace(1 / 2, 1 / 64, 5), rtol=1e-3)


def test_block_remembers_and_names_what_is_its_own():
    config = LookupBlock(n_states=24, n_tables=48, k=4, n_taps=1)
    block = config.build(site(32))
    assert config.without_mechanism() is None
    for part in (block.state, block.tables):
        assert hasattr(part, config.mechanism)
    # At the start most tables pass on an input bit, and not a state.
    tables = jr.normal(jr.key(1), block.tables.trained.shape)
    block = eqx.tree_at(lambda b: b.tables.trained, block, tables)
    xs = 0.5 * jr.normal(jr.key(0), (12, 16, 32))
    ys = run(block, xs, process=QUIET, key=jr.key(0))
    other = run(block, xs.at[0].multiply(-1.0), process=QUIET, key=jr.key(0))
    assert ys.shape == xs.shape
    assert np.any(ys[2:] != other[2:])  # without taps, the state bits alone


@pytest.mark.usefixtures("plain_promotion")
def test_training_logs_how_far_soft_tables_are_from_hard_ones(tmp_path):
    (tmp_path / "text.txt").write_text("charge and noise " * 400)
    block = LookupBlock(n_states=6, n_tables=8, k=3, n_taps=2)
    experiment = Experiment(
        steps=4,
        batch=4,
        evaluate_every=2,
        evaluation_windows=8,
        task=TextConfig(path=str(tmp_path / "text.txt"), context=16),
        model=PhysicalConfig(layer=(block,), n_layers=1, width=8),
    )
    run = train(experiment, tmp_path / "run")
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    scored = [line for line in lines if "validation_bits_per_byte" in line]
    assert [line["step"] for line in scored] == [2, 4]
    task = experiment.task.build()
    for key, model in {"": run.model, "soft_": softened(run.model)}.items():
        trained, rest = split(model, experiment)
        score = make_score(rest, experiment=experiment, process=run.process)
        expected = validate(score, trained, task, experiment)
        found = scored[-1][f"validation_{key}bits_per_byte"]
        assert found == pytest.approx(expected, rel=1e-6)
    hard, soft = (scored[-1][f"validation_{key}bits_per_byte"] for key in ("", "soft_"))
    assert scored[-1]["soft_hard_gap"] == pytest.approx(soft / hard - 1, abs=1e-9)
    assert soft != hard


@pytest.mark.parametrize("field", ["n_states", "n_tables", "n_taps", "width"])
def test_impossible_blocks_are_refused(field):
    nothing = type(getattr(LookupBlock(), field))(0)
    with pytest.raises(ValueError, match=rf"`{field}` must be positive, but is 0"):
        dataclasses.replace(LookupBlock(), **{field: nothing})
    with pytest.raises(ValueError, match="`longest_memory` must be above 1 token"):
        LookupBlock(longest_memory=1.0)
    with pytest.raises(ValueError, match="`longest_memory` must be finite"):
        LookupBlock(longest_memory=float("inf"))


@pytest.mark.parametrize("change", [{"levels": 0}, {"low": 1.0}, {"width": 0.0}])
def test_impossible_encoders_are_refused(change):
    with pytest.raises(ValueError, match=r"must be"):
        thermometer(**{"n_in": 2, "levels": 3, **change})
    with pytest.raises(ValueError, match="`bits` must be from 1 to 8, but is 9"):
        binary_encoder(2, 9)
    with pytest.raises(ValueError, match="`n_in` must be positive, but is 0"):
        binary_encoder(0, 2)
    with pytest.raises(ValueError, match=r"`low` must be below `high`, .* 1\.0 and"):
        binary_encoder(1, 2, low=1.0)
