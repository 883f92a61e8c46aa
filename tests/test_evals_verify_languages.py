"""Languages: Verilog-A and real-number models say what the model says."""

import hashlib
import json
import shutil

import jax.random as jr
import pytest

from circuits.mac import ChargeMac
from circuits.parts import GilbertGate
from circuits.state_space import GatedRC
from evals.handoff import rescored
from evals.verify import verify
from physnn.export.package import export
from tests.helpers import PROCESS, physical_config
from train.experiment import Experiment
from train.loop import TrainedRun
from train.tasks.text import TextConfig

GATES = ("S1", "B3", "B4")


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    design = {
        "mac": ChargeMac(3, 1, bits=4, process=PROCESS, key=jr.key(0)),
        "state": GatedRC(1, period_s=1e-6),
        "gate": GilbertGate(1),
    }
    folder = tmp_path_factory.mktemp("export") / "package"
    return export(design, PROCESS, folder, provenance={})


@pytest.fixture
def copied(package, tmp_path):
    return shutil.copytree(package, tmp_path / "package")


def change(folder, name, old, new):
    """Replace text in a file, with a manifest that agrees."""
    path = folder / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    manifest = json.loads((folder / "manifest.json").read_text())
    for entry in manifest["files"]:
        if entry["path"] == name:
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def checks(folder, status, gate=None, gates=("B3", "B4")):
    found = verify(folder, gates=gates).checks
    return [c for c in found if c.status == status and gate in (None, c.gate)]


def measured(check):
    assert check.measured is not None
    return check.measured


@pytest.mark.needs_adms
@pytest.mark.needs_iverilog
def test_equations_and_models_are_those_of_the_model(package):
    found = verify(package, gates=GATES)
    assert found.passed, str(found)
    equations = [c for c in found.checks if c.gate == "B3"]
    # Every cell with devices of its own, each far inside its limit.
    assert len(equations) == len(list(package.glob("va/expected/*.npy"))) >= 4
    assert all(0 <= measured(c) < 1e-10 for c in equations)
    models = [c for c in found.checks if c.gate == "B4"]
    assert {c.name.split(":")[0] for c in models} == {
        "rnm mac_column0_charge",
        "rnm state_state_tokens",
        "rnm gate_unit_products",
    }
    assert max(map(measured, models)) < 1e-5


@pytest.mark.needs_adms
def test_a_wrong_equation_is_seen(copied):
    change(copied, "va/gate_unit.va", "V(bp, bn)", "V(bn, bp)")
    (wrong,) = checks(copied, "fail", "B3")
    assert "gate_unit" in wrong.name
    assert measured(wrong) > 1
    change(copied, "va/state_state.va", "ddt(", "(")
    details = [c.detail for c in checks(copied, "fail")]
    assert any("must be a charge" in detail for detail in details)


@pytest.mark.needs_adms
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("0.4 *", "2 / 5 *", "must be reals"),
        ("analog begin", "analog begi", "admsXml rejects it"),
        ("analog begin", "analog begin $fopen(1);", "holds '$fopen'"),
        ("<+", "<+ 0.0; V(yp, ref) <+", "contributions were found"),
    ],
)
def test_a_damaged_cell_is_one_clear_failure(copied, old, new, said):
    change(copied, "va/gate_unit.va", old, new)
    assert any(said in check.detail for check in checks(copied, "fail"))


@pytest.mark.needs_iverilog
def test_a_wrong_model_is_seen(copied):
    change(copied, "rnm/state_state.sv", "0.5 * period_s", "2.5 * period_s")
    change(copied, "rnm/mac_column0.sv", " - kept__sp)", " - 2.0 * kept__sp)")
    wrong = checks(copied, "fail", "B4")
    assert {c.name.split(":")[0] for c in wrong} == {
        "rnm mac_column0_charge",
        "rnm state_state_tokens",
    }
    assert all("where the model says" in c.detail for c in wrong)


@pytest.mark.needs_iverilog
def test_a_model_that_is_a_program_is_not_run(copied, tmp_path):
    evil = f'initial $system("touch {tmp_path}/owned");\nendmodule'
    change(copied, "rnm/gate_unit.sv", "endmodule", evil)
    failed = checks(copied, "fail")
    assert any("holds '$system'" in check.detail for check in failed)
    assert not (tmp_path / "owned").exists()


@pytest.mark.needs_iverilog
def test_a_bench_that_prints_nothing_is_a_failure(copied):
    name = "rnm/tb_gate_unit_products.sv"
    change(copied, name, "    #(", "    $finish;\n    #(")
    details = [c.detail for c in checks(copied, "fail")]
    assert any("printed no RESULT for" in detail for detail in details)


def test_damaged_data_files_are_named(copied):
    change(copied, "cace/gate_unit.yaml", "pins:", "pinz:")
    change(copied, "params/corners.json", "{", "")
    (failed,) = (c for c in checks(copied, "fail", gates=("S1",)) if "data" in c.name)
    assert "cace/gate_unit.yaml" in failed.detail
    assert "params/corners.json" in failed.detail


@pytest.mark.slow
@pytest.mark.needs_verilator
@pytest.mark.needs_iverilog
def test_both_simulators_print_the_same(package):
    found = verify(package, gates=("B4",), slow=True)
    (both,) = (c for c in found.checks if c.name.startswith("Icarus and Verilator"))
    assert both.status == "pass", both.detail
    assert measured(both) <= 1e-12


def test_a_missing_tool_is_skipped_with_the_line_that_installs_it(package, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    skipped = checks(package, "skipped", gates=GATES)
    for tool in ("adms", "iverilog", "verilator"):
        assert any(f"{tool} was not found" in check.detail for check in skipped)


def test_the_network_is_scored_again_with_what_is_exported(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"the cat sat on a mat and ran. " * 300)
    config = physical_config(width=8, n_states=4, n_hidden=4, weight_bits=4)
    task = TextConfig(path=str(path), context=16)
    experiment = Experiment("tiny", task=task, model=config, batch=4)
    model = config.build(process=PROCESS, key=jr.key(0), vocabulary=256)
    run = TrainedRun(tmp_path, experiment, model, PROCESS, 0, float("inf"))
    found = rescored(run, windows=3)
    assert found["unit"] == "bits/byte"
    assert found["targets"] > 0
    assert abs(found["loss"]) < 1e-4
    # Four bits cost something, or win something, but not nothing.
    assert abs(found["coding_loss"]) > abs(found["loss"])
    assert found["trained"] == pytest.approx(8.0, abs=1.5)
    skipped = rescored(run, windows=0)
    assert not skipped["scored"]
    assert "--windows 0" in skipped["reason"]
    with pytest.raises(ValueError, match="must not be negative"):
        rescored(run, windows=-1)
