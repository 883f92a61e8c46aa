"""State: the follower of an OTA into a capacitor, after steps and in noise."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

from evals.characterize.benches import run_bench
from evals.characterize.card import needed
from evals.characterize.ota import supply_rows
from physnn.export.transconductor import STATE_F, OtaCard, mirror, ota, state
from physnn.export.transconductor_benches import (
    BAND_HZ,
    REF_V,
    STEPS_V,
    START_s,
    noise_deck,
    step_deck,
)
from physnn.pdk import Models

STEP_NAMES = ("state_small_step", "state_large_step")
LEAK_OHM = 6.25e11


def characterize(models: Models, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the state cell. Raises `ValueError` where a simulation fails."""
    cells = (state(ota()), mirror())
    table = needed(tables, "ota")
    card = OtaCard.of(table)
    found: dict[str, Any] = {"capacitance_F": STATE_F, "leak_ohm": LEAK_OHM}
    for step_V, name in zip(STEPS_V, STEP_NAMES, strict=True):
        simulation = run_bench(step_deck(step_V, name), cells, models)
        time_s, v = simulation.arrays[name].T
        error = twin_step(card, step_V, time_s) - v
        found[name] = {
            "step_V": step_V,
            "twin_error_rms_V": float(np.sqrt(np.mean(error**2))),
            "twin_error_max_V": float(np.abs(error).max()),
        }
    noise = run_bench(noise_deck(), cells, models).results["noise_v"]
    found["noise"] = {
        "measured_V": noise,
        "predicted_V": predicted_noise(table),
        "band_Hz": list(BAND_HZ),
    }
    one_half = ("one half", table["supply_A"], table["gm_S"])
    found["supply"] = supply_rows(models, [one_half])
    return found


def twin_step(card: OtaCard, step_V: float, time_s: np.ndarray) -> np.ndarray:
    """v(t) of the twin for the step of `step_deck`: C·dv/dt = i_out(u − v, v)."""

    def slope(time, v, level):
        return (card.current(level - v, v) - (v - REF_V) / LEAK_OHM) / STATE_F

    low, high = REF_V - step_V / 2, REF_V + step_V / 2
    rest = solve_ivp(slope, (0, 20e-6), [low], args=(low,), rtol=1e-9, atol=1e-12)
    after = np.maximum(time_s - START_s, 0.0)
    moved = solve_ivp(
        slope,
        (0, float(after.max())),
        rest.y[:, -1],
        args=(high,),
        t_eval=np.unique(after),
        rtol=1e-9,
        atol=1e-12,
    )
    return np.interp(after, moved.t, moved.y[0])


def predicted_noise(table: Mapping[str, Any]) -> float:
    """rms noise of the state [V] from that of single devices, pair and load twice.

    The tail's noise is common to both halves and cancels. S_v = S_i/(g² + (ωC)²).
    """
    frequency = np.geomspace(*BAND_HZ, 4001)
    density = np.zeros_like(frequency)
    for row in table["noise"]:
        if row["part"] != "tail":
            flicker = row["flicker_A2"] / frequency ** row["exponent"]
            density += 2 * (row["white_A2_per_Hz"] + flicker)
    conductance = table["gm_S"] + table["output_S"] + 1 / LEAK_OHM
    power = density / (conductance**2 + (2 * np.pi * frequency * STATE_F) ** 2)
    return float(np.sqrt(np.trapezoid(power, frequency)))
