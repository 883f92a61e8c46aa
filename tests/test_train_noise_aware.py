"""Noise-aware training: every option does what it says, and none without effect."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from circuits.blocks import MacLayer
from physnn.bank import Bank
from physnn.environment import CORNERS, Environment
from physnn.process import load_process
from tests.helpers import physical_config
from train.baseline import TransformerConfig
from train.classifier import ClassifierConfig
from train.counts import CountsConfig
from train.devices import GapConfig, HardwareInTheLoop, ServedConfig
from train.experiment import ConfigError, Experiment, from_table, to_table
from train.loop import begin
from train.noise_aware import (
    Distillation,
    NoiseAware,
    Sampled,
    clip_channels,
    distilled_bits,
)
from train.objective import make_update
from train.optimizer import OptimizerConfig
from train.schedules import Schedule
from train.sharpness import sharpest, sharpness_aware
from train.surroundings import nominal, surroundings_of
from train.tasks import ImagesConfig, TextConfig

PROCESS = load_process("cmos28")
QUICK: Any = {"xla_backend_optimization_level": 0}
TINY = Experiment(
    steps=10,
    batch=4,
    task=TextConfig(context=12),
    model=TransformerConfig(width=8, n_blocks=1, n_heads=2, n_hidden=8),
    optimizer=OptimizerConfig(peak_rate=3e-2),
)
PHYSICAL = dataclasses.replace(
    TINY,
    task=ImagesConfig(),
    model=ClassifierConfig(layers=(MacLayer(n_out=3, gain=1.0),), n_pixels=12),
)
SEQUENCES = dataclasses.replace(
    TINY, model=physical_config(width=4, n_layers=1, n_states=4, n_hidden=4)
)
TOKENS = jr.randint(jr.key(5), (4, 13), 0, 256).astype(jnp.uint8)
# A token that any of these models knows is the target.
TOKENS = TOKENS.at[:, -1].set(jnp.asarray([0, 1, 2, 1], jnp.uint8))


def vocabulary(experiment: Experiment) -> int:
    return 3 if experiment.task.kind == "images" else 256


def built(experiment: Experiment):
    assert not isinstance(experiment.model, CountsConfig)
    return experiment.model.build(
        vocabulary=vocabulary(experiment), process=PROCESS, key=jr.key(0)
    )


def mac(model):
    """The weights of the classifier."""
    return model.chain.parts[0].parts[1].weight


@pytest.fixture(autouse=True)
def plain_promotion():
    """optax counts steps in integers and mixes them with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def trained(experiment: Experiment, n: int = 3, **asked) -> list:
    """The trained arrays after each of `n` updates on one batch."""
    held, static = begin(experiment, vocabulary=vocabulary(experiment), process=PROCESS)
    rest = eqx.combine(held.fixed, static)
    state, found = held.state, [held.state.trained]
    update = make_update(rest, experiment=experiment, process=PROCESS, **asked)
    compiled = update.lower(state, TOKENS).compile(compiler_options=QUICK)
    for _ in range(n):
        kept = jax.tree.map(jnp.copy, found[-1])
        found[-1] = kept
        state, _ = compiled(state, TOKENS)
        found.append(state.trained)
    return found


def distance(a, b) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return math.sqrt(sum(float(jnp.sum((x - y) ** 2)) for x, y in pairs))


@pytest.mark.parametrize(
    ("shape", "middle"), [("linear", 2.5), ("cosine", 2.5), ("exponential", 2.0)]
)
def test_a_schedule_goes_from_first_to_last_between_its_ends(shape, middle):
    found = Schedule(shape=shape, first=4.0, last=1.0, start=0.2, end=0.6).build(100)
    values = [
        float(jnp.asarray(found(jnp.asarray(step)))) for step in (0, 20, 40, 60, 99)
    ]
    np.testing.assert_allclose(values, [4, 4, middle, 1, 1], rtol=1e-5)
    rising = Schedule(shape=shape, first=0.5, last=2.0).build(10)
    assert float(jnp.asarray(rising(0))) == pytest.approx(0.5)
    assert float(jnp.asarray(rising(10))) == pytest.approx(2.0)


