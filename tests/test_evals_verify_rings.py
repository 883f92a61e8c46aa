"""Gates of drawn rings and columns: what they accept, refuse and leave out."""

import dataclasses

import jax.random as jr
import numpy as np
import pytest

from circuits.converters import SarConverter
from circuits.mac import ChargeMac
from circuits.oscillator import PhaseOscillators
from evals.characterize.card import load_card
from evals.characterize.cell import Cell
from evals.characterize.mac import column_cell
from evals.verify import columns, corners, rings
from evals.verify.drawn_cells import read_cell, tables
from evals.verify.jobs import Options, run_jobs
from evals.verify.package import open_package
from physnn.export.feedback import COLUMNS
from physnn.export.package import export
from physnn.export.rings import standard as standard_ring
from physnn.process import load_process

SKY130, CARD = load_process("sky130"), load_card("sky130")


def packed(folder, *circuits):
    export(circuits, SKY130, folder, provenance={"why": "a test"}, card=CARD)
    return open_package(folder)[0]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    key = jr.key(0)
    return packed(
        tmp_path_factory.mktemp("rings") / "package",
        PhaseOscillators(3, period_s=1e-7, key=key),
        ChargeMac(4, 1, bits=4, process=SKY130, key=key),
        SarConverter(1, bits=4, process=SKY130),
    )


def test_cells_of_a_package_are_those_that_were_drawn(package):
    assert read_cell(package, "ring5") == Cell.of(standard_ring())
    found, drawn = read_cell(package, "mac_column"), column_cell()
    assert found.ports == drawn.ports
    assert found.files == drawn.files
    assert tables(package)["ring"] == CARD["ring"]


def test_gates_are_those_of_the_cells_that_are_there(package, tmp_path):
    gates = lambda package: {
        job.gate
        for module in (rings, columns, corners)
        for job in module.jobs(package, Options())
    }
    assert gates(package) == {"T4", "T5", "T6", "T8", "T9", "T10", "C1", "C3", "P1"}
    only = packed(
        tmp_path / "mac", ChargeMac(4, 1, bits=4, process=SKY130, key=jr.key(0))
    )
    assert gates(only) == {"T8", "T9", "C1", "C3"}
    fast = [job for job in rings.jobs(package, Options()) if not job.slow]
    assert [job.gate for job in fast] == ["T4"]


def test_the_heaviest_column_is_that_of_the_design_and_held_to_the_law(
    package, tmp_path
):
    mac = ChargeMac(60, 4, bits=4, process=SKY130, key=jr.key(0))
    heavy = packed(tmp_path / "heavy", mac)
    ratio = columns.heaviest_ratio(heavy)
    assert ratio == pytest.approx(
        float(np.abs(np.asarray(mac.weight.realized())).sum(0).max()), rel=1e-6
    )
    names = lambda package: {job.name for job in columns.jobs(package, Options())}
    # Lighter than the standard column it is not tried apart.
    assert "heaviest column" in names(heavy)
    assert "heaviest column" not in names(package)
    path = heavy.folder / COLUMNS
    path.write_text(path.read_text().replace(",sky130", "x,sky130"))
    with pytest.raises(ValueError, match="must have a finite `ratio`"):
        columns.heaviest_ratio(heavy)


def test_noise_over_the_law_is_a_finding_and_far_over_it_a_failure():
    own, row = {"name": "sky130", "values": {}}, CARD["mac_sweep"]["columns"][-1]
    law = float(SKY130.thermal_noise)
    for excess, status, finding in (
        (0.9 * law, "pass", False),
        (1.1 * law, "pass", True),
        (1.5 * law, "fail", True),
    ):
        noise, gain = columns.judged(row | {"noise_kT_per_C": excess}, own)
        assert (noise.status, "FINDING" in noise.detail) == (status, finding)
        assert gain.status == "pass"
    other = {"name": "cmos28", "values": {"thermal_noise": 2.0}}
    assert "2 in cmos28" in columns.judged(row, other)[0].detail


def test_a_cell_with_a_command_in_it_is_not_run(package, tmp_path):
    folder = tmp_path / "package"
    files = {name: package.bytes(name) for name in package.files}
    files["spice/cells/ring_stage.spice"] += b".control\nshell touch here\n.endc\n"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    changed = dataclasses.replace(package, folder=folder)
    with pytest.raises(ValueError, match="only circuit elements, but holds 'shell"):
        read_cell(changed, "ring5")
    with pytest.raises(ValueError, match=r"none\.spice"):
        read_cell(changed, "none")


def test_without_models_every_gate_is_skipped_and_says_what_is_missing(
    package, monkeypatch
):
    monkeypatch.delenv("PHYSNN_PDK", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    jobs = [
        job
        for module in (rings, columns, corners)
        for job in module.jobs(package, Options())
    ]
    jobs = [dataclasses.replace(job, needs=()) for job in jobs]
    checks = run_jobs(jobs, package, Options())
    assert {check.status for check in checks} == {"skipped"}
    assert all("--pdk PATH" in check.detail for check in checks)


@pytest.mark.needs_ngspice
def test_ring_passes_and_a_card_of_another_ring_does_not(package, sky130_models):
    cell, table = read_cell(package, "ring5"), CARD["ring"]
    checks = rings.repeated(cell, table, sky130_models)
    assert [check.status for check in checks] == ["pass", "pass"]
    assert checks[0].trace is not None
    assert len(checks[0].trace.series) == 2
    wrong = {**table, "frequency_Hz": 1.01 * table["frequency_Hz"]}
    checks = rings.repeated(cell, wrong, sky130_models)
    assert [check.status for check in checks] == ["fail", "pass"]


@pytest.mark.needs_ngspice
def test_column_passes_and_one_with_another_weight_does_not(package, sky130_models):
    cell, table = read_cell(package, "mac_column"), CARD["mac"]
    checks = columns.transfer(cell, table, sky130_models)
    assert [check.status for check in checks] == ["pass"] * 5
    assert [check.status for check in columns.noise(cell, table, sky130_models)] == [
        "pass"
    ]
    name = "mac_column_weight7.spice"
    smaller = cell.files[name].replace("multiple=7", "multiple=6")
    assert smaller != cell.files[name]
    other = dataclasses.replace(cell, files={**cell.files, name: smaller})
    assert columns.transfer(other, table, sky130_models)[0].status == "fail"
