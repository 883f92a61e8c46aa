"""Resistance of lines: against exact ladders, in numpy and in ngspice."""

import os
import re
import subprocess

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.channel import ChannelLayer
from circuits.mac import ChargeMac
from circuits.oscillator import PhaseOscillators
from circuits.oscillator_parts import RING_Q
from physnn.deploy import active_sources
from physnn.environment import Environment
from physnn.fabricate import fabricate
from physnn.lines import ChargeLines, TailLines
from physnn.variation.line import delivered, left, pitch_m, tail_S
from tests.helpers import PERIOD_S, PROCESS, error_of, member

ARRAYS = (
    "ChargeMac", "ChannelLayer", "PhaseOscillators", "StuartLandau", "SettlingNetwork",
)  # fmt: skip


def ladder(n):
    """Conductances of n cells in a row above a foot of 0 V, in units of 1/r."""
    G = np.diag(np.full(n, 2.0)) - np.eye(n, k=1) - np.eye(n, k=-1)
    G[0, 0] = 1.0  # nothing above the first
    return G


def exact_left(load, rc):
    """Voltages at time T of a ladder whose cells begin at 1 V: by its eigenvectors."""
    load = np.asarray(load, np.float64)
    root = np.sqrt(load)
    rates, modes = np.linalg.eigh(ladder(len(load)) / np.outer(root, root))
    return modes @ (np.exp(-rates / rc) * (modes.T @ root)) / root


@pytest.mark.parametrize("n", [1, 6, 48])
@pytest.mark.parametrize("taus", [1.0, 3.0, 8.0])
def test_a_charge_line_keeps_what_an_exact_ladder_keeps(n, taus):
    load = np.random.default_rng(n).uniform(0.05, 1.0, (n, 3))
    for column in load.T:
        slowest = np.linalg.eigvalsh(ladder(n) / np.sqrt(np.outer(column, column)))[0]
        rc = slowest / taus
        found = left(jnp.asarray(column[:, None], jnp.float32), jnp.float32(rc))[:, 0]
        np.testing.assert_allclose(found, exact_left(column, rc), rtol=4e-3)