def test_the_environment_follows_its_schedules_and_nothing_else_moves():
    experiment = dataclasses.replace(
        PHYSICAL,
        noise=NoiseAware(
            environment=Environment(programming=0.02, temperature_K=358.0)
        ),
        schedules=(
            Schedule("programming", first=0.0, last=1.0),
            Schedule("severity", first=4.0, last=2.0),
        ),
    )
    model = built(experiment)
    around = surroundings_of(experiment, model, PROCESS)
    half = around._changed(around.environment, jnp.asarray(5))
    assert half is not None
    assert float(half.programming) == pytest.approx(0.02 * 0.5 * 3.0)
    assert float(half.mismatch) == pytest.approx(3.0)
    assert float(half.thermal) == pytest.approx(9.0)  # a power
    assert half.temperature_K == 358.0
    calls = []

    @jax.jit
    def level(step):
        calls.append(step)
        changed = around._changed(around.environment, step)
        assert changed is not None
        return changed.programming

    assert len({float(level(jnp.asarray(step))) for step in range(4)}) == 4
    assert len(calls) == 1, "nothing is compiled again"


def test_a_chip_without_severity_is_the_design():
    experiment = dataclasses.replace(
        PHYSICAL, schedules=(Schedule("severity", first=0.0, last=1.0),)
    )
    model = built(experiment)
    around = surroundings_of(experiment, model, PROCESS)

    @jax.jit
    def spread(step):
        chip, there = around.chip_of(step)(model, PROCESS, jr.key(1))
        wrong = mac(chip).realized() - mac(model).nominal()
        return jnp.std(wrong), there.thermal_noise

    none, full = (np.asarray(spread(jnp.asarray(step))) for step in (0, 10))
    assert none[0] == 0
    assert none[1] == 0
    assert full[0] > 0
    assert full[1] == pytest.approx(PROCESS.thermal_noise)


def test_operating_points_are_drawn_between_their_ends_and_every_corner_occurs():
    sampled = Sampled(
        corners=("tt", "ff", "ss", "sf", "fs"),
        temperature_K=(233.0, 398.0),
        supply=(0.9, 1.1),
        age_s=(1.0, 1e8),
    )
    keys = jr.split(jr.key(0), 2000)

    def point(key):
        there = sampled.draw(Environment(), key)
        names = ("nmos", "pmos", "temperature_K", "supply", "age_s")
        return jnp.stack([getattr(there, name) for name in names])

    n, p, kelvin, supply, age = np.asarray(jax.vmap(point)(keys)).T
    corners, counts = np.unique(np.stack([n, p], 1), axis=0, return_counts=True)
    assert {tuple(c) for c in corners} == set(CORNERS.values())
    assert np.all(np.abs(counts - 400) < 4 * np.sqrt(2000 * 0.2 * 0.8))
    for drawn, low, high in (
        (kelvin, 233, 398),
        (supply, 0.9, 1.1),
        (np.log(age), 0, np.log(1e8)),
    ):
        assert low <= drawn.min() < drawn.max() <= high * (1 + 1e-6)
        spread = (high - low) / np.sqrt(12)
        assert abs(np.mean(drawn) - (high + low) / 2) < 3 * spread / np.sqrt(2000)


def test_training_in_an_environment_moves_the_weights_elsewhere():
    noise = NoiseAware(sampled=Sampled(temperature_K=(398.0, 398.0)))
    experiment = dataclasses.replace(PHYSICAL, noise=noise)
    model = built(experiment)
    around = surroundings_of(experiment, model, PROCESS)
    there = jax.jit(lambda k: around.chip_of()(model, PROCESS, k)[1].temperature_K)
    assert float(there(jr.key(0))) == 398.0
    deaf = NoiseAware(sampled=Sampled(supply=(0.9, 1.1)))
    with pytest.raises(ValueError, match=r"`supply` = 0\.9 acts on none"):
        surroundings_of(dataclasses.replace(PHYSICAL, noise=deaf), model, PROCESS)
    with pytest.raises(ValueError, match="must be given where an experiment asks"):
        nominal(experiment)
    # Not through the temperature, which a code of 8 bits hides here: through devices.
    wrong = Environment(programming=0.2)
    experiment = dataclasses.replace(PHYSICAL, noise=NoiseAware(environment=wrong))
    around = surroundings_of(experiment, model, PROCESS)
    plain, moved = trained(PHYSICAL), trained(experiment, surroundings=around)
    assert 0 < distance(plain[-1], moved[-1]) < distance(plain[0], plain[-1])


