"""Token: one step of the state-space block in transistors, and where its error is from.

The model is `circuits.state_space.GatedRC` with three calibrated values: conductance of
the open gate, slope and center of the steering. Its step is compared with that of the
drawn cell; then one part after another is replaced by its ideal twin, until nothing but
the exact solution is left, so that the parts of the error add up to all of it.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from scipy.optimize import least_squares

from circuits.state_space import GatedRC
from evals.characterize.cell import Cell, Waves, transient
from evals.characterize.ota import supply_rows
from evals.simulate import simulate
from physnn.export import gated_state as gated
from physnn.export.cells import trial_vectors
from physnn.export.gated_state import (
    BIAS_A,
    REF_V,
    REFS_V,
    STATE_F,
    SUPPLY_V,
    SWING_V,
    PERIOD_s,
    SAMPLE_s,
    SteeredCard,
)
from physnn.export.laws import number
from physnn.export.transconductor import mirror
from physnn.pdk import Models
from physnn.process import load_process
from physnn.units import thermal_voltage_V

# Tokens, all in one deck; steering voltages in the range in which gates remember [V].
N_TOKENS, STEER_V = 12, (-0.12, 0.06)
# When the token begins, after one that sampled the inputs before [s].
START_s, EDGE_s, STEP_s = 0.3e-6, 0.5e-9, 1e-9
KELVIN = 300.15
# Grid of the static curves [V].
CURVE_V, CURVE_STEP_V, STEER_STEP_V = 0.08, 0.01, 0.02
# Each replaced in turn, on top of those before it; what is left then is `settling`.
PARTS = (
    "switch leak",
    "switch charge",
    "steering lag",
    "curve",
    "output",
    "offset",
    "range",
)


@dataclasses.dataclass(frozen=True, eq=False)
class Tokens:
    """Inputs of the tokens and of those before them, and states they start from.

    u, v in full scale, s in V of steering.
    """

    before_u: np.ndarray
    before_s: np.ndarray
    u: np.ndarray
    s: np.ndarray
    v: np.ndarray


def tokens(n: int = N_TOKENS) -> Tokens:
    """Fixed tokens, uniform in u, v and the range of steering."""
    drawn = trial_vectors((5, n)).astype(np.float64)
    low, high = STEER_V
    steer = lambda x: low + (high - low) * (x + 1) / 2
    return Tokens(drawn[0], steer(drawn[1]), drawn[2], steer(drawn[3]), drawn[4])


def static_card(core: Cell, models: Models) -> tuple[SteeredCard, float]:
    """The card of a steered OTA from its static curves, and its supply current [A].

    Raises as `simulate` does.
    """
    low, high = STEER_V
    swept = [(-CURVE_V, CURVE_V, CURVE_STEP_V), (low, high, STEER_STEP_V)]
    inputs, steers = (np.arange(a, b + c / 2, c) for a, b, c in swept)
    sweeps = {
        "in": (*swept[0], *swept[1]),
        "out": (REF_V - 0.05, REF_V + 0.05, 0.05, *swept[1]),
    }
    found = {}
    for name, numbers in sweeps.items():
        source = "v_in" if name == "in" else "v_out"
        ends = " ".join(map(number, numbers[:3]))
        steered = " ".join(map(number, numbers[3:]))
        deck = [
            f"* steered transconductor, {name}",
            ".include pdk.spice",
            *(f".include {file}" for file in (*core.files, *_MIRROR.files)),
            ".option gmin=1e-18 reltol=1e-6 abstol=1e-16 vntol=1e-9",
            *_supplies(),
            "v_in inp ref 0",
            f"v_out out 0 {number(REF_V)}",
            "v_s sp refs 0",
            core.call("dut", _core_nets("inp", "ref", "out", "sp")),
            ".control",
            "set numdgt=12",
            f"dc {source} {ends} v_s {steered}",
            "wrdata curve.data i(v_out) i(v_vdd)",
            ".endc",
            ".end",
        ]
        files = {**core.files, **_MIRROR.files}
        table = simulate("\n".join(deck) + "\n", models=models, files=files)
        curve = table.arrays["curve"]
        found[name] = curve[:, 1].reshape(len(steers), -1)
        found["supply"] = -curve[:, 2]
    card = fit(inputs, steers, found["in"], found["out"])
    # The tail flows wherever it is steered to.
    return card, float(found["supply"].mean())


def fit(inputs, steers, current, out) -> SteeredCard:
    """Least squares on i_out `(steer, input)` and, at ref ± 50 mV, `(steer, 3)`.

    Weighed by the current of each steering: a closed gate counts like an open one.
    """
    scale = np.abs(current).max(1, keepdims=True)
    peak = float(scale.max())

    def card(x) -> SteeredCard:
        slope = math.exp(x[2])
        return SteeredCard(
            float(x[0] * peak / 0.02),
            math.exp(x[1]),
            slope,
            float(x[3]),
            float(x[4]),
            float(x[5] * peak),
            0.0,
        )

    def error(x):
        model = card(x).current(inputs[None], steers[:, None])
        return ((model - current) / scale).ravel()

    start = [1.0, math.log(0.07), math.log(0.036), 0.0, 0.0, 0.0]
    best = card(least_squares(error, start, xtol=1e-12, ftol=1e-12).x)
    share = 1 / (1 + np.exp(-(steers - best.center_V) / best.slope_V))
    output_S = float(np.median((out[:, 0] - out[:, 2]) / 0.1 / share))
    return dataclasses.replace(best, output_S=output_S)


def model_step(card: SteeredCard, tried: Tokens) -> np.ndarray:
    """v after the token [full scale], by the calibrated JAX circuit without noise."""
    n = len(tried.u)
    process = dataclasses.replace(
        load_process("sky130").noiseless(),
        swing_V=SWING_V,
        temperature_K=KELVIN,
        slope_factor=card.slope_V / thermal_voltage_V(KELVIN),
    )
    circuit = GatedRC(
        n,
        period_s=PERIOD_s,
        state_F=STATE_F,
        rate_max=card.open_S * PERIOD_s / STATE_F,
    )
    offsets = jnp.full(n, -card.center_V / SWING_V)
    circuit = eqx.tree_at(lambda c: c.offset.value, circuit, offsets)
    x = jnp.asarray(np.concatenate([tried.u, tried.s / SWING_V]))
    v, _ = circuit.step(jnp.asarray(tried.v), x, process=process, key=jr.key(0))
    return np.asarray(v, np.float64)


def run_step(cell: Cell, tried: Tokens, models: Models) -> tuple[np.ndarray, Waves]:
    """v after the token [full scale], and waves v(v0p), v(v0n), ... [V].

    A token has two copies of `cell`, the halves of a differential state. Each holds the
    inputs of the token before; states are set and let go when the token begins.
    """
    lines = [*_supplies(), ".model set sw vt=0.9 vh=0 ron=100 roff=1e15"]
    start, high = number(START_s), number(SUPPLY_V)
    # Closed at first and when the token begins: a pulse cannot say that.
    times = (0.0, SAMPLE_s, SAMPLE_s + EDGE_s, START_s, START_s + EDGE_s)
    times += (START_s + SAMPLE_s, START_s + SAMPLE_s + EDGE_s)
    for clock, on, off in (("phi", high, "0"), ("phin", "0", high)):
        volts = (on, on, off, off, on, on, off)
        points = " ".join(f"{number(t)} {v}" for t, v in zip(times, volts, strict=True))
        lines.append(f"v_{clock} {clock} 0 pwl({points})")
    lines.append(f"v_set set 0 pulse({high} 0 {start} 1e-10 1e-10 1 2)")
    for i in range(len(tried.u)):
        s = [number(REFS_V + x[i]) for x in (tried.before_s, tried.s)]
        lines.append(_step(f"s{i}", *s))
        for half, swing_V in (("p", SWING_V), ("n", -SWING_V)):
            u = [number(REF_V + swing_V * x[i]) for x in (tried.before_u, tried.u)]
            name = f"{i}{half}"
            lines += [
                _step(f"u{name}", *u),
                f"v_from{name} from{name} 0 {number(REF_V + swing_V * tried.v[i])}",
                f"s_set{name} from{name} v{name} set 0 set",
                cell.call(f"dut{name}", _nets(i, half)),
            ]
    halves = [f"v(v{i}{half})" for i in range(len(tried.u)) for half in "pn"]
    waves = transient(
        "a token of the state-space block",
        lines,
        files={**cell.files, **_MIRROR.files},
        vectors=halves,
        stop_s=START_s + PERIOD_s,
        step_s=STEP_s,
        models=models,
        reltol=1e-5,
    )
    end = np.asarray([waves.at(v, START_s + PERIOD_s) for v in halves])
    return (end[::2] - end[1::2]) / (2 * SWING_V), waves


def _step(name: str, old: str, new: str) -> str:
    """A source that steps when the token begins."""
    return (
        f"v_{name} {name} 0 pwl(0 {old} {number(START_s)} {old}"
        f" {number(START_s + EDGE_s)} {new})"
    )


def budget(
    cell: Cell, card: SteeredCard, models: Models, tried: Tokens
) -> dict[str, np.ndarray]:
    """Error of each token by part [full scale], and `total`, which is their sum.

    `cell` is the drawn one; what is replaced is built here.
    """
    twin = dataclasses.replace
    cards = [card, twin(card, output_S=0.0)]
    cards.append(twin(cards[-1], offset_V=0.0, shift_A=0.0))
    cards.append(twin(cards[-1], range_V=math.inf))
    ideal = gated.ideal_switch()
    variants = [
        cell,
        Cell.of(gated.gated_state(sampler=gated.late_switch())),
        Cell.of(gated.gated_state(sampler=ideal)),
        *(Cell.of(gated.gated_state(gated.steered_twin(c), ideal)) for c in cards),
    ]
    ends = [run_step(variant, tried, models)[0] for variant in variants[:3]]
    # Steered alike in the token before: nothing inside has to follow.
    still = twin(tried, before_s=tried.s)
    ends += [run_step(variant, still, models)[0] for variant in variants[2:]]
    said = model_step(card, tried)
    found = {
        name: before - after
        for name, before, after in zip(PARTS, ends, ends[1:], strict=False)
    }
    return {**found, "settling": ends[-1] - said, "total": ends[0] - said}


def characterize(models: Models, tables: Mapping[str, Any]) -> dict[str, Any]:
    """The table of the gated state. Raises `ValueError` where a simulation fails."""
    del tables
    card, supply_A = static_card(Cell.of(gated.steered()), models)
    parts = budget(Cell.of(gated.gated_state()), card, models, tokens())
    return {
        "swing_V": SWING_V,
        "period_s": PERIOD_s,
        "capacitance_F": STATE_F,
        "bias_A": BIAS_A,
        "tokens": N_TOKENS,
        "supply": supply_rows(
            models, [("steered tail, one half", supply_A, card.open_S)]
        ),
        "twin": dataclasses.asdict(card),
        "error_rms": {_key(name): _rms(part) for name, part in parts.items()},
        "error_max": {
            _key(name): float(np.abs(part).max()) for name, part in parts.items()
        },
    }


def _key(name: str) -> str:
    return name.replace(" ", "_")


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


_MIRROR = Cell.of(mirror())


def _supplies() -> list[str]:
    return [
        f"v_vdd vdd 0 {number(SUPPLY_V)}",
        f"v_ref ref 0 {number(REF_V)}",
        f"v_refs refs 0 {number(REFS_V)}",
        f"i_bias 0 bias {number(BIAS_A)}",
        "x_mirror bias 0 mirror",
    ]


def _core_nets(inp: str, inn: str, out: str, sp: str) -> dict[str, str]:
    nets = {"inp": inp, "inn": inn, "out": out, "sp": sp, "sn": "refs"}
    return {**nets, "bias": "bias", "vdd": "vdd"}


def _nets(i: int, half: str) -> dict[str, str]:
    shared = {net: net for net in gated.PORTS if net not in ("u", "s", "v", "vss")}
    return {"u": f"u{i}{half}", "s": f"s{i}", "v": f"v{i}{half}", **shared}
