"""Calibrate: the file of measured values, the fit, the chip, and the run it makes."""

import dataclasses
import json
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from evals.calibrate import (
    Known,
    belief_of,
    calibrate,
    fit,
    parse_measured,
    write_measured,
)
from evals.calibrate.chip import measured_chip, trimmed, with_readout
from evals.calibrate.divergence import divergence
from evals.quality import score
from evals.robustness.scoring import Seen
from physnn.bank import Bank
from physnn.commands import COMMANDS
from physnn.export.calibration_schema import COLUMNS
from physnn.fabricate import banks_of, fabricate
from physnn.process import load_process
from physnn.variation import device_sigma
from tests.helpers import physical_config
from train.calibrated import (
    FACTS,
    FOLDER,
    STATE,
    arrays_of,
    read_calibrated,
    write_calibrated,
)
from train.experiment import from_table
from train.loop import load_run, train
from train.run_folder import RunFolderError

PROCESS = load_process("cmos28")
HEAD = ",".join(COLUMNS)
PRIOR = {
    "cell.offset": Known(
        np.array([0.1, -0.2, 0.3], np.float32),
        np.array([0.02, 0.02, 0.0], np.float32),
        "V",
    ),
    "mac.weight": Known(
        np.array([[0.5, 0.1], [0.25, -0.1]], np.float32),
        np.array([[0.03, 0.01], [0.04, 0.01]], np.float32),
        "C/C_f",
    ),
    "mac.offset": Known(
        np.array([0.0, 0.05], np.float32), np.array([0.05, 0.01], np.float32), "C/C_f"
    ),
}


def rows_of(*lines: str):
    text = "\n".join([HEAD, *(f"a,300,0.9,{line}" for line in lines)]) + "\n"
    return parse_measured(text, where="m.csv").rows


# The fit.


def test_one_measurement_is_weighed_with_the_prior():
    found = fit(PRIOR, rows_of("cell,offset[1],-0.17,0.01,V"))
    known = found.belief["cell.offset"]
    # Inverse variances add: 1/0.02² and 1/0.01².
    assert known.mean[1] == pytest.approx(-0.2 + 0.03 * 0.8, rel=1e-6)
    assert known.sigma[1] == pytest.approx((0.02**-2 + 0.01**-2) ** -0.5, rel=1e-6)
    np.testing.assert_array_equal(known.mean[[0, 2]], PRIOR["cell.offset"].mean[[0, 2]])
    assert set(found.belief) == {"cell.offset"}
    assert found.z_rms == pytest.approx(0.03 / np.hypot(0.02, 0.01), rel=1e-6)


def test_a_device_without_spread_does_not_move_but_is_a_surprise():
    found = fit(PRIOR, rows_of("cell,offset[2],0.5,0.01,V"))
    assert found.belief["cell.offset"].mean[2] == np.float32(0.3)
    assert len(found.surprises) == 1
    assert "cell.offset[2] is +20.0 sigma" in found.surprises[0]


def test_sums_of_a_column_are_least_squares_of_all_that_adds_up():
    """Against the normal equations, written out."""
    lines = (
        'mac,"weight[:,0] + offset[0]",0.9,0.01,C/C_f',
        'mac,"offset[0] - weight[:,0]",-0.7,0.02,C/C_f',
        'mac,"weight[1,0]",0.2,0.05,C/C_f',
    )
    found = fit(PRIOR, rows_of(*lines))
    mean = np.array([0.5, 0.25, 0.0])
    precision = np.diag(np.array([0.03, 0.04, 0.05]) ** -2.0)
    H = np.array([[1, 1, 1], [-1, -1, 1], [0, 1, 0]], float)
    weight = np.diag(np.array([0.01, 0.02, 0.05]) ** -2.0)
    covariance = np.linalg.inv(precision + H.T @ weight @ H)
    y = np.array([0.9, -0.7, 0.2])
    expected = covariance @ (precision @ mean + H.T @ weight @ y)
    weights, offset = found.belief["mac.weight"], found.belief["mac.offset"]
    got = [weights.mean[0, 0], weights.mean[1, 0], offset.mean[0]]
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    sigmas = [weights.sigma[0, 0], weights.sigma[1, 0], offset.sigma[0]]
    np.testing.assert_allclose(sigmas, np.sqrt(np.diag(covariance)), rtol=1e-5)
    # The other column shares nothing with it.
    np.testing.assert_array_equal(weights.mean[:, 1], PRIOR["mac.weight"].mean[:, 1])


