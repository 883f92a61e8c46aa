"""Sweeps: the currents of a single transistor, measured in ngspice."""

import numpy as np

from evals.simulate import simulate
from physnn.devices.fit import Sweep
from physnn.export.laws import number
from physnn.pdk import Conditions, Models

STEP_V = 0.03
BULK_V = (0.0, 0.3, 0.6)
# A leak of 1 pS, as simulators add by default, hides what flows in weak inversion.
_OPTIONS = ".option gmin=1e-18 reltol=1e-6 abstol=1e-16 vntol=1e-9"


def measure_transistor(
    models: Models,
    kind: str,
    width_m: float,
    length_m: float,
    *,
    step_V: float = STEP_V,
    bulk_V: tuple[float, ...] = BULK_V,
    conditions: Conditions = Conditions(),
) -> Sweep:
    """I_d over gate and drain from 0 to the supply, at |v_sb| of `bulk_V`.

    Gate and drain are swept against the source; the sweep gives them to the bulk. A
    pMOS is measured with all signs reversed. Raises `ValueError` where
    `simulate` does and for a kind that the PDK lacks.
    """
    models.pdk.device(kind)
    sign = -1 if kind.startswith("pmos") else 1
    top = sign * models.pdk.supply_V
    step = number(sign * step_V)
    lines = [f"* sweep of {kind}", ".include pdk.spice", _OPTIONS]
    lines += ["v_g g 0 0", "v_d d 0 0"]
    for k, volts in enumerate(bulk_V):
        lines += [f"v_b{k} b{k} 0 {number(-sign * volts)}", f"v_m{k} d d{k} 0"]
        lines.append(
            f"x_{k} d{k} g 0 b{k} dev_{kind} width_m={number(width_m)}"
            f" length_m={number(length_m)}"
        )
    vectors = " ".join(f"i(v_m{k})" for k in range(len(bulk_V)))
    lines += [".control", "set numdgt=12"]
    lines.append(f"dc v_g 0 {number(top)} {step} v_d 0 {number(top)} {step}")
    lines += [f"wrdata sweep.data {vectors}", ".endc", ".end"]
    deck = "\n".join(lines) + "\n"
    table = simulate(deck, models=models, conditions=conditions).arrays["sweep"]
    v_gs = table[:, 0]
    n_gate = int(np.argmax(np.diff(v_gs) * sign < 0)) + 1
    v_ds = np.repeat(np.arange(len(table) // n_gate) * sign * step_V, n_gate)
    v_sb = np.repeat(sign * np.asarray(bulk_V), len(table))
    return Sweep(
        np.tile(v_gs, len(bulk_V)) + v_sb,
        np.tile(v_ds, len(bulk_V)) + v_sb,
        v_sb,
        table[:, 1:].T.reshape(-1),
        width_m,
        length_m,
        sign,
        conditions.temperature_C + 273.15,
    )
