"""Passive mixing: doubly stochastic by construction, with the noise of equilibrium."""

import json

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks.base import Site
from circuits.blocks.mixing_unit import MixingUnitBlock
from circuits.mixing import PassiveMixing
from evals.verify import verify
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import (
    PERIOD_S,
    PROCESS,
    QUIET,
    assert_variance,
    banks,
    fabricate_jit,
    run_jit,
    totals,
)
from tests.systems import ktc_variance


def mixing(n_streams=4, n_channels=3, *, n_rounds=1, seed=0):
    """Trained to any values, legal or not."""
    circuit = PassiveMixing(n_streams, n_channels, process=PROCESS, n_rounds=n_rounds)
    value = 0.6 * jr.normal(jr.key(seed), circuit.share.value.shape)
    return eqx.tree_at(lambda m: m.share.value, circuit, value)


@settings(max_examples=12)
@given(
    streams=st.sampled_from([2, 4, 8, 16]),
    channels=st.integers(1, 4),
    rounds=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_whatever_is_trained_or_fabricated_is_doubly_stochastic(
    streams, channels, rounds, seed
):
    design = mixing(streams, channels, n_rounds=rounds, seed=seed)
    for circuit in (design, fabricate(design, PROCESS, key=jr.key(seed))):
        matrix = np.asarray(circuit.matrix())
        assert matrix.shape == (channels, streams, streams)
        assert np.all(matrix >= 0)
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(matrix.sum(axis=2), 1, atol=1e-5)
        norms = np.linalg.norm(matrix, ord=2, axis=(1, 2))
        np.testing.assert_allclose(norms, 1, atol=1e-5)
        # Closed under products: two layers of it are one.
        twice = matrix @ matrix[::-1]
        np.testing.assert_allclose(twice.sum(axis=1), 1, atol=1e-5)
        assert np.all(np.linalg.norm(twice, ord=2, axis=(1, 2)) < 1 + 1e-5)


@pytest.mark.parametrize("streams", [2, 8])
def test_what_it_computes_is_its_matrix(streams):
    circuit = mixing(streams, 3, n_rounds=2)
    x = jr.normal(jr.key(1), (5, streams, 3))
    y = run_jit(circuit, x.reshape(5, -1), process=QUIET, key=jr.key(0))
    expected = np.einsum("cij,tjc->tic", circuit.matrix(), x)
    np.testing.assert_allclose(y.reshape(x.shape), expected, rtol=1e-4, atol=1e-6)


def test_full_shares_average_all_streams():
    circuit = PassiveMixing(8, 2, process=PROCESS, share=0.5)
    np.testing.assert_allclose(circuit.matrix(), 1 / 8, atol=1e-6)
    alone = PassiveMixing(8, 2, process=PROCESS, share=0.0)
    np.testing.assert_allclose(alone.matrix()[0], np.eye(8), atol=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_noise_of_one_share_and_that_it_conserves_charge(share):
    circuit = PassiveMixing(2, 1, process=PROCESS, share=share, store_F=10e-15)
    noise = run_jit(circuit, jnp.zeros((20_000, 2)), process=PROCESS, key=jr.key(0))
    unit = ktc_variance(10e-15, temperature_K=300.0, swing_V=0.4, excess=2.0)
    assert_variance(noise, unit * 2 * share * (1 - share))
    np.testing.assert_array_equal(noise[:, 0], -noise[:, 1])


def test_two_capacitors_that_share_for_long_are_in_thermal_equilibrium():
    # Half of the difference of two free capacitors has the variance of kT/2C.
    circuit = PassiveMixing(2, 4000, process=PROCESS, share=0.2, n_rounds=12)
    v = run_jit(circuit, jnp.zeros((1, 8000)), process=PROCESS, key=jr.key(0))
    unit = ktc_variance(10e-15, temperature_K=300.0, swing_V=0.4, excess=2.0)
    assert_variance(v[0, :4000], unit / 2 * (1 - 0.6**24), excess=0.0)


def test_sharing_costs_switches_alone():
    of = lambda rounds: totals(
        PassiveMixing(4, 5, process=PROCESS, n_rounds=rounds).events(
            PROCESS, period_s=PERIOD_S
        )
    )
    more = of(3)["clock_charge_C"] - of(1)["clock_charge_C"]
    # Two butterflies of two steps, four transmission gates for each of 20 capacitors.
    assert more == pytest.approx(4 * 4 * 20 * 3 * 0.1e-15 * 0.9, rel=1e-6, abs=0)
    assert of(3)["supply_charge_C"] == of(1)["supply_charge_C"]


def test_it_says_how_much_is_shared_and_what_is_stuck():
    circuit = PassiveMixing(2, 4, process=PROCESS)
    value = jnp.asarray([[0.1, 0.2, 0.7, -0.3]])
    circuit = eqx.tree_at(lambda m: m.share.value, circuit, value)
    figures = circuit.diagnose(jnp.zeros((1, 8)), process=PROCESS, key=jr.key(0))
    assert figures["mean_share"] == pytest.approx(0.2)
    assert figures["stuck_share"] == pytest.approx(0.5)


def test_groups_learn_of_each_other_by_mixing_alone():
    site = Site(width=8, process=PROCESS, key=jr.key(0))
    config = MixingUnitBlock(n_hidden=16, n_groups=4)
    x = jr.normal(jr.key(1), (3, 8))
    moved = x.at[:, :2].multiply(-1.0)
    influence = []
    for block in (config, config.without_mechanism()):
        assert block is not None
        built = block.build(site)
        y, z = (run_jit(built, v, process=QUIET, key=jr.key(0)) for v in (x, moved))
        influence.append(np.abs(np.asarray(z - y))[:, 2:].max())
    assert influence[0] > 1e-3
    assert influence[1] == 0
    rest = config.without_mechanism()
    assert rest is not None
    assert rest.without_mechanism() is None


def test_groups_have_a_fraction_of_the_weights():
    site = Site(width=8, process=PROCESS, key=jr.key(0))
    unit = MixingUnitBlock(n_hidden=16, n_groups=4).build(site)
    values = {path: bank.value.size for path, bank in banks(unit).items()}
    weights = sum(n for path, n in values.items() if path.endswith("weight"))
    assert weights == (8 * 32 + 16 * 8) / 4


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(
    "circuit",
    [fabricate_jit(mixing(4, 2), PROCESS, key=jr.key(1)), mixing(2, 1, n_rounds=2)],
    ids=["chip", "design"],
)
def test_ngspice_shares_charge_as_the_model(circuit, tmp_path):
    verification = verify(
        export(circuit, PROCESS, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert verification.passed, str(verification)
    expected = json.loads((tmp_path / "x/spice/tb/expected.json").read_text())
    values = [r["value"] for bench in expected["benches"] for r in bench["results"]]
    assert max(map(abs, values)) > 0.1


@pytest.mark.needs_ngspice
@pytest.mark.parametrize("n_rounds", [0, 1])
def test_ngspice_runs_the_parts_of_a_mixing_unit(n_rounds, tmp_path):
    site = Site(width=4, process=PROCESS, key=jr.key(0))
    unit = MixingUnitBlock(n_hidden=4, n_groups=2, n_rounds=n_rounds).build(site)
    verification = verify(
        export(unit, PROCESS, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert verification.passed, str(verification)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: PassiveMixing(6, 1, process=PROCESS),
            "`n_streams` must be a power of two from 2 on, but is 6",
        ),
        (
            lambda: PassiveMixing(4, 0, process=PROCESS),
            "`n_channels` must be positive, but is 0",
        ),
        (
            lambda: PassiveMixing(4, 1, process=PROCESS, share=0.6),
            "`share` must be from 0 to 1/2, but is 0.6",
        ),
        (
            lambda: PassiveMixing(4, 1, process=PROCESS, store_F=0.0),
            "`store_F` must be positive, but is 0.0",
        ),
        (lambda: MixingUnitBlock(n_groups=3), "`n_groups` must be a power of two"),
        (lambda: MixingUnitBlock(n_hidden=6), "`n_hidden` must be a multiple"),
        (lambda: MixingUnitBlock(n_rounds=-1), "`n_rounds` must not be negative"),
        (
            lambda: MixingUnitBlock().build(
                Site(width=6, process=PROCESS, key=jr.key(0))
            ),
            "`n_groups` must divide the width of 6",
        ),
    ],
)
def test_impossible_mixing_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
