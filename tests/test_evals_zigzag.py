"""The digital path against ZigZag: one accelerator, the matrices of an MLP.

ZigZag (Mei et al. 2021, DOI 10.1109/TC.2021.3059962) searches the mapping of a layer
and counts every access of every memory. It wants an environment of its own; `make
crosscheck` makes one and runs this file.
"""

import json
import os
import subprocess
from pathlib import Path

import equinox as eqx
import jax.random as jr
import pytest

from physnn.energy import bill, load_prices
from physnn.energy.events import Event
from physnn.energy.facts import joules_per, load_facts
from physnn.process import load_process
from train.baseline import TransformerConfig

PYTHON = os.environ.get("PHYSNN_ZIGZAG_PYTHON", "")
pytestmark = [
    pytest.mark.zigzag,
    pytest.mark.skipif(not PYTHON, reason="needs ZigZag: run `make crosscheck`"),
]
PROCESS = load_process("cmos28")
FACTS = load_facts()
CONFIG = TransformerConfig(width=128, n_blocks=1, n_heads=2, n_hidden=384)
# What comes in and goes out of the two matrices of its gated MLP: (outputs, inputs).
LAYERS = ((2 * CONFIG.n_hidden, CONFIG.width), (CONFIG.width, CONFIG.n_hidden))

PORT = """
      - name: {kind}_port_{n}
        type: {long}
        bandwidth_min: {least}
        bandwidth_max: {most}
        allocation: [{who}]"""
MEMORY = """
  {name}:
    size: {bits}
    r_cost: {read}
    w_cost: {write}
    area: 0
    latency: 1
    operands: [{operands}]
    served_dimensions: [{served}]
    ports:{ports}"""
SCRIPT = """
import json, sys
from zigzag.api import get_hardware_performance_zigzag as evaluate
_, _, found = evaluate(
    workload="workload.yaml", accelerator="chip.yaml", mapping="mapping.yaml",
    opt="energy", dump_folder="out", loma_show_progress_bar=False,
)
each = [cme for cme, _ in found[0][1]]
rows = {"mac": 0.0}
for cme in each:
    rows["mac"] += float(cme.mac_energy)
    for operand, levels in cme.mem_energy_breakdown.items():
        rows[str(operand)] = rows.get(str(operand), 0.0) + float(sum(levels))
json.dump(rows, open("found.json", "w"))
"""


def pJ(name: str) -> float:
    scale, _ = joules_per(FACTS[name].unit) or (1.0, "")
    return FACTS[name].nominal * scale / 1e-12


def port(kind: str, n: int, least: int, most: int, who: str) -> str:
    long = {"r": "read", "w": "write"}[kind]
    return PORT.format(kind=kind, n=n, long=long, least=least, most=most, who=who)


def chip() -> str:
    """`sram7` as ZigZag takes it: 64 multipliers, 1 MB for weights, 32 KB beside it."""
    byte, word = pJ("founding.sram.byte"), 8 * pJ("dig.7.sram32k.byte")
    sums = [("w", 1, "O, fh"), ("r", 1, "O, tl"), ("w", 2, "O, fl"), ("r", 2, "O, th")]
    memories = (
        # Its register is inside the price of a multiply-accumulate.
        dict(
            name="sums",
            bits=32,
            read=0,
            write=0,
            operands="O",
            served="D2",
            ports="".join(port(kind, n, 32, 32, f'"{who}"') for kind, n, who in sums),
        ),
        dict(
            name="activations",
            bits=8 * 32 * 1024,
            read=word,
            write=word,
            operands="I1, O",
            served="D1, D2",
            ports=port("r", 1, 8, 64, '"I1, tl", "O, tl", "O, th"')
            + port("w", 1, 8, 64, '"I1, fh", "O, fh", "O, fl"'),
        ),
        dict(
            name="weights",
            bits=8 * 2**20,
            read=64 * byte,
            write=64 * byte,
            operands="I2",
            served="D1, D2",
            ports=port("r", 1, 64, 512, '"I2, tl"') + port("w", 1, 64, 512, '"I2, fh"'),
        ),
    )
    text = "".join(MEMORY.format(**each) for each in memories)
    text = text.replace(
        "operands: [O]", "auto_cost_extraction: False\n    operands: [O]"
    )
    return (
        f"name: sram7\nmemories:{text}\noperational_array:\n"
        f"  unit_energy: {pJ('dig.7.int8.mac')}\n  unit_area: 1\n"
        "  dimensions: [D1, D2]\n  sizes: [8, 8]\n"
    )


