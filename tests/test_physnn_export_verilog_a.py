"""Verilog-A: the equations of behavioral cells, in a language others simulate."""

import re

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.parts import AutomaticGain, GilbertGate
from circuits.state_space import GatedRC
from physnn.export.equations import biases, contributions, reference
from physnn.export.flatten import flattened
from physnn.export.laws import evaluate, real
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.export.verilog_a import files, forbidden, write_cell
from tests.helpers import PROCESS, member

ALL_KINDS = Netlist(
    "every",
    ("a", "b", "clock", "ref"),
    (
        Device("c", "capacitor", ("a", "ref"), {"capacitance_F": "size"}),
        Device("r", "resistor", ("a", "b"), {"resistance_ohm": 1e3}),
        Device(
            "s",
            "switch",
            ("a", "b", "clock", "0"),
            {"on_ohm": 1e3, "off_ohm": 1e15, "threshold_V": 0.45},
        ),
        Device(
            "amp",
            "amplifier",
            ("y", "z", "a", "b", "ref"),
            {"gain": 1e7, "limit_V": 0.4, "unity_s": 1e-9},
        ),
        Device(
            "g",
            "transconductance",
            ("ref", "x", "a", "b"),
            {"transconductance_S": -2e-6},
        ),
        Device("v", "voltage", ("x", "ref"), law="max(-1, min(1, v(a, b) / 3))"),
        Device("i", "current", ("ref", "x"), law="1e-6 * tanh(v(a) - abs(v(b)))"),
    ),
    parameters={"size": Parameter(1e-15, "F", "of the capacitor")},
)


def cell_of(circuit, name):
    cells = {c.name: c for c in circuit.netlist(PROCESS, name="dut").cells()}
    return cells[f"dut_{name}"]


def at_biases(cell, count=200):
    supply_V, swing_V = float(PROCESS.supply_V), float(PROCESS.swing_V)
    return biases(cell, count, supply_V=supply_V, swing_V=swing_V)


def test_the_equations_of_every_device_are_what_the_device_is():
    volts, names = at_biases(ALL_KINDS)
    expected = reference(ALL_KINDS, volts, names)
    found = [evaluate(c.law, volts, names) for c in contributions(ALL_KINDS)]
    assert expected.shape == (200, len(found))
    for i, column in enumerate(found):
        scale = np.max(np.abs(expected[:, i]))
        np.testing.assert_allclose(
            column, expected[:, i], rtol=1e-9, atol=1e-12 * scale
        )
    # Both sides of the threshold, and of the limit, were tried.
    assert np.ptp(np.sign(volts["clock"] - 0.45)) == 2
    assert np.ptp(expected[:, 2]) > 1e-5


def test_a_product_cell_is_the_model_at_200_biases():
    gate = GilbertGate(1)
    cell = cell_of(gate, "unit")
    volts, _ = at_biases(cell)
    a, b = (
        (volts[f"{x}p"] - volts[f"{x}n"]) / (2 * PROCESS.swing_V) for x in ("a", "b")
    )
    inputs = jnp.asarray(np.stack([a, b], -1), jnp.float32)
    model = np.asarray(gate.apply(inputs, process=PROCESS, key=jr.key(0)))[:, 0]
    plus, minus = (evaluate(c.law, volts, {"offset": 0.0}) for c in contributions(cell))
    # The model is float32.
    found = (plus - minus) / (2 * PROCESS.swing_V)
    np.testing.assert_allclose(found, model, rtol=2e-5, atol=1e-6)


