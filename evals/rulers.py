"""Rulers: what a part spends over the least that physics asks for what it delivers.

Two floors, per step:

    noise      8kT·SNR for each output sample (a capacitor charged once to full swing;
               Vittoz 1990, DOI 10.1109/ISCAS.1990.112143), at the SNR that the part
               has: a full-scale sine, power 1/2, over its output noise. Where it
               digitizes, quantization and mismatch are noise too.
    Landauer   kT·ln 2 for each bit that is overwritten (Landauer 1961, DOI
               10.1147/rd.53.0183).

What counts as a bit: of an analog sample, which overwrites the one before,
½·log2(1 + SNR) (Shannon); of a digital event, those of the register that takes its
result (`BITS`). A bit that only moves, a charge and a leak erase none. Both floors are
rulers, not promises: no circuit here comes near, and what binds first is the smallest
capacitor, matching and wires.

A floor says nothing where a circuit has no noise of its own in the model (its noise is
counted at the capacitor that samples it) or puts out two levels: then there is none.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Key

from physnn.circuit import AbstractCircuit, run
from physnn.energy import Ledger, Prices, bill, load_prices
from physnn.energy.prices import OVERHEAD
from physnn.export.selection import circuits_of
from physnn.keys import stream
from physnn.process import Process
from physnn.units import readable, thermal_energy_J
from train.loop import load_run

# Bits of the register that the result of an event overwrites.
BITS = {
    "mac": 32,
    "attention_mac": 32,
    "elementwise": 16,
    "compare": 32,
    "weight_byte": 8,
    "cache_byte": 8,
    "activation_byte": 8,
    "rom_bit": 1,
    "random_bit": 1,
    "flop_cycle": 1,
    "io_bit": 1,
    "chip_bit": 1,
    "dac_conversion": 8,
    "adc_conversion_4b": 4,
    "adc_conversion_6b": 6,
    "adc_conversion_8b": 8,
}
# Samples and steps at which noise is measured, inputs at a quarter of full scale rms.
BATCH, STEPS, LEVEL = 8, 8, 0.25


def landauer_J(bits: float | int, temperature_K: float = 300.0) -> float:
    """kT·ln 2 for each of `bits` that are overwritten [J]."""
    return bits * thermal_energy_J(temperature_K) * math.log(2)


def sample_floor_J(snr: float, temperature_K: float = 300.0) -> float:
    """8kT·SNR: the least for one sample at a power ratio of `snr` [J]."""
    return 8 * thermal_energy_J(temperature_K) * snr


def snr_of_bits(bits: float | int) -> float:
    """Power ratio of a full-scale sine to the noise of `bits` effective bits."""
    return 10 ** ((6.02 * bits + 1.76) / 10)


@dataclass(frozen=True)
class Ruler:
    """A part, or all alike, against both floors.

    - `spent_J`: nominal Joules of a step, before regulators and all behind them.
    - `samples`: outputs of a step; `snr`: of each; None: no noise floor.
    - `erased`: bits overwritten in a step.
    """

    part: str
    kind: str
    spent_J: float
    samples: float
    snr: float | None
    erased: float
    temperature_K: float

    @property
    def noise_floor_J(self) -> float:
        if self.snr is None:
            return 0.0
        return self.samples * sample_floor_J(self.snr, self.temperature_K)

    @property
    def over_noise(self) -> float | None:
        """Times the 8kT·SNR floor; None where there is none."""
        floor = self.noise_floor_J
        return self.spent_J / floor if floor > 0 else None

    @property
    def over_landauer(self) -> float | None:
        """Times kT·ln 2 of its bits; None where it erases none."""
        floor = landauer_J(self.erased, self.temperature_K)
        return self.spent_J / floor if floor > 0 else None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {
            "noise_floor_J": self.noise_floor_J,
            "over_noise": self.over_noise,
            "over_landauer": self.over_landauer,
        }


def rulers(
    design: Any,
    prices: Prices,
    *,
    process: Process,
    period_s: float,
    key: Key[Array, ""],
) -> tuple[Ruler, ...]:
    """Every innermost circuit of a built `design`, alike ones together.

    Noise is measured on the first of each kind, fed with Gaussian inputs. Largest
    spender first. Empty for a design without circuits.
    """
    found: dict[tuple, Ruler] = {}
    for path, circuit in circuits_of(design):
        if sum(1 for _ in circuits_of(circuit)) > 1:
            continue
        name = re.sub(r"\[\d+\]|\d+", "*", path) or "design"
        kind = type(circuit).__name__
        alike = (name, kind, circuit.n_in, circuit.n_out)
        spent = _spent_J(bill(circuit, prices, process=process, period_s=period_s))
        if alike in found:
            known = found[alike]
            each = known.erased / known.samples
            found[alike] = replace(
                known,
                spent_J=known.spent_J + spent,
                samples=known.samples + circuit.n_out,
                erased=known.erased + each * circuit.n_out,
            )
            continue
        snr = measured_snr(circuit, process=process, key=stream(key, path or "design"))
        events = circuit.events(process, period_s=period_s)
        erased = sum(BITS.get(e.name, 0) * float(e.count) for e in events)
        if snr is not None:
            erased += circuit.n_out * math.log2(1 + snr) / 2
        found[alike] = Ruler(
            name,
            kind,
            spent,
            float(circuit.n_out),
            snr,
            erased,
            float(process.temperature_K),
        )
    return tuple(sorted(found.values(), key=lambda each: -each.spent_J))


def _spent_J(ledger: Ledger) -> float:
    return sum(row.energy.nominal for row in ledger.rows if row.event != OVERHEAD)


def measured_snr(
    circuit: AbstractCircuit, *, process: Process, key: Key[Array, ""]
) -> float | None:
    """Power of a full-scale sine over that of the noise at the circuit's outputs.

    A converter that knows its effective bits tells them. None without noise, and where
    outputs have two levels.
    """
    if (told := getattr(circuit, "effective_bits", None)) is not None:
        return snr_of_bits(float(told(process)))
    shape = (STEPS, BATCH, circuit.n_in)
    xs = jnp.clip(LEVEL * jr.normal(stream(key, "inputs"), shape), -1.0, 1.0)
    both = _both(circuit, xs, process, stream(key, "noise"))
    noisy, quiet = (np.asarray(each, float) for each in both)
    if np.unique(quiet).size <= 2:
        return None
    power = np.mean(np.square(noisy - quiet)[STEPS // 2 :])
    return float(0.5 / power) if power > 0 else None


@eqx.filter_jit
def _both(circuit, xs, process, key):
    """With and without noise, from one compilation."""
    return tuple(
        run(circuit, xs, process=each, key=key)
        for each in (process, process.noiseless())
    )


def event_rulers(ledger: Ledger, temperature_K: float = 300.0) -> tuple[Ruler, ...]:
    """Every digital event of a bill: alike on every machine, and without a model.

    Joules over the bits that a token uses; where a batch shares one reading of a bit,
    each user has its part of the Joules. A whole converter also has its 8kT·SNR floor,
    at its nominal bits.
    """
    spent: dict[str, float] = {}
    counts: dict[tuple[str, str, float], float] = {}
    for row in ledger.rows:
        if row.event in BITS:
            spent[row.event] = spent.get(row.event, 0.0) + row.energy.nominal
            # An event that several rows price together is one event.
            counts[row.event, row.part, row.count] = row.count
    found = []
    for name, joules in spent.items():
        count = sum(n for (event, *_), n in counts.items() if event == name)
        code = re.fullmatch(r"adc_conversion_(\d)b", name)
        found.append(
            Ruler(
                name,
                "event",
                joules,
                count,
                snr_of_bits(int(code[1])) if code else None,
                BITS[name] * count,
                temperature_K,
            )
        )
    return tuple(sorted(found, key=lambda each: -each.spent_J))


def ruler_table(rows: Sequence[Ruler]) -> str:
    """Both floors of every part as text."""
    header = ("part", "kind", "J per step", "SNR", "over 8kT·SNR", "over kT ln 2")
    cells = [header, *(_cells(row) for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ("  ".join(_fitted(row, widths)).rstrip() for row in cells)
    return "\n".join(("Spent, over the floors of physics:", *lines))


def _fitted(row: Iterable[str], widths: Sequence[int]) -> list[str]:
    return [
        cell.ljust(width) if i < 2 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]


def _cells(row: Ruler) -> tuple[str, ...]:
    times = lambda value: "-" if value is None else f"{value:.2g}x"
    snr = "-" if row.snr is None else f"{10 * math.log10(row.snr):.0f} dB"
    return (
        row.part,
        row.kind,
        readable(row.spent_J, "J"),
        snr,
        times(row.over_noise),
        times(row.over_landauer),
    )


def rulers_of_model(model: Any, prices: Prices, process: Process) -> tuple[Ruler, ...]:
    """`rulers` of a model at its own time per token; empty for a digital one.

    Also empty for one that is known by its shapes alone, which cannot run.
    """
    period_s = getattr(getattr(model, "config", None), "period_s", None)
    leaves = jax.tree.leaves(model)
    if period_s is None or any(isinstance(x, jax.ShapeDtypeStruct) for x in leaves):
        return ()
    return rulers(
        model, prices, process=process, period_s=float(period_s), key=jr.key(0)
    )


def rulers_of_run(folder: str | Path, *, prices: str = "analog28") -> tuple[Ruler, ...]:
    """`rulers_of_model` of a run folder; raises what `load_run` raises."""
    trained = load_run(folder)
    return rulers_of_model(trained.model, load_prices(prices), trained.process)
