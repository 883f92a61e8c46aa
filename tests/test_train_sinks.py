"""Sinks: what a run measured, read back from where it was told."""

import json
import sys

import pytest

from train.sinks import MetricsConfig, SinkError, SinkName

WITHOUT = 'pip install "physnn[{}]"'


def told(folder, sink: SinkName, *, step: int = 0, lines=range(1, 5)):
    folder.mkdir(exist_ok=True)
    sinks = MetricsConfig(sinks=(sink,), project="test").open(
        folder, name="run", about={"seed": 0}, step=step
    )
    for i in lines:
        sinks.write({"step": i, "tokens": 10 * i, "bits_per_byte": 8 / i})
    return sinks


def events(folder) -> dict[int, float]:
    """Bits per byte by step, as TensorBoard shows them."""
    from tensorboard.backend.event_processing import (  # type: ignore[reportMissingImports]
        event_accumulator,
    )

    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == {"tokens", "bits_per_byte"}
    return {each.step: each.value for each in found.Scalars("bits_per_byte")}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_written_and_continued(tmp_path):
    pytest.importorskip("tensorboard", reason=WITHOUT.format("tensorboard"))
    told(tmp_path, "tensorboard").close()
    assert events(tmp_path) == pytest.approx({i: 8 / i for i in range(1, 5)})
    # Continued from step 2: what came after it is of no run.
    told(tmp_path, "tensorboard", step=2, lines=range(3, 4)).close()
    assert events(tmp_path) == pytest.approx({i: 8 / i for i in range(1, 4)})
    sinks = told(tmp_path, "tensorboard", step=3, lines=range(4, 8))
    sinks.rewind(5)
    sinks.write({"step": 6, "tokens": 60, "bits_per_byte": 1.0})
    sinks.close()
    assert events(tmp_path)[6] == 1
    assert max(events(tmp_path)) == 6


def test_wandb_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason=WITHOUT.format("wandb"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    told(tmp_path, "wandb").close()
    (kept,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    assert b"bits_per_byte" in kept.read_bytes()


def test_trackio_keeps_a_run(tmp_path, monkeypatch):
    pytest.importorskip("trackio", reason=WITHOUT.format("trackio"))
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    told(tmp_path, "trackio").close()
    assert any((tmp_path / "trackio").rglob("*"))


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_sink_that_is_missing_gets_one_sentence_before_training(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SinkError, match=rf'pip install "physnn\[{name}\]"') as caught:
        MetricsConfig(sinks=(name,)).require()
    assert "\n" not in str(caught.value)


def test_a_sink_that_fails_is_left_out_and_the_run_goes_on(tmp_path):
    pytest.importorskip("tensorboard", reason=WITHOUT.format("tensorboard"))
    sinks = told(tmp_path, "tensorboard")
    with pytest.warns(UserWarning, match="TensorBoard failed and gets no more"):
        sinks.write({"step": 2**80, "tokens": 1})
    sinks.write({"step": 6, "tokens": 1})
    sinks.close()


def test_nothing_is_opened_where_nothing_is_asked(tmp_path):
    sinks = MetricsConfig().open(tmp_path, name="run", about={}, step=0)
    sinks.write(json.loads('{"step": 1, "bits_per_byte": 1.0}'))
    sinks.close()
    assert not list(tmp_path.iterdir())
