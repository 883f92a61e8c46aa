"""Benches of rings, columns and converters: their arithmetic, and a run of each."""

import numpy as np
import pytest

from evals.characterize import corner, mac, mac_sweep, mismatch, sar
from evals.characterize.card import load_card
from evals.characterize.cell import Cell, Waves, inlined
from evals.characterize.mac_noise import column_noise
from evals.characterize.ring_benches import tuned_F
from evals.characterize.sar_benches import all_codes, linearity
from physnn.export import columns, rings
from physnn.export.sar import comparator, standard_array
from physnn.export.spice import write_cell
from physnn.pdk import load_pdk
from physnn.process import load_process

CARD, SKY130 = load_card("sky130"), load_process("sky130")
OPEN_LOOP = mac.open_loop()


def sampled(rng, n=2000):
    time = np.sort(rng.uniform(0, 10, n))
    return Waves(time, {"v": np.sin(2 * np.pi * time)})


def test_crossings_are_exact_between_coarse_points():
    rng = np.random.default_rng(0)
    rises = sampled(rng).rising("v", 0.5)
    assert len(rises) == 10
    # A line between points 5e-3 cycles apart is off by 1e-5 there; the cubic is not.
    assert np.abs(rises - np.arange(10) - 1 / 12).max() < 1e-6
    assert sampled(rng).mean("v", 1.0, 1.5) == pytest.approx(2 / np.pi, rel=2e-3)


def test_inlined_calls_are_those_of_the_wrappers():
    pdk = load_pdk("sky130")
    text = inlined(write_cell(columns.transmission_gate()), pdk)
    assert "dev_" not in text
    assert "width_m" not in text
    assert "xm_p a off b vdd sky130_fd_pr__pfet_01v8\n+ w=0.84 l=0.15" in text
    assert "ad=0.2436 as=0.2436 pd=2.26 ps=2.26 m=1 mult=1" in text
    unit = inlined("x_1 a b dev_mim width_m=1e-06 length_m=1e-06 multiple=3", pdk)
    assert unit == "x_1 a b sky130_fd_pr__cap_mim_m3_1\n+ w=1 l=1 m=3 mult=3"
    # What a subcircuit is called with is left to the wrapper.
    free = "x_1 d g s b dev_nmos width_m={w} length_m=1e-06 multiple=1"
    assert inlined(free, pdk) == free


def test_corners_are_all_of_them_and_limits_hold_what_was_seen():
    assert len(list(corner.points())) == 45
    assert len(list(corner.points(full=False))) == 25
    speed = {"ff": 1.2, "ss": 0.8}
    rows = corner.matrix(lambda point: {"f": speed.get(point.corner, 1.0)})
    sheet = corner.datasheet(rows)
    assert sheet["f"] == pytest.approx({"min": 0.7, "typ": 1.0, "max": 1.3})
    assert corner.outside(rows, sheet) == []
    assert corner.margin(rows, sheet)["f"] == pytest.approx(1 / corner.GUARD)
    worse = [(point, {"f": 1.5 * found["f"]}) for point, found in rows]
    assert len(corner.outside(worse, sheet)) == 36
    assert "f is 1.8 at ff, -40 C" in corner.outside(worse, sheet)[9]


@pytest.mark.parametrize("shift", [-0.02, -1e-6, 0.015])
def test_tuning_capacitance_moves_the_frequency_by_what_was_asked(shift):
    a, b = CARD["ring"]["tuning"]
    farad = tuned_F((a, b), shift)
    assert a * farad + b * farad**2 == pytest.approx(shift, rel=1e-9)
    # Of the two solutions the one that vanishes with the shift.
    assert abs(farad) < 1.1 * abs(shift / a)


def test_linearity_finds_the_bit_that_is_off():
    codes = all_codes(4)
    assert linearity(codes @ np.array([8.0, 4, 2, 1])) == pytest.approx(
        (0, 0), abs=1e-12
    )
    inl, dnl = linearity(codes @ np.array([8.0, 4, 2, 1.5]))
    step = 15.5 / 15
    assert dnl == pytest.approx(1 - 0.5 / step)
    assert inl == pytest.approx(1.5 / step - 1, abs=0.1)


