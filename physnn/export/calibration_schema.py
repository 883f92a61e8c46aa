"""Calibration: what a file of measured values must look like to come back.

`calib/measured_template.csv` lists what can be measured, one row per device, and its
schema says what each column holds. A filled copy goes back with `physnn calibrate`.
"""

import csv
import io
from collections.abc import Iterable
from typing import Any

from physnn.export.laws import number
from physnn.export.tables import Row, to_json
from physnn.process import Process

COLUMNS = ("die", "temperature", "vdd", "instance", "symbol", "value", "sigma", "unit")
# Rows that the template lists of one bank: enough to see how the others are called.
ROWS_PER_BANK = 64
# A symbol with its index, in a list of banks after its place; `:` is all along an axis.
_TERM = r"[a-z][a-z0-9_]*(\[[0-9]+\])*(\[([0-9]+|:)(,([0-9]+|:))*\])?"


def schema(process: Process, units: Iterable[str]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a row, as csv.DictReader gives it once parsed."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Measured values of fabricated dies",
        "type": "object",
        "additionalProperties": False,
        "required": list(COLUMNS),
        "properties": {
            "die": {
                "type": "string",
                "minLength": 1,
                "description": "which chip: all rows of a die are one chip",
            },
            "temperature": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "at which it was measured [K]",
                "default": float(process.temperature_K),
            },
            "vdd": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "supply [V]",
                "default": float(process.supply_V),
            },
            "instance": {
                "type": "string",
                "description": "path of the circuit in the design, as `path` of"
                " params/parameters.csv without its last part",
            },
            "symbol": {
                "type": "string",
                "pattern": rf"^-?{_TERM}( *[+-] *{_TERM})*$",
                "description": "value and index, as `symbol` and `instance` of"
                " params/parameters.csv: weight[3,0]; or a sum that one measurement"
                " sees: weight[:,0] + offset[0]",
            },
            "value": {"type": "number", "description": "measured, in `unit`"},
            "sigma": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "standard uncertainty of the measurement, in `unit`",
            },
            "unit": {
                "enum": sorted(set(units)),
                "description": "exactly the unit of params/parameters.csv",
            },
        },
    }


def template(rows: Iterable[Row], process: Process) -> bytes:
    """A CSV with a row for every trained device, `value` and `sigma` left to fill."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    count: dict[str, int] = {}
    for row in _trained(rows):
        count[row.path] = count.get(row.path, 0) + 1
        if count[row.path] > ROWS_PER_BANK:
            continue
        instance = row.path.rpartition(".")[0]
        symbol = f"{row.symbol}[{row.instance}]" if row.instance else row.symbol
        point = (number(process.temperature_K), number(process.supply_V))
        writer.writerow(("die1", *point, instance, symbol, "", "", row.unit))
    return text.getvalue().encode()


def _trained(rows: Iterable[Row]) -> Iterable[Row]:
    """Rows of single devices, not of whole arrays."""
    for row in rows:
        known = row.origin in ("trained", "calibrated")
        if known and row.value != "" and row.sigma_local != "":
            yield row


def files(rows: Iterable[Row], process: Process) -> dict[str, bytes]:
    """Schema and template by their path in the package."""
    rows = list(rows)
    return {
        "calib/schema.json": to_json(schema(process, (r.unit for r in _trained(rows)))),
        "calib/measured_template.csv": template(rows, process),
    }