@pytest.mark.parametrize(
    ("noise", "amount", "complaint"),
    [
        (
            NoiseAware(
                environment=Environment(age_s=7e7), sampled=Sampled(age_s=(1e3, 1e4))
            ),
            "age_s",
            "drawn or scheduled",
        ),
        (NoiseAware(environment=Environment(supply=0.9)), "supply", "operating point"),
        (NoiseAware(environment=Environment.ideal()), "severity", "some noise"),
    ],
)
def test_a_schedule_that_nothing_would_follow_is_refused(noise, amount, complaint):
    experiment = dataclasses.replace(
        PHYSICAL, noise=noise, schedules=(Schedule(amount=amount),)
    )
    with pytest.raises(ValueError, match=complaint):
        surroundings_of(experiment, built(PHYSICAL), PROCESS)


def test_a_drawn_corner_replaces_that_of_the_environment():
    drawn = Sampled(corners=("ff",)).draw(Environment(corner="ss"), jr.key(0))
    assert [float(x) for x in drawn.corner_point()] == [1.0, 1.0]


def test_channels_are_clipped_at_their_sigmas_and_vectors_are_left_alone():
    bank = Bank(
        jnp.asarray([[10.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, 1.0]]),
        kind="capacitor",
        unit="C/C_f",
        area_m2=1e-12,
    )
    vector = dataclasses.replace(bank, value=jnp.asarray([9.0, 0.1, 0.1, 0.1]))
    matrix, same, none = clip_channels((bank, vector, None), 1.5)
    rms = math.sqrt(103 / 4)
    expected = [[1.5 * rms, 1], [1, -1], [1, 1], [1, 1]]
    np.testing.assert_allclose(matrix.value, expected, rtol=1e-6)
    np.testing.assert_array_equal(same.value, vector.value)
    assert none is None
    clipped = dataclasses.replace(PHYSICAL, noise=NoiseAware(clip_sigma=1.2))
    weight = mac(trained(clipped, 1)[-1]).value
    free = mac(trained(PHYSICAL, 1)[-1]).value
    end = 1.2 * jnp.sqrt(jnp.mean(free**2, axis=0))
    np.testing.assert_allclose(weight, jnp.clip(free, -end, end), atol=1e-6)
    assert not np.allclose(weight, free)


def test_distillation_is_the_divergence_from_the_teacher_in_bits():
    student, teacher = jnp.asarray([0.0, 0.0]), jnp.asarray([jnp.log(3.0), 0.0])
    # KL((3/4, 1/4) ‖ (1/2, 1/2)) = 1 − H(1/4) bits at temperature 1.
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    found = distilled_bits(student, teacher, temperature=1.0)
    assert float(found) == pytest.approx(1 - entropy, rel=1e-5)
    assert float(distilled_bits(teacher + 3, teacher, temperature=2.0)) < 1e-6
    # Hot, it is the squared distance of centered logits: gradients keep their size.
    hot = [
        float(distilled_bits(student, teacher, temperature=t)) for t in (50.0, 100.0)
    ]
    assert hot[0] == pytest.approx(hot[1], rel=1e-2)
    gradient = jax.grad(lambda t: distilled_bits(student, t, temperature=1.0))(teacher)
    np.testing.assert_array_equal(gradient, 0)


