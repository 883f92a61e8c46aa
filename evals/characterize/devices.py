"""Devices: cards of drawn transistors, measured and fitted in windows."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from evals.characterize.sweeps import measure_transistor
from evals.simulate import simulate
from physnn.devices.ekv import PARAMETERS, EkvTransistor
from physnn.devices.fit import (
    WINDOWS,
    Fit,
    Sweep,
    Window,
    errors,
    fit_transistor,
)
from physnn.devices.operating_point import Drawn, drawn
from physnn.export.laws import number
from physnn.pdk import Models

# The name of the window that a cell works in; its card is what the cell is built from.
CELL = "cell"
# Less flicker noise at 1 kHz, over white, is rounding: numbers have 12 digits.
FLICKER_FLOOR = 1e-9


def device_rows(
    models: Models, kind: str, size_m: tuple[float, float], window: Window, part: str
) -> list[dict[str, Any]]:
    """Rows of a card: one drawn transistor in its cell's window and in the common ones.

    `window` is called `cell`; without source voltages in it the body effect stays 0.
    """
    sweep = measure_transistor(models, kind, *size_m)
    rows = []
    for each in (window, *WINDOWS):
        fit = fit_transistor(sweep, each, body=each.bulk_V > 0)
        rows.append({"part": part, "kind": kind, **_row(fit, sweep)})
    return rows


def _row(fit: Fit, sweep: Sweep) -> dict[str, Any]:
    window = fit.window
    spread = np.sqrt(np.diag(fit.covariance))
    limits = {"least_A": window.least_A, "drop_V": window.drop_V}
    if np.isfinite(window.most_A):
        limits["most_A"] = window.most_A
    if np.isfinite(window.bulk_V):
        limits["bulk_V"] = window.bulk_V
    return {
        "width_m": sweep.width_m,
        "length_m": sweep.length_m,
        "window": window.name,
        **limits,
        "error_rms": fit.error_rms,
        "error_max": fit.error_max,
        "gm_error_rms": fit.gm_error_rms,
        **fit.transistor.values(),
        # One standard deviation each, in the order of `fitted`; that of ln(I_s) first.
        "fitted": list(fit.free),
        "sigma": [float(value) for value in spread],
    }


def window_of(row: Mapping[str, Any]) -> Window:
    """The window of a row of a card."""
    return Window(
        row["window"],
        row["least_A"],
        row.get("most_A", np.inf),
        row["drop_V"],
        row.get("bulk_V", np.inf),
    )


def transistor_of(row: Mapping[str, Any]) -> EkvTransistor:
    """The transistor of a row of a card."""
    values = {name: float(row[name]) for name in PARAMETERS}
    return EkvTransistor(**values, polarity=-1 if row["kind"].startswith("pmos") else 1)


def cell_transistors(rows: Iterable[Mapping[str, Any]]) -> dict[Drawn, EkvTransistor]:
    """The transistors of a cell by drawn geometry, in the window of the cell."""
    return {
        drawn(row["kind"], row["width_m"], row["length_m"]): transistor_of(row)
        for row in rows
        if row["window"] == CELL
    }


def window_errors(row: Mapping[str, Any], sweep: Sweep) -> tuple[float, float, float]:
    """How far a card is from a new sweep in its window, relative.

    Of I_d the rms and the largest error, of g_m the rms. Raises `ValueError` when the
    sweep does not reach the window.
    """
    inside = sweep.inside(window_of(row))
    if not inside.any():
        raise ValueError(
            f"The sweep of {row['part']} must reach the window {row['window']} of its"
            " card, but no current lies in it: the models are others."
        )
    return errors(transistor_of(row), sweep, inside)


def device_noise(
    models: Models, kind: str, size_m: tuple[float, float], volts: Mapping[str, float]
) -> dict[str, float]:
    """Noise of the drain current at the terminal voltages `volts` (d, g, s, b) [V].

    S(f) = white + flicker/f^exponent [A²/Hz], from 10 Hz, 1 kHz and 100 MHz. Models
    may have no flicker noise: then it is zero, and the exponent 1.
    """
    lines = [f"* noise of {kind}", ".include pdk.spice", ".option gmin=1e-18"]
    lines += [f"v_{net} {net} 0 {number(value)}" for net, value in volts.items()]
    lines[-len(volts) :] = [
        line + (" ac 1" if line.startswith("v_g ") else "")
        for line in lines[-len(volts) :]
    ]
    lines += [
        f"x_dut d g s b dev_{kind} width_m={number(size_m[0])}"
        f" length_m={number(size_m[1])}",
        "h_n n 0 v_d 1e6",
        ".control",
        "set numdgt=12",
        "noise v(n) v_g dec 1 10 1e8",
        "setplot noise1",
        "wrdata noise.data onoise_spectrum",
        ".endc",
        ".end",
    ]
    table = simulate("\n".join(lines) + "\n", models=models).arrays["noise"]
    density = dict(
        zip(np.round(np.log10(table[:, 0])), (table[:, 1] / 1e6) ** 2, strict=True)
    )
    white = density[8.0]
    slow, fast = density[1.0] - white, density[3.0] - white
    if fast <= FLICKER_FLOOR * white:
        return {"white_A2_per_Hz": float(white), "flicker_A2": 0.0, "exponent": 1.0}
    exponent = float(np.log10(slow / fast) / 2)
    return {
        "white_A2_per_Hz": float(white),
        "flicker_A2": float(slow * 10**exponent),
        "exponent": exponent,
    }
