"""Lessons of a teacher, sharpness-aware updates, and decay that follows a schedule."""

import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

from tests.helpers import PROCESS
from tests.updates import TINY, TOKENS, distance, trained, vocabulary
from train.baseline import TransformerConfig
from train.loop import begin
from train.noise_aware import Distillation, distilled_bits
from train.objective import make_update
from train.schedules import Schedule
from train.sharpness import sharpest, sharpness_aware

pytestmark = pytest.mark.usefixtures("plain_promotion")


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
