"""Calibration of one chip: what moves, what it is worth, and that it is a function."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks import MacLayer
from evals.calibration import (
    CalibratedChip,
    CalibrationConfig,
    _banks,
    calibrate_chip,
    trims_of,
)
from physnn.bank import Bank
from physnn.deploy import deploy
from physnn.environment import Environment
from physnn.fabricate import fabricate
from physnn.process import load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig
from train.classifier import ClassifierConfig
from train.objective import bits, targets_of

# Forty times the offsets: a chip that needs calibration.
NOMINAL = load_process("cmos28")
SPREADS = NOMINAL.matching | {"threshold": 40 * NOMINAL.matching["threshold"]}
PROCESS = dataclasses.replace(NOMINAL, matching=SPREADS)
CONFIG = ClassifierConfig(layers=(MacLayer(n_out=3, gain=1.0),), n_pixels=6)
QUICK = CalibrationConfig(passes=20, trim_rate=1e-2)


@pytest.fixture(autouse=True)
def plain_promotion():
    """optax counts steps in integers and mixes them with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def task():
    """A design that knows its task: tokens are images, labeled by the design itself."""
    design = CONFIG.build(vocabulary=3, process=PROCESS, key=jr.key(0))
    pixels = jr.randint(jr.key(1), (8, 25, 6), 0, 256)
    quiet = PROCESS.noiseless().matched()
    label = lambda x: jnp.argmax(design.logits(x, process=quiet, key=jr.key(0)), -1)
    tokens = jnp.concatenate([pixels, jax.vmap(label)(pixels)], axis=-1)
    return design, tokens, jnp.ones((8, 25, 1), bool)


def quality(model, tokens):
    """Bits of all targets, with noise on."""
    whole = tokens.reshape(-1, tokens.shape[-1])
    logits = model.logits(whole[:, :-1], process=PROCESS, key=jr.key(9))
    return jnp.mean(bits(logits, targets_of(whole, logits)))


def test_offsets_that_went_wrong_are_trimmed_away(task):
    design, tokens, scored = task

    @eqx.filter_jit
    @jax.vmap
    def each(key):
        chip = fabricate(design, PROCESS, key=key)
        asked = {"process": PROCESS, "nominal": PROCESS, "key": key}
        found = calibrate_chip(
            design, chip, tokens[:4], scored[:4], **asked, config=QUICK
        )
        scores = [quality(m, tokens[4:]) for m in (chip, found.chip, found)]
        kept = [b.value for b in _banks(found.chip) if b.value.ndim > 1]
        return jnp.stack(scores), kept

    scores, kept = each(jr.split(jr.key(5), 4))
    ideal = float(eqx.filter_jit(quality)(design, tokens[4:]))
    before, trimmed, read = np.asarray(scores).T
    # What a chip lost comes back; one that lost nothing loses next to nothing.
    assert np.all(trimmed - ideal < np.maximum(0.5 * (before - ideal), 0.01))
    # Most of what fabrication cost comes back.
    assert np.median(trimmed) - ideal < 0.5 * (np.median(before) - ideal)
    assert np.median(read) < np.median(before)
    written = [b.value for b in _banks(design) if b.value.ndim > 1]
    for there, design_value in zip(kept, written, strict=True):
        for of_chip in there:
            np.testing.assert_array_equal(of_chip, design_value)


def test_nothing_is_fitted_when_nothing_is_asked(task):
    design, tokens, scored = task
    chip = fabricate(design, PROCESS, key=jr.key(1))
    none = CalibrationConfig(passes=0, readout_steps=0)

    def run(chip, scored, key):
        asked = {"process": PROCESS, "nominal": PROCESS, "key": key, "config": none}
        return calibrate_chip(design, chip, tokens, scored, **asked)

    found = eqx.filter_jit(run)(chip, scored, jr.key(2))
    np.testing.assert_array_equal(found.gain, 1)
    np.testing.assert_array_equal(found.offset, 0)
    assert eqx.tree_equal(found.chip, chip)
    other = ClassifierConfig(layers=(MacLayer(n_out=2), MacLayer(n_out=3)), n_pixels=6)
    stranger = other.build(vocabulary=3, process=PROCESS, key=jr.key(0))
    with pytest.raises(ValueError, match="must be a chip of `design`"):
        run(stranger, scored, jr.key(2))