def test_laws_of_spread_are_those_of_independent_units():
    rng = np.random.default_rng(1)
    sigma = SKY130.spread("capacitor", mac.model(SKY130).weight.area_m2)
    n, k = 20_000, np.abs(columns.UNITS)
    kf = columns.FEEDBACK_UNITS
    ratio = lambda: (
        (k + sigma * np.sqrt(k) * rng.normal(size=(n, len(k))))
        / (kf + sigma * np.sqrt(kf) * rng.normal(size=(n, 1)))
    )
    drawn = ((ratio() + ratio()) / 2).std(axis=0)
    np.testing.assert_allclose(drawn, mac.drawn_sigmas(SKY130), rtol=0.03)
    units = 2.0 ** np.arange(6, -1, -1)
    unit = SKY130.spread("capacitor", 2 * mac.model(SKY130).weight.area_m2 / 2)
    arrays = units + unit * np.sqrt(units) * rng.normal(size=(n, 7))
    shares = arrays / arrays.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares.std(axis=0), sar.law_sigmas(SKY130), rtol=0.03)


def test_samples_of_the_model_have_the_spread_of_the_law():
    for device in CARD["mismatch"]["devices"]:
        sample = mismatch.of_model(SKY130, device)
        law = mismatch.law_sigma(
            SKY130, device["kind"], device["width_m"], device["length_m"]
        )
        # 300 of them know it to 4 %.
        assert sample.std(ddof=1) == pytest.approx(law, rel=0.12)
        assert device["law_sigma"] == pytest.approx(law, rel=1e-5)


def test_card_states_what_a_price_was_compared_with():
    for cell in ("ring", "mac", "sar"):
        for row in CARD[cell]["supply"]:
            assert row["measured_C"] > 0
            assert row["analytic_C"] > 0
    prices = mac.prices(SKY130)
    known = {row["what"]: row for row in CARD["mac"]["supply"]}
    for cause, price in prices.items():
        assert known[cause]["analytic_C"] == pytest.approx(price, rel=1e-4, abs=0)


def test_process_card_holds_the_excess_that_the_column_measured():
    low, nominal, high = SKY130.amplifier_excess
    found, sheet = CARD["mac"], CARD["mac"]["datasheet"]["amplifier_excess"]
    assert found["amplifier_excess"] == pytest.approx(nominal, rel=0.05)
    assert (low, high) == pytest.approx((sheet["min"], sheet["max"]), rel=0.05)
    # It settles as far as the price assumes, and its noise is within the law.
    assert found["settling_error"] < 2**-9
    assert found["noise"]["rms"] < found["noise"]["law_rms"]
    # Without a drawn amplifier of its own a node is expected to do no better than this
    # one at the speed that a billed token asks for.
    fastest = min(CARD["mac_sweep"]["slots"], key=lambda slot: slot["slot_s"])
    assert fastest["slot_s"] == pytest.approx(1e-6 / 26, rel=0.02)
    for name in ("cmos65", "cmos28", "cmos16", "cmos7", "sg13g2"):
        other = load_process(name).amplifier_excess
        assert other.nominal == pytest.approx(fastest["excess_waiting"], rel=0.01)
        assert other.low == 1 < nominal < other.nominal < other.high == 25


@pytest.mark.needs_ngspice
def test_column_of_transistors_multiplies(sky130_models):
    xs = np.zeros((3, len(columns.UNITS)))
    xs[1], xs[2, 1] = 0.5, -0.8
    found = mac.measure(
        mac.column_cell(), xs, sky130_models, swing_V=mac.SWING_V, token_s=1e-6
    )
    wanted = xs @ np.asarray(columns.UNITS) / columns.FEEDBACK_UNITS
    np.testing.assert_allclose(found.y, wanted, atol=2e-3)
    assert found.charge_C["amplifiers"] > found.charge_C["switches"] > 0
    # The bias works for the first half of a slot, the amplifiers a little later; in the
    # rest of the token nothing flows.
    current = lambda start, stop: (
        -found.waves.mean("i(v_vdda)", start * mac.SLOT_S, stop * mac.SLOT_S)
    )
    bias, works = current(0.15, 0.95 * mac.ON[0]), current(*mac.ON)
    assert bias == pytest.approx(columns.STANDARD.reference_A, rel=0.2)
    assert works > 5 * bias
    assert abs(current(1.1, 4.0)) < 0.01 * bias


