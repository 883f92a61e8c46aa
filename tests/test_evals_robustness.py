"""Robustness: the suite file, points, chips as draws, worst case, yield."""

import json
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy.stats import binom

from circuits.blocks.gated_unit import GatedUnitBlock
from evals.robustness import load_suite, robustness
from evals.robustness.mismatched import chip_of, draws, n_devices, norm
from evals.robustness.plots import panels
from evals.robustness.ranking import enlarged
from evals.robustness.run import setting_of, shortened
from evals.robustness.scoring import Chips, Seen
from evals.robustness.store import Store
from evals.robustness.studies import asked_of, points_of
from evals.robustness.suite import MonteCarlo, Suite, Yield, suite_from
from evals.robustness.summary import summary
from evals.robustness.worst_case import into_bound
from evals.robustness.yields import Bar, clopper_pearson
from physnn.configs import config_folder
from physnn.deploy import deploy
from physnn.environment import AMOUNTS, Environment
from physnn.fabricate import banks_of, fabricate
from physnn.keys import stream
from physnn.process import default_environment
from physnn.variation import device_sigma
from tests.helpers import PROCESS
from train.experiment import ConfigError, from_table
from train.loop import TrainedRun, train
from train.model import PhysicalConfig
from train.objective import bits, targets_of
from train.tasks.base import Windows

pytestmark = pytest.mark.usefixtures("plain_promotion")

VOCABULARY = 16


@pytest.fixture(scope="module")
def design():
    config = PhysicalConfig(
        width=4, n_layers=1, layer=(GatedUnitBlock(n_hidden=4, n_taps=1),)
    )
    return config.build(vocabulary=VOCABULARY, process=PROCESS, key=jr.key(0))


@pytest.fixture(scope="module")
def windows():
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(3, 9), dtype=np.uint8)
    return [Windows(tokens, np.ones((3, 8), bool))]


def test_the_suites_here_load_and_ask_for_ten_thousand_chips():
    names = [path.stem for path in (config_folder() / "evals").glob("*.toml")]
    known = [
        "analog_foundation",
        "monte_carlo",
        "noise_alone",
        "quick",
        "robustness",
        "signoff",
    ]
    assert sorted(names) == known
    suites = {name: load_suite(name) for name in names}
    whole = suites["robustness"]
    assert whole.worst_case is not None
    assert whole.worst_case.random == 10_000
    chosen_later = ("environment", "together")
    assert None not in [v for n, v in vars(whole).items() if n not in chosen_later]
    assert whole.fewest_chips == 4
    assert suites["monte_carlo"].fewest_chips == 8
    for name in names:
        head = (config_folder() / "evals" / f"{name}.toml").read_text()
        assert all(f"# {q}:" in head for q in ("What", "Cost", "Source", "Run"))


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"one_factor": {"amounts": {"flickr": [1.0]}}}, "`flickr` is none"),
        ({"one_factor": {"amounts": {"dead": [2.0]}}}, "`dead` must be a possible"),
        ({"one_factor": {"amounts": {"dead": [0.0]}}}, "an amount that acts alone"),
        ({"one_factor": {"amounts": {"dead": []}}}, "an amount that acts alone"),
        ({"one_factor": {"multiples": [0.0]}}, "must be positive and finite"),
        ({"monte_carlo": {"chips": 0}}, "`chips` of a suite must be at least 1"),
        ({"faults": {"kinds": ["broken"]}}, "must be of"),
        ({"operating": {"corners": ["xx"]}}, "must be of"),
        ({"yields": {}}, "must have one bar"),
        ({"yields": {"lost": 0.1, "bits": 2.0}}, "must have one bar"),
        ({"yields": {"lost": 0.1, "chips": 2.5}}, "must be a whole number"),
        ({"windows": 0}, "at least 1"),
        ({"split": "train"}, "must be one of"),
        ({"yeild": {}}, "yeild"),
        ({"ranking": {"area": 1.0}}, "above 1"),
    ],
)
def test_a_wrong_suite_is_refused_in_one_sentence(table, complaint):
    with pytest.raises(ConfigError, match=complaint) as caught:
        suite_from(table)
    assert "\n" not in str(caught.value)


