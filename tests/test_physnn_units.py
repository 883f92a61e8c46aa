"""Constants and readable numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physnn.units import readable, thermal_energy_J, thermal_voltage_V
from tests.systems import BOLTZMANN, thermal_voltage

PREFIX = {"a": -18, "f": -15, "p": -12, "n": -9, "µ": -6, "m": -3, "": 0}
PREFIX |= {"k": 3, "M": 6, "G": 9, "T": 12}


def test_thermal_voltage_at_room_temperature():
    assert thermal_voltage_V(300.0) == pytest.approx(25.85e-3, rel=1e-4)
    assert thermal_voltage_V(77.0) == pytest.approx(thermal_voltage(77.0), rel=1e-12)
    assert thermal_energy_J(300.0) == pytest.approx(300 * BOLTZMANN, rel=1e-12, abs=0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.3e-12, "1.3 pJ"),
        (-4.56e-15, "-4.56 fJ"),
        (999.9e-12, "1 nJ"),
        (0.99951, "1 J"),
        (999.4, "999 J"),
        (1e-18, "1 aJ"),
        (2e-21, "0.002 aJ"),
        (0.0, "0 J"),
        (math.inf, "inf J"),
        (math.nan, "nan J"),
    ],
)
def test_known_numbers(value, text):
    assert readable(value, "J") == text


@given(
    st.floats(min_value=1e-18, max_value=9.99e14),
    st.sampled_from([1.0, -1.0]),
    st.sampled_from(["J", "F", "s"]),
)
def test_a_readable_number_reads_back_to_three_digits(size, sign, unit):
    number, name = readable(sign * size, unit).split(" ")
    assert name.endswith(unit)
    assert "e" not in number
    assert 1 <= abs(float(number)) < 1000
    back = float(number) * 10.0 ** PREFIX[name[: -len(unit)]]
    assert back == pytest.approx(sign * size, rel=0.0051)
