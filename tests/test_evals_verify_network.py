"""A whole network in ngspice: its outputs and predictions are those of the model."""

import json
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks.channel import ChannelBlock
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.state_space import GatedRCBlock
from evals.verify import Options, network
from evals.verify.jobs import run_jobs
from evals.verify.package import Package
from physnn import load_process
from physnn.export import top
from physnn.export.spice import forbidden
from train.model import PhysicalConfig, embedded

PROCESS = load_process("cmos28")
TEXT = b"It was the best of times, it was the worst of times, it was the age of wisdom"


def network_of(*blocks):
    """A narrow model of `blocks` and its readout, offsets of either sign."""
    config = PhysicalConfig(width=4, n_layers=1, layer=blocks)
    model = config.build(vocabulary=16, process=PROCESS, key=jr.key(3))
    # As if trained.
    model = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            jnp.linspace(-0.1, 0.1, leaf.size).reshape(leaf.shape)
            if jax.tree_util.keystr(path[-2:]) == ".offset.value"
            else leaf
        ),
        model,
    )
    tokens = np.frombuffer(TEXT, np.uint8).astype(np.int32) % 16
    return top.Network(
        model.stack.blocks,
        (model.agc, model.head),
        np.asarray(embedded(model, tokens)),
        config.period_s,
        "a novel",
    )


@pytest.fixture(scope="module")
def whole():
    return network_of(
        GatedRCBlock(n_states=3, n_taps=2, longest_memory=8.0),
        GatedUnitBlock(n_hidden=4),
    )


@pytest.fixture(scope="module")
def made(whole):
    return top.files(whole, PROCESS)


def checks_of(made, folder, *, slow=False):
    for name, content in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    package = Package(folder, {}, frozenset(made))
    options = Options(slow=slow)
    return run_jobs(network.jobs(package, options), package, options, n_workers=1)


@pytest.mark.needs_ngspice
def test_ngspice_predicts_what_the_model_predicts(made, tmp_path):
    predicted, outputs = checks_of(made, tmp_path)
    assert predicted.status == outputs.status == "pass", (predicted, outputs)
    assert "blocks 0 to 1 of 2" in predicted.detail
    assert outputs.measured is not None
    # A weight, a skip or a delay that was wired wrong moves outputs by far more.
    assert outputs.measured < 3e-4
    values = top.read_values(made[top.VALUES].decode())
    assert len(set(top.predictions(values["expected"]))) > 1


@pytest.mark.needs_ngspice
def test_a_column_that_is_no_charge_column_keeps_its_offset(tmp_path):
    """Cells with parameters of their own are drawn out with numbers in their place."""
    made = top.files(network_of(ChannelBlock(n_hidden=3, n_taps=2)), PROCESS)
    predicted, outputs = checks_of(made, tmp_path)
    assert predicted.status == outputs.status == "pass", (predicted, outputs)
    assert outputs.measured is not None
    assert outputs.measured < 3e-4
    # Another offset, as the default of the cell would be, moves what comes out.
    text = made[top.TOP].decode()
    found = re.search(r"\+\((-?0\.\d+)\)", text)
    assert found is not None
    other = text[: found.start()] + "+(0.5)" + text[found.end() :]
    _, outputs = checks_of({**made, top.TOP: other.encode()}, tmp_path)
    assert outputs.status == "fail"


@pytest.mark.needs_ngspice
def test_a_weight_that_is_another_is_noticed(made, tmp_path):
    lines = made[top.TOP].decode().splitlines()
    start = "g_part0_inputs_column"
    weights = [i for i, line in enumerate(lines) if line.startswith(start)]
    i = max(weights, key=lambda i: abs(float(lines[i].split()[-1])))
    *words, value = lines[i].split()
    lines[i] = " ".join([*words, str(-float(value))])
    changed = {**made, top.TOP: "\n".join([*lines, ""]).encode()}
    _, outputs = checks_of(changed, tmp_path)
    assert outputs.status == "fail"


def test_the_cut_is_the_longest_end_that_is_affordable(whole, monkeypatch):
    part = top.cut(whole, PROCESS)
    assert (part.first, part.n_blocks) == (0, 2)
    monkeypatch.setattr(top, "MOST_WEIGHTS", part.n_weights - 1)
    shorter = top.cut(whole, PROCESS)
    assert shorter.first == 1
    assert shorter.steps < part.steps  # no states are left in it
    monkeypatch.setattr(top, "MOST_WEIGHTS", 0)
    head = top.files(whole, PROCESS)[top.TOP].decode()
    assert "the readout alone, of 2 blocks none" in head
    # What drives it is what the blocks before it give: the outputs stay.
    n = min(len(part.expected), len(shorter.expected))
    assert np.allclose(part.expected[:n], shorter.expected[:n], atol=1e-6)


@pytest.mark.needs_ngspice
def test_without_states_every_token_is_an_operating_point(whole, monkeypatch, tmp_path):
    monkeypatch.setattr(top, "MOST_WEIGHTS", top.cut(whole, PROCESS).n_weights - 1)
    made = top.files(whole, PROCESS)
    values = top.read_values(made[top.VALUES].decode())
    assert values["steps"] == 0
    assert f"dc v_token 0 {values['tokens'] - 1} 1" in made[top.DECK].decode()
    assert "dc v_token 0 0 1" in top.write_deck(values, 1)
    predicted, outputs = checks_of(made, tmp_path, slow=True)
    assert predicted.status == outputs.status == "pass", (predicted, outputs)
    assert f"{values['tokens']} of {values['tokens']} agree" in predicted.detail
    assert "an operating point per token" in predicted.detail
    assert outputs.measured is not None
    assert outputs.measured < 3e-4


@pytest.mark.needs_ngspice
def test_the_slow_set_takes_the_tokens_it_has_time_for(made, monkeypatch, tmp_path):
    values = top.read_values(made[top.VALUES].decode())
    few, whole = values["fast_tokens"], values["tokens"]
    assert few < whole
    for seconds, n in ((1e-9, few), (1e9, whole)):
        monkeypatch.setattr(network, "SLOW_s", seconds)
        predicted, outputs = checks_of(made, tmp_path, slow=True)
        assert predicted.status == outputs.status == "pass", (predicted, outputs)
        assert f"on {n} of {whole} tokens" in predicted.detail
        assert outputs.trace is not None
        assert len(outputs.trace.x) == n


def test_the_circuit_is_plain_and_its_deck_is_written_from_numbers(made):
    assert forbidden(made[top.TOP].decode()) is None
    values = top.read_values(made[top.VALUES].decode())
    assert made[top.DECK].decode() == top.write_deck(values, values["tokens"])
    assert values["clocks"] == ["part0_delay_phi2"]
    assert len(values["drive"]) == len(values["expected"]) == values["tokens"]
    for damage in ({"clocks": ["a b"]}, {"drive": [1.0]}, {"period_s": "x"}):
        with pytest.raises(ValueError, match=r"top\.json"):
            top.write_deck({**values, **damage}, 3)
    with pytest.raises(ValueError, match="for every token"):
        top.read_values(json.dumps({**values, "tokens": 1}))


def test_a_program_in_the_network_is_not_run(made, tmp_path):
    changed = {**made, top.TOP: made[top.TOP] + b".control\nshell touch x\n.endc\n"}
    (check,) = checks_of(changed, tmp_path)
    assert check.status == "fail"
    assert "was not run" in check.detail
    assert network.jobs(Package(tmp_path, {}, frozenset()), Options()) == []
