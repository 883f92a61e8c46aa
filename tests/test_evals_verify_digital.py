"""Logic of a package: simulated bit for bit, proven equal once mapped, and priced."""

import json
import os
import re
import shutil

import jax.random as jr
import numpy as np
import pytest

from circuits.lookup import lookup_layer
from circuits.memory import HashedMemory
from evals.liberty import parse_function, read_library
from evals.mapped import activity, lanes, read_mapped, read_vectors, switching_J
from evals.verify import Options, digital
from evals.verify.jobs import run_jobs
from evals.verify.package import Package
from physnn import load_process
from physnn.export.digital import GENERIC, INDEX, files
from physnn.export.generic_library import CELLS

PROCESS = load_process("cmos28")


@pytest.fixture(scope="module")
def made():
    memory = HashedMemory(
        3, longest=3, index_bits=4, row=2, row_bits=4, bits=4, output_gain=1.0,
        process=PROCESS, key=jr.key(2),
    )  # fmt: skip
    layer = lookup_layer(7, 6, k=4, start="random", key=jr.key(3))
    return files([memory, layer], PROCESS)


@pytest.fixture
def package(made, tmp_path):
    """A folder of the files, with any of them changed."""

    def build(**changed):
        for name, content in {**made, **changed}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return Package(tmp_path, {}, frozenset(made))

    return build


def checked(package, gate, tool="", **options):
    chosen = Options(**options)
    jobs = digital.jobs(package, chosen)
    jobs = [job for job in jobs if job.gate == gate and tool in job.name]
    assert jobs
    return run_jobs(jobs, package, chosen, n_workers=1)


def flipped(made, name):
    """The files with the first bit of a part's first table the other way round."""
    text = made[f"rtl/{name}.v"].decode()
    start = text.index("'h") + 2
    digit = format(int(text[start], 16) ^ 8, "x")
    return {f"rtl/{name}.v": (text[:start] + digit + text[start + 1 :]).encode()}


@pytest.mark.needs_iverilog
def test_icarus_gives_the_bits_of_the_model_and_notices_one_wrong_bit(package, made):
    checks = checked(package(), "D1", "Icarus")
    assert [check.status for check in checks] == ["pass", "pass"]
    assert all(check.measured == 0 for check in checks)
    assert all("512 vectors" in check.detail for check in checks)
    checks = checked(package(**flipped(made, "cell_1")), "D1", "Icarus")
    assert [check.status for check in checks] == ["pass", "fail"]
    # One vector in sixteen reads an entry of sixteen, in eight where pins share a wire.
    wrong = checks[1].measured
    assert wrong is not None
    assert 512 / 32 < wrong < 512 / 4


@pytest.mark.needs_iverilog
def test_a_row_of_the_rom_that_is_another_is_noticed(package, made):
    rows = made["rom/cell_0_rows1.hex"].split()
    rows[3] = format(int(rows[3], 16) ^ 1, "02x").encode()
    checks = checked(
        package(**{"rom/cell_0_rows1.hex": b"\n".join(rows)}), "D1", "Icarus"
    )
    assert checks[0].status == "fail"


@pytest.mark.needs_iverilog
def test_vectors_that_are_missing_are_no_proof(package, made):
    few = b"\n".join(made["vectors/cell_1_y.hex"].split()[:100]) + b"\n"
    check = checked(package(**{"vectors/cell_1_y.hex": few}), "D1", "Icarus")[1]
    assert check.status == "fail"
    assert "100 of 512 vectors" in check.detail


