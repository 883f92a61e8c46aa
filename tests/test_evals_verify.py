"""Fidelity: exported cells simulate as the model says, and damage is seen."""

import dataclasses
import hashlib
import json
import shutil
import stat

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import pytest

from circuits.blocks.base import Site
from circuits.blocks.gated_unit import GatedUnit
from circuits.blocks.state_space import GatedRCBlock
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, DelayLine, GilbertGate
from circuits.state_space import GatedRC
from evals.verify import Check, Job, Options, Verification, open_package, verify
from evals.verify.jobs import run_jobs
from evals.verify.report import write_validation
from physnn.circuit import AbstractMemorylessCircuit
from physnn.export import cells
from physnn.export.netlist import Netlist
from physnn.export.package import export
from physnn.fabricate import fabricate
from tests.helpers import PROCESS


def mac(n_in=6, n_out=2, *, gain=1.0, seed=0):
    circuit = ChargeMac(
        n_in, n_out, bits=6, process=PROCESS, key=jr.key(seed), gain=gain
    )
    offset = jnp.linspace(0.2, -0.2, n_out)
    return eqx.tree_at(lambda m: m.offset.value, circuit, offset)


def delay():
    circuit = DelayLine(2, n_taps=4, process=PROCESS)
    taps = 0.5 * jr.normal(jr.key(2), (4, 2))
    return eqx.tree_at(lambda d: d.tap.value, circuit, taps)


