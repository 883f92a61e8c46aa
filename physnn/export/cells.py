"""Cells that several circuits are built from, with ideal switches and amplifiers.

Signals are differential: x is (v(xp) − v(xn)) / (2·swing), each half moving ± swing
around the net `ref`. Two clocks that never overlap, `phi1` and `phi2`, are high in the
fractions `PHI1` and `PHI2` of a token; a charge output is valid at the end of `phi2`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit, run
from physnn.export.laws import number as number
from physnn.export.netlist import (
    GROUND,
    Bench,
    Device,
    Expected,
    Instance,
    Netlist,
    Parameter,
)
from physnn.process import Process

PHI1, PHI2 = (0.02, 0.45), (0.50, 0.98)
SAMPLE = 0.97
CLOCKS = MappingProxyType({"phi1": PHI1, "phi2": PHI2})

# Ideal, but simulable: small and large enough to leave errors below 1e-6.
ON_OHM, OFF_OHM = 1e3, 1e15
GAIN = 1e7
# A phase lasts this many time constants of everything a switch has to charge.
SETTLING = 40.0


def halves(*signals: str) -> tuple[str, ...]:
    """The nets of differential signals: `x` is `xp`, `xn`."""
    return tuple(f"{signal}{half}" for signal in signals for half in "pn")


def bus(signal: str, count: int) -> tuple[str, ...]:
    """The nets of a differential bus: `x0p`, `x0n`, `x1p`, ... ."""
    return halves(*(f"{signal}{i}" for i in range(count)))


def difference(signal: str, process: Process) -> str:
    """The law of a signal's value, as a fraction of full scale."""
    return f"(v({signal}p, {signal}n) / {number(2 * process.swing_V)})"


def differential_voltage(signal: str, law: str, process: Process) -> tuple[Device, ...]:
    """Two voltage sources that hold a signal at `law` [full scale] around `ref`."""
    swing = number(process.swing_V)
    return (
        Device(
            f"{signal}p", "voltage", (f"{signal}p", "ref"), law=f"{swing} * ({law})"
        ),
        Device(
            f"{signal}n", "voltage", (f"{signal}n", "ref"), law=f"-{swing} * ({law})"
        ),
    )


def clip(law: str) -> str:
    """`law` limited to ± full scale."""
    return f"max(-1, min(1, {law}))"


def switch(name: str, a: str, b: str, clock: str, process: Process) -> Device:
    """An ideal switch between `a` and `b`, closed while `clock` is high."""
    return Device(
        name,
        "switch",
        (a, b, clock, GROUND),
        {
            "on_ohm": ON_OHM,
            "off_ohm": OFF_OHM,
            "threshold_V": process.supply_V / 2,
        },
    )


def charge_weight(name: str, process: Process) -> Netlist:
    """A capacitor per half: sampled from x in `phi1`, emptied into s in `phi2`."""
    devices = []
    for half in "pn":
        plate = f"plate_{half}"
        devices += [
            switch(f"sample_{half}", f"x{half}", plate, "phi1", process),
            switch(f"empty_{half}", plate, "ref", "phi2", process),
            Device(
                half, "capacitor", (plate, f"s{half}"), {"capacitance_F": "capacitance"}
            ),
        ]
    return Netlist(
        name,
        ("xp", "xn", "sp", "sn", "phi1", "phi2", "ref"),
        tuple(devices),
        parameters={
            "capacitance": Parameter(
                process.capacitor_min_F, "F", "all unit capacitors switched in"
            )
        },
        notes="One weight: its sign is given by the order in which xp, xn are wired.",
    )


