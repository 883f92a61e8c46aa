"""Package: everything a tape-out team receives, in one folder that proves itself."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from physnn.bank import Bank
from physnn.export import (
    cace,
    calibration_schema,
    conditions,
    constraints,
    digital,
    drawn,
    real_number,
    tables,
    top,
    verilog_a,
)
from physnn.export.datasheet import datasheet
from physnn.export.manifest import FORMAT, MANIFEST, REPORTS, listed, manifest
from physnn.export.netlist import Bench, Netlist
from physnn.export.selection import Exported, Refusal, circuits_of, exported_circuits
from physnn.export.spice import BEHAV, SPICEINIT, write_bench, write_cell
from physnn.process import Process

Files = dict[str, bytes]


def export(
    design,
    process: Process,
    out: str | Path,
    *,
    provenance: Mapping[str, Any],
    realized: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    network: top.Network | None = None,
) -> Path:
    """Write the hand-off package of a design (or of one fabricated chip) to `out`.

    `provenance` says where the design is from: commit, seeds, data; `realized` what
    the network scores with the values that are exported; `card` holds the drawn cells
    of a PDK (`configs/cells`), which are added where they are given. All must be JSON.
    `network` is the design on a text, simulated as a whole.
    An older export at `out` is replaced, once the new one is complete. Exporting again
    gives the same bytes.

    What a format cannot represent is left out of it and named in the manifest. Raises
    `ValueError` for a design without any netlist, values that are not finite, names
    that collide, and an `out` that holds anything but an export.
    """
    out = Path(out)
    _check_replaceable(out)
    files = package_files(
        design,
        process,
        provenance=provenance,
        realized=realized,
        card=card,
        network=network,
    )
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
    design,
    process: Process,
    *,
    provenance: Mapping[str, Any],
    realized: Mapping[str, Any] | None = None,
    card: Mapping[str, Any] | None = None,
    network: top.Network | None = None,
) -> Files:
    """The files of a package by their path in it; `export` says what is raised."""
    circuits, refused = exported_circuits(design, process)
    cells = [cell for exported in circuits for cell in exported.cells]
    benches = [bench for exported in circuits for bench in exported.benches]
    summaries, files = _parameters(design, process, circuits)
    files |= _spice(circuits)
    for found, not_held in (
        verilog_a.files(cells, process),
        real_number.files(benches),
    ):
        files |= found
        refused += not_held
    if card is not None:
        files |= drawn.files(design, process, card, files)
    files |= _or_refused("logic", lambda: digital.files(design, process), refused)
    if network is not None:
        files |= _or_refused("network", lambda: top.files(network, process), refused)
    logic = json.loads(files[digital.INDEX]) if digital.INDEX in files else None
    files |= constraints.files(cells, process, digital=logic, period_s=_token_s(design))
    files |= cace.files(benches, process)
    head = manifest(
        design,
        process,
        provenance=provenance,
        circuits=circuits,
        refused=refused,
        realized=realized,
    )
    files["DATASHEET.md"] = datasheet(
        process, circuits, head, summaries, sorted(files)
    ).encode()
    head["files"] = listed(files)
    return files | {MANIFEST: tables.to_json(head)}


def _or_refused(form: str, write: Callable[[], Files], refused: list[Refusal]) -> Files:
    """The files of a format, or none and its reason: the rest is written still."""
    try:
        return write()
    except ValueError as error:
        refused.append(Refusal(form, "design", str(error)))
        return {}


def _spice(circuits: list[Exported]) -> Files:
    """Behavioral cells, their benches, and what the benches should print."""
    files: Files = {}
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
    return files


def _token_s(design) -> float | None:
    """How long a token lasts, if a circuit says so [s]."""
    periods = (getattr(circuit, "period_s", None) for _, circuit in circuits_of(design))
    return next((period for period in periods if isinstance(period, float)), None)


def _parameters(design, process: Process, circuits: list[Exported]):
    """Summaries of all arrays by path, and the files of `params` and `calib`."""
    rows, nested, files = [], {}, {}
    leaves = tables.leaves(design)
    banks = {path: leaf for path, leaf in leaves if isinstance(leaf, Bank)}
    columns = tables.columns_of(list(banks.values()), process)
    columns = dict(zip(banks, columns, strict=True))
    for path, leaf in leaves:
        if path in banks:
            part, summary, arrays = tables.bank_tables(
                path, leaf, columns[path], process
            )
        else:
            part, summary, arrays = tables.array_tables(path, leaf)
        rows += part
        nested[path] = summary
        for name, array in arrays.items():
            if f"params/{name}" in files:
                raise ValueError(
                    "Arrays must keep different names when they are folded to lower"
                    f" case, but {path} and another are both {name}: rename one."
                )
            files[f"params/{name}"] = tables.to_npy(array)
    trained = list(rows)
    for exported in circuits:
        for cell in exported.cells:
            rows += tables.netlist_rows(exported.path, cell, process)
    families = {
        type(exported.circuit): tuple(cell.name for cell in exported.cells)
        for exported in circuits
    }
    cells = {
        path: families[type(circuit)]
        for path, circuit in circuits_of(design)
        if type(circuit) in families
    }
    table = {"units": "SI", "parameters": nested}
    return nested, (
        {
            "params/parameters.csv": tables.to_csv(rows),
            "params/parameters.json": tables.to_json(table),
        }
        | files
        | conditions.files(banks, nested, process, cells)
        | calibration_schema.files(trained, process)
    )


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
        known = {entry["path"] for entry in manifest["files"]} | {MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        ours, known = False, set()
    if not ours:
        raise ValueError(
            f"{out} must be empty or an older export to be replaced, but holds other"
            f" files ({min(present)}): give another folder."
        )
    # Reports are made again by the command that made them; measured values are not.
    foreign = {p for p in present - known if not p.startswith(REPORTS)}
    if foreign:
        raise ValueError(
            f"{out} holds files that no export wrote ({min(foreign)}), which"
            " would be lost: move them or give another folder."
        )
