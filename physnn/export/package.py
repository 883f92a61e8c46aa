"""Package: everything a tape-out team receives, in one folder that proves itself."""

import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax.tree_util as jtu
import numpy as np

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit
from physnn.export import tables
from physnn.export.datasheet import datasheet
from physnn.export.netlist import Bench, Netlist, cell_name
from physnn.export.spice import BEHAV, SPICEINIT, write_bench, write_cell
from physnn.process import Process

FORMAT, SCHEMA_VERSION = "physnn-export", 1
MANIFEST = "manifest.json"
NOT_VERIFIED = (
    "Cells are behavioral: ideal switches and amplifiers, no transistor or parasitic.",
    "One circuit of every family is simulated; the others differ in their values only.",
    "How the circuits are wired into the network, its clocks and its converters.",
    "Noise, mismatch, corners, supply and temperature: they are not in the decks.",
)


@dataclasses.dataclass(frozen=True)
class Exported:
    """A circuit of the design, and the cells of it that the package holds."""

    path: str
    circuit: AbstractCircuit
    cells: tuple[Netlist, ...]  # in the order in which they are used
    benches: tuple[tuple[Netlist, Bench], ...]


def circuits_of(node, path: str = "") -> Iterator[tuple[str, AbstractCircuit]]:
    """Every circuit of a design by path, the whole before its parts."""
    if isinstance(node, AbstractCircuit):
        yield path, node
    if isinstance(node, tuple | list):
        for i, part in enumerate(node):
            yield from circuits_of(part, f"{path}[{i}]")
    elif isinstance(node, dict):
        for key, part in node.items():
            yield from circuits_of(part, f"{path}[{key!r}]")
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        for field in dataclasses.fields(node):
            below = f"{path}.{field.name}" if path else field.name
            yield from circuits_of(getattr(node, field.name, None), below)


def exported_circuits(design, process: Process) -> list[Exported]:
    """The first circuit of every family: those that are not made of other circuits.

    Raises `ValueError` that names the circuit which has no netlist, and why.
    """
    seen: set[type] = set()
    found = []
    for path, circuit in circuits_of(design):
        made_of = sum(1 for _ in circuits_of(circuit)) - 1
        if made_of or type(circuit) in seen:
            continue
        seen.add(type(circuit))
        try:
            netlist = circuit.netlist(process, name=cell_name(path or "design"))
        except ValueError as error:
            raise ValueError(
                f"Circuit `{path or 'design'}`, a {type(circuit).__name__}, cannot be"
                f" exported: {error}"
            ) from error
        every = list(netlist.cells())
        benches = [(cell, bench) for cell in every for bench in cell.benches]
        if benches:
            used = {part.name for cell, _ in benches for part in cell.cells()}
            every = [cell for cell in every if cell.name in used]
        found.append(Exported(path, circuit, tuple(every), tuple(benches)))
    if not found:
        raise ValueError(
            f"A design must hold at least one circuit to be exported, but the"
            f" {type(design).__name__} has none."
        )
    return found


def export(
    design, process: Process, out: str | Path, *, provenance: Mapping[str, Any]
) -> Path:
    """Write the hand-off package of a design (or of one fabricated chip) to `out`.

    `provenance` says where the design is from: commit, seeds, data; it must be JSON.
    An older export at `out` is replaced, once the new one is complete. Exporting again
    gives the same bytes.

    Raises `ValueError` for a circuit that has no netlist, values that are not finite,
    and an `out` that holds anything but an export.
    """
    out = Path(out)
    _check_replaceable(out)
    files = package_files(design, process, provenance=provenance)
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    old = out.with_name(f".{out.name}.old-{os.getpid()}")
    try:
        for name, content in files.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if out.exists():
            out.rename(old)
        try:
            partial.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
    return out


