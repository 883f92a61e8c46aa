"""Compiled programs between commands: found again, halves removed, the user's word."""

import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import pytest

from physnn.compiled import folder, keep_compiled, tidy

ROOT = Path(__file__).parent.parent


@pytest.fixture
def undecided(tmp_path, monkeypatch):
    """As in a process in which nobody has said where programs are kept."""
    names = (
        "jax_compilation_cache_dir",
        "jax_enable_compilation_cache",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_cache_where_only_they_can_write(undecided):
    place = keep_compiled()
    assert place is not None
    assert place == folder()
    assert place.parent == undecided / "physnn" / "jax"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert jax.config.values["jax_compilation_cache_dir"] == str(place)
    # Now it is said where they are kept.
    assert keep_compiled() is None


def test_what_the_user_says_holds(undecided):
    jax.config.update("jax_enable_compilation_cache", False)
    assert keep_compiled() is None
    jax.config.update("jax_enable_compilation_cache", True)
    jax.config.update("jax_compilation_cache_dir", str(undecided / "own"))
    assert keep_compiled() is None
    assert jax.config.values["jax_compilation_cache_dir"] == str(undecided / "own")
    assert not (undecided / "physnn").exists()


def test_a_cache_that_cannot_be_written_is_gone_without(undecided):
    (undecided / "physnn").write_text("a file where a folder should be")
    assert keep_compiled() is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_halves_go_and_the_oldest_beyond_the_limit(tmp_path):
    whole = zlib.compress(os.urandom(1000))
    for i, entry in enumerate((whole, whole, whole[:-1], b"", b"no stream", whole)):
        path = tmp_path / f"{i}-cache"
        path.write_bytes(entry)
        os.utime(path, (1000 + i, 1000 + i))
    (tmp_path / "other").write_bytes(b"not an entry")
    tidy(tmp_path)
    names = lambda: sorted(path.name for path in tmp_path.iterdir())
    assert names() == ["0-cache", "1-cache", "5-cache", "other"]
    assert not (tmp_path / "0-cache").stat().st_mode & stat.S_IWUSR
    tidy(tmp_path, most_bytes=2 * len(whole))
    assert names() == ["1-cache", "5-cache", "other"]
    tidy(tmp_path, most_bytes=0)
    assert names() == ["other"]


def test_what_jax_packs_where_zstandard_is_installed_is_left(tmp_path):
    # A frame of RFC 8878: its magic number, then what only that format can read.
    entry = tmp_path / "0-cache"
    entry.write_bytes(bytes.fromhex("28b52ffd") + os.urandom(100))
    tidy(tmp_path)
    assert entry.exists()
    assert not entry.stat().st_mode & stat.S_IWUSR


SCRIPT = """
import jax, jax.numpy as jnp
from physnn.compiled import keep_compiled, tidy
place = keep_compiled()
function = jax.jit(lambda x: jnp.sum(jnp.sin(x) @ jnp.cos(x)))
value = float(function(jnp.ones((8, 8))))
entry = max(place.glob("*-cache"), key=lambda path: path.stat().st_size)
whole = entry.read_bytes()
tidy(place)
assert entry.read_bytes() == whole
# A process that was killed has left half of it.
entry.chmod(0o600)
entry.write_bytes(whole[: len(whole) // 2])
tidy(place)
assert not entry.exists()
jax.clear_caches()
assert float(function(jnp.ones((8, 8)))) == value
assert len(entry.read_bytes()) > 0.9 * len(whole)
jax.clear_caches()
assert float(function(jnp.ones((8, 8)))) == value
"""


def test_half_an_entry_is_compiled_and_written_again(tmp_path):
    wanted = {
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    own = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", SCRIPT],
        cwd=ROOT, env=own | wanted, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
