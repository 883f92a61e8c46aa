"""CACE: the specification of each benched cell as a datasheet of that tool.

The format is 5.2 (cace.readthedocs.io, reference manual, datasheet format): pins,
default conditions, parameters with minimum, typical and maximum. A result of a bench is
a parameter: typical is what the model says, the limits are those of the gate. The decks
print `RESULT name value` lines; the column that CACE wants from a template is that list
in order.
"""

from collections.abc import Iterable
from typing import Any

import yaml

from physnn.export.laws import number
from physnn.export.netlist import Bench, Expected, Netlist
from physnn.process import Process

FOLDER = "cace"
# More results than these become one parameter: the largest deviation.
RESULTS_MAX = 64


def _number(value: float) -> float:
    return float(number(value))


def specification(
    cell: Netlist, benches: Iterable[Bench], process: Process
) -> dict[str, Any]:
    """One cell as CACE's mapping."""
    benches = list(benches)
    return {
        "name": cell.name,
        "description": cell.notes or f"Cell {cell.name}",
        "PDK": process.name,
        "cace_format": 5.2,
        "authorship": {"designer": "physnn export", "license": "as of the design"},
        "paths": {
            "root": "..",
            "netlist": "spice/behav",
            "templates": "spice/tb",
            "documentation": ".",
        },
        "pins": {port: _pin(port, cell, benches, process) for port in cell.ports},
        "default_conditions": {
            "vdd": {
                "display": "Vdd",
                "description": "Supply voltage of the process card",
                "unit": "V",
                "typical": _number(process.supply_V),
            },
            "corner": {
                "display": "Corner",
                "description": "Process corner",
                "typical": "tt",
            },
            "temperature": {
                "display": "Temp",
                "description": "Ambient temperature",
                "unit": "°C",
                "typical": _number(process.temperature_K - 273.15),
            },
        },
        "parameters": {bench.name: _parameter(bench) for bench in benches},
    }


def _pin(
    port: str, cell: Netlist, benches: list[Bench], process: Process
) -> dict[str, Any]:
    supply = _number(process.supply_V)
    clocks = {clock for bench in benches for clock in bench.clocks}
    driven = {net for bench in benches for net in (*bench.drive, *bench.supplies)}
    middle, swing = process.supply_V / 2, process.swing_V
    if port in clocks:
        return {
            "description": "Clock",
            "type": "digital",
            "direction": "input",
            "Vmin": 0.0,
            "Vmax": supply,
        }
    if any(port in bench.supplies for bench in benches):
        return {
            "description": "Reference that signals move around",
            "type": "power",
            "direction": "inout",
            "Vmin": _number(middle),
            "Vmax": _number(middle),
        }
    return {
        "description": f"Signal of {cell.name}",
        "type": "signal",
        "direction": "input" if port in driven else "output",
        "Vmin": _number(middle - swing),
        "Vmax": _number(middle + swing),
    }


def _parameter(bench: Bench) -> dict[str, Any]:
    if len(bench.expected) <= RESULTS_MAX:
        spec = {e.name: _limits(e) for e in bench.expected}
        variables = [e.name for e in bench.expected]
    else:
        limit = max(e.limit for e in bench.expected)
        spec = {
            "deviation": {
                "display": "Largest deviation",
                "description": f"of {len(bench.expected)} results from"
                " spice/tb/expected.json",
                "unit": bench.expected[0].unit,
                "maximum": {"value": _number(limit)},
            }
        }
        variables = ["deviation"]
    return {
        "display": bench.name,
        "description": f"Test bench spice/tb/{bench.name}.sp, gate"
        f" {bench.expected[0].gate}",
        "spec": spec,
        "tool": {
            "ngspice": {
                "template": f"{bench.name}.sp",
                "format": "ascii",
                "suffix": ".data",
                "variables": variables,
            }
        },
    }


def _limits(expected: Expected) -> dict[str, Any]:
    return {
        "display": expected.name,
        "description": expected.law,
        "unit": expected.unit,
        "minimum": {"value": _number(expected.value - expected.limit)},
        "typical": {"value": _number(expected.value)},
        "maximum": {"value": _number(expected.value + expected.limit)},
    }


def files(
    benches: Iterable[tuple[Netlist, Bench]], process: Process
) -> dict[str, bytes]:
    """`cace/<cell>.yaml` of every cell that has a bench."""
    by_cell: dict[str, tuple[Netlist, list[Bench]]] = {}
    for cell, bench in benches:
        by_cell.setdefault(cell.name, (cell, []))[1].append(bench)
    return {
        f"{FOLDER}/{name}.yaml": yaml.safe_dump(
            specification(cell, own, process),
            sort_keys=False,
            allow_unicode=True,
            width=88,
        ).encode()
        for name, (cell, own) in by_cell.items()
    }