def rc():
    circuit = GatedRC(2, period_s=1e-6)
    offset = jnp.asarray([0.03, -0.1])
    return eqx.tree_at(lambda c: c.offset.value, circuit, offset)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A MAC and a state, exported; copied by tests that damage it."""
    folder = tmp_path_factory.mktemp("export") / "package"
    return export((mac(), rc()), PROCESS, folder, provenance={})


@pytest.fixture
def copied(package, tmp_path):
    return shutil.copytree(package, tmp_path / "package")


def change(folder, name, old, new, *, signed):
    """Replace text in a file; `signed`: with a manifest that agrees."""
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    if signed:
        manifest = json.loads((folder / "manifest.json").read_text())
        for entry in manifest["files"]:
            if entry["path"] == name:
                entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (folder / "manifest.json").write_text(json.dumps(manifest))


def fake_ngspice(tmp_path, monkeypatch, script):
    """Put a program called ngspice first on PATH."""
    program = tmp_path / "bin" / "ngspice"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")


def failures(verification, gate=None):
    return [
        check
        for check in verification.checks
        if check.status == "fail" and gate in (None, check.gate)
    ]


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(
    "circuit",
    [
        mac(1, 1),
        mac(24, 3),
        mac(5, 1, gain=4.0, seed=5),
        fabricate(mac(), PROCESS, key=jr.key(1)),
        rc(),
        fabricate(rc(), PROCESS, key=jr.key(1)),
        AutomaticGain(5),
        fabricate(GilbertGate(2), PROCESS, key=jr.key(1)),
        delay(),
    ],
    ids=lambda circuit: type(circuit).__name__,
)
def test_ngspice_agrees_with_the_model(circuit, tmp_path):
    verification = verify(
        export(circuit, PROCESS, tmp_path / "x", provenance={}), gates=("B1", "B2")
    )
    assert verification.passed, str(verification)
    # Of the two gates a circuit has at least one; the other is named as not checked.
    results = [check for check in verification.checks if check.status == "pass"]
    results = [check for check in results if check.gate in ("B1", "B2")]
    assert results
    # What passes is not silence: some result is far from zero.
    expected = json.loads((tmp_path / "x/spice/tb/expected.json").read_text())
    values = [r["value"] for bench in expected["benches"] for r in bench["results"]]
    assert max(map(abs, values)) > 0.1
    assert len(values) == len(results)


@pytest.mark.needs_ngspice
def test_the_charge_column_saturates_like_the_model(package):
    expected = json.loads((package / "spice/tb/expected.json").read_text())
    values = [r["value"] for r in expected["benches"][0]["results"]]
    assert values[-1] == 1.0  # and the test above found it in ngspice


@pytest.mark.needs_ngspice
@pytest.mark.parametrize(
    ("cell", "old", "new", "gate"),
    [
        ("0_column0", "capacitance=", "capacitance=1", "B1"),  # ten times a weight
        ("0_column0", "w1 x1n x1p", "w1 x1p x1n", "B1"),  # a sign
        ("0_column0", "c_feedback_p sp yp ", "c_feedback_p sp yp 1", "B1"),
        ("1_state", "c_p vp ref 5e-14", "c_p vp ref 5.05e-14", "B2"),  # 1 %
    ],
)
def test_a_wrong_device_fails(copied, cell, old, new, gate):
    name = f"spice/behav/cell_{cell}.spice"
    text = (copied / name).read_text()
    if old not in text:  # the other sign
        old, new = new, old
    change(copied, name, old, new, signed=True)
    verification = verify(copied, gates=("B1", "B2"))
    assert {check.gate for check in failures(verification)} == {gate}
    assert "the model says" in failures(verification)[0].detail


def test_a_changed_or_missing_file_fails_its_hash(copied):
    change(copied, "DATASHEET.md", "Conditions", "conditions", signed=False)
    (copied / "params/parameters.csv").unlink()
    (check,) = failures(verify(copied, gates=("B1", "B2")), "S2")
    assert check.measured == 2
    assert "DATASHEET.md was changed" in check.detail
    assert "params/parameters.csv is missing" in check.detail


def test_a_file_outside_of_the_folder_is_not_read(copied, tmp_path):
    (tmp_path / "secret").write_text("x")
    change(copied, "manifest.json", "DATASHEET.md", "../secret", signed=False)
    (check,) = failures(verify(copied, gates=("B1", "B2")), "S2")
    assert "outside" in check.detail


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("kill -SEGV $$", "ngspice was stopped by SIGSEGV"),
        ("sleep 60", "ngspice did not answer within 1 s"),
        ("echo 'Error: no such model'; exit 1", "ngspice says: Error: no such model"),
        ("exit 0", "printed no RESULT for 5 of 5 values"),
        ("echo RESULT y_0 nan", "printed no RESULT for 4 of 5 values"),
    ],
)
def test_a_simulator_that_fails_is_a_failed_check(
    package, tmp_path, monkeypatch, script, sentence
):
    fake_ngspice(tmp_path, monkeypatch, script)
    verification = verify(package, gates=("B1", "B2"), timeout_s=1.0)
    checks = failures(verification, "S1")
    assert len(checks) == 2
    assert sentence in checks[0].detail
    assert not verification.passed
    assert "FAILED" in str(verification)


def test_a_result_that_is_no_number_fails(package, tmp_path, monkeypatch):
    names = [f"y_{i}" for i in range(5)] + [f"v_{i}" for i in range(12)]
    fake_ngspice(
        tmp_path, monkeypatch, "\n".join(f"echo RESULT {name} nan" for name in names)
    )
    verification = verify(package, gates=("B1", "B2"))
    assert len(failures(verification)) == len(names)


def test_without_ngspice_benches_are_skipped_and_say_how_to_get_it(
    package, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    verification = verify(package, gates=("B1", "B2"))
    assert verification.passed
    skipped = [check for check in verification.checks if check.status == "skipped"]
    assert len(skipped) == 2
    assert "install" in skipped[0].detail


def test_a_deck_that_would_run_a_command_is_not_started(copied, tmp_path, monkeypatch):
    owned = tmp_path / "owned"
    fake_ngspice(tmp_path, monkeypatch, f"touch {owned}")
    deck = json.loads((copied / "spice/tb/expected.json").read_text())["benches"][0][
        "deck"
    ]
    change(copied, deck, ".control\n", ".control\nshell touch /tmp/x\n", signed=True)
    checks = failures(verify(copied, gates=("B1", "B2"), n_workers=1), "S1")
    assert any("was not started" in check.detail for check in checks)
    assert any("'shell touch /tmp/x'" in check.detail for check in checks)


@pytest.mark.parametrize("text", ["", "{}", '{"benches": [{"bench": "x"}]}', "\x00"])
def test_damaged_expectations_fail(copied, text):
    (copied / "spice/tb/expected.json").write_text(text)
    (check,) = failures(verify(copied, gates=("B1", "B2")), "S1")
    assert "is damaged" in check.detail


@pytest.mark.parametrize("text", [None, "", "{}", '{"format": "x"}'])
def test_what_is_no_export_is_refused(copied, text):
    manifest = copied / "manifest.json"
    manifest.unlink()
    if text is not None:
        manifest.write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json is missing or damaged"):
        verify(copied, gates=("B1", "B2"))


def test_an_export_of_another_version_is_refused(copied):
    change(
        copied,
        "manifest.json",
        '"schema_version": 2',
        '"schema_version": 9',
        signed=False,
    )
    with pytest.raises(ValueError, match="version 9"):
        verify(copied, gates=("B1", "B2"))


def test_a_verification_prints_its_worst_result_and_round_trips_as_json():
    checks = (
        Check("S1", "a", "pass", seconds=1.0),
        Check("B1", "a: y_0", "pass", 1e-7, 1e-5, "full scale"),
        Check("B1", "a: y_1", "pass", 3e-6, 1e-5, "full scale"),
        Check("B1", "a: y_2", "fail", 2e-5, 1e-5, "full scale", detail="too far"),
    )
    verification = Verification("out", checks)
    text = str(verification)
    assert "3e-06" in text
    assert "a (2 results)" in text
    assert "a: y_2: too far" in text
    assert "2 checks passed" not in text
    assert "3 checks passed, 1 failed" in text
    table = json.loads(json.dumps(verification.to_json()))
    assert table["passed"] is False
    assert [Check(**row) for row in table["checks"]] == list(checks)


@pytest.mark.needs_ngspice
def test_gates_are_chosen_and_the_report_overlays_what_was_compared(package, tmp_path):
    found = verify(package, gates=("B2",))
    assert {check.gate for check in found.checks} == {"S2", "S1", "B2"}
    page = write_validation(found, tmp_path / "reports")
    assert page.read_text().count("<svg") == 1  # one state, read over time
    assert "| B2 | pass |" in (tmp_path / "reports/validation.md").read_text()
    with pytest.raises(ValueError, match="but is 'Q1'"):
        verify(package, gates=("Q1",))


class Whole(AbstractMemorylessCircuit):
    """A block with a bench of its own, as one circuit."""

    netlist_of_all: Netlist = eqx.field(static=True)
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def apply(self, x, *, process, key):
        del process, key
        return x

    def events(self, process, *, period_s):
        del process, period_s
        return ()

    def netlist(self, process, *, name):
        del process, name
        return self.netlist_of_all


def verify_whole(circuit, xs, clocks, out, *, absolute, slot_s):
    bench = cells.differential_bench(
        "whole",
        cells.rows("x", xs),
        cells.rows("y", cells.predicted(circuit, xs, PROCESS)),
        process=PROCESS,
        slot_s=slot_s,
        gate="B2",
        absolute=absolute,
        clocks=clocks,
        sample=0.99,
        max_step=0.001,
    )
    netlist = circuit.netlist(PROCESS, name="block")
    netlist = dataclasses.replace(netlist, benches=(bench,))
    whole = Whole(netlist, circuit.n_in, circuit.n_out)
    return verify(export(whole, PROCESS, out, provenance={}), gates=("B1", "B2"))


@pytest.mark.needs_ngspice
def test_a_whole_gated_unit_is_wired_right(tmp_path):
    unit = GatedUnit(3, 4, bits=6, output_gain=1.0, process=PROCESS, key=jr.key(0))
    # The second stage samples while the first one holds.
    clocks = {
        "inputs_phi1": (0.01, 0.2),
        "inputs_phi2": (0.21, 0.995),
        "output_phi1": (0.5, 0.7),
        "output_phi2": (0.71, 0.995),
    }
    verification = verify_whole(
        unit,
        cells.trial_vectors((3, 3)),
        clocks,
        tmp_path / "x",
        absolute=1e-5,
        slot_s=2e-8,
    )
    assert verification.passed, str(verification)


@pytest.mark.needs_ngspice
def test_a_whole_mixer_is_wired_right(tmp_path):
    block = GatedRCBlock(n_states=2, n_taps=3, longest_memory=4.0)
    mixer = block.build(Site(3, PROCESS, jr.key(1)))
    taps = jnp.asarray([[0.7, 0.4, -0.5], [0.3, -0.3, 0.2], [-0.2, 0.1, 0.4]])
    mixer = eqx.tree_at(lambda m: m.delay.tap.value, mixer, taps)
    clocks = {
        "delay_phi1": (0.0005, 0.0040),
        "delay_phi2": (0.0045, 0.9990),
        "inputs_phi1": (0.0060, 0.0100),
        "inputs_phi2": (0.0105, 0.9980),
        "output_phi1": (0.9700, 0.9780),
        "output_phi2": (0.9785, 0.9970),
    }
    # The states integrate for 98 % of a token: that is the limit of the agreement.
    verification = verify_whole(
        mixer,
        cells.trial_vectors((5, 3)),
        clocks,
        tmp_path / "x",
        absolute=0.02,
        slot_s=1e-6,
    )
    assert verification.passed, str(verification)


def test_what_takes_longest_begins_first_and_checks_keep_their_order(package):
    begun = []

    def job(name, cost_s):
        def run(*_):
            begun.append(name)
            return [Check("S1", name, "pass")]

        return Job("S1", name, run, needs=(), cost_s=cost_s)

    costs = {"short": 1.0, "long": 100.0, "middle": 10.0, "last": 1.0}
    jobs = [job(*each) for each in costs.items()]
    found = run_jobs(jobs, open_package(package)[0], Options(), n_workers=1)
    assert begun == ["long", "middle", "short", "last"]
    assert [check.name for check in found] == list(costs)


def test_a_gate_that_finds_nothing_to_check_says_so(package):
    found = verify(package, gates=("D", "C1")).checks
    assert [check.gate for check in found] == ["S2", "D", "C1"]
    assert [check.status for check in found] == ["pass", "skipped", "skipped"]
    assert "this package has none of it" in found[1].detail
