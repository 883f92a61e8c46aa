"""Plans: what a device does, from the text of a program; memory from its analysis."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from evals.accelerator import load_accelerator
from evals.compiled_cost import Cost, cost_of

ROOT = Path(__file__).parent.parent
PROGRAM = """
HloModule jit_update

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%row (p0: f32[10,4,8], p1: s32[]) -> f32[1,4,8] {
  %p0 = f32[10,4,8]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  ROOT %cut = f32[1,4,8]{2,1,0} dynamic-slice(%p0, %p1)
}

%store (p0.1: f32[10,4,8], p1.1: f32[1,4,8]) -> f32[10,4,8] {
  %p0.1 = f32[10,4,8]{2,1,0} parameter(0)
  %p1.1 = f32[1,4,8]{2,1,0} parameter(1)
  ROOT %put = f32[10,4,8]{2,1,0} dynamic-update-slice(%p0.1, %p1.1, %c)
}

%body (p: (s32[], f32[10,4,8])) -> (s32[], f32[10,4,8]) {
  %p = (s32[], f32[10,4,8]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %rows = f32[10,4,8]{2,1,0} get-tuple-element(%p), index=1
  %one = f32[1,4,8]{2,1,0} fusion(%rows, %i), kind=kLoop, calls=%row
  %all-reduce.1 = f32[1,4,8]{2,1,0} all-reduce(%one), \
replica_groups={{0,1,2,3}}, to_apply=%add
  %new = f32[10,4,8]{2,1,0} fusion(%rows, %all-reduce.1), kind=kLoop, calls=%store
  ROOT %t = (s32[], f32[10,4,8]) tuple(%i, %new)
}

ENTRY %main (a: f32[4,8]) -> f32[4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  %g = bf16[16,8]{1,0} all-gather(%a), \
replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}, dimensions={0}
  %h = (u8[3]{0}, f32[]) all-to-all(%e, %f), replica_groups=[4,2]<=[8]
  %d = f32[4,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %w = (s32[], f32[10,4,8]) while(%t), condition=%c, body=%body, \
backend_config={"known_trip_count":{"n":"10"}}
  ROOT %r = f32[10,4,8]{2,1,0} get-tuple-element(%w), index=1
}
"""


def test_collectives_count_as_often_as_loops_run_and_rings_send_their_part():
    found = cost_of(PROGRAM)
    gathered, exchanged, reduced = 16 * 8 * 2, 3 + 4, 10 * 4 * 8 * 4
    assert found.sent_bytes == {
        "all-gather": gathered,
        "all-reduce": reduced,
        "all-to-all": exchanged,
    }
    # Of four, of two and of four devices.
    on_wires = gathered * 3 / 4 + exchanged / 2 + 2 * reduced * 3 / 4
    assert found.wire_bytes == pytest.approx(on_wires)


def test_products_and_bytes_are_those_of_a_device():
    found = cost_of(PROGRAM)
    assert found.flops == 2 * 4 * 8 * 16
    row = 4 * 8 * 4
    # A row is read and written (and again with its index), reduced, and put in place.
    loop = 10 * (row + row + 4 + 2 * row + 2 * row)
    outside = (4 * 8 + 8 * 16 + 4 * 16) * 4 + (16 * 8 * 2 + row) + 7
    assert found.moved_bytes == loop + outside


@pytest.mark.parametrize("name", ["h100_8", "v5e_256"])
def test_a_step_takes_what_the_data_sheet_allows(name):
    machine = load_accelerator(name)
    one_second = Cost(
        flops=machine.flops_per_s["default"],
        moved_bytes=2 * machine.memory_bytes_per_s,
        wire_bytes=4 * machine.link_bytes_per_s,
    )
    step = machine.roofline(one_second, precision="default")
    assert (step.products_s, step.memory_s, step.links_s) == (1, 2, 4)
    assert (step.least_s, step.most_s, step.bound) == (4, 7, "links")
    with pytest.raises(ValueError, match=r"`compute.matmul_precision` must be one of"):
        machine.roofline(one_second, precision="float8")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[devices]", "[device]", r"must hold only .* but has `device`"),
        ("value = 80e9", "value = -1", r"`memory_bytes` must be a positive"),
        ("value = 450e9\nsource", "value = 450e9\nnote", r"`link_bytes_per_s` must ha"),
        ("flops_per_s.default", "flops_per_s.float8", r"but has `float8`"),
        ("value = 8\n", "value = 7.5\n", r"`devices` must be whole"),
    ],
)
def test_a_machine_with_a_wrong_number_is_refused(old, new, complaint, tmp_path):
    table = (ROOT / "configs" / "accelerators" / "h100_8.toml").read_text()
    assert table.count(old) == 1
    (tmp_path / "mine.toml").write_text(table.replace(old, new))
    with pytest.raises(ValueError, match=complaint):
        load_accelerator(tmp_path / "mine.toml")


def planned(config: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "physnn", "plan", str(config), *arguments, "--json"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_plan_cuts_a_design_over_simulated_devices(tmp_path):
    (tmp_path / "small.toml").write_text(
        'batch = 8\n[task]\ncontext = 16\n[model]\nkind = "transformer"\nwidth = 64\n'
        "n_blocks = 1\nn_heads = 2\nn_hidden = 128\n"
    )
    one, four = (planned(tmp_path / "small.toml", "--data", n) for n in ("1", "4"))
    assert one["cost"]["sent_bytes"] == {}
    assert one["parameters"] == four["parameters"]
    # Parameters and two moments of the optimizer, of 4 bytes each.
    assert one["state_bytes"] == pytest.approx(12 * one["parameters"], rel=0.02)
    assert four["state_bytes"] < 0.3 * one["state_bytes"]
    # Every parameter that is cut is gathered at least once.
    sent = four["cost"]["sent_bytes"]
    assert sent["all-gather"] > 4 * 0.9 * four["parameters"]
    # Each device computes its windows alone.
    assert four["cost"]["flops"] == pytest.approx(one["cost"]["flops"] / 4, rel=0.02)


# What a plan that is extrapolated in depth may be off: docs/scaling.md states it.
OFF = 0.05


@pytest.mark.slow
def test_a_deep_model_is_what_a_few_of_its_layers_tell(tmp_path):
    (tmp_path / "deep.toml").write_text(
        "batch = 8\n[task]\ncontext = 16\n"
        '[model]\nkind = "physical"\nwidth = 64\nn_layers = 16\n'
        '[[model.layer]]\nkind = "gated_unit"\nn_hidden = 128\n'
        '[noise]\nchips_per_batch = 2\n[compute]\nrematerialize = "blocks"\n'
        "scan_layers = true\n"
    )
    few, whole = (
        planned(tmp_path / "deep.toml", "--data", "2", "--on", "h100_8", *more)
        for more in ((), ("--whole",))
    )
    assert few["compiled_layers"] == [8, 12]
    assert whole["compiled_layers"] == [16]
    for name in ("state_bytes", "temporary_bytes"):
        assert few[name] == pytest.approx(whole[name], rel=OFF)
    for name in ("flops", "moved_bytes", "wire_bytes"):
        assert few["cost"][name] == pytest.approx(whole["cost"][name], rel=OFF)
    assert few["on"] == "h100_8"
    assert few["step"]["memory_s"] == pytest.approx(
        few["cost"]["moved_bytes"] / 3.35e12
    )
