"""Noise of a clocked comparator, from what charge does to it at every moment."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from evals.characterize.cell import Cell
from evals.characterize.sar_benches import DECISION_S, decide
from physnn.export.laws import number
from physnn.pdk import Conditions, Models
from physnn.units import thermal_energy_J

# Noise of a channel over 4kT·gm: that of the nfet_01v8 cards in weak inversion, which
# the process card rests on too.
GAMMA = 1.3
# A small input, and charges that shift the outputs about as much.
PROBE_V, PROBE_C = 1e-3, 0.05e-15
# Moments in the window after the clock rises; what is read is still this small.
N_TIMES, WINDOW_S, LINEAR_V = 24, 0.4e-9, 0.15
EARLY = 1
# The transistor of each cause on one side of the comparator, and its kind.
PARTS = {"inn": "nmos", "latch_np": "nmos", "latch_pp": "pmos"}


@dataclass(frozen=True)
class ComparatorNoise:
    """Input-referred noise of a decision: rms, and that of each cause [V]."""

    total_V: float
    parts_V: Mapping[str, float]


def comparator_noise(
    cell: Cell, models: Models, *, conditions: Conditions = Conditions()
) -> ComparatorNoise:
    """Thermal noise of the transistors of a comparator, referred to its input.

        Var = Σ_devices ∫ h(t)²·2kT·γ·gm(t) dt + Σ_nodes h(0)²·kT·C

    h(t) is the input voltage that shifts the early difference of the outputs as a unit
    of charge does that comes onto a node at t: measured, with a copy of the comparator
    for every moment and node. gm(t) is that of the device at the node, as it runs. The
    second sum is the noise that resting left on the nodes. Periodic time-varying noise
    as in Demir & Sangiovanni-Vincentelli 1998, DOI 10.1007/978-1-4615-6063-0; for this
    comparator Nuzzo et al. 2008, DOI 10.1109/TCSI.2008.917991.

    Leaves out flicker noise and the tail, which is common to both sides.
    """
    start = DECISION_S * 1.5
    times = start + WINDOW_S * (np.arange(N_TIMES) + 0.5) / N_TIMES
    probes = [(node, t) for node in ("outp", "xp") for t in times]
    inputs = np.zeros(2 + len(probes))
    inputs[1] = PROBE_V
    extra, edge = [], 1e-12
    for i, (node, t) in enumerate(probes, start=2):
        values = (0.0, PROBE_C / (4 * edge), t, edge, edge, 3 * edge, 1.0)
        shape = f"pulse({' '.join(map(number, values))})"
        extra.append(f"i_{i} 0 c{i}{node} {shape}")
    gms = {
        part: f"@m.x_c0.xm_{part}.m{models.pdk.devices[kind].name}[gm]"
        for part, kind in PARTS.items()
    }
    # The first copies of either node that were kicked after rest had let go of them.
    early = {node: 2 + EARLY + k * N_TIMES for k, node in enumerate(("outp", "xp"))}
    nodes = [f"v(c{i}{node})" for node, i in early.items()]
    nodes += [f"v(c0{node})" for node in early]
    vectors = [v for v in (*gms.values(), *nodes) if "outp)" not in v]
    found = decide(
        cell,
        inputs,
        models,
        extra=extra,
        vectors=vectors,
        step_s=DECISION_S / 1000,
        conditions=conditions,
    )
    waves = found.waves
    apart = lambda i: waves[f"v(c{i}outp)"] - waves[f"v(c{i}outn)"]
    base, moved = apart(0), apart(1)
    # Read where the input has grown large, and nothing has met a limit yet.
    grown = (waves.time > start) & (np.abs(moved - base) > LINEAR_V)
    at = int(np.flatnonzero(grown)[0])
    gain = float(moved[at] - base[at]) / PROBE_V
    shifts = [float(apart(i)[at] - base[at]) for i in range(2, len(inputs))]
    h_out, h_x = np.reshape(shifts, (2, N_TIMES)) / gain / PROBE_C
    kT = thermal_energy_J(conditions.temperature_C + 273.15)
    step = WINDOW_S / N_TIMES

    def channel(part: str, h: np.ndarray) -> float:
        # Half of the one-sided density 4kTγ·gm, on both sides of the comparator.
        gm = np.abs(np.interp(times, waves.time, waves[gms[part]]))
        return 2 * float(np.sum(h**2 * 2 * kT * GAMMA * gm)) * step

    variances = {
        "pair": channel("inn", h_x),
        "latch_n": channel("latch_np", h_out - h_x),
        "latch_p": channel("latch_pp", h_out),
    }
    rest = 0.0
    for node, h in (("outp", h_out), ("xp", h_x)):
        i, t = early[node], times[EARLY] + 6 * edge
        kicked, quiet = (waves.at(f"v(c{k}{node})", t) for k in (i, 0))
        node_F = PROBE_C / float(kicked - quiet)
        rest += 2 * float(h[EARLY]) ** 2 * kT * node_F
    variances["rest"] = rest
    return ComparatorNoise(
        math.sqrt(sum(variances.values())),
        {name: math.sqrt(value) for name, value in variances.items()},
    )
