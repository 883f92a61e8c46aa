"""Top: blocks of a design wired into one network, and the text it is tried on.

The cells are those of the package, with settled twins in place of charge columns
(`physnn.export.settled`). The embedding and the converters are no cells: what they give
is driven at the ports, and what the readout gives is compared before it is digitized.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float

from physnn.circuit import AbstractCircuit, run
from physnn.export import cells, tables
from physnn.export.compose import signals
from physnn.export.netlist import Instance, Netlist
from physnn.export.settled import settled
from physnn.export.spice import (
    _device,
    _steps,
    _wrap,
    number,
    write_cell,
)
from physnn.network import Chain, Residual
from physnn.process import Process

TOP, DECK, VALUES = "spice/top.spice", "spice/tb/top.sp", "spice/tb/top.json"
# What a simulation may cost on one core, and what a weight costs per iteration.
SECONDS, FAST_SECONDS = 80.0, 6.0
WEIGHT_s, EQUATIONS_s = 0.25e-6, 0.2e-3
MOST_WEIGHTS = 100_000
MOST_TOKENS = 200
# Newton's iterations per token without states; time steps per token with them, at least
# and what edges add, and iterations per step.
ITERATIONS_STATIC, STEPS, EDGES, ITERATIONS = 9, 25, 85, 2.4
# A network without states: one operating point per token. One with them: trapezoidal,
# its step bounded by the token and not by charges: 1e-5 of full scale from the
# tolerances of single cells, at a quarter of their steps.
STATIC_OPTIONS = ".option gmin=1e-18 reltol=1e-4 abstol=1e-12 vntol=1e-7"
OPTIONS = (
    ".option gmin=1e-18 reltol=1e-3 abstol=1e-12 vntol=1e-6 chgtol=1e-14 trtol=100"
    " method=trap"
)
# When a delay line hands its samples on, in fractions of a token, and when the outputs
# are read: just before.
MASTER, SLAVE = (0.40, 0.45), (0.9996, 0.99985)
READ = 0.9995


@dataclass(frozen=True, eq=False)
class Network:
    """Residual blocks, what reads them out, and the stream that enters the first.

    `stream` `(token, width)` are fractions of full scale: the embedding of a text as
    the converters give it. `text` says which text it is.
    """

    blocks: tuple[Residual, ...]
    readout: tuple[AbstractCircuit, ...]
    stream: Float[np.ndarray, "token width"]
    period_s: float
    text: str


@dataclass(frozen=True, eq=False)
class Cut:
    """The part of a network that is simulated: its last blocks and the readout.

    `drive` enters it, `expected` `(token, output)` leaves it, both of the noiseless
    model.
    """

    circuit: Chain
    first: int  # block where it begins
    n_blocks: int  # of the whole network
    drive: Float[np.ndarray, "token width"]
    expected: Float[np.ndarray, "token output"]
    steps: int  # per token, at least; 0 for a network without states
    n_weights: int


def cut(network: Network, process: Process) -> Cut:
    """The longest end of `network` with at most `MOST_WEIGHTS` weights.

    As many tokens as `SECONDS` allow, `MOST_TOKENS` at most.
    """
    parts = (*network.blocks, *network.readout)
    weights = [_weights(part) for part in parts]
    first = len(network.blocks)
    while first and sum(weights[first - 1 :]) <= MOST_WEIGHTS:
        first -= 1
    n_weights = sum(weights[first:])
    circuit = Chain(parts[first:])
    memoryless = not jax.tree.leaves(circuit.init_state(()))
    steps = 0 if memoryless else STEPS
    iterations = ITERATIONS_STATIC if memoryless else (STEPS + EDGES) * ITERATIONS
    cost_s = iterations * (n_weights * WEIGHT_s + EQUATIONS_s)
    n_tokens = max(1, min(len(network.stream), MOST_TOKENS, int(SECONDS / cost_s)))
    stream = np.asarray(network.stream[:n_tokens], np.float32)
    drive = _run(Chain(parts[:first]), stream, process) if first else stream
    expected = _run(circuit, drive, process)
    return Cut(circuit, first, len(network.blocks), drive, expected, steps, n_weights)


def said(first: int, n_blocks: int) -> str:
    """What a cut that begins at block `first` holds."""
    if first == n_blocks:
        return f"the readout alone, of {n_blocks} blocks none"
    return f"blocks {first} to {n_blocks - 1} of {n_blocks} and the readout"


def files(network: Network, process: Process) -> dict[str, bytes]:
    """`spice/top.spice`, a deck that runs it, and what the model says to it.

    Raises `ValueError` for a block that has no netlist.
    """
    part = cut(network, process)
    whole = netlist(part.circuit, process)
    n_fast = max(1, int(len(part.drive) * FAST_SECONDS / SECONDS))
    values = {
        "text": network.text,
        "blocks": part.n_blocks,
        "first_block": part.first,
        "weights": part.n_weights,
        "tokens": len(part.drive),
        "fast_tokens": n_fast,
        "steps": part.steps,
        "period_s": network.period_s,
        "swing_V": float(process.swing_V),
        "common_V": float(process.supply_V) / 2,
        "high_V": float(process.supply_V),
        "clocks": clocks_of(whole),
        "drive": _digits(part.drive),
        "expected": _digits(part.expected),
    }
    return {
        TOP: write_top(whole, part).encode(),
        DECK: write_deck(values, len(part.drive)).encode(),
        VALUES: tables.to_json(values),
    }


def netlist(circuit: Chain, process: Process) -> Netlist:
    """The blocks of a cut wired as the model runs them, with skips, in one level."""
    instances: list[Instance] = []
    clocks: list[str] = []
    n_out = circuit.n_out
    before = signals("x", circuit.n_in)
    skip = _skip(process)
    for i, part in enumerate(circuit.parts):
        last = i == len(circuit.parts) - 1
        after = signals("y" if last else f"p{i}_", part.n_out)
        inner, given = part, after
        if isinstance(part, Residual):
            inner, given = part.inner, signals(f"b{i}_", part.n_out)
        cell = inner.netlist(process, name=f"top_part{i}")
        own = cell.ports[2 * (inner.n_in + inner.n_out) : -1]
        wires = [f"part{i}_{clock}" for clock in own]
        clocks += wires
        nets = (*cells.halves(*before, *given), *wires, "ref")
        instances.append(Instance(f"part{i}", cell, nets))
        if inner is not part:
            for j, (a, b, y) in enumerate(zip(before, given, after, strict=True)):
                nets = (*cells.halves(a, b, y), "ref")
                instances.append(Instance(f"skip{i}_{j}", skip, nets))
        before = after
    ports = (*cells.bus("x", circuit.n_in), *cells.bus("y", n_out), *clocks, "ref")
    return settled(Netlist("top", ports, instances=tuple(instances)), process)


def clocks_of(whole: Netlist) -> list[str]:
    """The clocks that something listens to."""
    heard = {net for part in (*whole.devices, *whole.instances) for net in part.nets}
    known = {port for port in whole.ports if port.endswith(("_phi1", "_phi2"))}
    return sorted(known & heard)


def write_top(whole: Netlist, part: Cut) -> str:
    """The network as lines of a deck: simulators limit the ports of a subcircuit."""
    below = [cell for cell in whole.cells() if cell is not whole]
    models: dict[tuple[str, ...], str] = {}
    lines = [line for device in whole.devices for line in _device(device, models)]
    for instance in whole.instances:
        values = "".join(f" {k}={number(v)}" for k, v in instance.parameters.items())
        nets = " ".join(instance.nets)
        lines.append(f"x_{instance.name} {nets} {instance.cell.name}{values}")
    for (on, off, threshold), model in models.items():
        lines.append(f".model {model} sw vt={threshold} vh=0 ron={on} roff={off}")
    head = [
        f"* cell top: {said(part.first, part.n_blocks)}; charge columns settled",
        f"* nets x0p x0n ...: the residual stream; y0p y0n ...: {part.circuit.n_out}"
        " outputs before their converters",
    ]
    return "".join(
        [*map(write_cell, below), "\n".join([*head, *map(_wrap, lines), ""])]
    )


def write_deck(values: dict, n_tokens: int) -> str:
    """The deck that drives the first `n_tokens` of `values` (`spice/tb/top.json`).

    It writes `top.data`: the outputs of each token in the last `n_tokens` rows. Without
    states a sweep over tokens finds one operating point each; with them it is a
    transient. Raises `ValueError` for values that are not of their kind.
    """
    try:
        drive = np.asarray(values["drive"], np.float64)[:n_tokens]
        n_out = np.asarray(values["expected"], np.float64).shape[1]
        period_s, steps = float(values["period_s"]), int(values["steps"])
        common_V, swing_V = float(values["common_V"]), float(values["swing_V"])
        high_V = number(values["high_V"])
        clocks = [str(clock) for clock in values["clocks"]]
        if drive.ndim != 2 or not all(c.isidentifier() for c in clocks):
            raise ValueError("shapes or names")
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{VALUES} must hold what drives the network, but is damaged ({error!r})."
        ) from error
    lines = [".include ../top.spice", f"v_ref ref 0 {number(common_V)}"]
    if steps:
        analysis = _transient(drive, common_V, swing_V, period_s, steps)
        lines += [OPTIONS, *_clocks(clocks, high_V, period_s), *analysis[0]]
    else:
        analysis = _sweep(drive, common_V, swing_V)
        lines += [STATIC_OPTIONS, *analysis[0]]
    outputs = " ".join(f"v(y{i}p,y{i}n)" for i in range(n_out))
    saved = " ".join(f"v({net})" for net in cells.bus("y", n_out))
    lines += [f".save {saved}", ".control", "set numdgt=9", *analysis[1]]
    lines += [f"wrdata top.data {outputs}", "quit 0", ".endc", ".end"]
    return "\n".join(["* bench top", *map(_wrap, lines)]) + "\n"


def _sweep(drive, common_V: float, swing_V: float) -> tuple[list[str], list[str]]:
    """Sources that take the value of each token, and the sweep over all tokens."""
    lines = ["v_token token 0 0"]
    for i, column in enumerate(drive.T):
        for half, sign in (("p", 1.0), ("n", -1.0)):
            volts = [float(common_V + sign * swing_V * value) for value in column]
            name = f"x{i}{half}"
            if len(set(volts)) == 1:
                lines.append(f"v_{name} {name} 0 {number(volts[0])}")
                continue
            points = ", ".join(f"{k}, {number(v)}" for k, v in enumerate(volts))
            lines.append(f"b_{name} {name} 0 v=pwl(v(token), {points})")
    return lines, [f"dc v_token 0 {len(drive) - 1} 1"]


def _transient(
    drive, common_V: float, swing_V: float, period_s: float, steps: int
) -> tuple[list[str], list[str]]:
    """Sources that hold the value of each token for a period, and the transient."""
    late = 1 - READ
    lines = []
    for i, column in enumerate(drive.T):
        for half, sign in (("p", 1.0), ("n", -1.0)):
            volts = tuple(float(common_V + sign * swing_V * value) for value in column)
            level = number(volts[0])
            if len(set(volts)) > 1:
                level = f"pwl({_steps(volts, period_s, late=late)})"
            lines.append(f"v_x{i}{half} x{i}{half} 0 {level}")
    step, stop = number(period_s / steps), number((len(drive) + late) * period_s)
    return lines, [f"tran {number(period_s)} {stop} 0 {step} uic", "linearize"]


def _clocks(clocks: Sequence[str], high_V: str, period_s: float) -> list[str]:
    lines = []
    # ngspice reads at multiples of a token: all that is driven begins later by this.
    late = 1 - READ
    for clock in clocks:
        start, stop = MASTER if clock.endswith("phi1") else SLAVE
        edge, begin = number(1e-5 * period_s), number((start + late) * period_s)
        lines.append(
            f"v_{clock} {clock} 0 pulse(0 {high_V} {begin} {edge}"
            f" {edge} {number((stop - start) * period_s)} {number(period_s)})"
        )
    return lines


def _skip(process: Process) -> Netlist:
    """The sum that a residual adds on the summing nodes of its block's last column."""
    a, b = (cells.difference(signal, process) for signal in "ab")
    law = cells.clip(f"{a} + {b}")
    ports = (*cells.halves("a", "b", "y"), "ref")
    return Netlist("top_skip", ports, cells.differential_voltage("y", law, process))


