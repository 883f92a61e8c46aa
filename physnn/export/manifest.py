"""Manifest: what a package holds, where it is from, what was verified and what not."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import PurePosixPath
from typing import Any

import jax.tree_util as jtu
import numpy as np

from physnn.export.selection import Exported, Refusal
from physnn.process import Process

FORMAT, SCHEMA_VERSION = "physnn-export", 2
MANIFEST = "manifest.json"
# Written into a package by `physnn verify`: not in the manifest.
REPORTS = "reports/"
NOT_VERIFIED = (
    "Behavioral cells (spice/behav, va, rnm) are ideal: ideal switches and amplifiers,"
    " no parasitic, no supply. What transistors do is in spice/cells, if it is there.",
    "One circuit of every family is simulated; the others differ in their values only.",
    "Verilog-A is parsed and its equations are compared with the model; no simulator"
    " has run it.",
    "Noise is in no deck of a behavioral cell.",
    "CACE files and constraints follow the documents of their formats; neither CACE nor"
    " ALIGN has read them.",
    "Layout: nothing is drawn; areas are estimates of the floor plan.",
)
# What each folder, or file, of a package is.
_ROLES = (
    ("DATASHEET.md", "datasheet"),
    ("params/parameters", "parameter table"),
    ("params/corners.json", "corners"),
    ("params/mismatch.json", "mismatch"),
    ("params/cells.json", "card of drawn cells"),
    ("params/columns.csv", "capacitors of every charge column"),
    ("params/", "array"),
    ("spice/behav/", "behavioral cell"),
    ("spice/cells/", "transistor-level cell"),
    ("spice/tb/expected.json", "expected results"),
    ("spice/tb/", "test bench"),
    ("spice/pdk/", "what a process calls the devices of drawn cells"),
    ("spice/pdk_map.json", "map of neutral devices to process design kits"),
    ("spice/spiceinit", "simulator settings: copy to .spiceinit beside the deck"),
    ("spice/", "network of cells"),
    ("va/expected", "expected contributions"),
    ("va/", "Verilog-A cell"),
    ("rnm/tb_", "test bench of real-number models"),
    ("rnm/", "real-number model"),
    ("rtl/tb_", "test bench of logic"),
    ("rtl/", "logic"),
    ("blif/", "logic"),
    ("rom/", "ROM image"),
    ("vectors/", "test vectors"),
    ("constraints/", "constraints"),
    ("cace/", "specification for CACE"),
    ("calib/", "what measured values must look like"),
)


def role(name: str) -> str:
    """What a file of a package is for.

    Raises `ValueError` for a file of which no one has said that.
    """
    for start, meaning in _ROLES:
        if name.startswith(start):
            return meaning
    raise ValueError(
        f"A file of a package must be in one of its folders, but {name} is in none:"
        " say in `physnn.export.manifest` what it is."
    )


def model_sha256(design) -> str:
    """A hash of every array of a design: path, type, shape and bytes."""
    digest = hashlib.sha256()
    for path, leaf in jtu.tree_flatten_with_path(design)[0]:
        if hasattr(leaf, "dtype"):
            array = np.ascontiguousarray(leaf)
            digest.update(
                f"{jtu.keystr(path)} {array.dtype.str} {array.shape}".encode()
            )
            digest.update(array.tobytes())
    return digest.hexdigest()


def manifest(
    design,
    process: Process,
    *,
    provenance: Mapping[str, Any],
    circuits: Sequence[Exported],
    refused: Sequence[Refusal],
    realized: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The manifest without its list of files (`listed`).

    `realized` is what the network scores with the values that are exported.
    """
    try:
        generator = version("physnn")
    except PackageNotFoundError:
        generator = "not installed"
    values = {
        name: value
        for name, value in (
            vars(process) | {"amplifier_excess": process.amplifier_excess._asdict()}
        ).items()
        # A limit that is infinite is none.
        if name != "sources"
        and (
            isinstance(value, dict)
            or (isinstance(value, int | float) and math.isfinite(value))
        )
    }
    no_score = {"scored": False, "reason": "The network was not scored again."}
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "generator": {"name": "physnn", "version": generator},
        "provenance": dict(provenance),
        "model": {"class": type(design).__name__, "sha256": model_sha256(design)},
        "process": {"name": process.name, "values": values, "sources": process.sources},
        "units": "SI; signals as fractions of full scale, process.values.swing_V",
        "realized": dict(realized or no_score),
        "not_represented": [vars(refusal) for refusal in refused],
        "verification": {
            "by": "physnn verify",
            "circuits": [
                {
                    "circuit": exported.path,
                    "family": type(exported.circuit).__name__,
                    "benches": [bench.name for _, bench in exported.benches],
                }
                for exported in circuits
            ],
            "not_verified": list(NOT_VERIFIED),
        },
    }


def listed(files: Mapping[str, bytes]) -> list[dict[str, Any]]:
    """Every file with its hash and role.

    Raises `ValueError` for two files that are one where case does not count.
    """
    folded: dict[str, str] = {}
    for name in sorted(files):
        other = folded.setdefault(name.lower(), name)
        if other != name:
            raise ValueError(
                "Files of a package must keep different names when they are folded to"
                f" lower case, but {other} and {name} do not: rename a part of the"
                " design."
            )
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise ValueError(f"A file must be inside its package, but is {name}.")
    return [
        {
            "path": name,
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "bytes": len(files[name]),
            "role": role(name),
        }
        for name in sorted(files)
    ]
