"""Gates T4 to T6: rings of transistors against their card and the phase model."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from evals.characterize.cell import Cell
from evals.characterize.ring import measured_ring, oscillation
from evals.characterize.ring_benches import coupled_pairs, free_run, injected
from evals.verify.check import Check, Trace, compared
from evals.verify.drawn_cells import has, job
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.pdk import Models

RING = "ring5"
# Relative error of a repeated simulation.
FREQUENCY, CHARGE = 0.002, 0.01
# Detunings as fractions of the predicted lock range.
INSIDE, NEAR, BEYOND = 0.5, 0.9, 1.1
PAIR_CYCLES, INJECTED_CYCLES = 180, 90
# A locked pair moves less than this in a tenth of the run [cycles].
STILL = 0.002
N_POINTS = 200


def jobs(package: Package, options: Options) -> list[Job]:
    """The gates of rings, if the package holds one."""
    del options
    if not has(package, RING):
        return []
    of = partial(job, cell=RING, table="ring")
    return [
        of("T4", "ring: frequency and energy", repeated),
        of("T5", "ring: coupled pair", coupled, slow=True, cost_s=10),
        of("T6", "ring: second-harmonic injection", two_phases, slow=True, cost_s=10),
    ]


def repeated(cell: Cell, table: Mapping[str, Any], models: Models) -> list[Check]:
    """T4: frequency and supply charge of a free ring against its card."""
    known = oscillation(table)
    found = free_run(cell, models, guess_s=known.period_s)
    phases = np.arange(len(known.waveform_V)) / len(known.waveform_V)
    trace = Trace(
        tuple(phases),
        "phase (cycles)",
        (
            ("card", tuple(known.waveform_V.tolist())),
            ("ngspice", tuple(found.waveform_V.tolist())),
        ),
        "v(n0) (V)",
    )
    f, q = known.frequency_Hz, known.charge_C
    return [
        compared(
            "T4",
            "ring: frequency",
            found.frequency_Hz,
            f,
            FREQUENCY * f,
            "Hz",
            trace=trace,
        ),
        compared("T4", "ring: supply charge", found.charge_C, q, CHARGE * q, "C"),
    ]


def coupled(cell: Cell, table: Mapping[str, Any], models: Models) -> list[Check]:
    """T5: where two coupled rings lock, and at which phase, against the phase model."""
    model, free = measured_ring(table), oscillation(table)
    ohm = table["coupling"]["resistance_ohm"]
    reach = float(model.lock_range_Hz(ohm))
    shares = (INSIDE, NEAR, BEYOND)
    pairs = coupled_pairs(
        cell,
        models,
        free,
        table["tuning"],
        shifts=[share * reach / free.frequency_Hz for share in shares],
        coupling_ohm=ohm,
        n_cycles=PAIR_CYCLES,
    )
    # The second ring of a pair is the slow one; the model starts with the simulation.
    times = np.linspace(pairs[0].time[0], min(p.time[-1] for p in pairs), N_POINTS)
    seen = [np.interp(times, pair.time, pair.ahead) for pair in pairs]
    said = [
        model.ahead(-share * reach, ohm, times, start=float(ngspice[0]))
        for share, ngspice in zip(shares, seen, strict=True)
    ]
    late = [float(np.ptp(ahead[-N_POINTS // 10 :])) for ahead in seen]
    slipped = float(abs(seen[2][-1] - seen[2][0]))
    series = []
    for share, ngspice, phase_model in zip(shares, seen, said, strict=True):
        series.append((f"ngspice, {share:g} of the range", tuple(ngspice.tolist())))
        series.append((f"model, {share:g} of the range", tuple(phase_model.tolist())))
    trace = Trace(
        tuple((times - times[0]).tolist()), "time (s)", tuple(series), "ahead (cycles)"
    )
    return [
        compared(
            "T5",
            f"ring: locked phase at {INSIDE:g} of {reach / 1e6:.4g} MHz",
            float(seen[0][-1]),
            float(said[0][-1]),
            0.005,
            "cycle",
            trace=trace,
        ),
        compared(
            "T5", f"ring: moves no more at {NEAR:g}", late[1], 0.0, STILL, "cycle"
        ),
        Check(
            "T5",
            f"ring: drifts at {BEYOND:g}",
            "pass" if slipped > 1 else "fail",
            detail=f"slipped {slipped:.3g} cycles, more than 1 is wanted",
        ),
    ]


def two_phases(cell: Cell, table: Mapping[str, Any], models: Models) -> list[Check]:
    """T6: a ring injected at twice its frequency keeps one of two phases."""
    model, free = measured_ring(table), oscillation(table)
    current_A = table["injection"]["current_A"]
    # At half of the range that the phase response gives it.
    shift = 0.5 * float(model.injection_range_Hz(current_A)) / free.frequency_Hz
    phases = injected(
        cell,
        models,
        free,
        current_A=current_A,
        n_cycles=INJECTED_CYCLES,
        shift=shift,
    )
    last = phases[:, -1]
    moved = float(np.abs(phases[:, -1] - phases[:, -11]).max())
    # The angle of twice the phase is one where the two phases are half a cycle apart.
    double = np.angle(np.exp(4j * np.pi * last) / np.exp(4j * np.pi * last[0]))
    apart = float(np.abs(double).max()) / (4 * np.pi)
    groups = np.round(2 * (last - last[0])).astype(int) % 2
    return [
        compared(
            "T6", "ring: two phases half a cycle apart", apart, 0.0, 0.01, "cycle"
        ),
        compared("T6", "ring: moves no more in 10 cycles", moved, 0.0, STILL, "cycle"),
        Check(
            "T6",
            "ring: both phases are reached",
            "pass" if 0 < groups.sum() < len(groups) else "fail",
            detail=f"{groups.sum()} of {len(groups)} starts in the second",
        ),
    ]