def _weights(part: AbstractCircuit) -> int:
    """Values of a part's matrices: what its simulation costs."""
    arrays = (leaf for leaf in jax.tree.leaves(part) if eqx.is_inexact_array(leaf))
    return sum(array.size for array in arrays if array.ndim == 2)


def _run(circuit: AbstractCircuit, xs: np.ndarray, process: Process) -> np.ndarray:
    @eqx.filter_jit
    def quiet(circuit, xs):
        return run(circuit, xs, process=process.noiseless(), key=jr.key(0))

    with jax.default_matmul_precision("highest"):
        return np.asarray(quiet(circuit, jnp.asarray(xs)))


def _digits(values: np.ndarray) -> list[list[float]]:
    """Seven digits, more than a float32 holds."""
    return [[float(f"{value:.8g}") for value in row] for row in values.tolist()]


def read_values(text: str) -> dict:
    """Raises `ValueError` for text that is not what `files` wrote."""
    try:
        values = json.loads(text)
        expected = np.asarray(values["expected"], np.float64)
        good = expected.ndim == 2 and len(expected) == int(values["tokens"])
        good = good and 1 <= int(values["fast_tokens"]) <= len(expected)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{VALUES} is damaged ({error!r}).") from error
    if not good:
        raise ValueError(f"{VALUES} must hold outputs for every token, but does not.")
    return values


def predictions(outputs: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """The output that is highest after each token."""
    return np.argmax(np.asarray(outputs), axis=1)
