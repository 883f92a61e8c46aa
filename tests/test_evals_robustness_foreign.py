"""Foreign models: attacks, suites, what they honor and what is named, the store."""

import json
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from flax import nnx

from evals.robustness import attack, attack_suite, load_suite, robustness
from evals.robustness.foreign import ForeignChips, FromFlax, banked, realized
from evals.robustness.foreign_suite import REFUSED, foreign_setting
from evals.robustness.plots import panels
from evals.robustness.scoring import Seen, means_of
from evals.robustness.suite import Suite, suite_from
from evals.robustness.summary import summary
from physnn.environment import Environment
from physnn.fabricate import fabricate, frozen
from physnn.process import load_process
from train.experiment import from_table
from train.loop import train
from train.objective import bits, targets_of
from train.tasks.base import Windows

pytestmark = pytest.mark.usefixtures("plain_promotion")

VOCABULARY = 16
DOCS = Path(__file__).parents[1] / "docs"


class Plain(eqx.Module):
    """An Equinox model of 2 kB; its steps are no weights."""

    table: jax.Array
    out: eqx.nn.Linear
    steps: jax.Array

    def __init__(self, key):
        self.table = 3 * jr.normal(key, (VOCABULARY, 8))
        self.out = eqx.nn.Linear(8, VOCABULARY, key=key)
        self.steps = jnp.arange(3)

    def __call__(self, tokens, key):
        del key
        return jax.vmap(jax.vmap(self.out))(jax.nn.tanh(self.table[tokens]))


class Negated(eqx.Module):
    """Another program of the same weights."""

    f: Plain

    def __call__(self, tokens, key):
        return -self.f(tokens, key)


class PlainFlax(nnx.Module):
    """The like in Flax."""

    def __init__(self):
        self.table = nnx.Embed(VOCABULARY, 8, rngs=nnx.Rngs(0))
        self.out = nnx.Linear(8, VOCABULARY, rngs=nnx.Rngs(1))

    def __call__(self, tokens):
        return self.out(nnx.tanh(self.table(tokens)))


class Table(eqx.Module):
    """Linear in its weights: the logits of a token are a row."""

    table: jax.Array

    def __call__(self, tokens, key):
        del key
        return self.table[tokens]


@pytest.fixture(scope="module")
def windows():
    tokens = np.random.default_rng(0).integers(VOCABULARY, size=(3, 9), dtype=np.uint8)
    return [Windows(tokens, np.ones((3, 8), bool))]


@pytest.mark.parametrize("kind", ["equinox", "flax"])
def test_plain_models_are_attacked_as_they_are(kind, windows):
    f = Plain(jr.key(0)) if kind == "equinox" else FromFlax(PlainFlax())
    ideal = Environment.ideal()
    environments = {
        "none": ideal,
        "dead": ideal.replace(dead=1.0),
        "written": ideal.replace(programming=0.1),
        "noisy": ideal.replace(output_noise=0.5),
    }
    found = attack(f, windows, environments, n_chips=3, key=jr.key(1))
    tokens = jnp.asarray(windows[0].tokens, jnp.int32)
    logits = f(tokens[:, :-1], jr.key(0))
    own = float(jnp.mean(bits(logits, targets_of(tokens, logits))))
    assert found["none"].values == pytest.approx([own] * 3, rel=1e-5)
    # Without a weight all symbols are equally likely.
    assert found["dead"].median == pytest.approx(np.log2(VOCABULARY), rel=1e-5)
    assert len(set(found["written"].values)) == 3
    assert len({own, *found["noisy"].values}) == 4
    assert found["none"].n_bytes == 24
    coded = eqx.filter(realized(banked(f, bits=2)), eqx.is_inexact_array)
    assert all(len(np.unique(x)) <= 3 for x in jax.tree.leaves(coded))
    noisy = {"x": ideal.replace(flicker_V2m2=1e-22)}
    with pytest.raises(ValueError, match="asks for `flicker_V2m2`"):
        attack(f, windows, noisy, n_chips=1, key=jr.key(1))