@pytest.mark.needs_verilator
def test_verilator_gives_the_bits_of_the_model(package, tmp_path, monkeypatch):
    # Beside the compiler, what it is asked: optimizing 3,000 tables takes it an hour.
    compiler, asked = shutil.which("g++"), tmp_path / "asked"
    if compiler is not None:
        (tmp_path / "bin").mkdir()
        program = tmp_path / "bin" / "g++"
        program.write_text(f'#!/bin/sh\necho "$@" >> {asked}\nexec {compiler} "$@"\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    checks = checked(package(), "D1", "Verilator")
    assert [check.status for check in checks] in (["pass", "pass"], ["skipped"])
    if compiler is not None:
        lines = [line for line in asked.read_text().splitlines() if " -c " in line]
        assert lines
        # The last one counts.
        levels = {re.findall(r"(?<= )-O\S", line)[-1] for line in lines}
        assert levels == {"-O0"}
    checks = checked(package(), "S1", "Verilator")
    assert {check.status for check in checks} == {"pass"}


@pytest.mark.needs_yosys
def test_verilog_blif_and_mapped_netlist_are_proven_equal(package):
    checks = checked(package(), "D2")
    assert [check.status for check in checks] == ["pass"] * 3, checks
    assert checks[0].detail == checks[1].detail == "Networks are equivalent"
    assert "physnn_generic" in checks[2].detail


@pytest.mark.needs_yosys
def test_a_proof_fails_by_one_bit_of_either_description(package, made):
    check = checked(package(**flipped(made, "cell_1")), "D2")[0]
    assert check.status == "fail"
    assert "y[0]" in check.detail
    text = made["blif/cell_1.blif"].decode()
    row = next(
        line for line in text.splitlines() if line[0] in "01" and line[-2:] == " 1"
    )
    changed = text.replace(row, f"{'1' if row[0] == '0' else '0'}{row[1:]}", 1)
    check = checked(package(**{"blif/cell_1.blif": changed.encode()}), "D2")[0]
    assert check.status == "fail"


@pytest.mark.needs_yosys
def test_a_foundry_library_gives_area_and_energy(package, ihp_liberty):
    checks = checked(package(), "D2", liberty=ihp_liberty)
    assert [check.status for check in checks] == ["pass"] * 3, checks
    assert "sg13g2" in checks[2].detail
    assert "m2" in checks[2].detail


def test_programs_in_a_package_are_not_run(package, made):
    bad = made["rtl/cell_1.v"] + b'initial $system("touch /tmp/x");\n'
    check = checked(package(**{"rtl/cell_1.v": bad}), "S1", "Icarus")[0]
    assert check.status == "fail"
    assert "$system" in check.detail
    bench = made["rtl/tb_cell_1.v"].replace(b"../vectors/", b"/etc/")
    check = checked(package(**{"rtl/tb_cell_1.v": bench}), "D1", "Icarus")[0]
    assert "must be the bench" in check.detail
    index = json.loads(made[INDEX])
    index["parts"][0]["name"] = "../../x"
    with pytest.raises(ValueError, match="is damaged"):
        digital.jobs(package(**{INDEX: json.dumps(index).encode()}), Options())


def test_a_library_is_read_with_its_units(made, tmp_path):
    path = tmp_path / "cells.lib"
    path.write_bytes(made[GENERIC])
    library = read_library(path)
    assert set(library.cells) == set(CELLS)
    assert library.voltage_V == pytest.approx(float(PROCESS.supply_V))
    nand = library.cells["nand3"]
    assert nand.area == 6
    assert nand.pins_F["C"] == pytest.approx(
        2 * float(PROCESS.switch_gate_F), rel=1e-6, abs=0
    )
    for text, message in (
        ("library (a) {", "no whole group"),
        ("}", "not opened"),
        ("library (a) { nom_voltage : 1; }", "capacitive_load_unit"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_library(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_library(tmp_path / "none.lib")


def test_functions_of_cells_follow_their_precedence():
    pins = {"A": 0b0101, "B": 0b0011, "C": 0b1111}
    for text, value in (
        ("!A", 0b1010),
        ("A'", 0b1010),
        ("A B", 0b0001),
        ("!(A*B)", 0b1110),
        ("A+B*C", 0b0111),
        ("A^B", 0b0110),
        ("(A&!B)|(!A&B)", 0b0110),
        ("1", 0b1111),
    ):
        assert parse_function(text)(pins, 0b1111) == value, text
    for text in ("A+", "(A", "A;B", ""):
        with pytest.raises(ValueError, match="must be Boolean"):
            parse_function(text)


def test_transitions_and_energy_of_a_chain_of_gates(made, tmp_path):
    path = tmp_path / "cells.lib"
    path.write_bytes(made[GENERIC])
    library = read_library(path)
    # y = a·!a is always 0 once settled; with delays it glitches when a rises.
    netlist = ".inputs a\n.outputs y\n" + "".join(
        f".gate {line}\n"
        for line in ("inv A=m Y=y", "nand2 A=a B=n Y=m", "inv A=a Y=n")
    )
    mapped = read_mapped(netlist, library)
    assert [gate.net for gate in mapped.gates] == ["n", "m", "y"]
    bits = np.asarray([[0], [1], [1], [0], [1]], np.uint8)
    found = activity(mapped, {"a": lanes(bits)[0]}, 5)
    assert found.settled == {"a": 3, "n": 3, "m": 0, "y": 0}
    assert found.all == {"a": 3, "n": 3, "m": 4, "y": 4}
    pin_F = 2 * float(PROCESS.switch_gate_F)
    # a drives two pins, n and m one each.
    expected = pin_F * library.voltage_V**2 / 2 * (2 * 3 + 3 + 4) / 4
    assert switching_J(mapped, found.all, 4) == pytest.approx(expected, rel=1e-6, abs=0)
    with pytest.raises(ValueError, match="uses xor9"):
        read_mapped(".gate xor9 A=a Y=y\n", library)


def test_vectors_are_read_as_they_are_written():
    bits = np.random.default_rng(1).integers(0, 2, (5, 13)).astype(np.uint8)
    from physnn.export.rtl import to_hex

    assert np.array_equal(read_vectors(to_hex(bits), 13), bits)
    with pytest.raises(ValueError, match="13 bits"):
        read_vectors("2000\n", 13)