def test_a_readout_of_few_measurements_stays_near_where_it_was(task):
    """Its prior: without any measurement that counts it does not move at all."""
    design, tokens, scored = task
    config = CalibrationConfig(passes=0, readout_steps=50)
    fit = eqx.filter_jit(
        lambda scored: calibrate_chip(
            design,
            design,
            tokens,
            scored,
            process=PROCESS,
            nominal=PROCESS,
            key=jr.key(0),
            config=config,
        )
    )
    nothing = fit(jnp.zeros_like(scored))
    np.testing.assert_allclose(nothing.gain, 1, atol=1e-6)
    one = fit(jnp.zeros_like(scored).at[0, 0].set(True))
    every = fit(scored)
    assert 0 < np.max(np.abs(one.offset)) < 0.1
    assert np.max(np.abs(every.gain - 1)) > np.max(np.abs(one.gain - 1))


def test_a_sequence_model_is_calibrated_and_runs_step_by_step():
    config = physical_config(width=4, n_layers=1, n_states=4, n_hidden=4)
    design = config.build(vocabulary=256, process=PROCESS, key=jr.key(0))
    tokens = jr.randint(jr.key(3), (1, 2, 6), 0, 256)

    @eqx.filter_jit
    def run(key):
        chip = fabricate(design, PROCESS, key=key)
        few = CalibrationConfig(passes=1, readout_steps=2)
        scored = jnp.ones((1, 2, 5), bool)
        asked = {"process": PROCESS, "nominal": PROCESS, "key": key, "config": few}
        found = calibrate_chip(design, chip, tokens, scored, **asked)
        state = found.init_state((2,))
        asked = {"process": PROCESS, "key": key}
        return found, found.step(state, tokens[0, :, 0], **asked)[1]

    found, logits = run(jr.key(1))
    assert isinstance(found, CalibratedChip)
    assert logits.shape == (2, 256)
    assert np.isfinite(logits).all()
    moved = [
        float(jnp.max(jnp.abs(a - b)))
        for a, b in zip(trims_of(found.chip).banks, trims_of(design).banks, strict=True)
    ]
    assert max(moved) > 1e-4
    with pytest.raises(ValueError, match="must be positive"):
        CalibrationConfig(trim_rate=0.0)


class Scaled(eqx.Module):
    """Logits g·W[token] times the rate of the process: a gain can undo the die."""

    weight: jax.Array
    gain: Bank

    def logits(self, tokens, *, process, key):
        del key
        return process.rate * self.gain.realized() * self.weight[tokens]


@pytest.fixture(scope="module")
def slow():
    """A linear design, tokens, and a die at 0.8 of its rate."""
    gain = Bank(jnp.ones(4), kind="capacitor", unit="1", area_m2=1e-12, clip_sigma=1e9)
    design = Scaled(jr.normal(jr.key(0), (8, 4)), gain)
    tokens = jr.randint(jr.key(1), (4, 8, 9), 0, 8)
    return design, tokens, dataclasses.replace(NOMINAL, rate=0.8)


def fitted(design, chip, tokens, config, *, process, nominal=NOMINAL):
    scored = jnp.ones((*tokens.shape[:-1], tokens.shape[-1] - 1), bool)
    fit = eqx.filter_jit(
        lambda chip, tokens: calibrate_chip(
            design,
            chip,
            tokens,
            scored,
            process=process,
            nominal=nominal,
            key=jr.key(2),
            config=config,
        )
    )
    return fit(chip, tokens)


def test_a_slow_die_is_fitted_to_the_nominal_outputs_by_its_readout(slow):
    """Closed form: all gains 1/0.8, all offsets equal."""
    design, tokens, die = slow
    config = CalibrationConfig(passes=0, readout_steps=1000, readout_spread=1e3)
    found = fitted(design, design, tokens, config, process=die)
    np.testing.assert_allclose(found.gain, 1 / 0.8, rtol=1e-3)
    np.testing.assert_allclose(found.offset, np.mean(found.offset), atol=1e-3)
    # Where it is the nominal one itself there is nothing to fit.
    same = fitted(design, design, tokens, config, process=die, nominal=die)
    np.testing.assert_allclose(same.gain, 1, atol=1e-3)


