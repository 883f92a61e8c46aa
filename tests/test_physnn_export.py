"""Export: neutral netlists, SPICE cells, tables, and the package that holds them."""

import csv
import dataclasses
import io
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks.base import Site
from circuits.blocks.gated_mixer import GatedMixer
from circuits.blocks.gated_unit import GatedUnit
from circuits.blocks.state_space import GatedRCBlock
from circuits.mac import ChargeMac
from circuits.parts import NODE_F, AutomaticGain, DelayLine, GilbertGate
from circuits.state_space import GatedRC
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.export import tables
from physnn.export.manifest import model_sha256
from physnn.export.package import export, package_files
from physnn.export.selection import circuits_of
from physnn.export.spice import forbidden, read_values, write_bench, write_cell
from physnn.fabricate import device_sigma, fabricate
from tests.helpers import PROCESS

PERIOD_S = 1e-6


class Design(eqx.Module):
    """A small design with every family twice, and an array outside of banks."""

    embedding: jax.Array
    units: tuple[GatedUnit, ...]
    mixer: GatedMixer

    def __init__(self, key):
        self.embedding = jnp.linspace(-1, 1, 12).reshape(4, 3)
        make = lambda key: GatedUnit(
            3, 4, bits=6, output_gain=0.5, process=PROCESS, key=key
        )
        self.units = (make(jr.fold_in(key, 0)), make(jr.fold_in(key, 1)))
        block = GatedRCBlock(n_states=2, n_taps=3, longest_memory=10.0)
        self.mixer = block.build(
            Site(3, PROCESS, jr.fold_in(key, 2), PERIOD_S, output_gain=0.5)
        )


class Unbuildable(AbstractMemorylessCircuit):
    """A circuit that says it has no netlist."""

    n_in: int = eqx.field(static=True, default=1)
    n_out: int = eqx.field(static=True, default=1)

    def apply(self, x, *, process, key):
        del process, key
        return x

    def events(self, process, *, period_s):
        del process, period_s
        return ()

    def netlist(self, process, *, name):
        raise ValueError(f"{name} needs a device that nobody makes.")


def design():
    return Design(jr.key(3))


def column(ratios, *, offset=0.0):
    """The netlist of a MAC with one column."""
    mac = ChargeMac(len(ratios), 1, bits=6, process=PROCESS, key=jr.key(0))
    mac = eqx.tree_at(lambda m: m.weight.value, mac, jnp.asarray(ratios)[:, None])
    return mac, eqx.tree_at(lambda m: m.offset.value, mac, jnp.full(1, offset)).netlist(
        PROCESS, name="mac"
    )


def test_spice_capacitors_are_the_coded_weights():
    weights = [0.5, -0.25, 0.0, 0.11]
    mac, netlist = column(weights, offset=-0.125)
    cells = {cell.name: cell for cell in netlist.cells()}
    text = write_cell(cells["mac_column0"])
    values = read_values(text)
    feedback_F = values["c_feedback_p"]
    full_scale = float(mac.weight.full_scale()[0, 0])
    units = 31 * PROCESS.capacitor_min_F
    assert feedback_F == pytest.approx(units / full_scale, rel=1e-6, abs=0)
    coded = np.asarray(mac.weight.nominal())[:, 0]
    for i, ratio in enumerate(coded):
        if ratio == 0:
            assert f"x_w{i}.capacitance" not in values
            continue
        capacitance = values[f"x_w{i}.capacitance"]
        assert capacitance == pytest.approx(abs(ratio) * feedback_F, rel=1e-6, abs=0)
        # A whole number of unit capacitors, and the halves exchanged for the sign.
        count = capacitance / PROCESS.capacitor_min_F
        assert count == pytest.approx(round(count), abs=1e-4)
        line = next(li for li in text.splitlines() if li.startswith(f"x_w{i} "))
        order = "pn" if ratio > 0 else "np"
        assert line.split()[1:3] == [f"x{i}{order[0]}", f"x{i}{order[1]}"]
    assert values["x_offset.capacitance"] == pytest.approx(
        0.125 * feedback_F, rel=1e-6, abs=0
    )


def test_a_chip_is_exported_with_its_own_errors():
    mac, _ = column([0.5, -0.25, 0.11])
    chip = fabricate(mac, PROCESS, key=jr.key(1))
    cells = {cell.name: cell for cell in chip.netlist(PROCESS, name="mac").cells()}
    values = read_values(write_cell(cells["mac_column0"]))
    found = [values[f"x_w{i}.capacitance"] / values["c_feedback_p"] for i in range(3)]
    np.testing.assert_allclose(found, np.abs(chip.weight.realized()[:, 0]), rtol=1e-6)
    assert not np.allclose(found, np.abs(mac.weight.nominal()[:, 0]), rtol=1e-6)


