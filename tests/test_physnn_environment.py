"""Environments: operating points, amounts, and which sources act."""

import math

import cattrs
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.converters import SarConverter
from circuits.oscillator import PhaseOscillators
from circuits.state_space import GatedRC
from physnn.circuit import run
from physnn.deploy import active_sources, deploy, honored
from physnn.environment import AMOUNTS, CORNERS, Environment, load_environment
from physnn.network import Chain
from physnn.process import default_environment, load_process
from tests.helpers import (
    CATALOGUE,
    PERIOD_S,
    PROCESS,
    QUIET,
    banks,
    fabricate_jit,
    member,
    physical_config,
    run_jit,
    signal,
)

OPERATING = PROCESS.operating


def test_the_default_is_what_the_process_states_and_nothing_else():
    moved = PROCESS.at(Environment())
    assert moved == PROCESS
    for name, amount in AMOUNTS.items():
        value = getattr(Environment(), name)
        stated = name in ("thermal", "shot", "mismatch")
        assert stated or value == amount.none or name == "ripple_Hz", name
        assert stated or name == "ripple_Hz" or Environment().is_none(name)


def test_ideal_is_the_design_without_noise():
    there = PROCESS.at(Environment.ideal())
    mac = member("ChargeMac")
    assert eqx.tree_equal(fabricate_jit(mac, there, key=jr.key(0)), mac)
    there_and_back = run_jit(mac, signal("ChargeMac"), process=there, key=jr.key(0))
    quiet = run_jit(mac, signal("ChargeMac"), process=QUIET, key=jr.key(1))
    np.testing.assert_array_equal(there_and_back, quiet)


def test_an_operating_point_moves_what_its_formula_says():
    e = Environment(corner="sf", capacitor=0.5, supply=0.9, temperature_K=350.0)
    p, a = PROCESS.at(e), OPERATING
    # Slow n and fast p cancel in the mean of both.
    assert p.node_leakage_S == pytest.approx(
        PROCESS.node_leakage_S * math.exp(50 / a["leakage_e_fold_K"])
    )
    assert p.supply_V == pytest.approx(0.9 * PROCESS.supply_V)
    assert (p.temperature_K, p.swing_V) == (350.0, PROCESS.swing_V)
    assert p.capacitance == pytest.approx(1 + 0.5 * a["capacitor_corner"])
    trimmed = 1 - a["trim_residue"] * 0.5 * a["capacitor_corner"]
    for rate, what in ((p.rate, "current"), (p.ring_rate, "ring")):
        after = (1 + 50 * a[f"{what}_per_K"]) * (1 - 0.1 * a[f"{what}_per_supply"])
        assert rate == pytest.approx(trimmed * after)
    # kT/C: hotter, and on a larger capacitor.
    assert p.thermal_variance(1e-15) == pytest.approx(
        PROCESS.thermal_variance(1e-15) * 350 / 300 / p.capacitance
    )
    fast = PROCESS.at(Environment(corner="ff"))
    assert fast.rate == pytest.approx(1 + a["trim_residue"] * a["current_corner"])
    assert fast.node_leakage_S == pytest.approx(
        PROCESS.node_leakage_S * math.exp(a["leakage_corner"])
    )


def test_powers_multiply_what_the_process_states():
    p = PROCESS.at(Environment(thermal=3.0, shot=5.0, mismatch=7.0))
    assert p.thermal_noise == 3 * PROCESS.thermal_noise
    assert p.shot_noise == 5 * PROCESS.shot_noise
    assert p.matching == {k: 7 * v for k, v in PROCESS.matching.items()}


def test_a_ratio_does_not_move_with_a_corner_and_a_rate_does():
    quiet = lambda e: PROCESS.at(e.replace(thermal=0.0, shot=0.0))
    fast, typical = quiet(Environment(corner="ff")), quiet(Environment())
    ys = {}
    for name in ("ChargeMac", "GatedRC"):
        ys[name] = [
            run_jit(member(name), signal(name), process=p, key=jr.key(0))
            for p in (fast, typical)
        ]
    np.testing.assert_array_equal(*ys["ChargeMac"])
    cell = GatedRC(1, period_s=PERIOD_S)
    ratio = cell.rate(jnp.zeros(1), process=fast) / cell.rate(
        jnp.zeros(1), process=typical
    )
    expected = 1 + OPERATING["trim_residue"] * OPERATING["current_corner"]
    np.testing.assert_allclose(ratio, expected, rtol=1e-6)
    assert np.any(ys["GatedRC"][0] != ys["GatedRC"][1])


