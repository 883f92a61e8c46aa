"""Pace: rates without compilation and evaluation, and an end that comes as told."""

import pytest

from train.pace import Pace

COMPILE_S, STEP_S, FIRST_S, EVALUATION_S = 20.0, 0.5, 9.0, 4.0
STEPS, EVERY = 400, 40


def recorded() -> list[tuple[str, int, float]]:
    """What a run tells, with a clock: steps, and an evaluation after every 40."""
    now, events = 1000.0 + COMPILE_S - STEP_S, []
    for step in range(1, STEPS + 1):
        now += STEP_S
        events.append(("step", step, now))
        if step % EVERY == 0:
            pause = FIRST_S if step == EVERY else EVALUATION_S
            now += pause
            events.append(("pause", step, pause))
    return [*events, ("end", STEPS, now)]


def test_the_time_left_is_that_of_a_recorded_run():
    events = recorded()
    pace, end = Pace(steps=STEPS, step=0, pause_every=EVERY), events[-1][2]
    told = {}
    for kind, step, value in events[:-1]:
        if kind == "pause":
            pace.paused(value)
            continue
        pace.stepped(step, value)
        told[step] = (value, pace.left_s)
        if step == 1:
            # It compiled: nothing is known of a step.
            assert pace.left_s is None
        else:
            assert pace.steps_per_s == pytest.approx(1 / STEP_S)
    for step, (at_s, left_s) in told.items():
        if step == 1:
            continue
        due = (STEPS - step) * STEP_S
        if step <= EVERY:  # no evaluation is known yet
            assert left_s == pytest.approx(due)
        elif step <= 2 * EVERY:  # one is, which compiled
            assert left_s == pytest.approx(due + 9 * FIRST_S, abs=FIRST_S)
        else:
            assert left_s == pytest.approx(end - at_s, abs=EVALUATION_S + 1e-6)


def test_a_rate_follows_the_last_steps_and_survives_going_back():
    pace = Pace(steps=1000, step=0, pause_every=100)
    for step in range(1, 101):
        pace.stepped(step, step * 1.0)
    assert pace.steps_per_s == pytest.approx(1.0)
    for step in range(101, 201):
        pace.stepped(step, 100 + (step - 100) * 0.1)
    assert pace.steps_per_s == pytest.approx(10.0)
    # Back at step 150: what was made before is no progress towards the end.
    pace.stepped(150, 500.0)
    assert pace.left_s is None
    pace.stepped(151, 500.1)
    assert pace.left_s == pytest.approx(849 * 0.1)
