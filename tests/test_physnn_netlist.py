"""Netlist: numbers, laws and cells, before any exporter writes them."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physnn.export.laws import names_of, nets_of, number, render
from physnn.export.netlist import Device, Instance, Netlist, Parameter, cell_name


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_a_number_brings_every_float32_back(value):
    text = number(value)
    assert np.float32(float(text)) == np.float32(value)
    assert not set(text) - set("0123456789.e+-")  # no suffix letter


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_a_number_has_nine_digits(value):
    assert math.isclose(float(number(value)), value, rel_tol=5.1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_no_number(value):
    with pytest.raises(ValueError, match="must be finite"):
        number(value)


def test_a_law_computes_the_same_when_rendered():
    law = "-gain * tanh(v(a, b) / 0.2) + max(0, min(v(a), 1e-3)) - 2 / 4"
    assert nets_of(law) == {"a", "b"}
    assert names_of(law) == {"gain"}
    voltages = {("a", "b"): 0.05, ("a",): 0.3}
    scope = {
        "v": lambda *nets: voltages[nets],
        "a": "a",
        "b": "b",
        "gain": 3.0,
        "tanh": math.tanh,
    }
    rendered = render(law, name=lambda name: name)
    assert eval(rendered, scope) == pytest.approx(eval(law, scope), rel=1e-12)


@pytest.mark.parametrize(
    "law",
    ["v(a) ** 2", "system('ls')", "v(a).real", "v(a, b, c)", "1 if v(a) else 0", "("],
)
def test_a_law_holds_formulas_only(law):
    with pytest.raises(ValueError, match="A law must"):
        render(law, name=str)


def test_devices_and_cells_refuse_what_is_wrong():
    capacitor = Device("c", "capacitor", ("a", "b"), {"capacitance_F": 1e-15})
    with pytest.raises(ValueError, match="must be positive, but is -1e-15 F"):
        dataclasses.replace(capacitor, parameters={"capacitance_F": -1e-15})
    with pytest.raises(ValueError, match="kind"):
        Device("c", "memristor", ("a", "b"))
    with pytest.raises(ValueError, match="must have 2 nets"):
        Device("c", "capacitor", ("a",), {"capacitance_F": 1e-15})
    with pytest.raises(ValueError, match="lower-case"):
        Netlist("Mac", ("a", "b"), (capacitor,))
    with pytest.raises(ValueError, match="once"):
        Netlist("mac", ("a", "b"), (capacitor, capacitor))
    unknown = Device("b", "voltage", ("a", "b"), law="gain * v(c)")
    with pytest.raises(ValueError, match="uses `gain`"):
        Netlist("mac", ("a", "b"), (unknown,))
    with pytest.raises(ValueError, match="`c` is none"):
        Netlist(
            "mac", ("a", "b"), (unknown,), parameters={"gain": Parameter(1.0, "1", "")}
        )
    cell = Netlist("cell", ("a", "b"), (capacitor,))
    with pytest.raises(ValueError, match="must connect the 2 ports"):
        Instance("one", cell, ("a",))
    with pytest.raises(ValueError, match="must set only"):
        Instance("one", cell, ("a", "b"), {"capacitance": 1.0})
    other = Netlist("cell", ("b", "a"), (capacitor,))
    pair = (Instance("one", cell, ("a", "b")), Instance("two", other, ("a", "b")))
    with pytest.raises(ValueError, match="different names"):
        list(Netlist("top", ("a", "b"), instances=pair).cells())


def test_cell_names_are_legal():
    assert cell_name("mixers[0].inputs") == "mixers0_inputs"
    assert cell_name("['Äpfel'].Q") == "pfel_q"
    assert cell_name("") == "cell"