def test_a_ring_follows_its_supply():
    ring = PhaseOscillators(
        1, period_s=PERIOD_S, key=jr.key(0), coupling="none", drive_rate=1e-6
    )
    there = QUIET.at(Environment(supply=1.001))
    state, _ = ring.step(ring.init_state(), jnp.zeros(2), process=there, key=jr.key(0))
    turned = 2 * math.pi * ring.cycles * 1e-3 * OPERATING["ring_per_supply"]
    expected = math.remainder(turned, 2 * math.pi)
    np.testing.assert_allclose(state[0], expected, rtol=1e-3)


def test_a_die_is_a_normal_of_corners():
    e = Environment(die_to_die=0.25)
    keys = jr.split(jr.key(0), 20_000)
    at = jax.jit(jax.vmap(lambda key: PROCESS.at(e, key=key).capacitance))(keys)
    moved = (np.asarray(at) - 1) / OPERATING["capacitor_corner"]
    assert abs(moved.std() - 0.25) < 3 * 0.25 / np.sqrt(2 * len(keys))
    with pytest.raises(ValueError, match="`key` must be given to draw a die"):
        PROCESS.at(e)


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_circuit_runs_on_traced_numbers(name):
    # One compilation for all operating points.
    circuit, xs = member(name), signal(name)
    there = PROCESS.at(Environment(corner="ss", supply=0.9)).traced()
    of = lambda p: eqx.filter_eval_shape(run, circuit, xs, process=p, key=jr.key(0))
    assert of(there).shape == of(PROCESS).shape


@pytest.mark.parametrize("name", ["GatedRC", "ChannelLayer", "StuartLandau"])
def test_traced_numbers_are_the_numbers(name):
    circuit, xs = member(name), signal(name)
    quiet = run_jit(circuit, xs, process=QUIET, key=jr.key(0))
    traced = run_jit(circuit, xs, process=QUIET.traced(), key=jr.key(0))
    np.testing.assert_allclose(traced, quiet, atol=1e-6)


def test_scaled_grows_amplitudes_and_leaves_the_point():
    e = Environment(
        corner="ss", supply=0.9, thermal=1.0, programming=0.01, dead=0.4,
        flicker_V2m2=1e-22, decision_taus=20.0,
    )  # fmt: skip
    twice = e.scaled(2.0)
    assert (twice.corner, twice.supply) == ("ss", 0.9)
    assert (twice.thermal, twice.flicker_V2m2) == (4.0, 4e-22)
    assert (twice.programming, twice.mismatch, twice.dead) == (0.02, 2.0, 0.8)
    assert twice.decision_taus == pytest.approx(20 - math.log(2))
    assert e.scaled(3.0).dead == 1.0  # a share
    none = e.scaled(0.0)
    assert all(
        none.is_none(m) for m, amount in AMOUNTS.items() if amount.grows != "point"
    )


def test_only_keeps_the_named_amounts():
    default = default_environment(PROCESS)
    # How fast a ripple is comes along: it is no amount.
    kept = {"dead": 1e-5, "ripple_V": 0.01, "ripple_Hz": default.ripple_Hz}
    assert default.only("dead", "ripple_V") == Environment.ideal().replace(**kept)


def test_traced_amounts_are_arrays_and_corners_numbers():
    e = Environment(corner="fs", dead=0.1, temperature_K=350.0).traced()
    assert e.corner == "tt"
    assert (float(e.nmos), float(e.pmos)) == CORNERS["fs"]
    assert all(eqx.is_array(v) for v in (e.nmos, e.dead, e.thermal, e.temperature_K))
    assert e.is_none("programming")
    assert not e.is_none("dead")