def test_a_state_has_the_capacitance_conductance_and_leak_of_the_model():
    circuit = GatedRC(2, period_s=PERIOD_S, state_F=40e-15, rate_max=3.0)
    cell = next(c for c in circuit.netlist(PROCESS, name="rc").cells() if c.benches)
    values = read_values(write_cell(cell))
    assert values["c_p"] == values["c_n"] == 40e-15
    assert values["r_leak_p"] == pytest.approx(1 / PROCESS.node_leakage_S)
    assert cell.parameters["conductance"].value == pytest.approx(
        3.0 * 40e-15 / PERIOD_S
    )


def test_netlists_have_the_devices_that_the_events_bill():
    # Two halves with two ideal switches each.
    mac = ChargeMac(5, 4, bits=6, process=PROCESS, key=jr.key(0))
    netlist = mac.netlist(PROCESS, name="mac")
    cells = int(np.sum(np.asarray(mac.weight.nominal()) != 0))
    assert netlist.count("switch") == 4 * cells + 2 * mac.n_out
    assert netlist.count("capacitor") == 2 * cells + 2 * mac.n_out
    mixer = design().mixer
    parts = {instance.name for instance in mixer.netlist(PROCESS, name="m").instances}
    assert parts == {"agc", "delay", "inputs", "cell", "gate", "output"}


@pytest.mark.parametrize(
    "circuit",
    [
        AutomaticGain(3),
        GilbertGate(2),
        DelayLine(2, n_taps=3, process=PROCESS),
        GatedRC(2, period_s=PERIOD_S),
        design().units[0],
        design().mixer,
    ],
    ids=lambda circuit: type(circuit).__name__,
)
def test_every_cell_passes_the_gate_of_what_may_be_simulated(circuit):
    for cell in circuit.netlist(PROCESS, name="dut").cells():
        text = write_cell(cell)
        assert forbidden(text) is None
        assert text == text.lower() or "SI units" in text
        assert all(len(line) < 200 for line in text.splitlines())
        for bench in cell.benches:
            assert forbidden(write_bench(cell, bench)) is None


@pytest.mark.parametrize(
    "line",
    [
        "shell touch /tmp/owned",
        "*# shell touch /tmp/owned",
        "*ng_script",
        "echo `touch /tmp/owned`",
        'echo "RESULT y 1" > /tmp/owned',
        ".include /etc/passwd",
        ".include ../cells/../../../x.spice",
        ".model m d_process (process_file=/bin/sh)",
        "aown 1 2 m",
        ".control\nsource /tmp/x\n.endc",
        ".control\nquit 0\n+ ; shell ls\n.endc",
    ],
)
def test_a_deck_with_another_command_is_not_run(line):
    good = "* bench b\nc_a a 0 1e-15\n.end\n"
    assert forbidden(good) is None
    assert forbidden(good.replace(".end", f"{line}\n.end")) is not None
    assert forbidden(f"{line}\n{good}") is not None


def test_sigma_is_the_spread_of_fabricated_chips():
    key = jr.key(0)
    value = jr.normal(key, (5, 3))
    banks = [
        Bank(value, kind="capacitor", unit="C/C_f", area_m2=1e-13, n_units=31, bits=6),
        Bank(
            value, kind="capacitor", unit="C/C_f", area_m2=1e-13, size=jnp.asarray(1.0)
        ),
        Bank(jnp.zeros(4), kind="threshold", unit="full scale", area_m2=1e-12),
    ]
    many = jax.jit(jax.vmap(lambda key: fabricate(banks, PROCESS, key=key)))
    chips = many(jr.split(key, 4000))
    for bank, chip in zip(banks, chips, strict=True):
        found = np.std(np.asarray(chip.error), axis=0)
        # Four standard errors of a standard deviation, over all devices.
        np.testing.assert_allclose(found, device_sigma(bank, PROCESS), rtol=4 / 89)


def test_tables_hold_every_value_with_its_code():
    model = design()
    files = package_files(model, PROCESS, provenance={})
    rows = list(csv.DictReader(io.StringIO(files["params/parameters.csv"].decode())))
    assert list(rows[0]) == [field.name for field in dataclasses.fields(tables.Row)]
    for path, bank in tables.leaves(model):
        mine = [row for row in rows if row["path"] == path]
        if not isinstance(bank, Bank):
            continue
        assert len(mine) == bank.value.size
        for row in mine:
            index = tuple(map(int, row["instance"].split(",")))
            assert np.float32(float(row["value"])) == bank.value[index]
            assert np.float32(float(row["realized_value"])) == bank.nominal()[index]
            assert row["unit"] == bank.unit
            if bank.bits:
                assert abs(int(row["code"])) < 2 ** (bank.bits - 1)
                again = int(row["code"]) * float(row["lsb"])
                assert again == pytest.approx(float(row["realized_value"]), abs=1e-6)
                assert float(row["min"]) - 1e-6 <= again <= float(row["max"]) + 1e-6
    # The exported column is there in farads, too.
    farads = [row for row in rows if row["unit"] == "F" and row["instance"] == "w0"]
    assert farads
    assert all(row["origin"] == "derived" for row in farads)