def test_points_stand_on_the_amounts_of_the_environment():
    default = default_environment(PROCESS)
    suite = load_suite("robustness")
    acting = {*AMOUNTS} - {"shot"}
    points = points_of(suite, default, acting)
    assert len({point.id for point in points}) == len(points)
    alone = [p for p in points if p.study == "one_factor" and p.series == "dead"]
    assert [p.x / default.dead for p in alone] == pytest.approx([0.5, 1, 2, 4, 8])
    for point in alone:
        # Nothing else is on.
        others = {n for n in AMOUNTS if not point.environment.is_none(n)}
        assert others == {"dead", "ripple_Hz"}
        assert point.environment.flicker_low_Hz == default.flicker_low_Hz
    # Less time to decide is more of that noise.
    taus = [p.x for p in points if p.series == "decision_taus"]
    assert sorted(taus, reverse=True) == taus
    assert default.decision_taus in taus
    assert not [p for p in points if p.series == "shot"]
    (whole,) = [p for p in points if p.study == "monte_carlo" and p.x == 1]
    assert whole.environment == default.scaled(1.0)
    oldest = max(p.environment.age_s for p in points if p.study == "ageing")
    assert oldest == pytest.approx(10 * 365.25 * 86400)
    corners = [p for p in points if p.study == "operating"]
    assert len(corners) == 5 * 3 * 3
    assert not asked_of(suite, default).is_none("line_ohm_per_m")


def test_chips_by_vmap_are_those_one_by_one(design, windows):
    """One compiled program for traced amounts gives what plain ones give."""
    seen = Seen.of(windows)
    chips = Chips(
        design,
        PROCESS,
        seen,
        jr.key(1),
        period_s=1e-6,
        together=2,
        traced=("dead", "mismatch", "thermal"),
    )
    environment = Environment(dead=0.1, mismatch=3.0)
    found, _ = chips.score(environment, 3)
    assert found.shape == (3,)

    @eqx.filter_jit
    def alone(key):
        chip, there = deploy(design, PROCESS, environment, key=key, period_s=1e-6)
        noise = stream(key, "noise")
        logits = chip.logits(seen.tokens[:, :-1], process=there, key=noise)
        return jnp.mean(bits(logits, targets_of(seen.tokens, logits)))

    for i in (0, 2):
        key = jr.fold_in(stream(jr.key(1), "chip"), i)
        assert found[i] == pytest.approx(float(alone(key)), abs=2e-4)
    assert len(set(found.tolist())) == 3
    # The design, by the same program.
    ideal, _ = chips.score(Environment.ideal(), 2)
    assert ideal[0] == pytest.approx(ideal[1], abs=1e-6)
    assert not np.isclose(ideal[0], found).any()


def test_draws_are_those_of_fabricate_and_scale_by_area(design):
    key = jr.key(3)
    drawn = draws(design, PROCESS, key)
    ours, theirs = chip_of(design, PROCESS, drawn), fabricate(design, PROCESS, key=key)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)
    # |z| of a random chip is √n within a few times 1/√2.
    n = n_devices(design, PROCESS)
    assert n == sum(b.value.size for b in banks_of(design).values())
    assert abs(float(norm(drawn)) - n**0.5) < 3 / 2**0.5
    name = ".head.weight"
    halved = banks_of(chip_of(design, PROCESS, drawn, {name: 0.5}))[name]
    larger = banks_of(enlarged(design, name, 4.0))[name]
    assert halved.error is not None
    np.testing.assert_allclose(
        halved.error, device_sigma(larger, PROCESS) * drawn[name], rtol=1e-5
    )


