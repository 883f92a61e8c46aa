"""Cells with more ports than a subcircuit of ngspice can have."""

import dataclasses

import jax.random as jr
import pytest

from circuits.mac import ChargeMac
from evals.verify import verify
from physnn.export import spice
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.export.package import export
from tests.helpers import PROCESS

PORTS = tuple(f"x{i}" for i in range(spice.MOST_PORTS + 1))
WIDE = Netlist(
    "wide",
    PORTS,
    tuple(
        Device(f"r{i}", "resistor", (port, "sum"), {"resistance_ohm": 1e3})
        for i, port in enumerate(PORTS)
    ),
)


def test_a_wide_cell_is_the_circuit_itself():
    text = spice.write_cell(WIDE)
    assert ".subckt" not in text
    assert "include this file once" in " ".join(text.replace("\n*", "").split())
    assert spice.forbidden(text) is None
    assert not spice.wide(dataclasses.replace(WIDE, ports=PORTS[:-1]))


def test_a_wide_cell_cannot_be_a_part_or_take_parameters():
    above = Netlist("above", PORTS, instances=(Instance("part", WIDE, PORTS),))
    with pytest.raises(ValueError, match="`wide` in `above` has 1001"):
        spice.write_cell(above)
    value = {"gain": Parameter(1.0, "1", "of nothing")}
    with pytest.raises(ValueError, match="with parameters must have at most 1000"):
        spice.write_cell(dataclasses.replace(WIDE, parameters=value))


@pytest.mark.needs_ngspice
def test_a_column_wider_than_that_simulates(tmp_path):
    mac = ChargeMac(502, 1, bits=4, process=PROCESS, key=jr.key(0))
    folder = export(mac, PROCESS, tmp_path / "package", provenance={})
    checks = verify(folder, gates=("B1",)).checks
    values = [check for check in checks if check.gate == "B1"]
    assert len(values) == 5
    assert all(check.status == "pass" for check in checks), checks
