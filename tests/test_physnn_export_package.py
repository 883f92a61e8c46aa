"""The package: conditions, constraints, specifications, and what a name may be."""

import csv
import io
import json

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import yaml

from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, GilbertGate
from circuits.state_space import GatedRC
from physnn.bank import Bank
from physnn.circuit import run
from physnn.export.manifest import listed, role
from physnn.export.package import export, package_files
from physnn.export.realize import realized_design, uncoded_design
from physnn.export.selection import Exported, check_names
from physnn.export.tables import drift
from tests.helpers import PROCESS


def mac():
    return ChargeMac(6, 2, bits=4, process=PROCESS, key=jr.key(0))


@pytest.fixture(scope="module")
def files():
    design = {"mac": mac(), "state": GatedRC(2, period_s=1e-6)}
    return package_files(design, PROCESS, provenance={"seed": 1})


def test_every_file_has_a_role_and_a_hash(files):
    manifest = json.loads(files["manifest.json"])
    assert manifest["schema_version"] == 2
    assert {entry["path"] for entry in manifest["files"]} | {"manifest.json"} == set(
        files
    )
    folders = {name.split("/")[0] for name in files}
    assert folders > {"params", "spice", "va", "rnm", "constraints", "cace", "calib"}
    assert manifest["realized"]["scored"] is False
    assert manifest["not_represented"] == []
    with pytest.raises(ValueError, match="nowhere/x"):
        role("nowhere/x")


def test_files_that_are_one_without_case_are_refused():
    with pytest.raises(ValueError, match=r"va/A\.va and va/a\.va"):
        listed({"va/a.va": b"", "va/A.va": b""})
    with pytest.raises(ValueError, match="inside"):
        listed({"va/../../x.va": b""})


def test_parts_that_are_one_without_case_are_refused(tmp_path):
    gate, gain = GilbertGate(1), AutomaticGain(1)
    (cell,) = (c for c in gate.netlist(PROCESS, name="x").cells() if c.benches)
    twins = [Exported("Gate", gate, (cell,), ()), Exported("gate", gain, (cell,), ())]
    with pytest.raises(
        ValueError, match="`Gate` and `gate` both have the cell `x_unit`"
    ):
        check_names(twins)
    large = lambda: ChargeMac(80, 60, bits=4, process=PROCESS, key=jr.key(0))
    with pytest.raises(ValueError, match="lower case"):
        export({"Mac": large(), "mac": large()}, PROCESS, tmp_path / "x", provenance={})
    assert not list(tmp_path.iterdir())


def test_every_column_of_the_table_is_there(files):
    rows = list(csv.DictReader(io.StringIO(files["params/parameters.csv"].decode())))
    wanted = (
        "path cell instance symbol value unit min max code bits coding lsb"
        " realized_value sigma_local sigma_global tempco origin window"
    )
    assert set(wanted.split()) <= set(rows[0])
    coded = next(row for row in rows if row["bits"])
    assert f"{float(PROCESS.temperature_K):g} K" in coded["window"]
    # A ratio of equal devices moves with no die; an absolute capacitor does.
    assert float(coded["sigma_global"]) == 0.0
    farads = next(row for row in rows if row["unit"] == "F")
    a, dies = PROCESS.operating, PROCESS.environment["die_to_die"]
    spread = float(farads["value"]) * a["capacitor_corner"] * dies
    assert float(farads["sigma_global"]) == pytest.approx(spread, rel=1e-6)
    ring = drift("ring_frequency", 10.0, PROCESS)
    assert ring["tempco"] == a["ring_per_K"]
    assert float(ring["sigma_global"]) > 0


def test_mismatch_follows_the_area_law_and_names_its_source(files):
    rows = {
        row["bank"]: row for row in json.loads(files["params/mismatch.json"])["banks"]
    }
    weight = rows["['mac'].weight"]
    sigma = PROCESS.matching["capacitor"] / np.sqrt(weight["unit_area_m2"])
    assert weight["sigma_unit_device"] == pytest.approx(sigma)
    assert weight["source"] == PROCESS.sources["matching.capacitor"]
    assert "mac_column0" in weight["cells"]
    assert rows["['state'].offset"]["coefficient_unit"] == "V m"


def test_corners_say_what_they_move(files):
    corners = json.loads(files["params/corners.json"])
    moves = {row["name"]: row["moves"] for row in corners["corners"]}
    assert moves["tt"]["rate"] == 1.0
    assert moves["ss"]["ring_rate"] < 1.0 < moves["ff"]["ring_rate"]
    assert moves["ff"]["node_leakage_S"] > moves["tt"]["node_leakage_S"]
    low, nominal, high = corners["supplies_V"]
    assert low < nominal < high
    assert nominal == pytest.approx(PROCESS.supply_V)
    kits = json.loads(files["spice/pdk_map.json"])["kits"]
    assert kits["sky130"]["devices"]["nmos"]["name"].startswith("sky130_fd_pr__nfet")


