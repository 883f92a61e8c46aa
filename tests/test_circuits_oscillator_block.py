"""The block of oscillators: regime, operations, controls, bill, netlist."""

import dataclasses
import math
import tomllib
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks.base import Site
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.oscillator import OscillatorBlock
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_regime import REGIME
from circuits.restarted import Restarted
from circuits.stuart_landau import StuartLandau
from physnn.circuit import run
from physnn.configs import find_config
from physnn.diagnose import judged, limits_of
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    run_jit,
)
from train.experiment import ConfigError, from_table, to_table


def test_a_block_starts_in_the_computing_regime():
    block = OscillatorBlock(n=48).build(Site(96, PROCESS, jr.key(0)))
    xs = jr.normal(jr.key(1), (64, 4, 96))
    figures = block.diagnose(xs, process=PROCESS, key=jr.key(2))
    for name, (low, high) in REGIME.items():
        assert low <= figures[name] <= high, name
    assert 0.7 < figures["phase spread [rad]"] < 1.4
    limits = limits_of(block)
    assert limits == REGIME
    figures = {name: float(value) for name, value in figures.items()}
    assert "OUTSIDE" not in judged(figures, limits)
    synchronous = judged(figures | {"coupling / drive": 0.01}, limits)
    assert synchronous.count("OUTSIDE") == 1
    silent = block.diagnose(0 * xs[:2], process=QUIET, key=jr.key(2))
    assert all(np.isfinite(value) for value in silent.values())


def test_phases_that_last_start_short_of_chaos():
    config = OscillatorBlock(
        n=24, n_taps=2, persistent=True, drive_rate=1.0, coupling_rate=0.1
    )
    block = config.build(Site(24, PROCESS, jr.key(0)))
    xs = jr.normal(jr.key(1), (128, 4, 24))
    last = lambda xs: jnp.sum(run(block, xs, process=QUIET, key=jr.key(0))[-1])
    slopes = jnp.sqrt(jnp.sum(jax.jit(jax.grad(last))(xs) ** 2, axis=(1, 2)))
    assert slopes[-16] > 1e-2 * slopes[-1], "it remembers"
    assert slopes[0] < 10 * slopes[-1], "and its past does not take over"


@pytest.mark.parametrize("n_taps", [1, 5])
def test_an_image_is_one_token(n_taps):
    block = OscillatorBlock(n=12, n_taps=n_taps, coupling="sparse", degree=4).build(
        Site(10, PROCESS, jr.key(0))
    )
    xs = jr.normal(jr.key(1), (1, 7, 10))
    ys = run_jit(block, xs, process=PROCESS, key=jr.key(0))
    assert ys.shape == (1, 7, 10)
    assert np.all(np.isfinite(ys))


def test_controls_take_away_one_thing_each():
    config = OscillatorBlock(n=20, n_hidden=3, reference="ring", n_pool=4, n_segments=3)
    uncoupled = config.without_mechanism()
    assert uncoupled == dataclasses.replace(
        config, coupling="none", n_pool=0, n_segments=1
    )
    assert uncoupled.without_mechanism() == GatedUnitBlock(n_hidden=32, n_taps=16)
    block: Any = uncoupled.build(Site(8, PROCESS, jr.key(0)))
    assert block.cell.circuit.couplings == ()
    slope = jax.jacfwd(
        lambda x: block.cell.apply(x, process=QUIET, key=jr.key(0))[:16]
    )(0.1 * jnp.ones(40))
    others = slope[:, :20] * (1 - np.eye(16, 20))
    # Only the reference ring is seen by another one.
    assert np.all(others[:, :19] == 0)
    assert np.any(others[:, 19] != 0)


def test_supply_is_billed_for_couplers_and_restart():
    cell = PhaseOscillators(
        6, period_s=PERIOD_S, key=jr.key(0), n_pool=2, bits=4, n_segments=3, n_steps=3
    )
    events = {e.part: e for e in cell.events(PROCESS, period_s=PERIOD_S)}
    each = events["rings"].count / 8
    couplers = 6 * 5 + 2 * 1 + 2 * 6
    np.testing.assert_allclose(
        events["couplers"].count, couplers * each * 19 / 8, rtol=1e-5
    )
    stored = (3 * 30 + 2 + 12) * 4 * PERIOD_S
    assert events["couplings"].count == pytest.approx(stored, rel=1e-6, abs=0)
    again = {e.part for e in Restarted(cell).events(PROCESS, period_s=PERIOD_S)}
    assert again == {*events, "restart"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n": 5000}, "at most 4096 for dense coupling, but is 5000"),
        ({"coupling": "sparse", "degree": 8}, "`degree` must be from 1 to below the 8"),
        ({"coupling": "local", "degree": 0}, "`degree` must be from 1 to below the 8"),
        ({"n_hidden": 8}, "leave an oscillator of the 8 to read, but are 8 and 0"),
        ({"n_pool": -1}, "must not be negative and leave"),
        ({"n_segments": 2}, "`n_steps` must be a multiple of the 2 segments, but is 3"),
        ({"ring_F": -1e-15}, "`ring_F` must be positive, but is -1e-15"),
        ({"cycles": 0.0}, "`cycles` must be positive, but is 0.0"),
        ({"drive_rate": math.nan}, "`drive_rate` must be positive, but is nan"),
        ({"second_harmonic": -1.0}, "`second_harmonic` must not be negative"),
        ({"n_taps": 0}, "`n_taps` must be positive, but is 0"),
        ({"growth": -1.0}, "`growth` must not be negative"),
        ({"growth": 2.0, "n_pool": 3}, "`n_pool` must be left out where amplitudes"),
        ({"shape": "triangle", "harmonics": ((1.0, 0.0),)}, "`shape` must be left out"),
        ({"harmonics": ((0.0, 0.0),)}, "must be finite, its first not 0"),
        ({"harmonics": ((1.0, math.nan),)}, "must be finite, its first not 0"),
        ({"cycles": math.inf}, "`cycles` must be finite, but is inf"),
        ({"second_harmonic": math.inf}, "`second_harmonic` must be finite"),
    ],
)
def test_an_impossible_block_is_refused(changes, message):
    # As a config file gives them, which no type checker has seen.
    with pytest.raises(ValueError, match=message):
        OscillatorBlock(**{"n": 8} | changes).build(Site(6, PROCESS, jr.key(0)))