def test_a_student_of_itself_learns_nothing_and_a_teacher_of_weight_zero_is_none():
    assert isinstance(TINY.model, TransformerConfig)
    teacher = TINY.model.build(vocabulary=256, process=PROCESS, key=jr.key(9))
    lesson = Distillation("teacher", weight=0.0)
    none = trained(dataclasses.replace(TINY, distillation=lesson), teacher=teacher)
    np.testing.assert_allclose(distance(none[-1], trained(TINY)[-1]), 0, atol=1e-5)
    lesson = Distillation("teacher", weight=1.0, temperature=1.0)
    experiment = dataclasses.replace(
        TINY,
        distillation=lesson,
        optimizer=dataclasses.replace(TINY.optimizer, weight_decay=0.0),
    )
    held, static = begin(experiment, vocabulary=vocabulary(experiment), process=PROCESS)
    itself = eqx.combine(held.state.trained, held.fixed, static)

    def loss(model):
        whole = TOKENS.astype(jnp.int32)[:, :-1]
        asked = {"process": PROCESS, "key": jr.key(0)}
        told = distilled_bits(
            model.logits(whole, **asked), itself.logits(whole, **asked), temperature=1.0
        )
        return jnp.mean(told)

    slope = eqx.filter_grad(loss)(itself)
    assert max(float(jnp.max(jnp.abs(g))) for g in jax.tree.leaves(slope)) < 1e-5
    taught = trained(experiment, teacher=teacher)
    assert distance(taught[-1], trained(TINY)[-1]) > 0.05


def test_sharpness_looks_uphill_by_its_radius():
    params = {"a": jnp.asarray([1.0, 2.0]), "b": jnp.asarray(3.0)}
    slope = {"a": jnp.asarray([0.0, 3.0]), "b": jnp.asarray(-4.0)}
    there = sharpest(slope, params, 0.5)
    np.testing.assert_allclose(there["a"], [1.0, 2.3], rtol=1e-6)
    np.testing.assert_allclose(there["b"], 2.6, rtol=1e-6)
    still = sharpest(jax.tree.map(jnp.zeros_like, slope), params, 0.5)
    assert distance(still, params) == 0
    # Of ½·curvature·p² the gradient at p + ρ·sign is curvature·(p + ρ·sign).
    flat = dataclasses.replace(TINY.optimizer, sharpness=0.05)
    sharp = trained(dataclasses.replace(TINY, optimizer=flat))
    plain = trained(TINY)
    assert 1e-4 < distance(sharp[-1], plain[-1]) < distance(plain[0], plain[-1])


def test_sharpness_wraps_any_optimizer_and_follows_its_schedule():
    # Of ½·p² the gradient uphill by ρ is p + ρ: descent by 1 ends at -ρ.
    descent = optax.sgd(1.0)
    for step, expected in ((0, 0.0), (3, -0.3)):
        aware = sharpness_aware(descent, lambda step: 0.1 * step)
        p = jnp.asarray(2.0)
        changes, _ = aware.update(
            p, aware.init(p), p, slope=lambda p: p, step=jnp.asarray(step)
        )
        assert float(jnp.asarray(optax.apply_updates(p, changes))) == pytest.approx(
            expected, abs=1e-6
        )
    flat = dataclasses.replace(TINY.optimizer, sharpness=0.05)
    late = Schedule("sharpness", first=0.0, last=1.0, start=0.5, end=0.6)
    scheduled = trained(dataclasses.replace(TINY, optimizer=flat, schedules=(late,)), 8)
    plain = trained(TINY, 8)
    assert distance(scheduled[5], plain[5]) < 1e-6
    assert distance(scheduled[8], plain[8]) > 1e-5


def test_a_lesson_needs_its_teacher():
    lesson = dataclasses.replace(TINY, distillation=Distillation("teacher", weight=0.5))
    with pytest.raises(ValueError, match="there is a distillation alone"):
        make_update(None, experiment=lesson, process=PROCESS)
    model = object()
    with pytest.raises(ValueError, match="there is a teacher alone"):
        make_update(None, experiment=TINY, process=PROCESS, teacher=model)