def charge_column(
    name: str,
    ratios: Sequence[float] | np.ndarray,
    *,
    weight: Netlist,
    feedback_F: float,
    offset: float,
    process: Process,
    benches: tuple[Bench, ...] = (),
) -> Netlist:
    """A column of `weight` cells and its amplifier: y = clip(Σ ratio·x + offset).

    A weight of zero has no unit switched in and is left out. The trained `offset` [full
    scale] is one more weight, whose input is a constant full scale. In `phi1` the
    amplifier is reset and holds `s` at `ref` while the weights sample; in `phi2` the
    charge of all weights moves onto its feedback capacitors.
    """
    ratios = np.asarray(ratios, np.float64)
    clocks = ("phi1", "phi2", "ref")
    wired = [(f"w{i}", f"x{i}", float(ratio)) for i, ratio in enumerate(ratios)]
    wired.append(("offset", "full", offset))
    instances = tuple(
        Instance(
            copy,
            weight,
            (*halves(signal)[:: 1 if ratio > 0 else -1], "sp", "sn", *clocks),
            {"capacitance": float(abs(ratio) * feedback_F)},
        )
        for copy, signal, ratio in wired
        if ratio
    )
    devices = [*differential_voltage("full", "1", process)] if offset else []
    for half in "pn":
        nets, value = (f"s{half}", f"y{half}"), {"capacitance_F": float(feedback_F)}
        devices += [
            Device(f"feedback_{half}", "capacitor", nets, value),
            switch(f"reset_{half}", *nets, "phi1", process),
        ]
    devices.append(
        Device(
            "amplifier",
            "amplifier",
            ("yp", "yn", "sn", "sp", "ref"),
            {
                "gain": GAIN,
                "limit_V": process.swing_V,
                # As fast in closed loop as half the switches: it settles with them.
                "unity_s": ON_OHM * float(feedback_F) / 2,
            },
        )
    )
    return Netlist(
        name,
        (*bus("x", len(ratios)), "yp", "yn", *clocks),
        tuple(devices),
        instances,
        benches=benches,
        notes=(
            "Differential charge column. x and y: (v(p) - v(n)) / (2 swing), swing"
            f" {number(process.swing_V)} V. phi1 samples, phi2 transfers; y is valid at"
            " the end of phi2. Ideal: switches, amplifier, no parasitic capacitance."
        ),
    )


def matrix(name: str, n_in: int, columns: Sequence[Netlist]) -> Netlist:
    """Columns side by side on the same input lines."""
    clocks = ("phi1", "phi2", "ref")
    x = bus("x", n_in)
    instances = tuple(
        Instance(f"column{j}", column, (*x, *halves(f"y{j}"), *clocks))
        for j, column in enumerate(columns)
    )
    ports = (*x, *bus("y", len(columns)), *clocks)
    return Netlist(name, ports, instances=instances)


def hold(name: str, capacitance_F: float, process: Process) -> Netlist:
    """A sample of x, held behind a buffer while `clock` is low."""
    devices = []
    for half in "pn":
        node = f"held_{half}"
        devices += [
            switch(f"sample_{half}", f"x{half}", node, "clock", process),
            Device(half, "capacitor", (node, "ref"), {"capacitance_F": capacitance_F}),
            Device(
                f"buffer_{half}", "voltage", (f"y{half}", "ref"), law=f"v({node}, ref)"
            ),
        ]
    ports = (*halves("x", "y"), "clock", "ref")
    return Netlist(name, ports, tuple(devices), notes="Sample and hold, ideal buffers.")


def delayed(
    name: str, column: Netlist, holding: Netlist, *, benches: tuple[Bench, ...] = ()
) -> Netlist:
    """A column that sums the last samples of one signal: its input k is x_{t-k}."""
    n_taps = (len(column.ports) - 5) // 2
    instances, newest = [], halves("x")
    taps = [newest]
    for k in range(1, n_taps):
        # A sample moves on in two steps, so that none is overwritten before it is read.
        if k > 1:
            nets = halves(f"m{k}")
            instances.append(
                Instance(f"master{k}", holding, (*newest, *nets, "phi1", "ref"))
            )
            newest = nets
        nets = halves(f"h{k}")
        instances.append(Instance(f"held{k}", holding, (*newest, *nets, "phi2", "ref")))
        newest = nets
        taps.append(newest)
    wires = tuple(net for tap in taps for net in tap)
    shared = ("yp", "yn", "phi1", "phi2", "ref")
    instances.append(Instance("column", column, (*wires, *shared)))
    ports = (*halves("x"), *shared)
    return Netlist(name, ports, instances=tuple(instances), benches=benches)


