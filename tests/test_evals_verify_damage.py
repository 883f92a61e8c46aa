"""A package that was damaged: what is hurt is named, the rest is checked still."""

import shutil

import numpy as np
import pytest

from circuits.state_space import GatedRC
from evals.characterize.card import load_card
from evals.verify import Check, Job, Options, Package, open_package, verify
from evals.verify.jobs import run_jobs
from physnn.export.drawn import CARD
from physnn.export.package import export
from physnn.process import load_process


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A state and its drawn cells."""
    return export(
        GatedRC(2, period_s=1e-6),
        load_process("sky130"),
        tmp_path_factory.mktemp("export") / "package",
        provenance={},
        card=load_card("sky130"),
    )


def test_an_array_that_was_cut_is_named(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.arange(64.0))
    whole = path.read_bytes()
    package = Package(tmp_path, {}, frozenset({"a.npy"}))
    np.testing.assert_array_equal(package.array("a.npy"), np.arange(64.0))
    for content in (b"", whole[:40], whole[:-8], b"a,b\n1,2\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^a\.npy must be a NumPy array.*again"):
            package.array("a.npy")


def test_what_nobody_foresaw_is_a_failed_check_and_the_rest_runs(package, monkeypatch):
    monkeypatch.delenv("PHYSNN_TRACEBACK", raising=False)
    fine = Check("B1", "fine", "pass")
    jobs = [
        Job("T2", "card", lambda *_: [{}["predicted"]], needs=()),
        Job("B1", "fine", lambda *_: [fine], needs=()),
    ]
    opened, _ = open_package(package)
    card, other = run_jobs(jobs, opened, Options())
    assert (card.status, card.gate, other.status) == ("fail", "T2", "pass")
    assert "KeyError ('predicted', test_evals_verify_damage.py:" in card.detail
    monkeypatch.setenv("PHYSNN_TRACEBACK", "1")
    with pytest.raises(KeyError):
        run_jobs(jobs, opened, Options())


def test_a_card_of_cells_without_its_tables_leaves_the_rest_checked(package, tmp_path):
    folder = shutil.copytree(package, tmp_path / "package")
    (folder / CARD).write_text("{}")
    checks = verify(folder, gates=("T", "R1")).checks
    failed = {check.gate: check.detail for check in checks if check.status == "fail"}
    assert CARD in failed["S2"]
    assert "KeyError ('pdk'" in failed["S1"]
    assert {check.status for check in checks if check.gate == "R1"} == {"pass"}
