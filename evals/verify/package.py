"""Package: an exported folder as the gates read it, no further than its manifest."""

import hashlib
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from evals.verify.check import Check
from physnn.export.manifest import FORMAT, MANIFEST, SCHEMA_VERSION


@dataclass(frozen=True)
class Package:
    """A folder that `physnn export` wrote: its manifest, and the files that are there.

    `files` are the paths of the manifest that exist inside the folder, changed or not.
    """

    folder: Path
    manifest: dict[str, Any]
    files: frozenset[str]

    def bytes(self, name: str) -> bytes:
        """A file by its path in the package. Raises `ValueError` if it has none."""
        if name not in self.files:
            raise ValueError(
                f"The package must hold {name}, but its manifest does not list it or"
                " it is missing: export the run again."
            )
        return (self.folder / name).read_bytes()

    def text(self, name: str) -> str:
        return self.bytes(name).decode("utf-8", errors="replace")

    def json(self, name: str) -> Any:
        """Raises `ValueError` for a file that is missing or is not JSON."""
        try:
            return json.loads(self.text(name))
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{name} must be JSON, but is damaged ({error}): export the run again."
            ) from error

    def array(self, name: str) -> np.ndarray:
        """A `.npy` file. Raises `ValueError` for one that is missing or is no array."""
        content = io.BytesIO(self.bytes(name))
        try:
            return np.load(content, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise ValueError(
                f"{name} must be a NumPy array, but is damaged ({error}): export the"
                " run again."
            ) from error

    def named(self, folder: str, suffix: str = "") -> list[str]:
        """The files right inside a folder of the package, in order."""
        return sorted(
            name
            for name in self.files
            if PurePosixPath(name).parent.as_posix() == folder and name.endswith(suffix)
        )

    def copy(self, names: list[str], work: Path) -> None:
        """Lay files of the package out in `work`, as they lie in the package."""
        for name in names:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(self.bytes(name))


def open_package(folder: str | Path) -> tuple[Package, Check]:
    """A package, and gate S2: whether its files are those of the manifest.

    Raises `ValueError` for a folder that is not an export of this version.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    started = time.perf_counter()
    present, wrong = set(), []
    for entry in manifest["files"]:
        name = str(entry["path"])
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        try:
            content = path.read_bytes() if inside else b""
        except OSError:
            wrong.append(f"{name} is missing")
            continue
        if not inside:
            wrong.append(f"{name} is outside of the folder")
            continue
        present.add(name)
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            wrong.append(f"{name} was changed")
    check = Check(
        "S2",
        f"hashes of {len(manifest['files'])} files",
        "fail" if wrong else "pass",
        float(len(wrong)),
        0.0,
        "files",
        time.perf_counter() - started,
        "; ".join(wrong),
    )
    return Package(folder, manifest, frozenset(present)), check


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        found = (manifest["format"], manifest["schema_version"])
        _ = [(entry["path"], entry["sha256"]) for entry in manifest["files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{folder} must be a folder that `physnn export` wrote, but its {MANIFEST}"
            f" is missing or damaged ({type(error).__name__}): export the run again."
        ) from error
    if found != (FORMAT, SCHEMA_VERSION):
        raise ValueError(
            f"{path} must be of {FORMAT} version {SCHEMA_VERSION}, but is of"
            f" {found[0]} version {found[1]}: export the run again."
        )
    return manifest