@pytest.mark.parametrize(
    "wrong",
    [
        {"corner": "tf"},
        {"supply": 0.0},
        {"temperature_K": -1.0},
        {"dead": 1.5},
        {"programming": -0.1},
        {"age_s": math.inf},
        {"flicker_V2m2": math.nan},
        {"crosstalk": True},
        {"ripple_V": None},
        {"ripple_V": [0.1, 0.2]},
        {"supply_noise_V": np.float32(-1)},
    ],
)
def test_an_impossible_amount_is_refused(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must be"):
        Environment(**wrong)


def test_shares_of_the_same_devices_do_not_exceed_them():
    with pytest.raises(ValueError, match=r"add up to 1\.4"):
        Environment(dead=0.7, stuck_full=0.7)


def test_an_environment_comes_from_a_table():
    converter = cattrs.Converter(forbid_extra_keys=True)
    table = {"corner": "ss", "age_s": 3e8, "decision_taus": math.inf}
    assert converter.structure(table, Environment) == Environment(**table)
    with pytest.raises(cattrs.BaseValidationError):
        converter.structure({"agee_s": 1.0}, Environment)


@pytest.fixture(scope="module")
def model():
    config = physical_config(width=4, n_states=3, n_hidden=4, n_taps=2)
    return config.build(vocabulary=8, process=PROCESS, key=jr.key(0))


TOKENS = jr.randint(jr.key(1), (2, 5), 0, 8)


def test_a_model_is_deployed_in_the_default_environment(model):
    e, left_out = honored(model, PROCESS, default_environment(PROCESS))
    assert set(left_out) == {"converter_bow_LSB", "decision_taus"}
    sources = {s.name: s for s in active_sources(model, PROCESS, e)}
    assert not set(sources) & set(left_out)
    assert sources["flicker_V2m2"].value == e.flicker_V2m2
    assert sources["crosstalk"].acts_on == tuple(
        path for path in sources["crosstalk"].acts_on if "put" in path or "head" in path
    )
    # Without a pair: gains, capacitors, and what is a mask.
    deaf = (".agc", ".delay", ".embedding")
    assert all(path.endswith(deaf) for path in sources["ripple_V"].deaf)

    @eqx.filter_jit
    def logits(model, e, key):
        chip, there = deploy(model, PROCESS, e, key=key, period_s=PERIOD_S)
        return chip.logits(TOKENS, process=there, key=jr.key(3))

    y = logits(model, e.traced(), jr.key(2))
    assert y.shape == (2, 5, 8)
    assert np.any(logits(model, e.traced(), jr.key(4)) != y)


def test_a_gradient_passes_to_every_traced_amount(model):
    e = default_environment(PROCESS).replace(
        programming=0.01, output_noise=0.01, age_s=1e8, supply=0.95, temperature_K=320.0
    )
    smooth = set(AMOUNTS) - {
        "dead", "stuck_full", "stuck_random", "converter_bow_LSB",
        "decision_taus", "shot",
    }  # fmt: skip

    @eqx.filter_jit
    @eqx.filter_grad
    def slope(e):
        asked = {"key": jr.key(2), "period_s": PERIOD_S, "strict": False}
        chip, there = deploy(model, PROCESS, e, **asked)
        y = chip.logits(TOKENS, process=there, key=jr.key(3))
        return jnp.sum(jnp.sin(y))

    # Charge of a few cells has settled long before its time.
    far = {"gradient_per_mm": 100.0, "gradient_per_mm2": 1e4}
    steep = e.replace(**far, line_ohm_per_m=5e10)
    grads = slope(steep.traced(*smooth))
    for name in sorted(smooth):
        slope_of = getattr(grads, name)
        assert np.isfinite(slope_of), name
        assert slope_of != 0, name


def test_a_source_that_no_part_honors_is_an_error_that_names_it():
    mac = member("ChargeMac")
    message = "`converter_bow_LSB` = 1.0 acts on none of its 1: set it to none"
    with pytest.raises(ValueError, match=message):
        active_sources(mac, PROCESS, Environment(converter_bow_LSB=1.0))
    with pytest.raises(ValueError, match="`line_ohm_per_m`"):
        active_sources(member("GatedRC"), PROCESS, Environment(line_ohm_per_m=1e6))
    sar = Chain([mac, SarConverter(3, bits=4, process=PROCESS)])
    (bow,) = [
        s
        for s in active_sources(sar, PROCESS, Environment(converter_bow_LSB=1.0))
        if s.name == "converter_bow_LSB"
    ]
    assert (bow.value, bow.unit) == (1.0, "LSB peak")
    assert bow.acts_on == (".parts[1]",)
    assert ".parts[0]" in bow.deaf


@pytest.mark.parametrize("name", ["ChargeMac", "GatedRC", "LookupLayer"])
def test_what_is_reported_is_what_runs(name):
    # Each source alone moves the outputs of exactly the circuits it is said to.
    amounts = {"supply": 0.9, "temperature_K": 340.0, "dead": 0.5, "ripple_V": 0.1}
    circuit, xs, ideal = member(name), signal(name), Environment.ideal()
    before = run(circuit, xs, process=QUIET, key=jr.key(0))
    for amount, value in amounts.items():
        e = ideal.replace(**{amount: value})
        chip, there = deploy(
            circuit, PROCESS, e, key=jr.key(1), period_s=PERIOD_S, strict=False
        )
        moves = np.any(run(chip, xs, process=there, key=jr.key(0)) != before)
        found = active_sources(circuit, PROCESS, e, strict=False)
        acts = {source.name: bool(source.acts_on) for source in found}[amount]
        # A bit does not move with everything that may flip it.
        assert acts == moves or (acts and name == "LookupLayer"), amount


def test_chips_and_environments_are_vmapped():
    mac = member("ChargeMac")
    e = Environment(dead=0.1, die_to_die=0.3, programming=0.05)
    keys = jr.split(jr.key(0), 3)
    chip_of = lambda key: deploy(mac, PROCESS, e, key=key, period_s=PERIOD_S).chip
    chips = eqx.filter_jit(eqx.filter_vmap(chip_of))(keys)
    for i, key in enumerate(keys):
        alone = eqx.filter_jit(chip_of)(key)
        for path, bank in banks(alone).items():
            together, own = banks(chips)[path].error, bank.error
            assert together is not None
            assert own is not None
            np.testing.assert_allclose(together[i], own, rtol=1e-5, atol=1e-7)
    sweep = jnp.asarray([0.0, 0.5, 1.0])

    @jax.jit
    @jax.vmap
    def follows(dead):
        chip = deploy(
            mac, PROCESS, e.replace(dead=dead), key=jr.key(0), period_s=PERIOD_S
        ).chip
        return jnp.mean(chip.weight.follow)

    share = np.asarray(follows(sweep))
    assert share[0] == 1
    assert 0 < share[1] < 1
    assert share[2] == 0


def test_a_model_without_states_is_disturbed_part_by_part():
    class Reader(eqx.Module):
        chain: Chain
        name: str

    reader = Reader(Chain([member("ChargeMac")]), "reader")
    e = Environment(output_noise=0.1)
    chip, there = deploy(reader, PROCESS, e, key=jr.key(0), period_s=PERIOD_S)
    assert (chip.name, chip.chain.n_in, chip.chain.n_out) == ("reader", 4, 3)
    ys = run(chip.chain, signal("ChargeMac"), process=there, key=jr.key(1))
    quiet = run(reader.chain, signal("ChargeMac"), process=there, key=jr.key(1))
    assert np.all(ys != quiet)


def test_the_default_environments_of_all_cards_load():
    for name in ("sky130", "sg13g2", "cmos65", "cmos28", "cmos16", "cmos7"):
        process = load_process(name)
        e = default_environment(process)
        assert e.flicker_V2m2 > 0
        assert e.die_to_die == pytest.approx(1 / 3, rel=1e-5)


def test_the_preset_of_analog_foundation_models_is_weight_and_output_noise(tmp_path):
    e = load_environment("analog_foundation")
    named = {"programming": 0.025, "output_noise": 0.005}
    assert e == Environment.ideal().replace(**named)
    mac = member("ChargeMac")
    sources = {s.name for s in active_sources(mac, PROCESS, e)}
    assert sources == set(named)
    # Clipping goes with it: 2.5 sigma of a column.
    assert mac.weight.clip_sigma == 2.5
    path = tmp_path / "mine.toml"
    for text, message in (
        ("[dead]", "must begin with a `description`"),
        ('description = "d"\n[dead]\nvalue = 1', "`dead` must have a `value`"),
        ('description = "d"\n[ded]\nvalue = 1', "but `ded` is none"),
        ('description = "d"\n[dead]\nvalue = 2\nsource = "s"', "possible amount"),
        ("[[", "must be a TOML file"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_environment(path)
