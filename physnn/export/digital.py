"""Digital parts of a package: Verilog, BLIF, ROMs, test vectors and benches."""

import numpy as np

from physnn.export import tables
from physnn.export.blif import write_blif
from physnn.export.generic_library import write_generic_library
from physnn.export.logic import HashedRoms, Logic, digital_parts, trial_bits
from physnn.export.netlist import cell_name
from physnn.export.rtl import rom_files, to_hex, write_bench, write_logic, write_roms
from physnn.process import Process

INDEX = "rtl/index.json"
GENERIC = "blif/generic.lib"
# Gate D1 asks for 500 at least.
N_VECTORS = 512


def files(design, process: Process) -> dict[str, bytes]:
    """The files of every digital part of `design` by their path in the package.

    `rtl/index.json` lists the parts: name, path in the design, kind, numbers of inputs,
    outputs, registers, tables and vectors. Vectors are drawn at random and answered by
    the circuit itself, from the start of a sequence on. Nothing for a design without
    digital parts. Raises `ValueError` for what has no bits to be built with.
    """
    found: dict[str, bytes] = {}
    rows = []
    for path, part in digital_parts(design, process):
        name = cell_name(path or "design")
        roms = isinstance(part, HashedRoms)
        row = _roms(name, part, found) if roms else _logic(name, part, found)
        rows.append({"name": name, "circuit": path} | row)
    if rows:
        found[INDEX] = tables.to_json({"parts": rows})
        found[GENERIC] = write_generic_library(process).encode()
    return {name: found[name] for name in sorted(found)}


def _logic(name: str, logic: Logic, found: dict[str, bytes]) -> dict:
    xs = trial_bits(N_VECTORS, logic.n_in)
    found[f"rtl/{name}.v"] = write_logic(name, logic).encode()
    found[f"blif/{name}.blif"] = write_blif(name, logic).encode()
    layers = [
        {"n": layer.wires.shape[0], "k": layer.wires.shape[1], "node_F": layer.node_F}
        for layer in logic.layers
    ]
    ys, states = logic.evaluate(xs)
    if logic.registers:
        found[f"vectors/{name}_s.hex"] = to_hex(states).encode()
    sizes = _bench(name, xs, ys, found)
    return {
        "kind": "tables",
        **sizes,
        "n_registers": len(logic.registers),
        "layers": layers,
    }


def _roms(name: str, roms: HashedRoms, found: dict[str, bytes]) -> dict:
    xs = trial_bits(N_VECTORS, 8)
    bytes_ = (xs.astype(np.int64) << np.arange(8)).sum(axis=1)
    found[f"rtl/{name}.v"] = write_roms(name, roms).encode()
    for file, text in rom_files(name, roms).items():
        found[f"rom/{file}"] = text.encode()
    sizes = _bench(name, xs, roms.to_bits(roms.model(bytes_)), found)
    return {
        "kind": "hashed_roms",
        **sizes,
        "n_registers": 8 * roms.n_past,
        "rom_bits": sum(len(rows) * roms.row_bits for rows in roms.rows),
    }


def _bench(name: str, xs: np.ndarray, ys: np.ndarray, found: dict[str, bytes]) -> dict:
    sizes = {"n_in": xs.shape[1], "n_out": ys.shape[1], "n_vectors": len(xs)}
    found[f"vectors/{name}_x.hex"] = to_hex(xs).encode()
    found[f"vectors/{name}_y.hex"] = to_hex(ys).encode()
    found[f"rtl/tb_{name}.v"] = write_bench(name, **sizes).encode()
    return sizes
