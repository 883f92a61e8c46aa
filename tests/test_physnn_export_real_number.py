"""Real-number models: discrete-time SystemVerilog that does what the model does."""

import re
import subprocess

import numpy as np
import pytest

from circuits.mixing import PassiveMixing
from circuits.sample_hold import SampleHold
from physnn.export.cells import static_bench
from physnn.export.discrete import Plan
from physnn.export.netlist import Device, Netlist
from physnn.export.real_number import files, step_s, write_bench, write_model
from physnn.export.spice import read_results
from physnn.export.system_verilog import forbidden
from tests.helpers import PROCESS, member

FAMILIES = (
    "ChargeMac",
    "AutomaticGain",
    "GilbertGate",
    "DelayLine",
    "GatedRC",
    "Resonator",
    "PhaseOscillators",
    "SettlingNetwork",
)
OHM = {"resistance_ohm": 1e3}


def benches_of(circuit, name):
    cells = circuit.netlist(PROCESS, name=name).cells()
    return [(cell, bench) for cell in cells for bench in cell.benches]


@pytest.fixture(scope="module")
def benches():
    found = [
        pair for name in FAMILIES for pair in benches_of(member(name), name.lower())
    ]
    found += benches_of(SampleHold(1, hold_s=3e-6), "hold")
    return found + benches_of(PassiveMixing(4, 1, process=PROCESS), "mix")


def cell(*devices, ports=("xp", "xn", "yp", "yn", "ref")):
    """A cell with a bench that drives x."""
    bench = static_bench("b", {"x": np.zeros(1)}, {"y": np.zeros(1)}, process=PROCESS)
    return Netlist("cell", ports, devices, benches=(bench,))


@pytest.mark.needs_iverilog
def test_every_family_does_in_icarus_what_the_model_says(benches, tmp_path):
    written, refused = files(benches)
    assert not refused
    (tmp_path / "rnm").mkdir()
    for name, content in written.items():
        assert forbidden(content.decode()) is None, name
        (tmp_path / name).write_bytes(content)
    sources = sorted(str(path) for path in tmp_path.glob("rnm/*.sv"))
    build = ["iverilog", "-g2012", "-s", "tb_all", "-o", str(tmp_path / "tb"), *sources]
    subprocess.run(build, check=True)
    ran = subprocess.run(
        ["vvp", "-n", str(tmp_path / "tb")], capture_output=True, text=True, check=True
    )
    measured = read_results(ran.stdout)
    for _, bench in benches:
        worst = max(
            abs(measured[f"{bench.name}/{e.name}"] - e.value) for e in bench.expected
        )
        # Ten times inside the limit of gate B4.
        assert worst < 2e-4, (bench.name, worst)


def test_clocks_are_logic_and_signals_are_real(benches):
    column = next(c for c, _ in benches if c.name == "chargemac_column0")
    text = write_model(Plan(column))
    assert re.search(r"input +logic phi1,", text)
    assert re.search(r"input +real +x0p,", text)
    assert re.search(r"output real +y[pn],", text)
    # `ref` is a word of SystemVerilog.
    assert re.search(r"input +real +ref_\n", text)


def test_states_move_in_whole_steps_of_a_slot(benches):
    state = next(c for c, _ in benches if c.name == "gatedrc_state")
    (bench,) = state.benches
    steps = bench.slot_s / step_s(bench)
    assert steps == pytest.approx(round(steps))
    assert step_s(bench) <= bench.max_step * bench.slot_s * (1 + 1e-12)
    assert "parameter real period_s" in write_model(Plan(state))
    gate = next(c for c, _ in benches if c.name == "gilbertgate_unit")
    assert "period_s" not in write_model(Plan(gate))


def test_no_delay_is_longer_than_verilator_counts(benches):
    """It counts a delay in 32 bits of the precision, which is a femtosecond."""
    texts = [write_bench(Plan(found), bench) for found, bench in benches]
    # The one that waits for all of them: longer than one delay may be.
    texts.append(files(benches)[0]["rnm/tb_all.sv"].decode())
    for text in texts:
        delays = [float(ns) for ns in re.findall(r"#\(([0-9.e+-]+)\)", text)]
        assert delays
        assert max(delays) * 1e6 < 2**32
    assert "repeat (" in texts[-1]


def test_nets_that_depend_on_each_other_are_refused_by_name():
    def law(net, text):
        return Device(net, "voltage", (net, "ref"), law=text)

    looped = cell(law("yp", "v(yn)"), law("yn", "v(yp)"))
    with pytest.raises(ValueError, match=r"`cell`.*out__yn, out__yp depend on each"):
        Plan(looped)
    floating = cell(
        law("yp", "v(a)"),
        law("yn", "v(b)"),
        Device("c", "capacitor", ("a", "b"), {"capacitance_F": 1e-15}),
    )
    with pytest.raises(ValueError, match="`c` floats between a and b"):
        Plan(floating)
    open_net = cell(
        law("yp", "v(a)"), law("yn", "0"), Device("i", "current", ("ref", "a"), law="1")
    )
    with pytest.raises(ValueError, match="a has none"):
        Plan(open_net)
    # What is refused is named, everything else is written.
    good = benches_of(member("GilbertGate"), "gate")
    found, refused = files([(looped, looped.benches[0]), *good])
    assert [r.what for r in refused] == ["cell"]
    assert "rnm/gate_unit.sv" in found
    assert "cell" not in found["rnm/tb_all.sv"].decode()


def test_a_divider_of_resistors_is_solved():
    divider = cell(
        Device("a", "resistor", ("xp", "yp"), OHM),
        Device("b", "resistor", ("yp", "ref"), OHM),
        Device("n", "voltage", ("yn", "ref"), law="0"),
    )
    (step,) = (s for s in Plan(divider).steps if s.gives == ("out__yp",))
    assert step.lines == (
        "out__yp = (xp / 1000.0 + ref_ / 1000.0) / (1.0 / 1000.0 + 1.0 / 1000.0);",
    )


@pytest.mark.parametrize(
    "line",
    [
        "initial $system(0);",
        '`include "/etc/passwd"',
        'import "DPI-C" function int system(input string s);',
        "initial $readmemh(0, x);",
        "// verilator lint_off ALL",
        "/* verilator public */",
        '$display("%s", x);',
        "assign \\x = 0;",
    ],
)
def test_a_model_with_another_statement_is_not_run(line, benches):
    found, bench = benches[0]
    text = write_bench(Plan(found), bench)
    assert forbidden(text) is None
    assert forbidden(f"{text}{line}\n") is not None