@pytest.mark.needs_ngspice
def test_a_charge_line_in_ngspice(tmp_path):
    load, rc = np.asarray([1.0, 0.3, 0.7, 0.05, 0.9]), 0.15
    cells = range(len(load))
    deck = [
        "* a column of capacitors that begin at 1 V",
        *(
            f"C{k} n{k} 0 {c * 1e-12 * rc} ic=1"
            for k, c in zip(cells, load, strict=True)
        ),
        *(f"R{k} n{k} {f'n{k + 1}' if k + 1 < len(load) else 0} 1k" for k in cells),
        ".tran 1p 1.01n 0 1p uic",
        *(f".meas tran v{k} find v(n{k}) at=1n" for k in cells),
        ".end",
    ]
    (tmp_path / "deck.sp").write_text("\n".join(deck))
    done = subprocess.run(
        ["ngspice", "-b", "deck.sp"],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    rows = dict(re.findall(r"^v(\d) +=  *(\S+)", done.stdout, re.M))
    seen = [float(rows[str(k)]) for k in cells]
    np.testing.assert_allclose(seen, exact_left(load, rc), rtol=2e-3)
    found = left(jnp.asarray(load[:, None], jnp.float32), jnp.float32(rc))[:, 0]
    np.testing.assert_allclose(found, seen, rtol=4e-3)


def test_a_cell_of_a_mac_loses_on_its_row_and_its_column():
    mac = ChargeMac(12, 7, bits=6, process=PROCESS, key=jr.key(0), settle_s=1e-9)
    bank, ohm_per_m = mac.weight, 1e9
    pitch = float(pitch_m(bank))
    assert pitch == pytest.approx(float(mac.cell_m2(PROCESS)) ** 0.5, rel=1e-6)
    w = np.asarray(bank.nominal(), np.float64)
    feedback_F = np.asarray(mac.feedback_units()) * float(mac.unit_F(PROCESS))
    cell_F = np.abs(w) * feedback_F + pitch * PROCESS.wire_F_per_m
    rc = ohm_per_m * pitch / 1e-9
    column = np.stack([exact_left(c, rc) for c in cell_F.T], axis=1)
    # A row is driven from the left: what is far from there is late.
    row = np.stack([exact_left(c[::-1], rc)[::-1] for c in cell_F])
    assert 0.1 < column.max() < 0.9
    assert np.all(np.diff(row) > 0)
    chip = fabricate(
        mac, PROCESS.matched(), key=jr.key(1),
        environment=Environment(line_ohm_per_m=ohm_per_m),
    )  # fmt: skip
    asked = w * (1 - row) * (1 - column)
    np.testing.assert_allclose(chip.weight.realized(), asked, rtol=0.01, atol=2e-3)


def test_tails_lose_what_their_return_line_rises():
    gm_per_I, r = 10.0, 200.0
    currents = np.abs(np.random.default_rng(0).normal(size=30)) * 3e-7
    rg = r * gm_per_I * currents
    share = np.asarray(delivered(jnp.asarray(rg[:, None], jnp.float32)))[:, 0]
    # Node by node: each tail is its current less g_m times the rise of its source.
    drop_V = np.linalg.solve(ladder(30) + np.diag(rg), r * currents)
    np.testing.assert_allclose(share, 1 - gm_per_I * drop_V, rtol=1e-5)
    assert share[0] < share[-1] < 1
    # To first order: the drop of the nominal currents, added up along the line.
    added_V = np.linalg.solve(ladder(30), r * currents)
    far = gm_per_I * added_V[0]
    assert 0.05 < far < 0.2
    assert abs(1 - share[0] - far) < far**2
    # A transistor in weak inversion, exponential in its drop.
    v = np.zeros(30)
    for _ in range(50):
        v = np.linalg.solve(ladder(30), r * currents * np.exp(-gm_per_I * v))
    np.testing.assert_allclose(share, np.exp(-gm_per_I * v), atol=far**2 / 2)


def test_tails_carry_the_current_that_is_billed():
    layer = ChannelLayer(20, 6, bits=5, key=jr.key(0), integrate_s=0.4e-6)
    gm_per_I = PROCESS.operating["gm_per_I"]
    # F·I_u for the time moves the column by full scale.
    moved_C = layer.units * float(tail_S(layer.weight, PROCESS)) / gm_per_I * 0.4e-6
    full_C = 2 * layer.sum_F(PROCESS) * PROCESS.swing_V
    assert moved_C == pytest.approx(full_C, rel=1e-5)
    # Adler: a pull of K is ω/2Q times the ratio of the currents.
    rings = PhaseOscillators(3, period_s=PERIOD_S, key=jr.key(0))
    K, cycle_s = 0.7, PERIOD_S / rings.cycles
    ring_A = rings.ring_F * PROCESS.supply_V / cycle_s
    injected_A = ring_A * K / PERIOD_S * 2 * RING_Q / (2 * np.pi / cycle_s)
    found = K * float(tail_S(rings.couplings[0], PROCESS)) / gm_per_I
    assert found == pytest.approx(injected_A, rel=1e-6)


@pytest.mark.parametrize("name", ARRAYS)
def test_every_array_honors_its_lines_and_none_is_the_design(name):
    # Charge of a few cells has settled long before its time.
    ohm_per_m = 2e10 if name == "ChargeMac" else 1e8
    resistive = Environment(line_ohm_per_m=ohm_per_m)
    found = active_sources(member(name), PROCESS, resistive, strict=False)
    (source,) = [each for each in found if each.name == "line_ohm_per_m"]
    assert source.acts_on
    at = eqx.filter_jit(
        lambda e: fabricate(
            member(name), PROCESS.matched(), key=jr.key(0), environment=e
        )
    )
    banks = lambda chip: [
        bank for bank in jax.tree.leaves(chip, is_leaf=lambda b: hasattr(b, "lines"))
        if getattr(bank, "lines", None)
    ]  # fmt: skip
    for none, some in zip(
        banks(at(resistive.replace(line_ohm_per_m=0.0).traced("line_ohm_per_m"))),
        banks(at(resistive.traced("line_ohm_per_m"))),
        strict=True,
    ):
        assert np.all(error_of(none) == 0)
        held, asked = np.asarray(some.realized()), np.asarray(some.nominal())
        # What is there gets smaller, never another sign, the more the further away.
        assert np.all(np.abs(held) <= np.abs(asked))
        assert np.all(held * asked >= 0)
        share = held[asked != 0] / asked[asked != 0]
        assert np.all(share < 1)
        assert np.all(share > 0.1)


def test_a_gradient_passes_to_the_resistance_also_at_none():
    arrays = [member(name) for name in ("ChargeMac", "ChannelLayer")]

    def lost(ohm_per_m):
        environment = Environment(line_ohm_per_m=ohm_per_m)
        total = 0.0
        for design in arrays:
            chip = fabricate(design, PROCESS, key=jr.key(0), environment=environment)
            error = chip.weight.error
            total += jnp.sum(error * jnp.sign(chip.weight.value))
        return total

    slope = jax.jit(jax.grad(lost))
    assert np.isfinite(slope(0.0))
    at = 3e8
    quotient = (lost(1.01 * at) - lost(0.99 * at)) / (0.02 * at)
    assert slope(at) == pytest.approx(float(quotient), rel=0.02)
    assert slope(at) < 0


def test_lines_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="`settle_s` must be positive and finite"):
        ChargeLines(0.0, 0.3e-12)
    with pytest.raises(ValueError, match="`share` must be positive and finite"):
        TailLines((1.0, -1.0), 1e-15, 1e-6, "swing")
