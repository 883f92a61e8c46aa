"""Drawn rings, columns and converter cells: what they are made of, and their twins."""

import csv
import re

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.mac import ChargeMac
from evals.characterize.card import load_card
from evals.simulate import simulate
from physnn.export import columns, drawn_twins, rings, sar
from physnn.export.feedback import column_table, unit_F
from physnn.export.spice import forbidden, write_cell
from physnn.pdk import load_pdk
from physnn.process import load_process

CARD = load_card("sky130")
SKY130 = load_process("sky130")
OPEN_LOOP = columns.OpenLoop.of(CARD)
CELLS = (
    rings.standard(),
    columns.standard(open_loop=OPEN_LOOP),
    sar.comparator(),
    sar.standard_array(),
    columns.reference(),
)


def twins():
    ring, column, comparator, array, reference = CELLS
    return (
        drawn_twins.ring(ring, CARD["ring"]["frequency_Hz"]),
        drawn_twins.column(column, columns.UNITS, CARD["mac"]),
        drawn_twins.comparator(comparator),
        drawn_twins.array(array, sar.ARRAY_BITS),
        drawn_twins.reference(reference, CARD["mac"]),
    )


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_cells_are_drawn_within_the_process_and_pass_the_filter(cell):
    load_pdk("sky130").check(cell)
    for part in cell.cells():
        assert forbidden(write_cell(part)) is None
    assert "vss" in cell.ports
    assert "vdd" in cell.ports


@pytest.mark.parametrize(
    ("cell", "twin"), list(zip(CELLS, twins(), strict=True)), ids=lambda cell: cell.name
)
def test_twins_have_the_names_and_ports_of_the_cells(cell, twin):
    assert (twin.name, twin.ports) == (cell.name, cell.ports)
    assert not any(twin.count(kind) for kind in ("nmos", "pmos", "mim"))
    assert forbidden(write_cell(twin)) is None


def test_ring_has_two_transistors_a_stage():
    ring = rings.standard(3)
    assert ring.count("nmos") == ring.count("pmos") == 3
    assert rings.gate_area_m2(ring) == pytest.approx(
        3 * 3e-6 * 0.15e-6, rel=1e-9, abs=0
    )
    with pytest.raises(ValueError, match="odd"):
        rings.standard(4)


def test_column_has_its_units_and_the_order_of_nets_is_the_sign():
    cell = CELLS[1]
    units = {i.name: i for i in cell.instances if i.name.startswith("w")}
    for k, (name, instance) in zip(columns.UNITS, units.items(), strict=True):
        drawn = [d for d in instance.cell.devices if d.kind == "mim"]
        assert [d.parameters["multiple"] for d in drawn] == [abs(k)] * 2
        plus = f"x{name[1:]}{'p' if k > 0 else 'n'}"
        assert instance.nets[0] == plus


@pytest.mark.parametrize("units", [(1, -1), columns.UNITS, (7, -7) * 20])
def test_feedback_makes_up_for_the_finite_gain_of_the_amplifier(units):
    cell = columns.standard(units, feedback_units=16, open_loop=OPEN_LOOP)
    drawn = next(d for d in cell.devices if d.name == "feedback_p").parameters
    # A plate of SkyWater is 0.15 um larger than drawn.
    plate = lambda side_m: (side_m + 0.15e-6) ** 2
    feedback = drawn["multiple"] * plate(drawn["width_m"]) / plate(columns.UNIT_M)
    load = sum(map(abs, units)) + feedback + CARD["mac_sweep"]["gate_units"]
    gain = CARD["mac_sweep"]["open_gain"]
    assert feedback + load / gain == pytest.approx(16, rel=1e-9)
    # Never smaller than the smallest that can be drawn.
    assert float(drawn["width_m"]) >= columns.UNIT_M


def _rows(mac, card=CARD):
    text = column_table((mac,), SKY130, card)
    assert text is not None
    return list(csv.DictReader(text.decode().splitlines()))


def test_every_column_of_a_design_lists_the_feedback_that_gives_its_ratio():
    mac = ChargeMac(20, 3, bits=4, process=SKY130, key=jr.key(0))
    mac = eqx.tree_at(lambda m: m.offset.value, mac, jnp.array([0.0, 0.5, -0.5]))
    rows = _rows(mac)
    ratios = np.abs(np.asarray(mac.weight.realized())).sum(0)
    ratios = ratios + np.array([0.0, 0.5, 0.5])
    gates_F = CARD["mac_sweep"]["gate_units"] * unit_F(CARD)
    assert unit_F(CARD) == pytest.approx(SKY130.capacitor_min_F, rel=0.01)
    for row, ratio, units in zip(rows, ratios, mac.feedback_units(), strict=True):
        total, wanted, drawn = (
            float(row[key]) for key in ("weights_F", "feedback_F", "feedback_drawn_F")
        )
        assert wanted == pytest.approx(float(units) * SKY130.capacitor_min_F, rel=1e-6)
        assert float(row["ratio"]) == pytest.approx(ratio, rel=1e-6)
        # What a column with this amplifier and feedback really gives.
        lost = (total + drawn + gates_F) / CARD["mac_sweep"]["open_gain"]
        assert total / (drawn + lost) == pytest.approx(ratio, rel=1e-6)


