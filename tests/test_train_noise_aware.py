"""Noise-aware training: every option does what it says, and none without effect."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks import MacLayer
from physnn.bank import Bank
from physnn.environment import CORNERS, Environment
from tests.helpers import PROCESS, physical_config
from tests.updates import TINY, distance, trained, vocabulary
from train.classifier import ClassifierConfig
from train.counts import CountsConfig
from train.devices import GapConfig, HardwareInTheLoop, ServedConfig
from train.experiment import ConfigError, Experiment, from_table, to_table
from train.noise_aware import Distillation, NoiseAware, Sampled, clip_channels
from train.optimizer import OptimizerConfig
from train.schedules import Schedule
from train.surroundings import nominal, surroundings_of
from train.tasks import ImagesConfig

pytestmark = pytest.mark.usefixtures("plain_promotion")

PHYSICAL = dataclasses.replace(
    TINY,
    task=ImagesConfig(),
    model=ClassifierConfig(layers=(MacLayer(n_out=3, gain=1.0),), n_pixels=12),
)
SEQUENCES = dataclasses.replace(
    TINY, model=physical_config(width=4, n_layers=1, n_states=4, n_hidden=4)
)


def built(experiment: Experiment):
    assert not isinstance(experiment.model, CountsConfig)
    return experiment.model.build(
        vocabulary=vocabulary(experiment), process=PROCESS, key=jr.key(0)
    )


def mac(model):
    """The weights of the classifier."""
    return model.chain.parts[0].parts[1].weight


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
        (
            lambda: OptimizerConfig(sharpness=-0.1),
            "`sharpness` must be finite and not negative",
        ),
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
