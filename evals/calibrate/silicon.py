"""Silicon: transconductors drawn by the mismatch models of a PDK, and their test."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from evals.simulate import TIMEOUT_s, simulate
from physnn.export.laws import number
from physnn.export.spice import PDK, write_cell
from physnn.export.transconductor import BIAS_A, mirror, ota
from physnn.export.transconductor_benches import REF_V, SUPPLY_V
from physnn.pdk import Conditions, Models
from physnn.process import Process

# Instances in a deck: more share their inputs' nets, and ngspice takes longer for each.
TOGETHER = 32
# The sweep of the differential input [V], and the two points that a tester reads.
RANGE_V, STEP_V, READ_V = 0.04, 0.004, 0.012
# What a tester adds to an offset, of the spread of offsets.
METER = 0.05
_OPTIONS = ".option gmin=1e-18 reltol=1e-6 abstol=1e-16 vntol=1e-9"


@dataclass(frozen=True)
class Silicon:
    """Transconductors of one die: what their offsets are, and what was measured.

    `true_V` is where the output current of each is zero, `measured_V` what a tester
    reads at two inputs, with `meter_V` of its own noise. Both are beside the offset
    `systematic_V` of the cell without mismatch. `range_V` is full scale over gm.
    """

    true_V: Float[np.ndarray, " n"]
    measured_V: Float[np.ndarray, " n"]
    meter_V: float
    systematic_V: float
    range_V: float
    seconds: float

    @property
    def sigma_V(self) -> float:
        """Spread of the offsets of this die."""
        return float(np.std(self.true_V, ddof=1))

    def steering(self, volts, process: Process) -> np.ndarray:
        """Offsets [V] as those of a pair with the range of `process` [full scale].

        A gate is a function of (v − offset)/range; the range of the pair here is
        `range_V` = I/gm, of the design `process.linear_range()`.
        """
        return -np.asarray(volts) / self.range_V * float(process.linear_range())


def drawn_silicon(
    models: Models, n: int, *, seed: int, timeout_s: float = TIMEOUT_s
) -> Silicon:
    """`n` five-transistor OTAs with the mismatch of `models`, drawn and measured.

    Instances in a deck differ by the PDK's own model of local mismatch. Raises
    `ValueError` where a simulation fails, and for a PDK without mismatch.
    """
    if n < 2 or seed < 1:
        raise ValueError(
            f"There must be two or more instances and a seed from 1, but there are {n}"
            f" and {seed}."
        )
    v_in, (reference,), _ = _curves(models, 1, None)
    systematic = _zero(v_in, reference)
    gm = np.gradient(reference, v_in)[len(v_in) // 2]
    wide = _curves(models, 1, None, range_V=0.4, step_V=0.01)[1][0]
    curves, seconds = [], 0.0
    for start in range(0, n, TOGETHER):
        some = min(TOGETHER, n - start)
        _, found, took = _curves(
            models, some, seed + start // TOGETHER, timeout_s=timeout_s
        )
        curves.append(found)
        seconds += took
    curves = np.concatenate(curves)
    true = np.asarray([_zero(v_in, curve) for curve in curves]) - systematic
    low, high = (np.argmin(np.abs(v_in - at)) for at in (-READ_V, READ_V))
    two_point = lambda i: (
        -READ_V * (i[..., high] + i[..., low]) / (i[..., high] - i[..., low])
    )
    meter_V = METER * float(np.std(true, ddof=1))
    noise = meter_V * np.random.default_rng(seed).standard_normal(n)
    measured = two_point(curves) - two_point(reference) + noise
    full_scale = (wide.max() - wide.min()) / 2
    return Silicon(
        true, measured, meter_V, float(systematic), float(full_scale / gm), seconds
    )


def _curves(
    models,
    n: int,
    seed: int | None,
    range_V=RANGE_V,
    step_V=STEP_V,
    *,
    timeout_s: float = TIMEOUT_s,
):
    """(input [V], output currents (n, points) [A], seconds) of n OTAs side by side."""
    cells = (ota(), mirror())
    files = {f"{cell.name}.spice": write_cell(cell) for cell in cells}
    lines = [f"* offsets of {n} transconductors", f".include {PDK}"]
    lines += [f".include {name}" for name in files]
    lines += [
        _OPTIONS,
        f"v_vdd vdd 0 {number(SUPPLY_V)}",
        f"v_ref ref 0 {number(REF_V)}",
    ]
    lines += [f"i_bias 0 bias {number(BIAS_A)}", "x_mirror bias 0 mirror"]
    lines += ["v_in d 0 0", "e_p inp ref d 0 0.5", "e_n inn ref d 0 -0.5"]
    for k in range(n):
        lines += [
            f"v_o{k} o{k} 0 {number(REF_V)}",
            f"x_{k} inp inn o{k} bias vdd 0 ota",
        ]
    vectors = " ".join(f"i(v_o{k})" for k in range(n))
    sweep = f"dc v_in {number(-range_V)} {number(range_V)} {number(step_V)}"
    lines += [".control", "set numdgt=12", sweep, f"wrdata curves.data {vectors}"]
    deck = "\n".join([*lines, ".endc", ".end"]) + "\n"
    conditions = Conditions(mismatch_seed=seed)
    asked = {"models": models, "conditions": conditions, "timeout_s": timeout_s}
    found = simulate(deck, files=files, **asked)
    table = found.arrays["curves"]
    return table[:, 0], table[:, 1:].T, found.seconds


def _zero(v_in, current) -> float:
    """Where a rising curve is zero, by the cubic through the four points around it."""
    at = int(np.clip(np.searchsorted(current, 0.0), 2, len(v_in) - 2))
    near = slice(at - 2, at + 2)
    if not current[near][0] < 0 < current[near][-1]:
        raise ValueError(
            f"The offset of a transconductor must be within {RANGE_V} V, but its"
            " current has no zero there: draw larger transistors."
        )
    return float(np.polyval(np.polyfit(current[near], v_in[near], 3), 0.0))
