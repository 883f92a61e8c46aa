"""Rings of transistors: frequency, energy, phase response, pulls on each other.

Everything is measured at node n0. A phase is counted in cycles and rises in time; phase
zero is where v(n0) rises through half the supply.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.characterize.cell import Cell, Waves, transient
from physnn.export.laws import number
from physnn.pdk import Conditions, Models

# Steps per cycle: the frequency is then within 0.03 % of that of infinitely many.
STEPS = 150
SETTLE_CYCLES = 5
# Charge and width of the pulses that a phase response is measured with.
PULSE_C, PULSE_CYCLES = 0.5e-15, 1 / 80
N_PHASES, N_SAMPLES = 32, 64
NODE = "n0"


@dataclass(frozen=True)
class Oscillation:
    """A free ring: one cycle of v(n0) from its rise through half the supply."""

    frequency_Hz: float
    charge_C: float  # from the supply, per cycle
    waveform_V: np.ndarray  # (N_SAMPLES,)

    @property
    def period_s(self) -> float:
        return 1 / self.frequency_Hz


def _start(cell: Cell, copy: str, supply_V: float, *, reverse: bool = False):
    """Node voltages from which a ring starts in its one running edge."""
    nodes = [port for port in cell.ports if port not in ("vdd", "vss")]
    return {
        f"{copy}{node}": supply_V * ((i + reverse) % 2) for i, node in enumerate(nodes)
    }


def _nets(cell: Cell, copy: str) -> dict[str, str]:
    nets = {port: f"{copy}{port}" for port in cell.ports if port != "vss"}
    return {**nets, "vdd": "vdd"}


def rings(
    cell: Cell,
    copies: Sequence[str],
    extra: Sequence[str] = (),
    *,
    models: Models,
    period_s: float,
    n_cycles: float | int,
    supply_V: float | None = None,
    tune_F: Sequence[float] | None = None,
    reverse: Sequence[bool] | None = None,
    conditions: Conditions = Conditions(),
    timeout_s: float = 120.0,
) -> Waves:
    """Many rings in one deck: waves of node n0 of each copy, and i(v_vdd).

    `tune_F` detunes each copy; `reverse` starts it half a cycle later; `extra` are
    lines that couple them.
    """
    supply_V = models.pdk.supply_V if supply_V is None else supply_V
    lines = [f"v_vdd vdd 0 {number(supply_V)}"]
    initial: dict[str, float] = {}
    for i, copy in enumerate(copies):
        values = {} if tune_F is None else {"tune": tune_F[i]}
        lines.append(cell.call(copy, _nets(cell, copy), **values))
        half = reverse is not None and reverse[i]
        initial |= _start(cell, copy, supply_V, reverse=half)
    return transient(
        f"{len(copies)} copies of {cell.name}",
        [*lines, *extra],
        files=cell.files,
        vectors=[*(f"v({copy}{NODE})" for copy in copies), "i(v_vdd)"],
        stop_s=n_cycles * period_s,
        step_s=period_s / STEPS,
        models=models,
        conditions=conditions,
        initial=initial,
        timeout_s=timeout_s,
    )


def free_run(
    cell: Cell,
    models: Models,
    *,
    guess_s: float | None = None,
    supply_V: float | None = None,
    conditions: Conditions = Conditions(),
    timeout_s: float = 120.0,
) -> Oscillation:
    """Frequency, supply charge per cycle and waveform of a free ring.

    `guess_s`: its period, roughly; None looks for it. Raises `ValueError` for a ring
    that does not oscillate.
    """
    supply_V = models.pdk.supply_V if supply_V is None else supply_V
    options = {"models": models, "supply_V": supply_V, "conditions": conditions}
    options["timeout_s"] = timeout_s
    period_s, known = guess_s or 100e-12, guess_s is not None
    for _ in range(8):
        n_cycles = 8 + SETTLE_CYCLES if known else 20
        waves = rings(cell, ["r"], period_s=period_s, n_cycles=n_cycles, **options)
        rises = waves.rising(f"v(r{NODE})", supply_V / 2)
        enough = len(rises) > SETTLE_CYCLES + 4
        if not enough:
            period_s, known = 4 * period_s, False
            continue
        measured_s = float(np.mean(np.diff(rises[SETTLE_CYCLES:])))
        if known and abs(measured_s / period_s - 1) < 0.25:
            break
        period_s, known = measured_s, True
    else:
        raise ValueError(
            f"The ring `{cell.name}` must oscillate, but no period up to"
            f" {period_s:.3g} s was seen: give the supply it needs."
        )
    first, last = rises[SETTLE_CYCLES], rises[-1]
    n = len(rises) - 1 - SETTLE_CYCLES
    phases = np.arange(N_SAMPLES) / N_SAMPLES
    return Oscillation(
        n / float(last - first),
        -waves.mean("i(v_vdd)", first, last) * float(last - first) / n,
        waves.at(f"v(r{NODE})", rises[-2] + phases * measured_s),
    )


def phase_response(
    cell: Cell, models: Models, free: Oscillation, *, charge_C: float = PULSE_C
) -> np.ndarray:
    """How far a charge moves the phase, at `N_PHASES` phases [cycles/C].

    A ring for each phase, kicked once there, and one that is not kicked; the phases are
    compared when the amplitude has recovered (Demir, Mehrotra & Roychowdhury 2000, DOI
    10.1109/81.847872, for the theory; by direct injection, Hajimiri & Lee 1998, DOI
    10.1109/4.658619).
    """
    period_s = free.period_s
    waves = rings(
        cell, ["r"], models=models, period_s=period_s, n_cycles=SETTLE_CYCLES + 2
    )
    level = models.pdk.supply_V / 2
    start_s = waves.rising(f"v(r{NODE})", level)[SETTLE_CYCLES]
    copies = [f"k{i}" for i in range(N_PHASES)]
    width, edge = PULSE_CYCLES * period_s, period_s / 3000
    peak = number(charge_C / width)
    extra = []
    for i, copy in enumerate(copies):
        at = number(start_s + i / N_PHASES * period_s - width / 2 - edge)
        rise, flat = number(edge), number(width - edge)
        shape = f"pulse(0 {peak} {at} {rise} {rise} {flat} 1)"
        extra.append(f"i_{copy} 0 {copy}{NODE} {shape}")
    n_cycles = start_s / period_s + 6
    waves = rings(
        cell, [*copies, "r"], extra, models=models, period_s=period_s, n_cycles=n_cycles
    )
    last = lambda copy: waves.rising(f"v({copy}{NODE})", level)[-1]
    ahead = (last("r") - np.asarray([last(copy) for copy in copies])) / period_s
    return (ahead - np.round(ahead)) / charge_C


def frequencies(
    cell: Cell,
    models: Models,
    free: Oscillation,
    *,
    n: int = 1,
    tune_F: Sequence[float] | None = None,
    conditions: Conditions = Conditions(),
) -> np.ndarray:
    """Frequencies of `n` rings of one deck, or of one for each of `tune_F` [Hz]."""
    copies = [f"t{i}_" for i in range(n if tune_F is None else len(tune_F))]
    waves = rings(
        cell,
        copies,
        models=models,
        period_s=free.period_s,
        n_cycles=SETTLE_CYCLES + 12,
        tune_F=tune_F,
        conditions=conditions,
    )
    level = models.pdk.supply_V / 2
    rises = [waves.rising(f"v({copy}{NODE})", level)[SETTLE_CYCLES:] for copy in copies]
    return np.asarray([(len(r) - 1) / (r[-1] - r[0]) for r in rises])


def tuning(cell: Cell, models: Models, free: Oscillation, span_F: float) -> np.ndarray:
    """(a, b) of f/f_0 − 1 = a·C + b·C², C within ± `span_F` at node n0 [1/F, 1/F²]."""
    tune_F = span_F * np.linspace(-1, 1, 5)
    found = frequencies(cell, models, free, tune_F=list(tune_F))
    table = np.stack([tune_F, tune_F**2], axis=1) / (span_F, span_F**2)
    shift = found / found[2] - 1
    return np.linalg.lstsq(table, shift, rcond=None)[0] / (span_F, span_F**2)


def tuned_F(tuning: Sequence[float] | np.ndarray, shift: float) -> float:
    """The capacitance at node n0 that moves the frequency by `shift` (relative) [F]."""
    a, b = tuning
    inside = a * a + 4 * b * shift
    if inside < 0:
        raise ValueError(
            f"A shift of frequency must be one that tuning can reach, but {shift}"
            " is outside of what it can do."
        )
    return (
        2 * shift / (a - math.sqrt(inside))
        if a < 0
        else 2 * shift / (a + math.sqrt(inside))
    )


@dataclass(frozen=True)
class Pair:
    """Two coupled rings: how far the second is ahead of the first [cycles], in time."""

    time: np.ndarray
    ahead: np.ndarray


def coupled_pairs(
    cell: Cell,
    models: Models,
    free: Oscillation,
    tuning: Sequence[float] | np.ndarray,
    *,
    shifts: Sequence[float],
    coupling_ohm: float,
    n_cycles: float | int,
) -> list[Pair]:
    """Pairs coupled by a resistor between their nodes n0, for each relative detuning.

    The first ring of a pair runs `shift`/2 fast and the second as much slow.
    """
    copies, tune, extra = [], [], []
    for i, shift in enumerate(shifts):
        copies += [f"p{i}a", f"p{i}b"]
        tune += [tuned_F(tuning, shift / 2), tuned_F(tuning, -shift / 2)]
        extra.append(f"r_{i} p{i}a{NODE} p{i}b{NODE} {number(coupling_ohm)}")
    waves = rings(
        cell,
        copies,
        extra,
        models=models,
        period_s=free.period_s,
        n_cycles=n_cycles,
        tune_F=tune,
    )
    level, pairs = models.pdk.supply_V / 2, []
    for i in range(len(shifts)):
        a, b = (waves.rising(f"v(p{i}{half}{NODE})", level) for half in "ab")
        time = a[(a >= b[0]) & (a <= b[-1])]
        ahead = np.interp(time, b, np.arange(len(b))) - np.interp(
            time, a, np.arange(len(a))
        )
        pairs.append(Pair(time, ahead))
    return pairs


def injected(
    cell: Cell,
    models: Models,
    free: Oscillation,
    *,
    current_A: float,
    n_cycles: float | int,
    n_starts: int = 4,
    shift: float = 0.0,
) -> np.ndarray:
    """Phases of rings that a sine of twice their frequency is injected into [cycles].

    `(2·n_starts, cycles)`: each ring's phase against the reference of half the injected
    frequency, once per cycle of that; starts are spread over the cycle. `shift` moves
    the injected frequency (relative).
    """
    reference_Hz = free.frequency_Hz * (1 + shift)
    copies, extra, delays, reverse = [], [], [], []
    for i in range(2 * n_starts):
        copies.append(f"s{i}_")
        reverse.append(i >= n_starts)
        delays.append((i % n_starts) / n_starts / (2 * reference_Hz))
        extra.append(
            f"i_{i} 0 s{i}_{NODE} sin(0 {number(current_A)} {number(2 * reference_Hz)}"
            f" {number(delays[-1])})"
        )
    waves = rings(
        cell,
        copies,
        extra,
        models=models,
        period_s=free.period_s,
        n_cycles=n_cycles,
        reverse=reverse,
    )
    level, rows = models.pdk.supply_V / 2, []
    for copy, delay in zip(copies, delays, strict=True):
        rises = waves.rising(f"v({copy}{NODE})", level)
        phase = np.arange(len(rises)) - (rises - delay) * reference_Hz
        rows.append(phase[: int(n_cycles) - 3])
    shortest = min(map(len, rows))
    return np.stack([row[:shortest] for row in rows])