def test_the_currents_of_a_state_are_the_drift_of_the_model():
    circuit = GatedRC(1, period_s=1e-6)
    cell = cell_of(circuit, "state")
    volts, _ = at_biases(cell)
    full = 2 * PROCESS.swing_V
    u, s, v = ((volts[f"{x}p"] - volts[f"{x}n"]) / full for x in "usv")
    names = {"conductance": cell.parameters["conductance"].value, "offset": 0.0}
    total = {"p": np.zeros(200), "n": np.zeros(200)}
    for c in contributions(cell):
        if c.kind == "current":
            half = c.branch[0][-1] if c.branch[0] != "ref" else c.branch[1][-1]
            sign = 1 if c.branch[0] == "ref" else -1
            total[half] = total[half] + sign * evaluate(c.law, volts, names)
    found = (total["p"] - total["n"]) / circuit.state_F / full
    drift = circuit.drift(
        jnp.asarray(v[:, None], jnp.float32),
        jnp.asarray(np.stack([u, s], -1), jnp.float32),
        process=PROCESS,
    )
    np.testing.assert_allclose(
        found, np.asarray(drift)[:, 0], rtol=1e-4, atol=1e-5 * np.max(np.abs(drift))
    )


def test_no_number_is_an_integer_which_would_divide_as_one():
    assert real(1000) == "1000.0"
    assert real(1e-15) == "1e-15"
    text = re.sub(r"//.*|`.*", "", write_cell(ALL_KINDS))
    numbers = re.findall(r"(?<![\w.])\d[\w.+-]*", text)
    assert len(numbers) > 10
    assert all("." in number or "e" in number for number in numbers)


def test_a_word_of_the_language_is_renamed_and_a_collision_refused():
    def cell(*ports):
        device = Device("r", "resistor", (ports[0], "x"), {"resistance_ohm": 1.0})
        return Netlist("renamed", (*ports, "x"), (device,))

    text = write_cell(cell("table"))
    assert "module renamed(table_, x);" in text
    assert "I(table_, x)" in text
    with pytest.raises(ValueError, match=r"`renamed`.*`table_`"):
        write_cell(cell("table", "table_"))


def test_a_cell_uses_others_through_their_files():
    part = Netlist(
        "part",
        ("a", "b"),
        (Device("r", "resistor", ("a", "b"), {"resistance_ohm": "ohm"}),),
        parameters={"ohm": Parameter(1.0, "ohm", "of it")},
    )
    whole = Netlist(
        "whole", ("a",), (), (Instance("one", part, ("a", "m"), {"ohm": 5.0}),)
    )
    text = write_cell(whole)
    assert '`include "part.va"' in text
    assert "part #(.ohm(5.0)) x_one(a, m);" in text
    assert "electrical a, m;" in text
    found, refused = files([part, whole], PROCESS)
    assert not refused
    assert {"va/part.va", "va/whole.va", "va/expected/part.npy"} < set(found)


def test_a_format_names_what_it_cannot_hold_and_writes_the_rest():
    size = {"width_m": 1e-6, "length_m": 1e-6, "multiple": 1}
    mos = Device("m", "nmos", ("a", "b", "0", "0"), size)
    transistors = Netlist("real_one", ("a", "b"), (mos,))
    found, refused = files([transistors, ALL_KINDS], PROCESS)
    assert [r.what for r in refused] == ["real_one"]
    assert "nmos" in refused[0].reason
    assert "va/every.va" in found
    assert "va/real_one.va" not in found


@pytest.mark.parametrize(
    "line", ['`include "/etc/passwd"', '`include "../x.va"', "$system(1);", "/* x"]
)
def test_a_file_with_another_directive_is_not_parsed(line):
    text = write_cell(ALL_KINDS)
    assert forbidden(text) is None
    assert forbidden(f"{text}{line}\n") is not None


def test_flattening_keeps_every_device_and_its_values():
    cell = AutomaticGain(3).netlist(PROCESS, name="agc")
    devices = flattened(cell)
    for kind in ("resistor", "current", "voltage"):
        assert sum(d.kind == kind for d in devices) == cell.count(kind)
    mac = member("ChargeMac").netlist(PROCESS, name="mac")
    column = next(c for c in mac.cells() if c.benches)
    weights = {i.name: i.parameters["capacitance"] for i in column.instances}
    found = {d.name: d.parameters for d in flattened(column) if d.kind == "capacitor"}
    for name, farads in weights.items():
        assert found[f"{name}_p"]["capacitance_F"] == farads