def package_files(
    design, process: Process, *, provenance: Mapping[str, Any]
) -> dict[str, bytes]:
    """The files of a package by their path in it; `export` says what is raised."""
    circuits = exported_circuits(design, process)
    parameters, files = _parameters(design, process, circuits)
    expected = []
    for exported in circuits:
        for cell in exported.cells:
            files[f"{BEHAV}/{cell.name}.spice"] = write_cell(cell).encode()
        for cell, bench in exported.benches:
            deck = f"spice/tb/{bench.name}.sp"
            files[deck] = write_bench(cell, bench).encode()
            expected.append(_expectations(exported, cell, bench, deck))
    files["spice/tb/expected.json"] = tables.to_json({"benches": expected})
    files["spice/spiceinit"] = SPICEINIT.encode()
    manifest = _manifest(design, process, provenance, circuits)
    files["DATASHEET.md"] = datasheet(process, circuits, manifest, parameters).encode()
    manifest["files"] = [
        {
            "path": name,
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "bytes": len(files[name]),
            "role": _role(name),
        }
        for name in sorted(files)
    ]
    return files | {MANIFEST: tables.to_json(manifest)}


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


def _parameters(design, process, circuits) -> tuple[dict, dict[str, bytes]]:
    rows, nested, files = [], {}, {}
    leaves = tables.leaves(design)
    banks = {path: leaf for path, leaf in leaves if isinstance(leaf, Bank)}
    columns = tables.columns_of(list(banks.values()), process)
    columns = dict(zip(banks, columns, strict=True))
    for path, leaf in leaves:
        if path in banks:
            part, summary, arrays = tables.bank_tables(path, leaf, columns[path])
        else:
            part, summary, arrays = tables.array_tables(path, leaf)
        rows += part
        nested[path] = summary
        files |= {
            f"params/{name}": tables.to_npy(array) for name, array in arrays.items()
        }
    for exported in circuits:
        for cell in exported.cells:
            rows += tables.netlist_rows(exported.path, cell)
    table = {"units": "SI", "parameters": nested}
    head = {"params/parameters.csv": tables.to_csv(rows)}
    return nested, head | {"params/parameters.json": tables.to_json(table)} | files


def _expectations(exported: Exported, cell: Netlist, bench: Bench, deck: str) -> dict:
    return {
        "bench": bench.name,
        "cell": cell.name,
        "circuit": exported.path,
        "deck": deck,
        "results": [
            {
                "name": e.name,
                "time_s": (e.slot + bench.sample) * bench.slot_s,
                "of": e.law,
                "value": e.value,
                "unit": e.unit,
                "gate": e.gate,
                "absolute": e.absolute,
                "relative": e.relative,
            }
            for e in bench.expected
        ],
    }


def _manifest(design, process: Process, provenance, circuits) -> dict[str, Any]:
    try:
        generator = version("physnn")
    except PackageNotFoundError:
        generator = "not installed"
    values = {
        name: value
        for name, value in vars(process).items()
        # A limit that is infinite is none.
        if name != "sources"
        and (
            isinstance(value, dict)
            or (isinstance(value, int | float) and math.isfinite(value))
        )
    }
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "generator": {"name": "physnn", "version": generator},
        "provenance": dict(provenance),
        "model": {"class": type(design).__name__, "sha256": model_sha256(design)},
        "process": {"name": process.name, "values": values, "sources": process.sources},
        "units": "SI; signals as fractions of full scale, process.values.swing_V",
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


def _role(name: str) -> str:
    roles = {
        "DATASHEET.md": "datasheet",
        "params/parameters.csv": "parameter table",
        "params/parameters.json": "parameter table",
        "spice/tb/expected.json": "expected results",
        "spice/spiceinit": "simulator settings: copy to .spiceinit beside the deck",
    }
    suffixes = {".npy": "array", ".spice": "cell", ".sp": "test bench"}
    return roles.get(name) or suffixes[Path(name).suffix]


def _check_replaceable(out: Path) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not out.is_dir() or out.is_symlink():
        raise ValueError(
            f"{out} must be a folder or not exist, but is a file or a link: give"
            " another name to export to."
        )
    present = {
        path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()
    }
    if not present:
        return
    try:
        manifest = json.loads((out / MANIFEST).read_text())
        ours = manifest["format"] == FORMAT
        listed = {entry["path"] for entry in manifest["files"]} | {MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        ours, listed = False, set()
    if not ours:
        raise ValueError(
            f"{out} must be empty or an older export to be replaced, but holds other"
            f" files ({min(present)}): give another folder."
        )
    if present - listed:
        raise ValueError(
            f"{out} holds files that no export wrote ({min(present - listed)}), which"
            " would be lost: move them or give another folder."
        )
