"""Conditions: corners, mismatch and process design kits, as a package states them."""

from collections.abc import Mapping
from typing import Any

from physnn.bank import Bank
from physnn.environment import CORNERS, Environment
from physnn.export.tables import to_json
from physnn.pdk import load_pdk, pdk_names
from physnn.process import Process

# What gate C1 sweeps: the industrial range, and a regulator that holds 5 %.
TEMPERATURES_degC = (-40.0, 27.0, 125.0)
SUPPLIES = (0.95, 1.0, 1.05)
# Corners of capacitors, resistors and wires: +1 is large.
PASSIVES = {"typical": 0.0, "large": 1.0, "small": -1.0}


def corners(process: Process) -> dict[str, Any]:
    """Names, sections and points of `params/corners.json`.

    `moves` are what the process card says of each point, relative to nominal.
    """
    points = []
    for name, (n, p) in CORNERS.items():
        moved = process.at(Environment(corner=name))
        points.append(
            {
                "name": name,
                "section": name,
                "nmos_corners": n,
                "pmos_corners": p,
                "moves": {
                    "rate": float(moved.rate),
                    "ring_rate": float(moved.ring_rate),
                    "node_leakage_S": float(moved.node_leakage_S),
                },
            }
        )
    return {
        "nominal": {
            "corner": "tt",
            "supply_V": float(process.supply_V),
            "temperature_K": float(process.temperature_K),
        },
        "corners": points,
        "supplies_V": [float(process.supply_V) * part for part in SUPPLIES],
        "temperatures_degC": list(TEMPERATURES_degC),
        "temperatures_K": [round(273.15 + celsius, 2) for celsius in TEMPERATURES_degC],
        "passives": {
            name: float(process.at(Environment(capacitor=c)).capacitance)
            for name, c in PASSIVES.items()
        },
        "die_to_die_corners_rms": process.environment.get("die_to_die", 0.0),
        "source": "corners, supplies and temperatures are those that gate C1 sweeps, a"
        " choice; what they move is [operating] of the process card",
        "sources": {
            name: text
            for name, text in process.sources.items()
            if name.startswith(("operating.", "environment.die_to_die"))
        },
    }


def mismatch(
    banks: Mapping[str, Bank],
    summaries: Mapping[str, Mapping[str, Any]],
    process: Process,
    cells: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """Per bank of `params/mismatch.json`: the spread of its devices, law and source.

    `summaries` are those of `tables.bank_tables`; `cells` the names of the exported
    cells of the family of each circuit, by the path of the circuit.
    """
    rows = []
    for path, bank in banks.items():
        area_m2 = summaries[path]["unit_area_m2"]
        unit = "V" if bank.kind == "threshold" else "of its value"
        owner = path.rpartition(".")[0]
        rows.append(
            {
                "bank": path,
                "kind": bank.kind,
                "cells": list(cells.get(owner, ())),
                "unit_devices": summaries[path]["unit_devices"],
                "unit_area_m2": area_m2,
                "coefficient": float(process.matching[bank.kind]),
                "coefficient_unit": "V m" if bank.kind == "threshold" else "m",
                "sigma_unit_device": float(process.spread(bank.kind, area_m2)),
                "sigma_unit": unit,
                "mean_sigma": summaries[path]["mean_sigma_local"],
                "mean_sigma_unit": bank.unit,
                "law": "Pelgrom: coefficient / sqrt(area) of one unit device, between"
                " equals; n units in parallel average",
                "source": process.sources.get(f"matching.{bank.kind}", ""),
            }
        )
    return {
        "law": "sigma of one device against its nominally equal neighbor; Pelgrom et"
        " al. 1989, DOI 10.1109/JSSC.1989.572629",
        "banks": rows,
    }


def pdk_map(process: Process) -> dict[str, Any]:
    """`spice/pdk_map.json`: how each known kit calls and draws the neutral devices."""
    return {
        "neutral": "transistor-level cells call dev_<kind> with width_m, length_m [m]"
        " and a number of identical units; pdk.spice of a kit defines these",
        "design_process": process.name,
        "kits": {name: load_pdk(name).to_json() for name in pdk_names()},
    }


def files(
    banks: Mapping[str, Bank],
    summaries: Mapping[str, Mapping[str, Any]],
    process: Process,
    cells: Mapping[str, tuple[str, ...]],
) -> dict[str, bytes]:
    """Corners, mismatch and kits by their path in the package."""
    return {
        "params/corners.json": to_json(corners(process)),
        "params/mismatch.json": to_json(mismatch(banks, summaries, process, cells)),
        "spice/pdk_map.json": to_json(pdk_map(process)),
    }
