"""Feedback: what each charge column of a design must be drawn with, as a table."""

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from physnn.export.cells import realized
from physnn.export.columns import OpenLoop
from physnn.export.laws import number
from physnn.export.selection import circuits_of
from physnn.process import Process

COLUMNS = "params/columns.csv"
FAMILY = "ChargeMac"
HEAD = (
    "path",
    "column",
    "inputs",
    "weights_F",
    "feedback_F",
    "feedback_drawn_F",
    "ratio",
    "amplifier",
)


def unit_F(card: Mapping[str, Any]) -> float:
    """The unit capacitor in which a card counts [F]: the MIM it has measured."""
    rows = card["mismatch"]["devices"]
    return next(float(row["nominal_F"]) for row in rows if row["kind"] == "mim")


def column_table(design, process: Process, card: Mapping[str, Any]) -> bytes | None:
    """A CSV with a row per column of every charge MAC; None for a design without one.

    All are of one half, in F: `weights_F` what switches onto the summing node, its
    trained offset being one weight more; `feedback_F` the C_f that the model counts
    with; `feedback_drawn_F` what gives that ratio with the amplifier of the card
    (`OpenLoop`), empty where it has not enough gain and the column must be split.
    `ratio` is Σ|C| over C_f. Of a design in another process than the card's the
    feedback is for that amplifier all the same: fit A and C_g of yours.
    """
    open_loop, of_gates_F = OpenLoop.of(card), unit_F(card)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    macs: list[tuple[str, Any]] = [
        (path, circuit)
        for path, circuit in circuits_of(design)
        if type(circuit).__name__ == FAMILY
    ]
    for path, mac in macs:
        ratios = np.abs(np.asarray(realized(mac.weight), np.float64)).sum(axis=0)
        ratios += np.abs(np.asarray(realized(mac.offset), np.float64))
        units = np.broadcast_to(np.asarray(mac.feedback_units()), ratios.shape)
        feedback_F = units * float(mac.unit_F(process))
        drawn_F = of_gates_F * open_loop.feedback(
            ratios * feedback_F / of_gates_F, feedback_F / of_gates_F
        )
        for j, (ratio, wanted_F, found_F) in enumerate(
            zip(ratios, feedback_F, drawn_F, strict=True)
        ):
            values = (ratio * wanted_F, wanted_F, found_F, ratio)
            cells = [number(float(value)) for value in values]
            cells[2] = cells[2] if found_F > 0 else ""
            writer.writerow([path, j, mac.n_in, *cells, card["pdk"]])
    return text.getvalue().encode() if macs else None