def test_the_netlist_of_a_block_has_every_ring_and_coupler():
    config = OscillatorBlock(n=6, n_taps=2, n_pool=2, n_segments=3)
    block = config.build(Site(3, PROCESS, jr.key(0)))
    netlist = block.netlist(PROCESS, name="mixer")
    cells = {cell.name: cell for cell in netlist.cells()}
    rings = cells["mixer_cell_ring"]
    of = lambda top, part: sum(
        (instance.cell is part) + of(instance.cell, part) for instance in top.instances
    )
    assert of(netlist, rings) == 8
    assert of(netlist, cells["mixer_cell_coupler"]) <= 30 + 2 + 12
    assert of(netlist, cells["mixer_cell_detector"]) == 6
    assert [port for port in netlist.ports if "segment" in port] == [
        f"cell_segment{k}" for k in range(3)
    ]


def test_a_step_takes_two_products_and_no_sine_of_a_pair():
    n = 50

    def operations(n, **changes):
        cell = PhaseOscillators(n, period_s=PERIOD_S, key=jr.key(0), **changes)
        rate = cell.rates()[0]
        theta, x = jnp.zeros((3, n)), jnp.zeros((3, 2 * n))
        jaxpr = jax.make_jaxpr(rate)(theta, x).jaxpr
        return [
            (inner.primitive.name, max(out.aval.size for out in inner.outvars))
            for equation in jaxpr.eqns
            for inner in _within(equation)
        ]

    found = operations(n)
    assert [name for name, _ in found].count("dot_general") == 2
    assert max(size for _, size in found) < n * n, "rates of rings, never of pairs"
    alone = operations(n, coupling="none")
    assert "dot_general" not in [name for name, _ in alone]


def _within(equation):
    """An equation of a jaxpr, or those of the functions that it calls."""
    inside = [
        inner
        for value in equation.params.values()
        for inner in [getattr(value, "jaxpr", value)]
        if hasattr(inner, "eqns")
    ]
    if not inside:
        return [equation]
    return [one for each in inside for inner in each.eqns for one in _within(inner)]


def read(fields):
    """An experiment on oscillators, and its block, as a file gives them."""
    layer = {"kind": "oscillator", "n": 5} | fields
    experiment = from_table({"model": {"kind": "physical", "layer": [layer]}})
    model: Any = experiment.model
    return experiment, model.layer[0]


def test_amplitudes_are_a_field_of_the_config_away():
    config = read({"growth": 3.0})[1]
    block: Any = config.build(Site(4, PROCESS, jr.key(0)))
    cell = block.cell.circuit
    assert isinstance(cell, StuartLandau)
    # Without a drive a ring grows from a tenth by the law of Landau.
    y = block.cell.apply(jnp.zeros((2, 10)), process=QUIET, key=jr.key(0))
    alone: Any = config.without_mechanism().build(Site(4, PROCESS, jr.key(0)))
    free = alone.cell.apply(jnp.zeros((2, 10)), process=QUIET, key=jr.key(0))
    grown = 1 / math.sqrt(1 + (1 / 0.1**2 - 1) * math.exp(-2 * 3.0))
    np.testing.assert_allclose(free[:, 5:], grown / 2, rtol=1e-4)
    np.testing.assert_allclose(free[:, :5], 0, atol=1e-5)
    assert np.all(np.abs(y - free)[:, 5:] > 1e-4), "couplings act"
    assert config.without_mechanism().without_mechanism() == GatedUnitBlock(
        n_hidden=10, n_taps=16
    )


def test_a_measured_coupling_is_a_field_of_the_config_away():
    card = tomllib.loads(find_config("cells", "sky130").read_text())
    measured = card["ring"]["coupling"]["shape"]
    experiment, config = read({"harmonics": measured})
    assert from_table(to_table(experiment)) == experiment
    block: Any = config.build(Site(4, PROCESS, jr.key(0)))
    assert block.cell.circuit.shape == tuple(map(tuple, measured))


@pytest.mark.parametrize("field", ["coupling", "shape", "reference"])
def test_an_unknown_word_in_a_config_is_refused(field):
    layer = {"kind": "oscillator", field: "square"}
    message = rf"must be one of .* but is 'square' .*\.{field}"
    with pytest.raises(ConfigError, match=message):
        from_table({"model": {"kind": "physical", "layer": [layer]}})
