"""Tables: every bank of a design as rows and arrays, with code, range and spread."""

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import equinox as eqx
import jax
import jax.tree_util as jtu
import numpy as np

from physnn.bank import Bank
from physnn.export.laws import number
from physnn.export.netlist import Netlist, cell_name
from physnn.fabricate import device_sigma
from physnn.process import Process

# A larger bank goes into arrays; of it the table lists only the first column.
ROWS_MAX = 4096
CODING = "signed symmetric, value = code * lsb"


@dataclass(frozen=True)
class Row:
    """One line of parameters.csv; an empty string is what does not apply.

    `sigma_local` is the spread of a device against its neighbor, `sigma_global` that of
    all such devices from die to die, both in `unit`; `tempco` [1/K] is relative.
    `origin` is trained, calibrated, derived or fixed; `window` is where a value holds.
    """

    path: str
    cell: str
    instance: str
    symbol: str
    value: float | str
    unit: str
    min: float | str = ""
    max: float | str = ""
    code: int | str = ""
    bits: int | str = ""
    coding: str = ""
    lsb: float | str = ""
    realized_value: float | str = ""
    sigma_local: float | str = ""
    sigma_global: float | str = ""
    tempco: float | str = ""
    origin: str = "trained"
    window: str = ""
    file: str = ""


def window(process: Process) -> str:
    """Where exported values hold: the operating point of the process card."""
    return (
        f"{number(process.supply_V)} V, {number(process.temperature_K)} K,"
        f" signals within {number(process.swing_V)} V"
    )


def drift(kind: str, value: float, process: Process) -> dict[str, float | str]:
    """`sigma_global` [as `value`] and `tempco` [1/K] of a value of a kind of device.

    Kinds of banks are ratios of equal devices, which dies and temperature do not move,
    but `ring_frequency`; of absolute values `F` and `S` move. Corners are three sigma.
    """
    dies = process.environment.get("die_to_die", 0.0)
    a = process.operating
    trim = a["trim_residue"]
    spread, tempco = {
        "F": (a["capacitor_corner"], ""),
        "S": (a["current_corner"] * trim, a["current_per_K"]),
        "ring_frequency": (a["ring_corner"] * trim, a["ring_per_K"]),
        "capacitor": (0.0, 0.0),
        "current": (0.0, 0.0),
        "threshold": (0.0, ""),
    }.get(kind, ("", ""))
    if isinstance(spread, float):
        spread = float(number(abs(value) * spread * dies))
    return {"sigma_global": spread, "tempco": tempco}


def leaf_path(path) -> str:
    """A path in the tree of a design as text: `mixers[0].inputs.weight`."""
    return jtu.keystr(path).lstrip(".")


def leaves(design) -> list[tuple[str, Any]]:
    """The banks of a design, and its arrays outside of banks, by path."""
    pairs = jtu.tree_flatten_with_path(design, is_leaf=lambda x: isinstance(x, Bank))[0]
    return [
        (leaf_path(path), leaf)
        for path, leaf in pairs
        if isinstance(leaf, Bank | jax.Array | np.ndarray)
    ]


@eqx.filter_jit
def _compute(banks: list[Bank], process: Process):
    return [
        (
            bank.full_scale(),
            bank.nominal(),
            bank.realized(),
            device_sigma(bank, process),
        )
        for bank in banks
    ]


def columns_of(banks: list[Bank], process: Process) -> list[dict[str, np.ndarray]]:
    """What the table tells of every device, for each bank, as arrays of its shape."""
    return [
        _columns(bank, *map(np.asarray, computed))
        for bank, computed in zip(banks, _compute(banks, process), strict=True)
    ]


def _columns(bank: Bank, full_scale, nominal, realized, sigma_local):
    shape, legal = bank.value.shape, (bank.low, bank.high)
    arrays: dict[str, np.ndarray] = {"value": np.asarray(bank.value)}
    if bank.bits is not None:
        full_scale = np.broadcast_to(full_scale, shape)
        sized = bank.size is not None
        levels = float(bank.units()) if sized else 2 ** (bank.bits - 1) - 1
        lsb = (full_scale / levels).astype(np.float32)
        arrays["lsb"] = lsb
        arrays["code"] = np.rint(nominal / lsb).astype(np.int32)
        arrays["min"] = np.maximum(-full_scale, legal[0])
        arrays["max"] = np.minimum(full_scale, legal[1])
    else:
        arrays |= {
            name: np.full(shape, limit, np.float32)
            for name, limit in zip(("min", "max"), legal, strict=True)
            if math.isfinite(limit)
        }
    return arrays | {"realized_value": realized, "sigma_local": sigma_local}