def test_a_column_that_no_feedback_can_make_right_has_none():
    mac = ChargeMac(20, 1, bits=4, process=SKY130, key=jr.key(0))
    weak = CARD | {"mac_sweep": CARD["mac_sweep"] | {"open_gain": 2.0}}
    assert [row["feedback_drawn_F"] for row in _rows(mac, weak)] == [""]
    assert column_table((rings,), SKY130, CARD) is None


def test_a_column_too_heavy_for_its_amplifier_is_refused():
    with pytest.raises(ValueError, match="split the column"):
        columns.standard((7,) * 100, open_loop=OPEN_LOOP)
    with pytest.raises(ValueError, match="split the column"):
        columns.standard((1,), feedback_units=0, open_loop=OPEN_LOOP)


def test_array_is_binary_and_full():
    drawn = [d.parameters["multiple"] for d in CELLS[3].devices if d.kind == "mim"]
    assert sorted(drawn) == [1, 1, 2, 4, 8, 16, 32, 64]


@pytest.mark.needs_ngspice
def test_twins_run_ring_decides_column_multiplies():
    ring, column, comparator, array, _ = twins()
    files = {f"{t.name}.spice": write_cell(t) for t in twins()}
    f = CARD["ring"]["frequency_Hz"]
    nets = " ".join("0" if p == "vss" else p for p in ring.ports)
    x = np.linspace(-0.2, 0.2, len(columns.UNITS))
    sides = {
        f"x{i}{h}": s * v for i, v in enumerate(x) for h, s in (("p", 1), ("n", -1))
    }
    wired = {"ref": "ref", "yp": "yp", "yn": "yn", "vss": "0"}
    column_nets = " ".join(
        p if p in sides else wired.get(p, "vdd") for p in column.ports
    )
    lines = ["* twins", *(f".include {name}" for name in files), "v_vdd vdd 0 1.8"]
    lines += ["v_ref ref 0 0.9", "v_a inp 0 0.901", "v_b inn 0 0.9"]
    lines += [f"v_{n} {n} 0 {0.9 + 0.8 * v}" for n, v in sides.items()]
    lines += [f"x_r {nets} ring5", f"x_m {column_nets} mac_column"]
    names = {"clk": "vdd", "vdd": "vdd", "vss": "0"}
    lines.append(
        f"x_c {' '.join(names.get(p, p) for p in comparator.ports)} sar_comparator"
    )
    bits = {"b0": "vdd", "b1": "vdd", "ref": "ref", "top": "top", "vdd": "vdd"}
    lines.append(f"x_s {' '.join(bits.get(p, '0') for p in array.ports)} sar_array")
    stop = 40 / f
    lines += [".control", f"tran {stop / 8000} {stop} 0 {stop / 8000} uic"]
    for name, at in (("t1", 10), ("t2", 30)):
        lines.append(f"meas tran {name} when v(n0)=0.9 rise={at}")
    for name, net in (("yp", "yp"), ("outp", "outp"), ("outn", "outn"), ("top", "top")):
        lines.append(f"meas tran m_{name} find v({net}) at={stop / 2}")
    for name in ("t1", "t2", "m_yp", "m_outp", "m_outn", "m_top"):
        lines.append(f'echo "RESULT {name} $&{name}"')
    lines += [".endc", ".end"]
    found = simulate("\n".join(lines) + "\n", files=files).results
    assert 20 / (found["t2"] - found["t1"]) == pytest.approx(f, rel=0.01)
    y = (
        CARD["mac"]["gain"]
        * float(x @ np.asarray(columns.UNITS))
        / columns.FEEDBACK_UNITS
    )
    assert found["m_yp"] == pytest.approx(0.9 + 0.8 * y, abs=1e-3)
    assert found["m_outp"] > 1.7
    assert found["m_outn"] < 0.1
    # Half and a quarter of the supply, from a reset at half of it.
    assert found["m_top"] == pytest.approx(0.9 + 1.8 * 0.25, abs=1e-6)


def test_cells_name_no_device_of_any_process():
    text = "".join(write_cell(part) for cell in CELLS for part in cell.cells())
    assert set(re.findall(r"dev_\w+", text)) == {"dev_nmos", "dev_pmos", "dev_mim"}
