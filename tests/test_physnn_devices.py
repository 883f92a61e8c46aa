"""The EKV transistor against closed forms, its fit, and cells solved with it."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnn.devices.ekv import PARAMETERS, EkvTransistor
from physnn.devices.fit import Sweep, Window, errors, fit_transistor
from physnn.devices.operating_point import drawn, operating_point
from physnn.export.netlist import GROUND, Device, Netlist
from physnn.export.transconductor import (
    LEAK_OHM,
    SENSE_OHM,
    OtaCard,
    mirror,
    ota,
    ota_twin,
    settled,
    settling_weights,
)
from physnn.units import thermal_voltage_V

U_T = thermal_voltage_V(300.15)
FULL = EkvTransistor(6e-7, 0.55, 1.4, 0.05, 0.01, 0.03, 0.1, 0.2, 0.06)
SIMPLE = EkvTransistor(6e-7, 0.5, 1.4)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def test_current_is_odd_in_drain_and_source():
    v_g, v_d, v_s = np.random.default_rng(0).uniform(0, 1.8, (3, 200))
    forward = FULL.current(v_g, v_d, v_s)
    backward = FULL.current(v_g, v_s, v_d)
    np.testing.assert_allclose(forward, -backward, rtol=1e-12)
    assert float(jnp.abs(FULL.current(v_g, v_d, v_d)).max()) == 0.0


@pytest.mark.parametrize("v_g", [0.3, 0.6, 1.2])
def test_gummel_symmetry_of_derivatives(v_g):
    # Around v_ds = 0, driven symmetrically, all even derivatives vanish and none jumps.
    current = lambda x: FULL.current(v_g, 0.3 + x / 2, 0.3 - x / 2)
    second = jax.grad(jax.grad(current))
    third = jax.grad(second)
    scale = float(jax.grad(current)(0.0))
    assert abs(float(second(0.0))) < 1e-9 * scale / U_T
    left, right = float(third(-1e-7)), float(third(1e-7))
    assert left == pytest.approx(right, rel=1e-4)


def test_weak_inversion_has_the_slope_of_the_exponential():
    gm = jax.grad(SIMPLE.current)(0.05, 1.0, 0.0)
    assert float(gm / SIMPLE.current(0.05, 1.0, 0.0)) == pytest.approx(
        1 / (1.4 * U_T), rel=2e-3
    )
    # And saturates as 1 − e^(−v_ds/U_T).
    ratio = SIMPLE.current(0.05, 0.03, 0.0) / SIMPLE.current(0.05, 1.0, 0.0)
    assert float(ratio) == pytest.approx(1 - np.exp(-0.03 / U_T), rel=1e-3)


def test_strong_inversion_is_the_square_law():
    overdrive = 1.5 - 0.5
    expected = 6e-7 * (overdrive / 1.4 / (2 * U_T)) ** 2
    assert float(SIMPLE.current(1.5, 1.8, 0.0)) == pytest.approx(expected, rel=1e-3)


def test_pmos_is_the_mirrored_nmos():
    p = EkvTransistor(**FULL.values(), polarity=-1)
    np.testing.assert_allclose(
        p.current(-1.0, -0.8, -0.1), -FULL.current(1.0, 0.8, 0.1), rtol=1e-14
    )


def test_gradients_are_finite_everywhere():
    names = [name for name in PARAMETERS]
    v = jnp.linspace(0, 1.8, 7)
    v_g, v_d, v_s = (a.ravel() for a in jnp.meshgrid(v, v, v))

    def total(values):
        transistor = EkvTransistor(**dict(zip(names, values, strict=True)))
        return transistor.current(v_g, v_d, v_s)

    slopes = jax.jacfwd(total)(jnp.asarray([FULL.values()[n] for n in names]))
    assert bool(jnp.isfinite(slopes).all())


def test_a_transistor_is_n_or_p():
    with pytest.raises(ValueError, match="`polarity` must be 1"):
        EkvTransistor(1e-7, 0.5, 1.4, polarity=2)


def _sweep(transistor: EkvTransistor, step=0.1) -> Sweep:
    v = np.arange(0, 1.801, step)
    v_s, v_ds, v_gs = (a.ravel() for a in np.meshgrid([0, 0.3], v, v, indexing="ij"))
    sign = transistor.polarity
    volts = [sign * a for a in (v_gs + v_s, v_ds + v_s, v_s)]
    current = np.asarray(transistor.current(*volts))
    return Sweep(volts[0], volts[1], volts[2], current, 1e-6, 1e-6, sign)


@pytest.mark.parametrize("polarity", [1, -1])
def test_a_fit_recovers_the_curve_it_was_drawn_from(polarity):
    values = FULL.values() | ({"saturation": 0.0} if polarity < 0 else {})
    sweep = _sweep(EkvTransistor(**values, polarity=polarity))
    fit = fit_transistor(sweep, Window("all", 1e-9))
    assert fit.error_rms < 0.002
    assert fit.gm_error_rms < 0.005
    assert fit.transistor.threshold_V == pytest.approx(0.55, abs=0.01)
    assert fit.covariance.shape == (len(fit.free),) * 2
    assert np.linalg.eigvalsh(fit.covariance).min() > 0


def test_a_window_decides_what_is_fitted_and_where_errors_are_taken():
    sweep = _sweep(FULL)
    window = Window("strong", 1e-6, drop_V=0.2, bulk_V=0.0)
    inside = sweep.inside(window)
    assert inside.any()
    assert sweep.current_A[inside].min() >= 1e-6
    assert (sweep.v_d - sweep.v_s)[inside].min() >= 0.2 - 1e-6
    assert (sweep.v_s[inside] == 0).all()
    rms, largest, gm = errors(FULL, sweep, inside)
    assert max(rms, largest, gm) < 1e-9
    off = eqx.tree_at(lambda t: t.specific_current_A, FULL, 6.6e-7)
    assert errors(off, sweep, inside)[0] == pytest.approx(0.1, rel=1e-6)


def test_a_fit_needs_points():
    with pytest.raises(ValueError, match="needs at least 27 currents"):
        fit_transistor(_sweep(FULL, 0.6), Window("weak", 1e-9, 1e-8))


def test_operating_point_of_a_divider_of_equal_transistors_is_the_middle():
    sizes = {"width_m": 1e-6, "length_m": 1e-6, "multiple": 1}
    # Source and drain of both at the same gate: equal devices, opposite ends.
    resistor = {"resistance_ohm": 1e5}
    cell = Netlist(
        "divider",
        ("a", "b", "g"),
        (
            Device("top", "nmos", ("a", "g", "m", GROUND), sizes),
            Device("bottom", "resistor", ("m", "b"), resistor),
        ),
    )
    cards = {drawn("nmos", 1e-6, 1e-6): FULL}
    a = np.asarray([0.5, 1.0])
    point = operating_point(cell, cards, {"a": a, "b": 0.0, "g": 1.5})
    through = np.asarray(FULL.current(1.5, a, point.volts["m"]))
    np.testing.assert_allclose(through, point.volts["m"] / 1e5, rtol=1e-6)
    np.testing.assert_allclose(point.currents["a"], -point.currents["b"], rtol=1e-6)


def test_operating_point_of_an_ota_is_balanced_and_saturates_at_its_tail():
    n, p = FULL, EkvTransistor(3e-7, 0.45, 1.8, polarity=-1)
    cards = {
        drawn("nmos", 4e-6, 1e-6): n,
        drawn("nmos", 2e-6, 2e-6): n,
        drawn("pmos_lvt", 2e-6, 2e-6): p,
    }
    bias = operating_point(mirror(), cards, {"vss": 0.0}, pushed_A={"bias": 2e-6})
    v_in = np.asarray([-0.4, 0.0, 0.4])
    forced = {"inp": 0.9 + v_in / 2, "inn": 0.9 - v_in / 2, "out": 0.9, "vss": 0.0}
    forced |= {"bias": float(bias.volts["bias"]), "vdd": 1.8}
    point = operating_point(ota(), cards, forced)
    i_out = -point.currents["out"]
    assert i_out[2] == pytest.approx(2e-6, rel=0.08)
    assert i_out[0] == pytest.approx(-2e-6, rel=0.08)
    assert abs(i_out[1]) < 0.05 * 2e-6
    np.testing.assert_allclose(
        sum(point.currents[net] for net in ("vdd", "vss", "out")), 0.0, atol=1e-11
    )


def test_operating_point_says_what_has_no_card():
    with pytest.raises(ValueError, match="must have a card"):
        operating_point(mirror(), {}, {"vss": 0.0}, pushed_A={"bias": 1e-6})
    card = OtaCard(2e-6, 0.1, 0.0, 0.0, 0.0, 0.9, 2e-6)
    with pytest.raises(ValueError, match="is a current"):
        operating_point(ota_twin(card), {}, {"vss": 0.0})


def test_twin_has_the_ports_of_the_cell_and_the_slope_of_its_card():
    card = OtaCard(2e-6, 0.1, 1e-3, 1e-9, 1e-7, 0.9, 2e-6)
    assert ota_twin(card).ports == ota().ports
    around = card.current(np.asarray([1e-3 - 1e-6, 1e-3 + 1e-6]), 0.9)
    assert np.diff(around)[0] / 2e-6 == pytest.approx(card.gm_S, rel=1e-6)
    shift = card.current(0.0, 1.0) - card.current(0.0, 0.9)
    assert float(shift) == pytest.approx(-1e-8, rel=1e-6)


def test_settled_is_a_fixed_point():
    card = OtaCard(2e-6, 0.1, 0.0, 0.0, 2e-7, 0.9, 2e-6)
    current = lambda v, a: card.current(v, 0.9 + a)
    v = settled(current)
    weights, inputs = settling_weights()
    a = np.zeros_like(v)
    for _ in range(50):
        a = SENSE_OHM * current(v, a)
    np.testing.assert_allclose(
        v, LEAK_OHM * (weights @ a / SENSE_OHM + inputs), atol=1e-9
    )
    assert 0.05 < np.abs(v).max() < 0.4