def test_weight_decay_follows_its_schedule():
    late = Schedule("weight_decay", first=0.0, last=1.0, start=0.5, end=0.6)
    heavy = dataclasses.replace(TINY.optimizer, weight_decay=0.5)
    none = dataclasses.replace(TINY.optimizer, weight_decay=0.0)
    scheduled = dataclasses.replace(TINY, optimizer=heavy, schedules=(late,))
    with_it = trained(scheduled, 8)
    without = trained(dataclasses.replace(TINY, optimizer=none), 8)
    assert distance(with_it[5], without[5]) < 1e-5
    assert distance(with_it[8], without[8]) > 1e-3


def test_ranges_are_learned_from_full_scale_down():
    model = dataclasses.replace(SEQUENCES.model, learned_ranges=True)
    found = trained(dataclasses.replace(SEQUENCES, model=model), 2)
    assert float(found[0].input_range) == float(found[0].output_range) == 0
    assert float(found[-1].input_range) != 0
    assert float(found[-1].output_range) != 0


WRONG = {
    "must have one of the `schedules`": {
        "schedules": (Schedule("thermal"), Schedule("thermal"))
    },
    "`optimizer.sharpness` must be above zero": {"schedules": (Schedule("sharpness"),)},
    "goes with a physical model": {"noise": NoiseAware(clip_sigma=2.5)},
    "`noise.sampled` goes with": {"noise": NoiseAware(sampled=Sampled(("ff",)))},
}


@pytest.mark.parametrize("sentence", WRONG)
def test_what_would_be_without_effect_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        dataclasses.replace(TINY, **WRONG[sentence])


def test_amounts_that_are_impossible_are_refused():
    for make, sentence in (
        (lambda: NoiseAware(clip_sigma=0.5), "`clip_sigma` must be at least 1"),
        (lambda: Schedule(start=0.5, end=0.5), "one after the other"),
        (lambda: Schedule(shape="exponential", first=0.0), "finite and positive"),
        (lambda: Sampled(corners=("fx",)), "must be of"),
        (lambda: Sampled(), "names nothing"),
        (lambda: Sampled(supply=(1.1, 0.9)), "the lower one first"),
        (lambda: Distillation(), "must be the folder of a digital run"),
        (lambda: Distillation("a", weight=1.5), "must be from 0 to 1"),
        (lambda: OptimizerConfig(sharpness=-0.1), "`sharpness` must not be negative"),
        (lambda: GapConfig(coupling=-1.0), "`coupling` of the device"),
        (lambda: HardwareInTheLoop("exact", ServedConfig()), "must have one of kind"),
        (
            lambda: NoiseAware(card=True, environment=Environment()),
            "both are given",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()
    model = built(PHYSICAL)
    for amount, sentence in (("dead", "must be more than none"), ("x", "must be one")):
        experiment = dataclasses.replace(PHYSICAL, schedules=(Schedule(amount),))
        with pytest.raises(ValueError, match=sentence):
            surroundings_of(experiment, model, PROCESS)
    with pytest.raises(ValueError, match="brings its own environment"):
        dataclasses.replace(
            PHYSICAL,
            hardware=HardwareInTheLoop(),
            noise=NoiseAware(chips_per_batch=1, card=True),
        )
    with pytest.raises(ValueError, match="must be 1 with the one device"):
        dataclasses.replace(PHYSICAL, hardware=HardwareInTheLoop())


def test_every_option_survives_the_file(tmp_path):
    experiment = dataclasses.replace(
        PHYSICAL,
        noise=NoiseAware(
            chips_per_batch=1,
            clip_sigma=2.5,
            environment=Environment(corner="ss", dead=1e-3),
            sampled=Sampled(corners=("ff",), supply=(0.9, 1.1)),
        ),
        schedules=(Schedule("dead"), Schedule("severity", shape="cosine")),
        distillation=Distillation(str(tmp_path / "teacher"), weight=0.3),
        hardware=HardwareInTheLoop("in_silico", GapConfig(coupling=0.1)),
    )
    from train.experiment import load_experiment, save_experiment

    save_experiment(experiment, tmp_path / "experiment.toml")
    assert load_experiment(tmp_path / "experiment.toml") == experiment
    table = to_table(experiment)
    table["noise"]["environment"]["frost"] = 1.0
    with pytest.raises(ConfigError, match="frost"):
        from_table(table)