def test_a_slow_die_is_fitted_to_the_nominal_outputs_by_its_trims(slow):
    design, tokens, die = slow
    config = CalibrationConfig(passes=100, trim_rate=1e-2, readout_steps=0)
    found = fitted(design, design, tokens, config, process=die)
    np.testing.assert_allclose(trims_of(found.chip).banks[0], 1 / 0.8, rtol=1e-2)


def test_a_die_at_another_point_loses_less_against_the_nominal_design():
    """A recurrent model whose time constants move with supply and temperature."""
    config = physical_config(width=4, n_layers=1, n_states=4, n_hidden=4)
    design = config.build(vocabulary=16, process=NOMINAL, key=jr.key(0))
    design = eqx.tree_at(lambda m: m.embedding, design, 4 * design.embedding)
    tokens = jr.randint(jr.key(3), (4, 4, 17), 0, 16)
    point = Environment.ideal().replace(corner="ss", supply=0.9, temperature_K=398.15)
    chip, there = deploy(
        design, NOMINAL, point, key=jr.key(4), period_s=config.period_s
    )
    few = CalibrationConfig(passes=20, trim_rate=1e-2)

    @eqx.filter_jit
    def far(model, process, key):
        inputs = tokens.reshape(-1, 17)[:, :-1]
        quiet = NOMINAL.noiseless()
        meant = jax.nn.log_softmax(design.logits(inputs, process=quiet, key=key))
        logits = model.logits(inputs, process=process, key=key)
        away = jnp.exp(meant) * (meant - jax.nn.log_softmax(logits))
        return jnp.mean(jnp.sum(away, axis=-1))

    before = float(far(chip, there, jr.key(5)))
    found = fitted(design, chip, tokens, few, process=there)
    own = fitted(design, chip, tokens, few, process=there, nominal=there)
    after, to_itself = (float(far(m, there, jr.key(5))) for m in (found, own))
    assert after < 0.5 * before
    assert after < to_itself


def test_ranges_that_are_wrong_on_a_chip_come_back():
    """Converters a quarter as wide as designed, as wide as their signals are."""
    config = dataclasses.replace(
        physical_config(width=4, n_layers=1, n_states=4, n_hidden=4),
        learned_ranges=True,
        converter_bits=6,
    )
    design = config.build(vocabulary=16, process=NOMINAL, key=jr.key(0))
    tokens = jr.randint(jr.key(3), (4, 4, 17), 0, 16)
    # Wide enough to clip nothing: so wide are the signals.
    inputs = tokens.reshape(-1, 17)[:, :-1]
    quiet = {"process": NOMINAL.noiseless(), "key": jr.key(0)}
    largest = jnp.max(jnp.abs(design.logits(inputs, **quiet))) / design.LOGIT_RANGE
    widest = jnp.max(jnp.abs(design.embedding))
    ranges = lambda m: [m.input_range, m.output_range]
    logs = [jnp.log(widest), jnp.log(largest)]
    design = eqx.tree_at(ranges, design, logs)
    chip = eqx.tree_at(ranges, design, [log - jnp.log(4.0) for log in logs])
    config = CalibrationConfig(
        passes=40, trim_rate=1e-6, range_rate=3e-2, readout_steps=0
    )
    found = fitted(design, chip, tokens, config, process=NOMINAL)
    ratios = np.exp(np.subtract(ranges(found.chip), logs))
    assert np.all(ratios > 0.75)
    assert np.all(ratios < 1.25)
    held = dataclasses.replace(config, range_rate=1e-6)
    kept = fitted(design, chip, tokens, held, process=NOMINAL)
    np.testing.assert_allclose(np.exp(np.subtract(ranges(kept.chip), logs)), 0.25, 1e-3)


def test_a_digital_model_has_nothing_to_trim():
    model = TransformerConfig(width=8, n_blocks=1, n_heads=1, n_hidden=8).build(
        vocabulary=16, process=NOMINAL, key=jr.key(0)
    )
    assert jax.tree.leaves(trims_of(model)) == []
    tokens = jr.randint(jr.key(3), (1, 2, 9), 0, 16)
    found = fitted(model, model, tokens, CalibrationConfig(), process=NOMINAL)
    assert eqx.tree_equal(found.chip, model)
    # Adam takes rounding errors of a zero gradient for a gradient.
    np.testing.assert_allclose(found.gain, 1, atol=1e-3)
    np.testing.assert_allclose(found.offset, 0, atol=1e-3)
