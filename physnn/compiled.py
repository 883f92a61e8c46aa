"""Compiled programs, kept between commands: a second start does not compile again."""

import hashlib
import os
import platform
import stat
import zlib
from pathlib import Path

import jax

# What is kept at most; what was read longest ago goes first.
MOST_BYTES = 2 << 30
# Programs that took less to compile are not worth a file.
SHORTEST_S = 0.5


def keep_compiled() -> Path | None:
    """Let JAX keep what it compiles in `folder()`, which is put in order first.

    None, and nothing is changed, where the user has said what JAX is to do:
    `JAX_COMPILATION_CACHE_DIR`, `JAX_ENABLE_COMPILATION_CACHE=false`, or the like in
    `jax.config`; and where the folder cannot be written.
    """
    said = jax.config.values
    if said["jax_compilation_cache_dir"] or not said["jax_enable_compilation_cache"]:
        return None
    place = folder()
    try:
        # Programs are code: nobody else may put one there.
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        tidy(place)
    except OSError:
        return None
    jax.config.update("jax_compilation_cache_dir", str(place))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SHORTEST_S)
    return place


def folder() -> Path:
    """Where this kind of processor keeps its programs, under `XDG_CACHE_HOME`.

    XLA compiles for the instructions of the processor it runs on, and the name of an
    entry does not tell them: homes that several machines share need a folder for each.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kind = hashlib.sha256(_processor().encode()).hexdigest()[:12]
    return Path(home) / "physnn" / "jax" / kind


def tidy(place: Path, *, most_bytes: int = MOST_BYTES) -> None:
    """Remove entries that are not whole, and the oldest beyond `most_bytes`.

    JAX writes an entry in place. Half of one, of a process that was killed, would stay:
    it is found at every start, complained about, and never written again. An entry that
    was found whole is made read-only, and not looked into again. One that another
    process is writing now may be taken for half: then it is compiled once more.
    """
    kept = []
    for path in place.glob("*-cache"):
        try:
            found = path.stat()
            if found.st_mode & stat.S_IWUSR:
                if not _is_whole(path.read_bytes()):
                    path.unlink()
                    continue
                path.chmod(0o400)
            kept.append((max(found.st_atime, found.st_mtime), found.st_size, path))
        except FileNotFoundError:  # another process has removed it
            continue
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= most_bytes:
            return
        path.unlink(missing_ok=True)
        total -= size


def _is_whole(entry: bytes) -> bool:
    """Whether an entry can be unpacked to its end; one in zstandard is taken as whole.

    JAX packs with that where Python has it, which is no reason to need it here: a half
    of such an entry stays, and is compiled beside at every start.
    """
    if entry.startswith(_ZSTANDARD):
        return True
    stream = zlib.decompressobj()
    try:
        stream.decompress(entry)
    except zlib.error:
        return False
    return stream.eof


_ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how a frame begins (RFC 8878)


def _processor() -> str:
    """Architecture, model and instructions of the processor."""
    known = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return "\n".join(known)
    for line in lines:
        if line.split("\t")[0].strip(" :") in ("model name", "flags", "Features"):
            known.append(line)
        if not line:  # the first of them; the others are alike
            break
    return "\n".join(known)