def test_groups_are_solved_apart_and_as_if_they_were_alone():
    both = fit(
        PRIOR,
        rows_of(
            'mac,"weight[:,1]",0.02,0.01,C/C_f',
            "cell,offset[0],0.12,0.01,V",
            'mac,"weight[:,0] + offset[0]",0.9,0.01,C/C_f',
        ),
    )
    alone = fit(PRIOR, rows_of('mac,"weight[:,1]",0.02,0.01,C/C_f'))
    for name in ("mean", "sigma"):
        np.testing.assert_allclose(
            getattr(both.belief["mac.weight"], name)[:, 1],
            getattr(alone.belief["mac.weight"], name)[:, 1],
            rtol=1e-6,
        )


# The file.


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("a,300,0.9,cell,offset[0],100,10,mV", "unit of `cell.offset.0.` must be 'V'"),
        ("a,300,0.9,tank,offset[0],1,1,V", "does not have"),
        ("a,300,0.9,cell,gain[0],1,1,V", r"must be one of \['offset'\], but is 'gain'"),
        ("a,300,0.9,cell,offset[3],1,1,V", r"one of shape \[3\], but is \[3\]"),
        ("a,300,0.9,cell,offset,1,1,V", r"one of shape \[3\], but is \[\]"),
        ("a,300,0.9,cell,offset[0],1,0,V", "sigma of `offset.0.` must be positive"),
        ("a,300,0.9,cell,offset[0],1,-1,V", "sigma of `offset.0.` must be positive"),
        ("a,300,0.9,cell,offset[0],nan,1,V", "must be a finite number"),
        ("a,300,0.9,cell,offset[0],5m,1,V", "must be a finite number"),
        ("a,300,0.9,cell,offset[0],,1,V", "must be a finite number"),
        ("a,300,0.9,cell,Offset*2,1,1,V", "a symbol must be as"),
        ("a,300,0.9,cell,offset[0],1,1", "another number"),
        (
            "a,-3,0.9,cell,offset[0],1,1,V",
            "temperature of `offset.0.` must be positive",
        ),
    ],
)
def test_a_wrong_row_is_refused_in_one_sentence(line, complaint):
    text = f"{HEAD}\n{line}\n"
    with pytest.raises(ValueError, match=complaint) as error:
        fit(PRIOR, parse_measured(text, where="m.csv").rows)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        (["a,300,1,c,x[0],1,1,V", "a,300,1,c,x[0],2,1,V"], "another value than line 2"),
        (
            ["a,300,1,c,x[0],1,1,V", "a,400,1,c,x[1],2,1,V"],
            "one temperature and supply",
        ),
        (["a,300,1,c,x[0],1,1,V", "b,300,1,c,x[1],2,1,V"], "--die must choose"),
        (["a,300,1,c,x[0],,,V"], "must hold measured values"),
    ],
)
def test_rows_that_contradict_are_refused(lines, complaint):
    with pytest.raises(ValueError, match=complaint):
        parse_measured("\n".join([HEAD, *lines]) + "\n", where="m.csv")


def test_a_die_is_chosen_and_other_columns_are_refused():
    text = f"{HEAD}\na,300,1,c,x[0],1,1,V\nb,350,1.1,c,x[0],2,1,V\n"
    found = parse_measured(text, where="m.csv", die="b")
    assert (found.temperature_K, found.supply_V, found.rows[0].value) == (350, 1.1, 2)
    with pytest.raises(ValueError, match="holds"):
        parse_measured(text, where="m.csv", die="c")
    with pytest.raises(ValueError, match="must begin with the columns"):
        parse_measured("die,value\n", where="m.csv")


# The chip.