def test_what_holds_no_arrays_has_only_outputs(windows):
    flat = lambda tokens, key: jnp.zeros((*tokens.shape, VOCABULARY))
    ideal = Environment.ideal()
    found = attack(flat, windows, {"none": ideal}, n_chips=1, key=jr.key(0))
    assert found["none"].median == pytest.approx(np.log2(VOCABULARY))
    asked = {"n_chips": 1, "key": jr.key(0)}
    with pytest.raises(ValueError, match="holds no arrays"):
        attack(flat, windows, {"x": ideal.replace(dead=0.1)}, **asked)
    with pytest.raises(ValueError, match="holds none"):
        attack(flat, windows, {"x": ideal}, bits=4, **asked)
    with pytest.raises(ValueError, match="at least 1"):
        attack(flat, windows, {"x": ideal}, n_chips=0, key=jr.key(0))


TABLE = {
    "together": 2,
    "one_factor": {
        "multiples": [2],
        "chips": 2,
        "amounts": {"dead": [0.1], "flicker_V2m2": [1e-22]},
    },
    "monte_carlo": {"scales": [1, 4], "chips": 4},
    "faults": {"shares": [0.1], "chips": 2},
    "yields": {"chips": 8, "lost": 0.01, "calibration_windows": 4},
    "operating": {"chips": 1},
    "ageing": {"chips": 1},
    "converters": {},
    "worst_case": {},
    "ranking": {},
}


def test_a_suite_writes_its_page_and_goes_on_where_it_was_killed(windows, tmp_path):
    suite, f = suite_from(TABLE), Plain(jr.key(0))
    asked = {"progress": False, "seed": 3}
    found = attack_suite(f, windows, suite, out=tmp_path / "whole", **asked)
    written = json.loads((tmp_path / "whole" / "robustness.json").read_text())
    page = (tmp_path / "whole" / "robustness.html").read_text()
    assert page.count("<svg") == sum(bool(p.svg) for p in panels(written)) == 4
    # Every table that it cannot honor, and every amount, is named with its reason.
    assert found["refused"] == REFUSED
    assert found["left_out"] == ["flicker_V2m2"]
    text = summary(written)
    for name, why in REFUSED.items():
        assert f"table {name}: left out, {why}" in text
        assert f"<th>{name.replace('_', ' ')}</th><td>{why}" in page.replace(
            "&#39;", "'"
        )
        (panel,) = (p for p in panels(written) if name in p.name.replace("-", "_"))
        assert panel.reason == f"Left out: {why}."
    assert "flicker_V2m2" in page
    assert text.splitlines()[1].strip() == found["about"][0]
    assert "Environment: analog_foundation" in page
    sources = {each["name"]: each for each in found["sources"]}
    assert sources["programming"]["value"] == 0.025
    assert sources["programming"]["acts_on"] == ("table", "out.weight", "out.bias")
    assert sources["programming"]["deaf"] == ("steps", "logits")
    assert sources["output_noise"]["acts_on"] == ("logits",)
    assert sources["dead"]["value"] == "varied"
    yields = found["yields"]
    assert yields["before"]["low"] <= yields["before"]["share"]
    assert "after" not in yields
    assert "no trims" in yields["why"]
    more = {
        row["x"]: row["median"] for row in found["studies"] if row["series"] == "all"
    }
    assert found["design"]["median"] < more[4]
    # Killed in the middle: what is there is not measured again, the rest is equal.
    store = (tmp_path / "whole" / "robustness.jsonl").read_text().splitlines(True)
    (tmp_path / "killed").mkdir()
    half = tmp_path / "killed" / "robustness.jsonl"
    half.write_text("".join(store[:5]) + store[5][:9])
    again = attack_suite(f, windows, suite, out=tmp_path / "killed", **asked)
    same = lambda r: {k: v for k, v in r.items() if k not in ("wall_s", "command")}
    assert same(again) == same(found)
    assert half.read_text() == "".join(store)
    # Other weights, and another program of the same weights, begin anew.
    for other in (Plain(jr.key(1)), Negated(f)):
        chosen = Suite(environment="analog_foundation", monte_carlo=suite.monte_carlo)
        one = attack_suite(f, windows, chosen, out=tmp_path / "x", **asked)
        two = attack_suite(other, windows, chosen, out=tmp_path / "x", **asked)
        assert one["design"]["median"] != two["design"]["median"]


def in_jit(table):
    return jax.jit(lambda tokens, key: table[tokens])


def in_callback(table):
    held = np.asarray(table)
    look_up = lambda tokens: held[np.asarray(tokens)]

    def f(tokens, key):
        del key
        shape = jax.ShapeDtypeStruct((*tokens.shape, VOCABULARY), held.dtype)
        return jax.pure_callback(look_up, shape, tokens, vmap_method="sequential")

    return f