@pytest.mark.needs_ngspice
def test_a_heavy_column_has_the_gain_of_its_model(sky130_models):
    row = mac_sweep.of_column(sky130_models, SKY130, (7, -7) * 4, OPEN_LOOP)
    assert row["gain"] == pytest.approx(1.0, abs=3e-3)
    # As many units of feedback as asked for would leave 0.90.
    assert 6.5 < row["feedback_drawn"] < 7.5


def test_every_slot_and_column_of_the_card_settles_with_the_gain_of_its_model():
    table = CARD["mac_sweep"]
    assert all(row["left_to_settle"] < 2**-9 for row in table["slots"])
    assert all(abs(row["gain"] - 1) < 5e-3 for row in table["columns"])
    # Drawn by their law, the gain that they miss gives the amplifier back.
    for row in table["columns"]:
        units = round(row["ratio"] * columns.FEEDBACK_UNITS)
        drawn = columns.drawn_feedback((units,), columns.FEEDBACK_UNITS, OPEN_LOOP)
        assert row["feedback_drawn"] == pytest.approx(drawn, rel=1e-3)
    # Waiting costs little, however long: the bias stops with the amplifiers.
    assert all(row["excess_waiting"] < 1.15 * row["excess"] for row in table["slots"])
    assert table["wake_tokens"] <= mac.WARM


def test_units_of_a_ratio_are_drawable_weights_of_both_signs():
    units = mac_sweep.units_of(13.53, OPEN_LOOP)
    assert sum(map(abs, units)) == round(13.53 * columns.FEEDBACK_UNITS)
    assert max(map(abs, units)) == 7
    assert abs(sum(units)) <= 7
    with pytest.raises(ValueError, match="split the column"):
        mac_sweep.units_of(1e12, OPEN_LOOP)


def test_column_in_38_ns_works_at_corners_and_on_chips():
    table = CARD["mac_fast"]
    rows = {(row["corner"], row["temperature_C"]): row for row in table["corners"]}
    assert len(rows) == 9
    nominal = rows["tt", 27.0]
    slot = CARD["mac_sweep"]["slots"][-1]
    assert table["slot_s"] == slot["slot_s"]
    for key in ("gain", "left_to_settle"):
        assert nominal[key] == pytest.approx(slot[key], rel=0.1)
    assert table["chips"]["left_to_settle_median"] < 2**-9


@pytest.mark.needs_ngspice
def test_noise_of_a_column_is_that_of_the_card(sky130_models):
    card, cell = CARD["mac"], mac.column_cell()
    found = column_noise(
        cell, SKY130, sky130_models, swing_V=mac.SWING_V, gain=card["gain"]
    )
    assert found["rms"] == pytest.approx(card["noise"]["rms"], rel=0.02)
    # kT/C of both halves, full scale being twice the swing.
    units = sum(map(abs, columns.UNITS)) + columns.FEEDBACK_UNITS
    feedback_F = columns.FEEDBACK_UNITS * SKY130.capacitor_min_F
    sampled = 2 * 1.380649e-23 * 300.15 * units * SKY130.capacitor_min_F
    expected = np.sqrt(sampled) / feedback_F / (2 * mac.SWING_V)
    assert found["sampling"] == pytest.approx(expected, rel=1e-6, abs=0)


@pytest.mark.needs_ngspice
def test_comparator_decides_by_sign_and_slower_for_less(sky130_models):
    found = sar.decide(Cell.of(comparator()), np.array([10e-3, -1e-3]), sky130_models)
    assert found.sign.tolist() == [1, -1]
    assert found.delay_s[0] == pytest.approx(CARD["sar"]["delay_s"], rel=0.02)
    assert found.delay_s[0] < found.delay_s[1]


@pytest.mark.needs_ngspice
def test_array_weighs_in_powers_of_two(sky130_models):
    found = sar.weights(Cell.of(standard_array()), sky130_models, 7)[:, 0]
    np.testing.assert_allclose(found, 2.0 ** np.arange(6, -1, -1) / 127, rtol=2e-3)


@pytest.mark.needs_ngspice
def test_refuses_a_ring_that_rests(sky130_models):
    # Half the threshold as supply: nothing runs within the longest period looked for.
    from evals.characterize.ring_benches import free_run

    cell = Cell.of(rings.standard(3))
    with pytest.raises(ValueError, match="must oscillate"):
        free_run(cell, sky130_models, guess_s=1e-10, supply_V=0.02)