def test_large_banks_are_arrays(tmp_path):
    mac = ChargeMac(100, 50, bits=4, process=PROCESS, key=jr.key(0))
    folder = export(mac, PROCESS, tmp_path / "out", provenance={})
    table = json.loads((folder / "params/parameters.json").read_text())["parameters"]
    load = {
        key: np.load(folder / "params" / file, allow_pickle=False)
        for key, file in table["weight"]["files"].items()
    }
    np.testing.assert_array_equal(load["value"], mac.weight.value)
    np.testing.assert_allclose(
        load["code"] * load["lsb"], load["realized_value"], atol=1e-6
    )
    text = (folder / "params/parameters.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    weights = [row for row in rows if row["path"] == "weight"]
    assert [row["instance"] for row in weights[:2]] == ["all 100x50", "0,0"]
    assert len(weights) == 101


def test_exporting_again_gives_the_same_bytes(tmp_path):
    first = export(design(), PROCESS, tmp_path / "a", provenance={"seed": 1})
    second = export(design(), PROCESS, tmp_path / "b", provenance={"seed": 1})
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(
        p.relative_to(second) for p in second.rglob("*") if p.is_file()
    )
    assert len(files) > 10
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    # Over itself as well, and nothing is left beside it.
    export(design(), PROCESS, tmp_path / "a", provenance={"seed": 1})
    assert (first / "manifest.json").read_bytes() == (
        second / "manifest.json"
    ).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_model_hash_sees_every_value():
    model = design()
    other = eqx.tree_at(
        lambda m: m.embedding, model, model.embedding.at[0, 0].add(1e-6)
    )
    assert model_sha256(model) == model_sha256(design())
    assert model_sha256(model) != model_sha256(other)


def test_one_circuit_of_each_family_is_exported():
    files = package_files(design(), PROCESS, provenance={"seed": 1})
    manifest = json.loads(files["manifest.json"])
    circuits = {
        entry["family"]: entry["circuit"]
        for entry in manifest["verification"]["circuits"]
    }
    assert circuits == {
        "AutomaticGain": "units[0].agc",
        "ChargeMac": "units[0].inputs",
        "GilbertGate": "units[0].gate",
        "DelayLine": "mixer.delay",
        "GatedRC": "mixer.cell",
    }
    assert "units[1].output" in dict(circuits_of(design()))
    assert manifest["process"]["sources"] == PROCESS.sources
    assert manifest["provenance"] == {"seed": 1}
    listed = {entry["path"] for entry in manifest["files"]}
    assert listed == set(files) - {"manifest.json"}
    sheet = files["DATASHEET.md"].decode()
    for cell in ("units0_inputs_column0", "mixer_cell_state"):
        assert f"spice/behav/{cell}.spice" in files
        assert f"`{cell}`" in sheet
    # Only what a bench needs: none of the other columns.
    assert "spice/behav/units0_inputs_column1.spice" not in files


def test_an_export_never_replaces_what_is_not_its_own(tmp_path):
    mac, _ = column([0.5, -0.25])
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    with pytest.raises(ValueError, match=r"chapter\.txt"):
        export(mac, PROCESS, folder, provenance={})
    assert (folder / "chapter.txt").read_text() == "years of work"
    out = export(mac, PROCESS, tmp_path / "out", provenance={})
    (out / "measured.csv").write_text("die, value")
    with pytest.raises(ValueError, match=r"measured\.csv"):
        export(mac, PROCESS, out, provenance={})
    with pytest.raises(ValueError, match="a file or a link"):
        export(mac, PROCESS, out / "measured.csv", provenance={})


def test_a_circuit_that_cannot_be_exported_is_named(tmp_path):
    with pytest.raises(ValueError, match="at least one circuit"):
        export({"weights": jnp.zeros(3)}, PROCESS, tmp_path / "x", provenance={})
    with pytest.raises(ValueError, match="nobody makes"):
        export(Unbuildable(), PROCESS, tmp_path / "x", provenance={})
    broken = eqx.tree_at(
        lambda d: d.mixer.cell.offset.value, design(), jnp.asarray([0.0, jnp.nan])
    )
    with pytest.raises(ValueError, match="finite"):
        export(broken, PROCESS, tmp_path / "x", provenance={})
    assert not list(tmp_path.iterdir())
    # The rest of a package is written, and says what is not in it.
    some = (column([0.5])[0], Unbuildable())
    folder = export(some, PROCESS, tmp_path / "x", provenance={})
    manifest = json.loads((folder / "manifest.json").read_text())
    (refused,) = manifest["not_represented"]
    assert (refused["format"], refused["what"]) == ("netlist", "[1] (Unbuildable)")
    assert "nobody makes" in refused["reason"]
    assert "nobody makes" in (folder / "DATASHEET.md").read_text()
    assert list(folder.glob("spice/behav/*_column0.spice"))


def test_the_capacitor_of_a_held_sample_is_the_billed_one():
    delay = DelayLine(1, n_taps=2, process=PROCESS)
    holds = [c for c in delay.netlist(PROCESS, name="d").cells() if c.name == "d_hold"]
    assert read_values(write_cell(holds[0]))["c_p"] == NODE_F
