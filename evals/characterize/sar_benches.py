"""Converter benches: comparators that decide, arrays that settle at codes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evals.characterize.cell import Cell, Waves, transient
from physnn.export.laws import number
from physnn.pdk import Conditions, Models

# One decision: rest, then decide.
DECISION_S = 4e-9
EDGE_S = 50e-12
OFFSET_SPAN_V = 16e-3
# Array: time for each code.
CODE_S = 4e-9


@dataclass(frozen=True)
class Decision:
    """Comparators, each at its own input: decided +1 or −1, when, at what charge."""

    sign: np.ndarray
    delay_s: (
        np.ndarray
    )  # from the middle of the edge of clk to 90 % of the supply apart
    charge_C: float  # from the supply, mean of the comparators
    waves: Waves


def decide(
    cell: Cell,
    inputs_V: np.ndarray,
    models: Models,
    *,
    supply_V: float | None = None,
    common_V: float | None = None,
    extra: Sequence[str] = (),
    vectors: Sequence[str] = (),
    step_s: float = DECISION_S / 200,
    conditions: Conditions = Conditions(),
) -> Decision:
    """Let comparators decide their differential `inputs_V` once, from rest.

    The copies are `c0`, `c1`, ...; `extra` are more lines of the deck, `vectors` what
    to bring back besides their outputs.
    """
    supply_V = models.pdk.supply_V if supply_V is None else supply_V
    common_V = supply_V / 2 if common_V is None else common_V
    n, half = len(inputs_V), DECISION_S / 2
    # A first decision at the same input fills what the supply fills only once.
    clock = " ".join(map(number, (half, EDGE_S, EDGE_S, half - EDGE_S, DECISION_S)))
    lines = [
        f"v_vdd vdd 0 {number(supply_V)}",
        f"v_clk clk 0 pulse(0 {number(supply_V)} {clock})",
        *extra,
    ]
    vectors = ["i(v_vdd)", *vectors]
    for i, v in enumerate(inputs_V):
        nets = {"clk": "clk", "vdd": "vdd"}
        nets |= {p: f"c{i}{p}" for p in cell.ports if p not in (*nets, "vss")}
        lines += [
            f"v_c{i}p c{i}inp 0 {number(common_V + float(v) / 2)}",
            f"v_c{i}n c{i}inn 0 {number(common_V - float(v) / 2)}",
            cell.call(f"c{i}", nets),
        ]
        vectors += [f"v(c{i}outp)", f"v(c{i}outn)"]
    waves = transient(
        f"{n} decisions of {cell.name}",
        lines,
        files=cell.files,
        vectors=vectors,
        stop_s=2.02 * DECISION_S,
        step_s=step_s,
        models=models,
        conditions=conditions,
    )
    start = DECISION_S + half + EDGE_S / 2
    signs, delays = [], []
    for i in range(n):
        apart = waves[f"v(c{i}outp)"] - waves[f"v(c{i}outn)"]
        missing = np.where(waves.time > start, 0.9 * supply_V - np.abs(apart), 1.0)
        done = np.flatnonzero(missing <= 0)
        signs.append(np.sign(np.interp(1.99 * DECISION_S, waves.time, apart)))
        near = slice(done[0], done[0] - 2, -1) if len(done) else slice(0)
        # Between the two points around it, on a straight line.
        at = np.interp(0.0, missing[near], waves.time[near]) if len(done) else np.inf
        delays.append(at - start)
    charge = -waves.mean("i(v_vdd)", DECISION_S, 2 * DECISION_S) * DECISION_S / n
    return Decision(np.asarray(signs), np.asarray(delays), charge, waves)


def offsets(
    cell: Cell, models: Models, *, n: int, seed: int, span_V: float = OFFSET_SPAN_V
) -> np.ndarray:
    """Input offsets of `n` mismatched comparators, to 1/64 of `span_V` [V].

    By bisection: the same chips decide again and again, each nearer to its own edge.
    Raises `ValueError` where an offset is not within ± `span_V`.
    """
    low, high = np.full(n, -span_V), np.full(n, span_V)
    conditions = Conditions(mismatch_seed=seed)
    options = {"conditions": conditions, "step_s": DECISION_S / 60}
    for _ in range(7):
        middle = (low + high) / 2
        above = decide(cell, middle, models, **options).sign > 0
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    found = -(low + high) / 2
    if np.any(np.abs(found) > 0.98 * span_V):
        raise ValueError(
            f"Offsets of `{cell.name}` must be within {span_V} V to be found, but one"
            " is not: give a larger span."
        )
    return found


@dataclass(frozen=True)
class Settled:
    """An array at codes: v(top) − v(ref) of each copy `(codes, copies)`, and charge."""

    top_V: np.ndarray
    charge_C: float  # from the drivers' supply, per copy, over all codes


def settle(
    cell: Cell,
    codes: np.ndarray,
    models: Models,
    *,
    n: int = 1,
    conditions: Conditions = Conditions(),
) -> Settled:
    """Reset `n` arrays at half scale, then put bits `codes` `(codes, bits)` on them.

    At half scale, so that v(top) stays between the supplies at every code.
    """
    supply_V = models.pdk.supply_V
    half = np.eye(1, codes.shape[1])
    rows = np.concatenate([half, half, codes])
    stop_s = len(rows) * CODE_S
    end = number(1.5 * CODE_S)
    after = number(1.5 * CODE_S + EDGE_S)
    lines = [
        f"v_vdd vdd 0 {number(supply_V)}",
        f"v_ref ref 0 {number(supply_V / 2)}",
        f"v_on on 0 pwl(0 {number(supply_V)} {end} {number(supply_V)} {after} 0)",
        f"v_off off 0 pwl(0 0 {end} 0 {after} {number(supply_V)})",
    ]
    for k, bits in enumerate(rows.T):
        points = [(0.0, bits[0])]
        for j in range(1, len(bits)):
            if bits[j] != bits[j - 1]:
                points += [(j * CODE_S, bits[j - 1]), (j * CODE_S + EDGE_S, bits[j])]
        text = " ".join(f"{number(t)} {number(b * supply_V)}" for t, b in points)
        lines.append(f"v_b{k} b{k} 0 pwl({text})")
    vectors = ["i(v_vdd)"]
    for i in range(n):
        nets = {port: port for port in cell.ports if port != "vss"}
        nets["top"] = f"top{i}"
        lines.append(cell.call(f"a{i}", nets))
        vectors.append(f"v(top{i})")
    waves = transient(
        f"{len(codes)} codes of {cell.name}",
        lines,
        files=cell.files,
        vectors=vectors,
        stop_s=stop_s,
        step_s=CODE_S / 20,
        models=models,
        conditions=conditions,
        reltol=1e-5,
    )
    at = (np.arange(2, len(rows)) + 0.95) * CODE_S
    top = np.stack([waves.at(f"v(top{i})", at) for i in range(n)], axis=1)
    begin = np.stack([waves.at(f"v(top{i})", 1.95 * CODE_S) for i in range(n)])
    given = np.maximum(-waves["i(v_vdd)"], 0.0)
    charge = float(np.sum(np.diff(waves.time) * (given[1:] + given[:-1]) / 2)) / n
    return Settled(top - begin, charge)


def weights(
    cell: Cell, models: Models, bits: int, *, n: int = 1, conditions=Conditions()
) -> np.ndarray:
    """The step of each bit over the sum of all steps, `(bits, n)`.

    From outputs near half scale, one bit apart from each other.
    """
    half = np.eye(1, bits)
    codes = np.concatenate([0 * half, half, half + np.eye(bits)[1:]])
    top = settle(cell, codes, models, n=n, conditions=conditions).top_V
    steps = np.concatenate([top[1:2] - top[:1], top[2:] - top[1:2]])
    return steps / steps.sum(axis=0)


def linearity(top: np.ndarray) -> tuple[float, float]:
    """Largest (INL, DNL) of the outputs of all codes in order [LSB]."""
    step = (top[-1] - top[0]) / (len(top) - 1)
    inl = (top - top[0]) / step - np.arange(len(top))
    return float(np.abs(inl).max()), float(np.abs(np.diff(top) / step - 1).max())


def all_codes(bits: int) -> np.ndarray:
    """Every code of `bits` bits in order, `(2^bits, bits)`, the largest bit first."""
    return (np.arange(2**bits)[:, None] >> np.arange(bits - 1, -1, -1)) & 1