def test_the_bound_holds_in_total_and_device_by_device():
    drawn = {"a": jnp.linspace(-9.0, 9.0, 50), "b": jnp.ones(50)}
    bound = into_bound(drawn, radius=10.0, sigmas=3.0)
    assert float(norm(bound)) == pytest.approx(10.0, rel=1e-5)
    assert max(float(jnp.max(jnp.abs(z))) for z in bound.values()) <= 3.0
    inside = {"a": jnp.asarray([0.5, -0.5])}
    kept = into_bound(inside, radius=10.0, sigmas=3.0)
    np.testing.assert_allclose(kept["a"], inside["a"])


def test_clopper_pearson_covers_as_its_tails_say():
    for passed, n in ((0, 10), (3, 10), (10, 10), (62, 64)):
        low, high = clopper_pearson(passed, n, confidence=0.95)
        assert low <= passed / n <= high
        # The ends are where so many or more, so many or fewer, have 2.5 %.
        if passed:
            assert binom.sf(passed - 1, n, low) == pytest.approx(0.025, rel=1e-6)
        if passed < n:
            assert binom.cdf(passed, n, high) == pytest.approx(0.025, rel=1e-6)
    with pytest.raises(ValueError, match="from 0 to n"):
        clopper_pearson(5, 4, confidence=0.95)


def test_a_bar_that_the_design_misses_is_refused():
    bar = Bar.of(Yield(lost=0.1), bits=2.0, accuracy=0.5)
    assert bar.passes(np.asarray([2.1, 2.3]), np.zeros(2)).tolist() == [True, False]
    bar = Bar.of(Yield(accuracy=0.4), bits=2.0, accuracy=0.5)
    assert bar.passes(np.zeros(2), np.asarray([0.4, 0.3])).tolist() == [True, False]
    for wrong in (Yield(bits=1.9), Yield(accuracy=0.6)):
        with pytest.raises(ValueError, match="must be one that the design reaches"):
            Bar.of(wrong, bits=2.0, accuracy=0.5)


def test_a_store_goes_on_and_begins_anew_for_something_else(tmp_path):
    path, measured = tmp_path / "store.jsonl", []

    def measure(name):
        return lambda: measured.append(name) or [1.0, 2.0]

    store = Store(path, "mark")
    assert store.get("a", measure("a")) == [1.0, 2.0]
    store.get("b", measure("b"))
    text = path.read_text()
    path.write_text(text[:-7])  # killed while it wrote the last line
    again = Store(path, "mark")
    assert again.get("a", measure("a again")) == [1.0, 2.0]
    again.get("b", measure("b again"))
    assert measured == ["a", "b", "b again"]
    assert path.read_text() == text
    assert Store(path, "other").rows == {}


