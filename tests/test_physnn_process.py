"""Processes: physics of the operating point, and files that are refused."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

from physnn.configs import find_config
from physnn.process import MOVED, TABLES, Excess, Process, load_process
from tests.helpers import PROCESS
from tests.systems import differential_pair, ktc_variance

TEXT = find_config("processes", "cmos28").read_text()


def test_thermal_variance_is_kt_over_c():
    for capacitance_F in (0.3e-15, 1e-12):
        expected = ktc_variance(
            capacitance_F,
            temperature_K=PROCESS.temperature_K,
            swing_V=PROCESS.swing_V,
            excess=PROCESS.thermal_noise,
        )
        np.testing.assert_allclose(PROCESS.thermal_variance(capacitance_F), expected)
        # In float32 as well, where (k_B·T)² would be zero.
        single = PROCESS.thermal_variance(jnp.float32(capacitance_F))
        np.testing.assert_allclose(single, expected, rtol=1e-6)
    # 64 µV on a picofarad at room temperature, the number every designer knows.
    plain = dataclasses.replace(PROCESS, thermal_noise=1.0)
    rms_V = plain.thermal_variance(1e-12) ** 0.5 * plain.swing_V
    np.testing.assert_allclose(rms_V, 64.4e-6, rtol=1e-3)
    np.testing.assert_allclose(
        PROCESS.thermal_variance(1e-12, gain=3.0), 9 * PROCESS.thermal_variance(1e-12)
    )


def test_linear_range_is_that_of_a_differential_pair():
    x = np.linspace(-1, 1, 11)
    expected = differential_pair(
        x * PROCESS.swing_V,
        slope_factor=PROCESS.slope_factor,
        temperature_K=PROCESS.temperature_K,
    )
    np.testing.assert_allclose(
        np.tanh(x / PROCESS.linear_range()), expected, rtol=1e-12
    )


def test_settling_charge_is_bias_times_nine_halvings():
    # Over any time t the bias I settles C to 2^-9 when g_m·t/C = 9·ln 2.
    load_F, t = 20e-15, 1e-8
    gm = 9 * np.log(2) * load_F / t
    bias_A = gm * PROCESS.slope_factor * 1.380649e-23 * 300 / 1.602176634e-19
    np.testing.assert_allclose(
        PROCESS.settling_charge_C(load_F), bias_A * t, rtol=1e-12
    )


def test_an_excess_rises_from_low_to_high():
    for wrong in (Excess(2.0, 1.0, 3.0), Excess(1.0, 3.0, 2.0)):
        with pytest.raises(ValueError, match="must rise from low over nominal"):
            dataclasses.replace(PROCESS, amplifier_excess=wrong)
    with pytest.raises(ValueError, match=r"`amplifier_excess\.low` of process"):
        dataclasses.replace(PROCESS, amplifier_excess=Excess(0.0, 1.0, 2.0))


def test_noise_and_mismatch_are_switched_off_apart():
    quiet, equal = PROCESS.noiseless(), PROCESS.matched()
    assert (quiet.thermal_noise, quiet.shot_noise) == (0, 0)
    assert quiet.matching == PROCESS.matching
    assert equal.thermal_noise == PROCESS.thermal_noise == PROCESS.shot_noise
    assert equal.matching == dict.fromkeys(PROCESS.matching, 0.0)
    assert PROCESS.thermal_noise > 0
    assert all(PROCESS.matching.values())


def test_every_number_of_the_shipped_process_has_a_source():
    numbers = {field.name for field in dataclasses.fields(Process)}
    numbers -= {"name", "sources", "shot_noise", *TABLES, *MOVED}
    for table in TABLES:
        numbers |= {f"{table}.{key}" for key in getattr(PROCESS, table)}
    assert set(PROCESS.sources) == numbers
    assert all(PROCESS.sources.values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("supply_V", 0.0),
        ("temperature_K", -300.0),
        ("swing_V", float("nan")),
        ("slope_factor", 0.0),
        ("thermal_noise", -1.0),
        ("capacitor_min_F", -1e-15),
        ("capacitor_density_F_per_m2", 0.0),
        ("wire_F_per_m", -1e-10),
        ("switch_gate_F", float("inf")),
        ("node_leakage_S", -1e-12),
    ],
)
def test_an_impossible_amount_is_refused(name, value):
    message = f"`{name}` of process `cmos28` must be .*, but is {value}"
    with pytest.raises(ValueError, match=re.escape(f"`{name}`")) as caught:
        dataclasses.replace(PROCESS, **{name: value})
    assert re.search(message, str(caught.value))


@pytest.mark.parametrize(
    "name",
    ["thermal_noise", "wire_F_per_m", "switch_gate_F", "node_leakage_S"],
)
def test_what_may_be_zero_is(name):
    assert getattr(dataclasses.replace(PROCESS, **{name: 0.0}), name) == 0


SUPPLY = '[supply_V]\nvalue = 0.9\nsource = "nominal core supply of 28 nm CMOS"\n'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (SUPPLY, "", "must hold exactly .* but `supply_V` is missing"),
        (SUPPLY, SUPPLY.replace("_V]", "_v]"), "but `supply_V` is missing"),
        (SUPPLY, SUPPLY + "[supplyy]\nvalue = 1\n", "but `supplyy` is not known"),
        ('source = "room temperature"', "", "`temperature_K` must have a `source`"),
        ('source = "room temperature"', 'source = ""', "must have a `source`"),
        ("value = 0.9", 'value = "0.9"', "`supply_V` must have a numeric `value`"),
        ("value = 0.9", "value = true", "`supply_V` must have a numeric `value`"),
        (
            "value = 0.9",
            "value = -0.9",
            "`supply_V` .* must be .* positive, but is -0.9",
        ),
        ("value = 1e-8", "value = -1e-8", "`matching.capacitor` .* not negative"),
        ("value = 0.9", "value =", "must be a TOML file, but"),
        ("[matching.capacitor]", "[matching]", "must have a `source`"),
        ("[operating.gm_per_I]", "[operating.gm]", r"\[operating\] must hold exactly"),
        ("[ageing.spread]", "[ageing.speed]", r"\[ageing\] must hold exactly"),
        ("[environment.dead]", "[environment.ded]", "amounts .* but `ded` is none"),
        ("value = 1e-05", "value = 2.0", "`dead` must be a possible amount"),
        ("description", "#", "must begin with a `description`"),
    ],
)
def test_a_wrong_file_gets_one_sentence(tmp_path, old, new, message):
    path = tmp_path / "mine.toml"
    assert old in TEXT
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as caught:
        load_process(path)
    assert "\n" not in str(caught.value).strip()
    assert str(path) in str(caught.value) or "`mine`" in str(caught.value)


def test_matching_must_be_a_table(tmp_path):
    path = tmp_path / "mine.toml"
    head = TEXT[: TEXT.index("[matching")]
    path.write_text(head.replace("\n", "\nmatching = 3\n", 1))
    with pytest.raises(ValueError, match="`matching` must be a table, but is 3"):
        load_process(path)


def test_a_file_that_is_not_there_names_those_that_are():
    with pytest.raises(FileNotFoundError, match=r"`cmos27` must be .*'cmos28'"):
        load_process("cmos27")


def test_a_process_of_ones_own_loads(tmp_path):
    path = tmp_path / "hot.toml"
    path.write_text(TEXT.replace("value = 300", "value = 400", 1))
    hot = load_process(path)
    assert (hot.name, hot.temperature_K) == ("hot", 400.0)
    assert dataclasses.replace(hot, name="cmos28", temperature_K=300.0) == PROCESS