@pytest.mark.parametrize("closed", [in_jit, in_callback])
def test_weights_that_the_jaxpr_does_not_show_begin_anew(closed, windows, tmp_path):
    ours, others = jr.normal(jr.key(0), (2, VOCABULARY, VOCABULARY))
    suite = suite_from({"monte_carlo": {"scales": [1], "chips": 1}})
    run = lambda table: attack_suite(
        closed(table), windows, suite, out=tmp_path, progress=False
    )["design"]["median"]
    seen = Seen.of(windows)
    own = lambda table: float(means_of(table[seen.tokens[:, :-1]], seen).bits)
    assert run(ours) == pytest.approx(own(ours), rel=1e-5)
    store = tmp_path / "robustness.jsonl"
    mark, design, *rest = map(json.loads, store.read_text().splitlines())
    design["row"]["median"] = 99.0
    store.write_text("\n".join(map(json.dumps, (mark, design, *rest))) + "\n")
    # Another callable of equal weights takes what is there; other weights do not.
    assert run(jnp.array(ours)) == 99.0
    assert run(others) == pytest.approx(own(others), rel=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_model_of_half_precision_is_attacked_in_its_own(dtype, windows):
    met = set()

    class Half(Plain):
        def __call__(self, tokens, key):
            met.update({self.table.dtype, self.out.weight.dtype})
            return super().__call__(tokens, key)

    narrow = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x
    wide = Half(jr.key(0))  # pyright: ignore[reportCallIssue]
    f, seen = jax.tree.map(narrow, wide), Seen.of(windows)
    ideal = Environment.ideal()
    environments = {"none": ideal, "written": ideal.replace(programming=0.1)}
    found = attack(f, windows, environments, n_chips=2, key=jr.key(1))
    assert met == {jnp.dtype(dtype)}
    logits = eqx.filter_jit(f)(seen.tokens[:, :-1], jr.key(0)).astype(jnp.float32)
    own = float(jax.jit(means_of)(logits, seen).bits)
    assert found["none"].values == (own, own)
    assert len({own, *found["written"].values}) == 3


def test_zero_amounts_are_exactly_the_clean_model(windows):
    f, seen = Plain(jr.key(0)), Seen.of(windows)
    design = banked(f)
    nothing = Environment.ideal()
    chip = fabricate(
        design,
        load_process("cmos28").matched(),
        key=jr.key(1),
        environment=frozen(nothing).traced("programming", "dead"),
    )
    same = jax.tree.map(lambda a, b: np.array_equal(a, b), realized(chip), f)
    assert all(jax.tree.leaves(same))
    found, _ = ForeignChips(design, seen, jr.key(0)).score(nothing, 5)
    assert len(set(found.tolist())) == 1
    clean = eqx.filter_jit(
        lambda f: means_of(f(seen.tokens[:, :-1], jr.key(0)), seen).bits
    )(f)
    assert found[0] == pytest.approx(float(clean), rel=3e-7)  # a bit of float32


def test_programming_error_of_a_linear_model_has_its_variance(windows):
    """A written value has an rms error of the largest value of its array."""
    f = Table(jr.normal(jr.key(0), (VOCABULARY, VOCABULARY)))
    amount, n = 0.03, 400
    tokens = jnp.arange(VOCABULARY)
    there = Environment(programming=amount)

    @jax.vmap
    def logits(key):
        process = load_process("cmos28").matched()
        chip = fabricate(banked(f), process, key=key, environment=there)
        return realized(chip)(tokens, key)

    errors = np.asarray(logits(jr.split(jr.key(1), n))) - np.asarray(f.table)
    variance = (amount * float(jnp.max(jnp.abs(f.table)))) ** 2
    spread = variance * np.sqrt(2 / errors.size)
    assert abs(np.mean(errors**2) - variance) < 3 * spread
    assert abs(np.mean(errors)) < 3 * np.sqrt(variance / errors.size)


def test_what_would_be_the_design_itself_is_named_and_not_measured(windows, tmp_path):
    path = tmp_path / "circuits.toml"
    path.write_text(
        'description = "of circuits"\n'
        'flicker_V2m2 = { value = 1e-22, source = "made up" }\n'
        'decision_taus = { value = 5.0, source = "made up" }\n'
    )
    suite = suite_from(
        {
            "environment": str(path),
            "one_factor": {"chips": 1},
            "monte_carlo": {"chips": 1},
            "faults": {"kinds": ["dead"], "shares": [0.5], "chips": 2},
            "yields": {"chips": 1, "lost": 0.1},
        }
    )
    f = Plain(jr.key(0))
    found = attack_suite(f, windows, suite, out=tmp_path / "out", progress=False)
    assert found["left_out"] == ["flicker_V2m2", "decision_taus"]
    assert set(found["refused"]) == {"monte_carlo", "yields", "one_factor"}
    assert "acts on this model: it is the design" in found["refused"]["yields"]
    assert "none of its amounts" in found["refused"]["one_factor"]
    assert {row["series"] for row in found["studies"]} == {"dead"}
    assert "yields" not in found


def test_a_callable_without_arrays_keeps_its_outputs_alone(windows):
    flat = lambda tokens, key: jnp.zeros((*tokens.shape, VOCABULARY)).at[..., 0].set(1)
    setting = foreign_setting(flat, Seen.of(windows), load_suite("quick"), seed=0)
    assert setting.acting == {"output_noise"}
    assert setting.left_out == ("programming",)
    faults = suite_from({"environment": "analog_foundation", "faults": {}})
    only = foreign_setting(flat, Seen.of(windows), faults, seed=0)
    assert "dead" in only.left_out
    with pytest.raises(ValueError, match="holds none: give an Equinox module"):
        foreign_setting(flat, Seen.of(windows), faults, seed=0, bits=4)


def test_a_suite_of_which_nothing_is_left_is_refused(windows, tmp_path):
    path = tmp_path / "none.toml"
    path.write_text('description = "nothing"\n')
    suite = suite_from({"environment": str(path), "operating": {}})
    with pytest.raises(ValueError, match="must hold something that a foreign model"):
        attack_suite(Plain(jr.key(0)), windows, suite, out=tmp_path, progress=False)
    bar = suite_from({"yields": {"chips": 1, "bits": 0.0}})
    with pytest.raises(ValueError, match="must be one that the design reaches"):
        attack_suite(Plain(jr.key(0)), windows, bar, out=tmp_path, progress=False)
    chips = ForeignChips(banked(Plain(jr.key(0))), Seen.of(windows), jr.key(0))
    with pytest.raises(ValueError, match="must be None of a foreign model"):
        chips.score(Environment.ideal(), 1, adjust=lambda chip, there, key: chip)


def test_a_transformer_run_is_attacked_as_programmed_devices(tmp_path):
    (tmp_path / "text.txt").write_text("alpha beta gamma " * 300)
    table = {
        "name": "digital",
        "steps": 1,
        "batch": 2,
        "evaluation_windows": 2,
        "task": {"kind": "text", "path": str(tmp_path / "text.txt"), "context": 8},
        "model": {
            "kind": "transformer",
            "width": 8,
            "n_blocks": 1,
            "n_heads": 1,
            "n_hidden": 8,
            "context": 8,
        },
    }
    run = train(from_table(table), tmp_path / "run", progress=False)
    suite = suite_from(
        {
            "windows": 2,
            "together": 2,
            "monte_carlo": {"scales": [1, 8], "chips": 2},
            "operating": {"chips": 1},
        }
    )
    found = robustness(run.folder, suite, progress=False)
    assert found["title"] == "Robustness of digital"
    assert found["process"] is None
    assert found["split"] == "test"
    assert set(found["refused"]) == {"operating"}
    one, eight = (row["median"] for row in found["studies"])
    assert found["design"]["median"] != one
    assert one < eight
    lines = summary(found).splitlines()
    assert "taken as programmed devices" in lines[1]
    assert (
        "honors programming, dead, stuck_full, stuck_random, output_noise" in lines[2]
    )
    page = (run.folder / "robustness.html").read_text()
    assert found["about"][0] in page
    assert "Joules are modeled" not in page


def test_the_example_of_the_documentation_runs(tmp_path, monkeypatch, capsys):
    text = (DOCS / "robustness.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "docs/robustness.md", "exec"), {"__name__": "example"})
    assert capsys.readouterr().out.count("3 % programming error") == 2
    assert (tmp_path / "runs" / "plain" / "robustness.html").is_file()