TABLE = {
    "windows": 2,
    "together": 2,
    "one_factor": {"multiples": [9], "chips": 2, "amounts": {"programming": [0.3]}},
    "monte_carlo": {"scales": [3], "chips": 2},
    "worst_case": {"random": 60, "windows": 2, "steps": 3, "tokens": 8, "shifts": [4]},
    "yields": {"chips": 2, "lost": 0.5, "calibration_windows": 2},
    "ranking": {"chips": 2},
    "converters": {"bits": [2]},
}
# Nothing that acts in time, which would be a second compilation.
AMOUNTS_HERE = """
description = "of a test"
dead = { value = 0.01, source = "made up" }
decision_taus = { value = 5.0, source = "made up" }
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory, plain_promotion):
    folder = tmp_path_factory.mktemp("robust")
    text = " ".join(["alpha beta gamma", "delta", "beta alpha"] * 200)
    (folder / "text.txt").write_text(text)
    layer = [{"kind": "gated_unit", "n_hidden": 4}]
    table = {
        "name": "small",
        "steps": 1,
        "batch": 2,
        "evaluation_windows": 2,
        "task": {"kind": "text", "path": str(folder / "text.txt"), "context": 8},
        "model": {"kind": "physical", "width": 4, "n_layers": 1, "layer": layer},
        "noise": {"chips_per_batch": 1},
    }
    return train(from_table(table), folder / "run", progress=False)


def test_what_is_held_does_not_grow_with_the_noise():
    study = MonteCarlo(scales=(4.0,), chips=2, held=("line_ohm_per_m",))
    default = Environment(line_ohm_per_m=2e6, crosstalk=0.001)
    point = points_of(Suite(monte_carlo=study), default, set())[-1]
    assert point.environment.line_ohm_per_m == 2e6
    assert point.environment.crosstalk == 0.004
    assert point.environment.mismatch == 4
    with pytest.raises(ValueError, match=r"`monte_carlo\.held` must hold amounts"):
        MonteCarlo(held=("lines",))


def test_a_suite_runs_goes_on_and_writes_its_page(run: TrainedRun):
    path = run.folder.parent / "here.toml"
    path.write_text(AMOUNTS_HERE)
    suite = suite_from(TABLE | {"environment": str(path)})
    found = robustness(run.folder, suite, progress=False)
    worst, rows = found["worst_case"], found["studies"]
    # A gradient finds worse than many random chips, at no larger distance.
    assert worst["found_worse"]
    assert worst["worst"] > worst["random"]["worst"] > worst["design"]
    assert worst["norm"] <= worst["bound"]["radius"] * (1 + 1e-5)
    assert worst["furthest_device"] <= 3.0
    assert worst["n_random"] == 60
    (written,) = [row for row in rows if row["series"] == "programming"]
    assert written["environment"] == {"programming": pytest.approx(0.3)}
    assert written["low"] < written["high"]
    assert found["converters"]["rows"][0]["bits"] != found["design"]["median"]
    assert found["yields"]["bits_after"] != found["yields"]["bits_before"]
    assert found["left_out"] == ["decision_taus"]
    assert found["yields"]["before"]["chips"] == 2
    # Four times the area, a quarter of the variance: what is lost shrinks.
    ranked = found["ranking"]["rows"]
    assert ranked[0]["lost"] > ranked[0]["lost_enlarged"]
    weights = [row for row in ranked if row["bank"].endswith("head.weight")]
    assert weights[0]["energy_J"] > 0
    assert weights[0]["more_m2"] == pytest.approx(3 * weights[0]["area_m2"])
    written = json.loads((run.folder / "robustness.json").read_text())
    assert written["worst_case"]["worst"] == worst["worst"]
    page = (run.folder / "robustness.html").read_text()
    assert "Left out" in page
    assert page.count("<svg") == sum(bool(p.svg) for p in panels(written))
    assert "by gradient, worse than the worst of 60 random chips" in summary(written)
    # Nothing is measured twice.
    store = (run.folder / "robustness.jsonl").read_bytes()
    again = robustness(run.folder, suite, progress=False)
    assert (run.folder / "robustness.jsonl").read_bytes() == store
    same = lambda results: {k: v for k, v in results.items() if k != "wall_s"}
    assert same(again) == same(found)


def test_sources_are_those_that_act_and_what_none_honors_is_named(run: TrainedRun):
    suite = Suite(windows=1)
    setting = setting_of(run, suite, seed=0)
    assert "mismatch" in setting.acting
    assert setting.environment.is_none("decision_taus")
    assert "decision_taus" in setting.left_out
    assert setting.environment.dead == default_environment(PROCESS).dead
    seen = shortened(setting.chips.seen, 3)
    assert seen.tokens.shape[1] == 4


def test_counted_tables_are_refused(run: TrainedRun, tmp_path):
    folder = shutil.copytree(run.folder, tmp_path / "run")
    text = (folder / "experiment.toml").read_text()
    begin = text.index("[model]")
    end = text.index("[optimizer]")
    model = '[model]\nkind = "counts"\n\n'
    (folder / "experiment.toml").write_text(text[:begin] + model + text[end:])
    with pytest.raises(ValueError, match="must be of a model with devices or weights"):
        robustness(folder, Suite(), progress=False)
