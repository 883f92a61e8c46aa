"""OTA: cards of its transistors, what they predict of its curve, and its twin."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from evals.characterize.benches import run_bench
from evals.characterize.devices import (
    CELL,
    cell_transistors,
    device_noise,
    device_rows,
)
from physnn.devices.fit import Window
from physnn.devices.operating_point import OperatingPoint, operating_point
from physnn.export.transconductor import (
    BIAS_A,
    LOAD_M,
    PAIR_M,
    TAIL_M,
    OtaCard,
    mirror,
    ota,
)
from physnn.export.transconductor_benches import (
    RANGE_V,
    REF_V,
    STEP_V,
    SUPPLY_V,
    curve_deck,
    output_deck,
)
from physnn.pdk import Models
from physnn.process import load_process
from physnn.units import thermal_voltage_V

# What each device sees in the cell: currents per square, least v_ds, largest v_sb.
DEVICES = (
    ("pair", "nmos", PAIR_M, Window(CELL, 5e-9, 1e-6, 0.2, 0.6)),
    ("tail", "nmos", TAIL_M, Window(CELL, 3e-7, 5e-6, 0.15, 0.0)),
    ("load", "pmos_lvt", LOAD_M, Window(CELL, 1e-8, 3e-6, 0.3, 0.0)),
)
# A bias in weak inversion, where the price of a transconductance is I = g·2nU_T.
WEAK_BIAS_A = 20e-9


def characterize(models: Models, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the OTA. Raises `ValueError` where a simulation or fit fails."""
    del tables  # the first cell: built from nothing but transistors
    devices = [
        row
        for part, kind, size, window in DEVICES
        for row in device_rows(models, kind, size, window, part)
    ]
    cells = (ota(), mirror())
    curve = run_bench(curve_deck(), cells, models)
    weak = run_bench(curve_deck(WEAK_BIAS_A), cells, models).results
    output = run_bench(output_deck(), cells, models).results
    v_in, i_out = curve.arrays["ota_curve"][:, 0], curve.arrays["ota_curve"][:, 1]
    found = curve.results
    card, twin_rms = fit_twin(v_in, i_out, output["output_s"], found["supply_a"])
    expected = predicted(devices)
    return {
        "bias_A": BIAS_A,
        "gm_S": found["gm_s"],
        "high_A": found["high_a"],
        "low_A": found["low_a"],
        "output_S": output["output_s"],
        "supply_A": found["supply_a"],
        "bias_V": found["bias_v"],
        "twin": {**vars(card), "error_rms": twin_rms},
        "predicted": {
            "gm_S": float(expected["gm_S"]),
            "high_A": float(expected["i_out"].max()),
            "low_A": float(expected["i_out"].min()),
            "curve_rms": curve_error(expected["i_out"], i_out),
            "i_out_A": expected["i_out"].tolist(),
        },
        "curve": {"v_in_V": v_in.tolist(), "i_out_A": i_out.tolist()},
        "devices": devices,
        "noise": _noise(models, devices),
        "supply": supply_rows(
            models,
            [
                ("tail at 2 uA", found["supply_a"], found["gm_s"]),
                ("tail at 20 nA", weak["supply_a"], weak["gm_s"]),
            ],
        ),
    }


def fit_twin(v_in, i_out, output_S: float, supply_A: float) -> tuple[OtaCard, float]:
    """The twin of a measured curve, and its rms error as a fraction of full scale."""
    scale = float(np.abs(i_out).max())
    shape = lambda x: x[0] * np.tanh((v_in - x[2]) / x[1]) + x[3]
    found = least_squares(
        lambda x: shape(x) - i_out / scale, [1.0, 0.1, 0.0, 0.0], xtol=1e-12, ftol=1e-12
    )
    swing, width, offset, shift = map(float, found.x)
    card = OtaCard(
        swing * scale, width, offset, shift * scale, output_S, REF_V, supply_A
    )
    return card, float(np.sqrt(np.mean(found.fun**2)))


def curve_error(model, measured) -> float:
    """rms of the difference of two curves as a fraction of the measured full scale."""
    difference = np.asarray(model) - np.asarray(measured)
    return float(np.sqrt(np.mean(difference**2)) / np.abs(measured).max())


def biased(devices, v_in) -> OperatingPoint:
    """The OTA of these cards at the standard bias, its output at `ref`."""
    cards = cell_transistors(devices)
    bias = operating_point(mirror(), cards, {"vss": 0.0}, pushed_A={"bias": BIAS_A})
    forced = {
        "inp": REF_V + v_in / 2,
        "inn": REF_V - v_in / 2,
        "out": REF_V,
        "bias": float(bias.volts["bias"]),
        "vdd": SUPPLY_V,
        "vss": 0.0,
    }
    return operating_point(ota(), cards, forced)


def predicted(devices) -> Mapping[str, Any]:
    """What the cards of single transistors say about the OTA: curve, gm_S, supply_A."""
    count = round(2 * RANGE_V / STEP_V) + 1
    v_in = np.linspace(-RANGE_V, RANGE_V, count)
    point = biased(devices, v_in)
    i_out = -point.currents["out"]
    middle = count // 2
    slope = (i_out[middle + 1] - i_out[middle - 1]) / (2 * STEP_V)
    supply = point.currents["vdd"][middle]
    return {"v_in": v_in, "i_out": i_out, "gm_S": slope, "supply_A": supply}


def supply_rows(
    models: Models, lines: Iterable[tuple[str, float, float]], *, period_s: float = 1e-6
) -> list[dict[str, Any]]:
    """(what, supply_A, gm_S) as charges of a token beside the price of `events`.

    That price of a transconductance is I = g·2nU_T, n and T from our process card of
    the same name. Where there is none there is nothing to compare.
    """
    try:
        process = load_process(models.pdk.name)
    except FileNotFoundError:
        return []
    voltage = 2 * process.slope_factor * thermal_voltage_V(process.temperature_K)
    return [
        {
            "what": what,
            "measured_C": float(supply_A * period_s),
            "analytic_C": float(gm_S * voltage * period_s),
        }
        for what, supply_A, gm_S in lines
    ]


def _noise(models: Models, devices) -> list[dict[str, Any]]:
    """Noise of each device where it stands in the balanced OTA."""
    point = biased(devices, np.zeros(1))
    at = {net: float(value[0]) for net, value in point.volts.items()}
    terminals = {
        "pair": {"d": at["x"], "g": at["inp"], "s": at["t"], "b": 0.0},
        "tail": {"d": at["t"], "g": at["bias"], "s": 0.0, "b": 0.0},
        "load": {"d": at["x"], "g": at["x"], "s": SUPPLY_V, "b": SUPPLY_V},
    }
    return [
        {"part": part, **device_noise(models, kind, size, terminals[part])}
        for part, kind, size, _ in DEVICES
    ]
