"""Checkpoints: exact round trips, damage found, a full disk survived."""

import re
import resource
import shutil
import subprocess
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from train.checkpoint import CheckpointError, Checkpoints

ROOT = Path(__file__).parent.parent


def tree(seed: int) -> dict:
    """Small and large arrays of several kinds: Orbax stores them differently."""
    return {
        "weights": jax.random.normal(jax.random.key(seed), (80, 90)),
        "step": jnp.asarray(seed, jnp.int32),
        "best": jnp.asarray(jnp.inf),
        "words": jnp.arange(2, dtype=jnp.uint32),
        "nothing": None,
    }


def same(a, b) -> bool:
    return jax.tree.structure(a) == jax.tree.structure(b) and all(
        x.dtype == y.dtype and np.array_equal(x, y)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def restore(checkpoints: Checkpoints, template) -> tuple[int, dict]:
    found = checkpoints.restore(template)
    assert found is not None
    return found


def test_what_is_restored_is_what_was_saved_and_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.restore(tree(0)) is None
    for step in (5, 10, 20, 100):
        checkpoints.save(step, tree(step))
    assert checkpoints.steps() == [20, 100]
    step, restored = restore(checkpoints, jax.eval_shape(tree, 0))
    assert step == 100
    assert same(restored, tree(100))


def test_a_step_can_be_saved_again(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(5, tree(1))
    checkpoints.save(5, tree(2))
    assert same(restore(checkpoints, tree(0))[1], tree(2))


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_to_any_file_is_found_or_harmless(damage, tmp_path):
    """Whatever file is damaged, what comes back is a whole checkpoint."""
    Checkpoints(tmp_path / "original").save(1, tree(1))
    Checkpoints(tmp_path / "original").save(2, tree(2))
    newest = tmp_path / "original" / "000000002"
    files = [p.relative_to(newest) for p in newest.rglob("*") if p.is_file()]
    assert len(files) > 3
    fallen_back = 0
    for i, name in enumerate(files):
        folder = tmp_path / f"{i}"
        shutil.copytree(tmp_path / "original", folder)
        path = folder / "000000002" / name
        content = bytearray(path.read_bytes())
        if damage == "flip" and content:
            content[len(content) // 2] ^= 0x10
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
        if damage == "remove":
            path.unlink()
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            step, restored = restore(Checkpoints(folder), tree(0))
        assert same(restored, tree(step))
        if step == 1:
            fallen_back += 1
            assert any("step 2 in" in str(w.message) for w in warned)
    assert fallen_back >= 1


def test_damage_to_all_checkpoints_gets_one_sentence(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, tree(step))
        for path in (tmp_path / f"{step:09d}").rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="cannot be used"),
        pytest.raises(CheckpointError, match=r"but none of \[1, 2\] is") as caught,
    ):
        checkpoints.restore(tree(0))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_was_cut_off_is_not_seen_and_is_removed(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1))
    unfinished = tmp_path / "000000002.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "d").write_bytes(b"half")
    assert checkpoints.steps() == [1]
    assert same(restore(checkpoints, tree(0))[1], tree(1))
    checkpoints.save(3, tree(3))
    assert not unfinished.exists()


def test_another_model_does_not_fit(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1))
    other = tree(0) | {"weights": jnp.zeros((3, 4))}
    with pytest.warns(match="cannot be used"), pytest.raises(CheckpointError):
        checkpoints.restore(other)
    renamed = {f"new_{name}": leaf for name, leaf in tree(0).items()}
    with pytest.warns(match="another physnn"), pytest.raises(CheckpointError):
        checkpoints.restore(renamed)


def test_a_file_that_cannot_grow_gets_one_sentence(tmp_path):
    """A limit on the size of files fails writes as a full disk does, for anyone."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, tree(1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CheckpointError) as caught:
            checkpoints.save(2, tree(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    check_refused_save(caught.value, checkpoints)


def test_a_full_disk_gets_one_sentence(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150k", "physnn-test", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, stderr=-1).returncode:
        pytest.skip("a small disk can only be mounted by root on Linux")
    try:
        checkpoints = Checkpoints(disk / "checkpoints")
        checkpoints.save(1, tree(1))
        larger = {str(i): tree(i) for i in range(4)}
        with pytest.raises(CheckpointError, match="the disk is full") as caught:
            checkpoints.save(2, larger)
        check_refused_save(caught.value, checkpoints)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def check_refused_save(error: CheckpointError, checkpoints: Checkpoints) -> None:
    assert re.search(
        r"step 2 could not be written.*step 1 is intact.*continue", str(error)
    )
    assert "\n" not in str(error)
    assert checkpoints.steps() == [1]
    assert same(restore(checkpoints, tree(0))[1], tree(1))
    assert [p.name for p in checkpoints.folder.iterdir()] == ["000000001"]


def test_nothing_that_is_loaded_can_execute_code():
    pattern = re.compile(
        r"^\s*(import|from) (pickle|cloudpickle|dill|joblib|marshal|shelve)\b"
        r"|allow_pickle=(?!False)|\b(eval|exec)\(",
        re.MULTILINE,
    )
    for floor in ("physnn", "circuits", "train", "evals"):
        for path in (ROOT / floor).rglob("*.py"):
            assert not pattern.search(path.read_text()), path