def test_a_measured_bank_holds_what_was_found_and_is_drawn_around_it():
    bank = Bank(
        jnp.array([0.1, 0.2]), kind="threshold", unit="full scale", area_m2=1e-12
    )
    prior = float(device_sigma(bank, PROCESS)[0])
    known = dataclasses.replace(
        bank, shift=jnp.array([0.01, 0.0]), unknown=jnp.array([0.1, 1.0])
    )
    np.testing.assert_allclose(known.realized(), [0.11, 0.2], rtol=1e-6)
    np.testing.assert_allclose(device_sigma(known, PROCESS), [0.1 * prior, prior])
    stuck = dataclasses.replace(
        known, follow=jnp.zeros(2), error=jnp.array([0.5, -0.5])
    )
    np.testing.assert_array_equal(stuck.realized(), [0.5, -0.5])
    # Another die of what is known of this one: it errs less where it was measured.
    draw = jax.vmap(lambda key: fabricate(known, PROCESS, key=key).realized())
    drawn = np.asarray(draw(jr.split(jr.key(0), 400)))
    np.testing.assert_allclose(drawn.mean(0), [0.11, 0.2], atol=prior / 2)
    np.testing.assert_allclose(drawn.std(0) / prior, [0.1, 1.0], rtol=0.15)


@pytest.fixture(scope="module")
def design():
    config = physical_config(width=4, n_states=5, n_hidden=4)
    return config.build(vocabulary=16, process=PROCESS, key=jr.key(1))


def test_exported_values_come_back_as_the_same_parameters(design):
    """R1 on a design: nothing moves, but what was measured is known better."""
    prior = belief_of(design, PROCESS)
    known = prior["stack.blocks[0].inner.inputs.weight"]
    rows = []
    for path in prior:
        instance, _, symbol = path.rpartition(".")
        mean, sigma = prior[path].mean, prior[path].sigma
        rows += [
            {
                "instance": instance,
                "symbol": f"{symbol}[{','.join(map(str, index))}]",
                "value": float(mean[index]),
                "sigma": float(sigma[index]) or 1.0,
                "unit": prior[path].unit,
            }
            for index in np.ndindex(mean.shape)
        ]
    text = write_measured(rows, die="1", temperature_K=300.0, supply_V=0.9)
    found = fit(prior, parse_measured(text, where="m.csv").rows)
    chip = trimmed(measured_chip(design, prior, found), prior, found)
    after = belief_of(chip, PROCESS)
    for path, before in prior.items():
        np.testing.assert_array_equal(after[path].mean, before.mean)
        np.testing.assert_array_equal(
            banks_of(chip)["." + path].value, banks_of(design)["." + path].value
        )
    # Two equal estimates: the variance is half of one.
    now = after["stack.blocks[0].inner.inputs.weight"].sigma
    np.testing.assert_allclose(now, known.sigma / np.sqrt(2), rtol=1e-5)


# The run.


@pytest.fixture(scope="module")
def run(tmp_path_factory, plain_promotion):
    folder = tmp_path_factory.mktemp("calibrate")
    text = " ".join(["alpha beta gamma", "delta", "beta alpha"] * 200)
    (folder / "text.txt").write_text(text)
    layer = [{"kind": "gated_rc", "n_states": 4, "n_taps": 1, "longest_memory": 8.0}]
    table = {
        "name": "small",
        "steps": 1,
        "batch": 2,
        "evaluation_windows": 2,
        "task": {"kind": "text", "path": str(folder / "text.txt"), "context": 8},
        "model": {"kind": "physical", "width": 4, "n_layers": 1, "layer": layer},
        "noise": {"chips_per_batch": 1},
    }
    return train(from_table(table), folder / "run", progress=False)


CELL = "stack.blocks[0].inner.cell"


@pytest.fixture(scope="module")
def measured(run) -> Path:
    """A die whose steering is far off."""
    path = run.folder.parent / "measured.csv"
    own = belief_of(run.model, run.process)[f"{CELL}.offset"].mean
    rows = [
        {
            "instance": CELL,
            "symbol": f"offset[{i}]",
            "value": float(own[i]) + error,
            "sigma": 1e-4,
            "unit": "full scale",
        }
        for i, error in enumerate((0.02, -0.015, 0.01, -0.02))
    ]
    path.write_text(write_measured(rows, die="7/b", temperature_K=300.0, supply_V=0.9))
    return path


@pytest.fixture(scope="module")
def calibrated(run, measured):
    return calibrate(run.folder, measured, windows=4, readout_windows=4)