def bank_tables(
    path: str, bank: Bank, arrays: dict[str, np.ndarray], process: Process
) -> tuple[list[Row], dict[str, Any], dict[str, np.ndarray]]:
    """(rows, summary, arrays) of a bank from its `columns_of`; arrays by file name.

    A large bank goes into arrays; a small one has none.

    Raises `ValueError` for a value that is not finite.
    """
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            raise ValueError(
                f"Bank `{path}` must hold finite numbers to be exported, but"
                f" {np.sum(~np.isfinite(array))} of its `{name}` are not."
            )
    owner, _, symbol = path.rpartition(".")
    name = cell_name(path)
    large = bank.value.size > ROWS_MAX
    common: dict[str, Any] = {"unit": bank.unit, "bits": bank.bits or ""}
    common |= {"coding": CODING if bank.bits else "", "window": window(process)}
    common["origin"] = "trained" if bank.shift is None else "calibrated"

    def row(index: tuple[int, ...]) -> Row:
        found = {key: array[index].item() for key, array in arrays.items()}
        place = ",".join(map(str, index))
        found |= drift(bank.kind, found["realized_value"], process)
        return Row(path, cell_name(owner), place, symbol, **found, **common)

    summary = {
        "shape": list(bank.value.shape),
        "kind": bank.kind,
        "unit": bank.unit,
        "bits": bank.bits,
        "coding": common["coding"] or None,
        "unit_devices": round(float(bank.units())),
        "unit_area_m2": bank.area_m2 * float(bank.area_factor()),
        "rms": _digits(np.sqrt(np.mean(np.square(arrays["realized_value"])))),
        "min": _digits(np.min(arrays["realized_value"])),
        "max": _digits(np.max(arrays["realized_value"])),
        "mean_sigma_local": _digits(np.mean(arrays["sigma_local"])),
        "origin": common["origin"],
    }
    if not large:
        rows = [row(index) for index in np.ndindex(bank.value.shape)]
        values = {key: array.tolist() for key, array in arrays.items()}
        return rows, summary | {"values": values}, {}
    files = {
        key: f"arrays/{name}.{key}.npy"
        for key in ("value", "code", "lsb", "realized_value", "sigma_local")
        if key in arrays
    }
    place = "x".join(map(str, bank.value.shape))
    whole = Row(path, cell_name(owner), f"all {place}", symbol, "", **common)
    rows = [Row(**(asdict(whole) | {"file": files["realized_value"]}))]
    first = (0,) * (bank.value.ndim - 1)
    rows += [row((i, *first)) for i in range(bank.value.shape[0])]
    return (
        rows,
        summary | {"files": files},
        {
            # A column shares its lsb.
            file: arrays[key][:1] if key == "lsb" else arrays[key]
            for key, file in files.items()
        },
    )


def array_tables(path: str, array) -> tuple[list[Row], dict[str, Any], dict]:
    """The same for an array outside of banks: a stored table, or a trained size."""
    array = np.asarray(array)
    if not np.all(np.isfinite(array)):
        raise ValueError(f"Array `{path}` must be finite to be exported, but is not.")
    owner, _, symbol = path.rpartition(".")
    summary: dict[str, Any] = {"shape": list(array.shape), "origin": "trained"}
    if array.ndim == 0:
        row = Row(path, cell_name(owner), "", symbol, array.item(), "1")
        return [row], summary | {"values": {"value": array.item()}}, {}
    file = f"arrays/{cell_name(path)}.value.npy"
    place = f"all {'x'.join(map(str, array.shape))}"
    row = Row(path, cell_name(owner), place, symbol, "", "", file=file)
    return [row], summary | {"files": {"value": file}}, {file: array}


def netlist_rows(path: str, cell: Netlist, process: Process) -> Iterator[Row]:
    """The values inside an exported cell and, as instances, those it sets below."""

    def row(place: str, symbol: str, value: float, unit: str, origin="derived") -> Row:
        moved = drift(unit, value, process) if origin == "derived" else {}
        here = {"origin": origin, "window": window(process), **moved}
        return Row(path, cell.name, place, symbol, value, unit, **here)

    for name, parameter in cell.parameters.items():
        yield row("", name, parameter.value, parameter.unit)
    for device in cell.devices:
        for key, value in device.parameters.items():
            if not isinstance(value, str):
                symbol, _, unit = key.rpartition("_")
                symbol, unit = (symbol, unit) if symbol else (key, "1")
                origin = "derived" if device.kind == "capacitor" else "fixed"
                yield row(f"{device.kind} {device.name}", symbol, value, unit, origin)
    for instance in cell.instances:
        for name, value in instance.parameters.items():
            unit = instance.cell.parameters[name].unit
            yield row(instance.name, name, value, unit)


def to_csv(rows: Iterable[Row]) -> bytes:
    """parameters.csv: one header line, SI units, 9 significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Row)])
    for row in rows:
        values = (getattr(row, field.name) for field in fields(Row))
        writer.writerow([number(v) if isinstance(v, float) else v for v in values])
    return text.getvalue().encode()


def to_json(table: Mapping[str, Any]) -> bytes:
    """JSON that is the same every time; refuses what is not a number."""
    return (
        json.dumps(table, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    ).encode()


def to_npy(array: np.ndarray) -> bytes:
    """An array as a `.npy` file; loading it needs no pickle."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _digits(value) -> float:
    return float(number(float(value)))