def slot_s(capacitance_F: float) -> float:
    """A token in which a switch settles `capacitance_F` in either phase [s]."""
    return (
        SETTLING * ON_OHM * float(capacitance_F) / min(b - a for a, b in (PHI1, PHI2))
    )


def rows(signal: str, values) -> dict[str, np.ndarray]:
    """Values `(time, n)` of a bus by the names of its signals."""
    return {f"{signal}{i}": column for i, column in enumerate(np.asarray(values).T)}


def static_bench(
    name: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    *,
    process: Process,
) -> Bench:
    """A bench of a cell without memory: each input for a microsecond (gate B1)."""
    return differential_bench(
        name,
        inputs,
        outputs,
        process=process,
        slot_s=1e-6,
        gate="B1",
        absolute=1e-5,
        sample=0.5,
        max_step=0.1,
    )


def differential_bench(
    name: str,
    inputs: Mapping[str, np.ndarray],
    outputs: Mapping[str, np.ndarray],
    *,
    process: Process,
    slot_s: float,
    gate: str,
    absolute: float,
    clocks: Mapping[str, tuple[float, float]] | None = None,
    sample: float = 1.0,
    max_step: float = 0.01,
) -> Bench:
    """A bench that drives `inputs` (time,) and expects `outputs`, by signal.

    Values are fractions of full scale; `absolute` is the tolerance of an output.
    """
    common_V = process.supply_V / 2
    drive = {
        f"{signal}{half}": tuple(
            float(common_V + sign * process.swing_V * float(x)) for x in values
        )
        for signal, values in inputs.items()
        for half, sign in (("p", 1.0), ("n", -1.0))
    }
    expected = tuple(
        Expected(
            f"{signal}_{slot}",
            slot,
            difference(signal, process),
            float(value),
            "full scale",
            gate,  # type: ignore[arg-type]
            absolute,
        )
        for signal, values in outputs.items()
        for slot, value in enumerate(values)
    )
    return Bench(
        name,
        slot_s,
        drive,
        expected,
        clocks=dict(clocks or {}),
        supplies={"ref": common_V},
        clock_high_V=process.supply_V,
        sample=sample,
        max_step=max_step,
    )


def realized(bank: Bank) -> np.ndarray:
    """The values that a bank of a design, or of a chip, is built with."""
    return np.asarray(eqx.filter_jit(lambda bank: bank.realized())(bank))


def predicted(circuit: AbstractCircuit, xs: np.ndarray, process: Process) -> np.ndarray:
    """Outputs `(time, n_out)` of a circuit for inputs `(time, n_in)`, without noise."""

    def quiet(circuit, xs):
        return run(circuit, xs, process=process.noiseless(), key=jr.key(0))

    # Not the shortcut that some accelerators take in float32 products.
    with jax.default_matmul_precision("highest"):
        return np.asarray(eqx.filter_jit(quiet)(circuit, jnp.asarray(xs)))


def trial_vectors(shape: tuple[int, ...]) -> np.ndarray:
    """Fixed inputs of a bench, uniform in ±1, that no training ever saw.

    The additive recurrence of the golden ratio: the same on every machine and version
    of NumPy (Roberts 2018, "The unreasonable effectiveness of quasirandom sequences").
    """
    count = int(np.prod(shape))
    phase = (0.5 + (np.arange(1, count + 1) ** 2 % 104729) * 0.6180339887498949) % 1
    return np.round(2 * phase.reshape(shape) - 1, 4).astype(np.float32)