MAPPING = """
- name: default
  spatial_mapping: {D1: ["K, 8"], D2: ["C, 8"]}
  memory_operand_links: {O: O, W: I2, I: I1}
"""
LAYER = """
- id: {id}
  name: matrix{id}
  operator_type: Gemm
  equation: O[b][k]+=I[b][c]*W[k][c]
  loop_dims: [B, K, C]
  loop_sizes: [1, {k}, {c}]
  operand_precision: {{W: 8, I: 8, O: 32, O_final: 8}}
  operand_source: {{I: {id}, W: {id}}}
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory) -> dict[str, float]:
    """Joules of both matrices by operand, as ZigZag counts them."""
    folder: Path = tmp_path_factory.mktemp("zigzag")
    layers = (LAYER.format(id=i, k=k, c=c) for i, (k, c) in enumerate(LAYERS))
    files = {
        "chip.yaml": chip(),
        "mapping.yaml": MAPPING,
        "workload.yaml": "".join(layers),
        "run.py": SCRIPT,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    subprocess.run(
        [PYTHON, "run.py"], cwd=folder, check=True, timeout=300, capture_output=True
    )
    found = json.loads((folder / "found.json").read_text())
    return {name: 1e-12 * energy for name, energy in found.items()}


@pytest.fixture(scope="module")
def ours() -> dict[str, float]:
    """Joules of the same by event, as the bill of a transformer has them."""
    design = eqx.filter_eval_shape(
        lambda: CONFIG.build(vocabulary=16, process=PROCESS, key=jr.key(0))
    )
    made = design.events(PROCESS, period_s=1e-6)
    matrices = [e for e in made if e.part == "blocks.mlp" and e.name != "elementwise"]
    # Both outputs of the first matrix, the product, the output of the second: the
    # MLP's part of the bytes of activations that a block writes and reads back.
    moved = 3 * CONFIG.n_hidden + CONFIG.width
    events = (*matrices, Event("activation_byte", moved, "blocks"))

    class Matrices:
        def events(self, process, *, period_s):
            del process, period_s
            return events

    ledger = bill(Matrices(), load_prices("sram7"), process=PROCESS, period_s=1e-6)
    return {name: energy.nominal for name, energy in ledger.by_event().items()}


def test_arithmetic_and_weights_are_the_same_joules(ours, theirs):
    assert ours["mac"] == pytest.approx(theirs["mac"], rel=1e-6)
    assert ours["weight_byte"] == pytest.approx(theirs["W"], rel=1e-6)


def test_what_differs_is_how_often_an_activation_is_read(ours, theirs):
    # ZigZag's multipliers see 8 outputs at a time: it reads every input again for each
    # group of 8. The bill reads it once, and broadcasts it over the wires of the plan.
    word = pJ("dig.7.sram32k.byte") * 8e-12
    reads = sum((c / 8) * (k / 8) for k, c in LAYERS) * word
    assert theirs["I"] == pytest.approx(reads, rel=1e-6)
    writes = sum(k / 8 for k, _ in LAYERS) * word
    assert theirs["O"] == pytest.approx(writes, rel=1e-6)
    assert ours["activation_byte"] + ours.get("wire_bit_m", 0.0) < reads + writes


def test_totals_agree_within_a_fifth(ours, theirs):
    assert sum(ours.values()) == pytest.approx(sum(theirs.values()), rel=0.2)
    print(f"ours {ours}\ntheirs {theirs}")
