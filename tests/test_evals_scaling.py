"""Plans: bytes sent are read from a compiled program, memory from its analysis."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals.scaling import sent_bytes

ROOT = Path(__file__).parent.parent
PROGRAM = """
HloModule jit_update

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%y), channel_id=1, to_apply=%add
  ROOT %t = (s32[], f32[4,8]{1,0}) tuple(%i, %all-reduce.1)
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %g = bf16[16,8]{1,0} all-gather(%a), channel_id=2, dimensions={0}
  %h = (u8[3]{0}, f32[]) all-to-all(%a, %b), channel_id=3
  %w = (s32[], f32[4,8]{1,0}) while(%t), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
  ROOT %r = f32[4,8]{1,0} get-tuple-element(%w), index=1
}
"""


def test_bytes_are_those_of_results_as_often_as_loops_run():
    assert sent_bytes(PROGRAM) == {
        "all-gather": 16 * 8 * 2,
        "all-reduce": 10 * 4 * 8 * 4,
        "all-to-all": 3 + 4,
    }


@pytest.mark.slow
def test_a_plan_cuts_a_design_over_simulated_devices(tmp_path):
    (tmp_path / "small.toml").write_text(
        'batch = 8\n[task]\ncontext = 16\n[model]\nkind = "transformer"\nwidth = 64\n'
        "n_blocks = 1\nn_heads = 2\nn_hidden = 128\n"
    )
    command = [sys.executable, "-m", "physnn", "plan", str(tmp_path / "small.toml")]
    plans = []
    for data in ("1", "4"):
        done = subprocess.run(
            [*command, "--data", data, "--json"],
            cwd=ROOT, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        plans.append(json.loads(done.stdout))
    one, four = plans
    assert one["sent_bytes"] == {}
    assert one["parameters"] == four["parameters"]
    # Parameters and two moments of the optimizer, of 4 bytes each.
    assert one["state_bytes"] == pytest.approx(12 * one["parameters"], rel=0.02)
    assert four["state_bytes"] < 0.3 * one["state_bytes"]
    # Every parameter that is cut is gathered at least once.
    assert four["sent_bytes"]["all-gather"] > 4 * 0.9 * four["parameters"]
