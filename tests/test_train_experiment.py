"""Experiments: round trips, and one sentence with a path for what is wrong."""

import dataclasses
import math
import string
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.state_space import GatedRCBlock
from train.baseline import TransformerConfig
from train.experiment import (
    ConfigError,
    Experiment,
    NoiseAware,
    from_table,
    load_experiment,
    save_experiment,
)
from train.model import PhysicalConfig
from train.optimizer import OptimizerConfig
from train.tasks import TextConfig

CONFIGS = Path(__file__).parent.parent / "configs" / "experiments"

counts = st.integers(1, 10**6)
parts = st.floats(0, 1, exclude_max=True)
sizes = st.floats(0, exclude_min=True, allow_infinity=False)
# No characters that a TOML file cannot hold at all.
texts = st.text(st.characters(exclude_categories=["Cs"]))
blocks = st.builds(GatedRCBlock, n_taps=counts) | st.builds(
    GatedUnitBlock, n_hidden=counts
)
# Built in the test: the checker of annotations looks at a random block of a layer,
# and no strategy may draw by `random`.
physical = st.builds(
    partial,
    st.just(PhysicalConfig),
    width=counts,
    period_s=sizes,
    layer=st.lists(blocks, min_size=1, max_size=3).map(tuple),
)
transformer = st.builds(
    partial, st.just(TransformerConfig), width=counts, n_heads=counts
)
experiments = st.builds(
    partial,
    st.just(Experiment),
    name=texts,
    seed=st.integers(0, 2**31),
    steps=counts,
    batch=counts.map(lambda n: 12 * n),
    evaluate_every=counts,
    task=st.builds(
        TextConfig,
        path=st.none()
        | st.text(string.ascii_letters + "/", min_size=1).map("/".__add__),
        context=counts,
    ),
    optimizer=st.builds(OptimizerConfig, peak_rate=sizes, warmup=parts, b1=parts),
    noise=st.builds(
        NoiseAware,
        chips_per_batch=st.sampled_from([1, 2, 3, 4, 6, 12]),
        energy_weight=sizes,
    ),
)


@settings(deadline=None, max_examples=100)
@given(drawn=experiments, model=physical | transformer)
def test_saved_experiment_loads_back_equal(drawn, model, tmp_path_factory):
    model = model()
    if not isinstance(model, PhysicalConfig):  # has no bill to be trained
        quiet = dataclasses.replace(drawn.keywords["noise"], energy_weight=0.0)
        drawn = partial(drawn, noise=quiet)
    experiment = drawn(model=model)
    path = tmp_path_factory.getbasetemp() / "experiment.toml"
    save_experiment(experiment, path)
    loaded = load_experiment(path)
    task = experiment.task
    if task.path is not None:  # "//a/" and "/a" are one place
        task = dataclasses.replace(task, path=loaded.task.path)
        assert loaded.task.path is not None
        assert Path(loaded.task.path) == Path("/" + experiment.task.path.strip("/"))
    assert loaded == dataclasses.replace(experiment, task=task)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"typo": 1}, r"extra fields found \(typo\) @ \$$"),
        (
            {"model": {"kind": "physical", "typo": 1}},
            r"extra fields found \(typo\) @ \$\.model",
        ),
        ({"optimizer": {"rate": 1.0}}, r"extra fields found \(rate\) @ \$\.optimizer"),
        (
            {"model": {"kind": "lstm"}},
            r"\['classifier', 'counts', .*\], but is 'lstm' @ \$\.model",
        ),
        ({"model": {"width": 8}}, r"`kind` must be one of .* but is None @ \$\.model"),
        ({"task": {"kind": "audio"}}, r"`kind` must be .*'text'.* 'audio' @ \$\.task"),
        ({"steps": 3.7}, r"must be a whole number, but is 3\.7 @ \$\.steps"),
        ({"steps": True}, r"must be a whole number, but is True @ \$\.steps"),
        ({"name": 3}, r"must be a string, but is 3 @ \$\.name"),
        ({"optimizer": {"b1": "0.9"}}, r"must be a number, .* @ \$\.optimizer\.b1"),
        ({"optimizer": {"b1": 1.5}}, r"`b1` must be from 0 to below 1, but is 1\.5"),
        ({"optimizer": {"peak_rate": float("nan")}}, r"`peak_rate` must be positive"),
        ({"optimizer": {"peak_rate": math.inf}}, r"`peak_rate` must be .* finite"),
        ({"optimizer": {"weight_decay": math.inf}}, r"`weight_decay` must be finite"),
        ({"optimizer": {"final_rate": 1.5}}, r"`final_rate` must be from 0 to 1 of"),
        ({"steps": 0}, r"`steps` must be at least 1, but is 0"),
        ({"noise": {"energy_weight": -1.0}}, r"`energy_weight` must not be negative"),
        (
            {"noise": {"sizes_from": 0.8, "sizes_until": 0.8}},
            r"`sizes_from` and `sizes_until` must be parts .* 0\.8 and 0\.8",
        ),
        (
            {"solver": {"name": "rk4"}},
            r"`name` must be one of .*, but is 'rk4' @ \$\.solver",
        ),
        (
            {"solver": {}, "model": {"kind": "transformer"}},
            r"`solver` must be left out .* kind `transformer`",
        ),
        (
            {"noise": {"energy_weight": 0.1}, "model": {"kind": "transformer"}},
            r"`noise\.energy_weight` goes with a physical model",
        ),
        ({"batch": 3}, r"multiple of `chips_per_batch`, but they are 3 and 2"),
    ],
)
def test_wrong_config_gets_one_sentence_with_its_path(table, message):
    with pytest.raises(ConfigError, match=message) as caught:
        from_table(table)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "must be a TOML file, but there is none"),
        (b"steps = = 3", "must be a TOML file, but is not: Invalid value"),
        (b"\xff\xfe\x00", "must be a TOML file, but is not"),
        (b"[modle]\nwidth = 3", r"experiment\.toml: extra fields found \(modle\)"),
    ],
)
def test_wrong_file_gets_one_sentence_with_its_name(content, message, tmp_path):
    path = tmp_path / "experiment.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_experiment(path)


def test_paths_are_relative_to_the_config(tmp_path, monkeypatch):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "x.toml").write_text('process = "p.toml"\n[task]\npath = "../text"')
    monkeypatch.chdir(tmp_path)
    experiment = load_experiment("a/b/x.toml")
    assert experiment.task.path == str(tmp_path / "a" / "text")
    assert experiment.process == str(folder / "p.toml")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
def test_every_experiment_loads_and_answers_five_questions(path):
    assert load_experiment(path).name in path.stem
    head = path.read_text().split("\n\n")[0]
    for question in ("What:", "Expect:", "Cost:", "Source:", "Run:"):
        assert f"# {question}" in head


def test_a_digital_model_has_no_chips():
    assert Experiment(model=TransformerConfig(), batch=3).chips == 0
    assert Experiment(noise=NoiseAware(chips_per_batch=4)).chips == 4