def test_specifications_are_what_cace_reads(files):
    table = yaml.safe_load(files["cace/mac_column0.yaml"])
    assert table["cace_format"] == 5.2
    assert table["pins"]["phi1"] == {
        "description": "Clock",
        "type": "digital",
        "direction": "input",
        "Vmin": 0.0,
        "Vmax": pytest.approx(PROCESS.supply_V),
    }
    assert table["pins"]["yp"]["direction"] == "output"
    (parameter,) = table["parameters"].values()
    for limits in parameter["spec"].values():
        low, typ, high = (
            limits[key]["value"] for key in ("minimum", "typical", "maximum")
        )
        assert low < typ < high
    results = parameter["tool"]["ngspice"]["variables"]
    deck = files["spice/tb/" + parameter["tool"]["ngspice"]["template"]].decode()
    assert all(f'"RESULT {name} ' in deck for name in results)


def test_matching_groups_name_elements_of_the_netlists(files):
    cells = json.loads(files["constraints/matching.json"])["cells"]
    rules = cells["mac_column0"]
    text = files["spice/behav/mac_column0.spice"].decode()
    elements = {line.split()[0] for line in text.splitlines() if line[1:2] == "_"}
    (pairs,) = (r["pairs"] for r in rules if r["constraint"] == "SymmetricBlocks")
    assert ["c_feedback_p", "c_feedback_n"] in pairs
    (caps,) = (r for r in rules if r["constraint"] == "GroupCaps")
    assert {*caps["instances"]} | {name for pair in pairs for name in pair} <= elements
    farads = {
        line.split()[0]: float(line.rpartition("=")[2])
        for line in text.splitlines()
        if line.startswith("x_")
    }
    for name, units in zip(caps["instances"], caps["num_units"], strict=True):
        assert farads[name] == pytest.approx(units * PROCESS.capacitor_min_F, rel=0.5)


def test_a_measured_file_has_the_columns_of_its_schema(files):
    schema = json.loads(files["calib/schema.json"])
    text = files["calib/measured_template.csv"].decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert set(rows[0]) == set(schema["required"]) == set(schema["properties"])
    symbols = {(row["instance"], row["symbol"]) for row in rows}
    assert ("['mac']", "weight[3,0]") in symbols
    units = schema["properties"]["unit"]["enum"]
    assert all(row["unit"] in units for row in rows)
    assert all(row["value"] == "" for row in rows)


def test_exported_values_compute_what_the_design_computes():
    design = mac()
    x = 0.5 * jr.normal(jr.key(1), (20, 6))
    answer = lambda circuit: np.asarray(
        run(circuit, x, process=PROCESS.noiseless(), key=jr.key(2))
    )
    built = realized_design(design, PROCESS)
    assert all(b.bits is None for b in (built.weight, built.offset))
    np.testing.assert_allclose(answer(built), answer(design), atol=1e-6)
    # Four bits are not nothing.
    loss = np.max(np.abs(answer(uncoded_design(design)) - answer(design)))
    assert loss > 1e-3


def test_a_value_outside_its_legal_range_is_exported_as_it_is_built():
    bank = Bank(
        jnp.asarray([0.5, 2.0]),
        kind="current",
        unit="I/I_u",
        area_m2=1e-12,
        low=0.0,
        high=1.0,
    )
    np.testing.assert_array_equal(realized_design(bank, PROCESS).nominal(), [0.5, 1.0])
    coded = Bank(
        jnp.asarray([[0.3], [-0.9]]),
        kind="capacitor",
        unit="C/C_f",
        area_m2=1.0,
        bits=3,
    )
    np.testing.assert_allclose(
        realized_design(coded, PROCESS).nominal(), coded.nominal(), rtol=1e-6
    )


def test_reports_may_be_replaced_but_measurements_may_not(tmp_path, files):
    del files
    folder = export(mac(), PROCESS, tmp_path / "out", provenance={})
    (folder / "reports").mkdir()
    (folder / "reports/validation.json").write_text("{}")
    export(mac(), PROCESS, folder, provenance={})
    assert not (folder / "reports").exists()
    (folder / "calib/history").mkdir()
    (folder / "calib/history/die1.csv").write_text("die")
    with pytest.raises(ValueError, match=r"calib/history/die1\.csv"):
        export(mac(), PROCESS, folder, provenance={})