def test_a_calibrated_run_is_loaded_and_scored_as_any(run, measured, calibrated):
    assert calibrated.folder.name == "run-7_b"
    again = load_run(calibrated.folder)
    prior = belief_of(run.model, run.process)[f"{CELL}.offset"]
    bank = banks_of(again.model)[f".{CELL}.offset"]
    # The die is trimmed to what the design wants, and known to almost nothing.
    moved = calibrated.fit.belief[f"{CELL}.offset"].mean - prior.mean
    np.testing.assert_allclose(bank.realized(), prior.mean, atol=1e-6)
    np.testing.assert_allclose(bank.value, prior.mean - moved, atol=1e-6)
    assert np.max(device_sigma(bank, run.process)) < 0.03 * np.max(prior.sigma)
    s = calibrated.scores
    assert s.far[0] > 10 * s.far[1] >= 0
    assert abs(s.trimmed - s.nominal) < 0.2 * abs(s.before - s.nominal)
    batches = run.experiment.task.build().windows("test", batch=2, limit=2)
    asked = {"process": run.process, "n_chips": 2, "key": jr.key(0)}
    assert np.isfinite(score(again.model, batches, **asked).median)
    assert "after calibration" in str(calibrated)
    json.dumps(calibrated.to_json(), allow_nan=False)


def test_history_says_what_changed_and_goes_on(run, measured, calibrated):
    second = calibrate(calibrated.folder, measured, windows=2, readout_windows=0)
    history = second.folder / FOLDER / "history"
    names = sorted(path.name for path in history.iterdir())
    assert names == ["0001.csv", "0001.json", "0002.csv", "0002.json"]
    first, then = (json.loads((history / n).read_text()) for n in names[1::2])
    assert first["parent"] == "run"
    assert then["parent_sha256"] == first["sha256"]
    assert first["measured"]["sha256"] == calibrated.measured.sha256
    assert first["fit"]["devices"] == {f"{CELL}.offset": 4}
    lines = (history / "0001.csv").read_text().splitlines()
    assert lines[0].startswith("path,index,unit,old,old_sigma,measured")
    assert len(lines) == 5
    facts = json.loads((second.folder / "run.json").read_text())
    assert facts["parent"]["name"] == calibrated.folder.name


def test_a_readout_that_was_fitted_stays_with_the_run(run, tmp_path):
    """Its gain and offset are in the logits, in the bill, and in the folder."""
    windows = run.experiment.task.build().windows("validation", batch=2, limit=48)
    seen, process = Seen.of(windows), run.process.matched()
    offset = run.model.head.offset
    moved = dataclasses.replace(offset, shift=0.02 * jr.normal(jr.key(3), (256,)))
    chip = eqx.tree_at(lambda m: m.head.offset, run.model, moved)
    fitted = with_readout(run.model, chip, seen, process=process, key=jr.key(0))
    far = [divergence(run.model, each, seen, process)[0] for each in (chip, fitted)]
    # Of so few targets it learns little, in the right direction.
    assert far[1] < 0.97 * far[0]
    assert np.corrcoef(fitted.correction.offset, moved.shift)[0, 1] < -0.2
    period_s = run.model.config.period_s
    parts = [each.part for each in fitted.events(process, period_s=period_s)]
    assert parts.count("correction") == 2
    write_calibrated(tmp_path, fitted, files={}, facts={})
    loaded = read_calibrated(tmp_path, run.model)
    assert eqx.tree_equal(loaded.correction, fitted.correction)
    assert set(arrays_of(loaded)) == set(arrays_of(fitted))


def test_a_run_is_not_overwritten_trained_on_or_read_when_damaged(
    run, measured, calibrated
):
    with pytest.raises(ValueError, match="must not exist yet"):
        calibrate(run.folder, measured)
    with pytest.raises(RunFolderError, match="must be a design to be trained"):
        train(run.experiment, calibrated.folder, progress=False)
    with pytest.raises(ValueError, match="split"):
        calibrate(run.folder, measured, out=run.folder / "x", split="all")
    with pytest.raises(ValueError, match="must be a readable CSV"):
        calibrate(run.folder, run.folder / "none.csv", out=run.folder / "x")
    assert not (run.folder / "x").exists()
    state = calibrated.folder / FOLDER / STATE
    whole = state.read_bytes()
    try:
        state.write_bytes(whole[:-1] + b"x")
        with pytest.raises(RunFolderError, match="hash does not match"):
            load_run(calibrated.folder)
        (calibrated.folder / FOLDER / FACTS).write_text("{}")
        with pytest.raises(RunFolderError, match="must be whole"):
            load_run(calibrated.folder)
    finally:
        state.write_bytes(whole)


def test_the_command_is_there():
    assert "calibrate" in [command.__name__ for command in COMMANDS]
