"""Mismatch: many devices of one size in one deck, beside our law and its samples."""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from evals.characterize.cell import inlined
from evals.simulate import simulate
from physnn.bank import Bank
from physnn.export.laws import number
from physnn.pdk import Conditions, Models
from physnn.process import Process, load_process
from physnn.variation.matching import mismatch

N_DEVICES = 300
# (name, kind, width_m, length_m, current_A of a transistor): pairs of our cells, and
# the smallest size at which a plain area law is right for the n transistor.
DEVICES = (
    ("nmos 2/2 um", "nmos", 2e-6, 2e-6, 1e-6),
    ("nmos 8/0.5 um", "nmos", 8e-6, 0.5e-6, 4e-6),
    ("pmos 4/0.5 um", "pmos", 4e-6, 0.5e-6, 4e-6),
    ("mim 1 um", "mim", 1e-6, 1e-6, 0.0),
)


def measure(
    models: Models,
    kind: str,
    width_m: float,
    length_m: float,
    *,
    current_A: float = 1e-6,
    n: int = N_DEVICES,
    seed: int | None = 1,
) -> np.ndarray:
    """Gate voltages at `current_A` [V], or capacitances [F], of `n` devices.

    Without a `seed` nothing is random.
    """
    size = f"width_m={number(width_m)} length_m={number(length_m)} multiple=1"
    lines = [f"* {n} devices {kind}", ".include pdk.spice"]
    volts = models.pdk.supply_V
    lines.append(f"v_vdd vdd 0 {number(volts)}")
    calls, vectors = [], []
    for i in range(n):
        if kind == "mim":
            calls += [f"x_{i} a{i} 0 dev_mim {size}", f"v_{i} a{i} 0 dc 0 ac 1"]
            vectors.append(f"imag(i(v_{i}))")
        elif kind.startswith("pmos"):
            calls += [f"x_{i} g{i} g{i} vdd vdd dev_{kind} {size}"]
            calls.append(f"i_{i} g{i} 0 {number(current_A)}")
            vectors.append(f"v(g{i})")
        else:
            calls += [f"x_{i} g{i} g{i} 0 0 dev_{kind} {size}"]
            calls.append(f"i_{i} 0 g{i} {number(current_A)}")
            vectors.append(f"v(g{i})")
    lines.append(inlined("\n".join(calls), models.pdk))
    run = (
        "ac lin 1 159154.943 159154.943"
        if kind == "mim"
        else "dc v_vdd" + (f" {number(volts)} {number(volts)} 1")
    )
    lines += [".control", "set numdgt=12", run]
    # In groups: a line of a deck holds only so much.
    groups = [vectors[i : i + 50] for i in range(0, n, 50)]
    lines += [f"wrdata g{k}.data {' '.join(group)}" for k, group in enumerate(groups)]
    lines += [".endc", ".end"]
    found = simulate(
        "\n".join(lines) + "\n",
        models=models,
        conditions=Conditions(mismatch_seed=seed),
    )
    rows = [found.arrays[f"g{k}"][0, 1:] for k in range(len(groups))]
    values = np.concatenate(rows)
    # At 10^6 rad/s a capacitor of 1 F has an admittance of 10^6.
    return np.abs(values) / 1e6 if kind == "mim" else values


def law_sigma(process: Process, kind: str, width_m: float, length_m: float) -> float:
    """Our law for one device: [V] of a threshold, a share of a capacitor.

    A card states the spread of a pair of thresholds; one device has 1/√2 of it.
    """
    if kind == "mim":
        area_m2 = process.capacitor_min_F / process.capacitor_density_F_per_m2
        return float(process.spread("capacitor", area_m2))
    return float(process.spread("threshold", width_m * length_m)) / 2**0.5


def sampled(process: Process, kind: str, area_m2: float, *, n: int, key) -> np.ndarray:
    """Errors of `n` devices as `fabricate` draws them, in the unit of `law_sigma`."""
    bank = Bank(
        jnp.ones(n) if kind == "mim" else jnp.zeros(n),
        kind="capacitor" if kind == "mim" else "threshold",
        unit="C/C_unit" if kind == "mim" else "full scale",
        area_m2=area_m2,
    )
    draw = eqx.filter_jit(
        lambda key: mismatch(
            bank, process=process, environment=None, key=key, place=None
        )
    )
    errors = np.asarray(draw(key), float)
    return errors if kind == "mim" else errors * process.swing_V / 2**0.5


def row(
    models: Models, process: Process, device, *, n=N_DEVICES, seed=1
) -> dict[str, Any]:
    """What `n` devices of a kind and size spread, and what our law says of them."""
    name, kind, width_m, length_m, current_A = device
    values = measure(
        models, kind, width_m, length_m, current_A=current_A, n=n, seed=seed
    )
    nominal = float(
        measure(models, kind, width_m, length_m, current_A=current_A, n=1, seed=None)[0]
    )
    mean = float(values.mean())
    sigma = float(values.std(ddof=1))
    law = law_sigma(process, kind, width_m, length_m)
    if kind == "mim":
        sigma, unit, mean = sigma / nominal, "relative", mean / nominal - 1
        middle = {"nominal_F": nominal}
    else:
        unit, mean, middle = "V", mean - nominal, {"nominal_V": nominal}
    return {
        "what": name,
        "kind": kind,
        "width_m": width_m,
        "length_m": length_m,
        "current_A": current_A,
        "n": n,
        "sigma": sigma,
        "mean": mean,
        "unit": unit,
        "law_sigma": law,
        **middle,
    }


def characterize(models: Models, known: Mapping[str, Any]) -> dict[str, Any]:
    """The table of mismatch. Raises `ValueError` where a simulation fails."""
    del known  # measures all it needs
    process = load_process("sky130")
    return {"devices": [row(models, process, device) for device in DEVICES]}


def of_model(process: Process, table: Mapping[str, Any]) -> np.ndarray:
    """The errors that our model samples for the devices of a row of a card."""
    if table["kind"] == "mim":
        area_m2 = process.capacitor_min_F / process.capacitor_density_F_per_m2
    else:
        area_m2 = table["width_m"] * table["length_m"]
    return sampled(process, table["kind"], area_m2, n=table["n"], key=jr.key(130))
