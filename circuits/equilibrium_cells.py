"""Cells and events of a settling network."""

import math
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from circuits.parts import NODE_F
from physnn.bank import Bank
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.lines import TailLines
from physnn.process import Process

if TYPE_CHECKING:
    from circuits.equilibrium import SettlingNetwork

# Area of a coupling's stored bits and switches beside its units.
CELL_OVERHEAD_M2_PER_BIT = 0.3e-12
# Nodes that are simulated together: the bench of a large network would take hours.
TILE = 6
FINE_STEPS = 128
# A bench of an equilibrium lasts this many of the slowest time constants.
SETTLING = 14.0


def tails(rates: np.ndarray, state_F: float, period_s: float) -> TailLines:
    """Tails of the couplings of a node: G·2nU_T, on one return line for each node.

    `rates`: T·G/C of each node, the unit of its conductances.
    """
    shares = tuple(rates.tolist())
    bit_m2 = CELL_OVERHEAD_M2_PER_BIT
    return TailLines(shares, state_F, period_s, "linear", bit_m2, halves=2)


def events(
    circuit: "SettlingNetwork", process: Process, *, period_s: float
) -> tuple[Event, ...]:
    """What a token costs: tails of all conductances, nodes, buffers, stored bits.

    A conductance G is a linearized transconductor in feedback whose tail G·2nU_T flows
    all the time, signal or not, as long as a token lasts, in both halves. So does that
    of a coupling that loads nothing.
    """
    n, bank = circuit.n_out, circuit.coupling
    # Known by shapes alone.
    load = jnp.full(n, circuit.start_load() + _start_driven(circuit))
    if not isinstance(circuit.drive.value, jax.ShapeDtypeStruct):
        nodes = jax.lax.stop_gradient(circuit.nodes(process))
        load = nodes.load * nodes.noise
    conductance = jnp.sum(load * circuit.rates()) * circuit.state_F  # G·T
    tails = 2 * conductance * process.linear_range() * process.swing_V
    nodes = 2 * n * circuit.state_F * process.swing_V
    pitch_m = 0.0 if bank is None else _cell_m2(bank) ** 0.5
    line_F = NODE_F + n * pitch_m * process.wire_F_per_m
    lines = 2 * n * line_F * process.swing_V
    buffers = 2 * n * process.settling_charge_C(line_F)
    found = [
        Event("supply_charge_C", tails, "conductances"),
        Event("supply_charge_C", nodes, "nodes"),
    ]
    if bank is not None:
        stored = bank.value.size * (bank.bits or 8)
        found += [
            Event("supply_charge_C", lines, "lines"),
            Event("amplifier_charge_C", buffers, "buffers"),
            Event("stored_bit_s", stored * period_s, "couplings"),
        ]
    return tuple(found)


def _start_driven(circuit: "SettlingNetwork") -> float:
    """Conductance of the couplings of a node at the start that load nothing."""
    if circuit.coupler == "resistor" or not circuit.degree:
        return 0.0
    # Entries of a random orthogonal matrix, at twice the bound where it is skew.
    size = circuit.strength * (2 if circuit.mode == "transient" else 1)
    return size * max(math.sqrt(2 * circuit.degree / math.pi), 1.0)


def _cell_m2(bank: Bank) -> float:
    """Area of one coupling, both halves: its units, bits and switches [m²]."""
    units_m2 = 2 * bank.n_units * bank.area_m2
    return units_m2 + (bank.bits or 8) * CELL_OVERHEAD_M2_PER_BIT


def network(circuit: "SettlingNetwork", process: Process, name: str) -> Netlist:
    """Nodes of a capacitor, a buffer and resistors; the first are a tile with a bench.

    A coupling brings its own load, so that the tile alone is a network, too.
    """
    wiring = _Wiring(circuit, process, name)
    n, tile = circuit.n_out, range(min(TILE, circuit.n_out))
    notes = (
        "An RC network: nodes v, buffered and saturated to s; a negative coupling"
        " crosses the halves of s. Resistors stand for linear conductances. Inputs are"
        f" held over a token of {cells.number(circuit.period_s)} s."
    )
    within = {(j, i) for j in tile for i in tile}
    first = Netlist(
        f"{name}_tile",
        (*wiring.ports(tile), *wiring.inside(tile), "ref"),
        instances=(*wiring.nodes(tile), *wiring.couplings(within)),
        benches=(_bench(circuit, process, name, tile),),
        notes=notes,
    )
    rest = range(len(tile), n)
    pairs = [(j, i) for j in range(n) for i in range(n) if (j, i) not in within]
    return Netlist(
        name,
        (*wiring.ports(range(n)), "ref"),
        instances=(
            Instance("tile", first, first.ports),
            *wiring.nodes(rest),
            *wiring.couplings(pairs),
        ),
        notes=notes,
    )


class _Wiring:
    """The cells of a network, and how its nodes are wired."""

    def __init__(self, circuit: "SettlingNetwork", process: Process, name: str):
        nodes = jax.device_get(circuit.nodes(process))
        self.g = np.asarray(nodes.g, np.float64)
        self.d, self.offset = np.asarray(nodes.d), np.asarray(nodes.offset)
        # Of one unit [ohm]: T / (rate·C).
        self.unit_ohm = circuit.period_s / (np.asarray(nodes.rate) * circuit.state_F)
        self.margin = circuit.margin
        self.loads = circuit.coupler == "resistor"
        # What a node holds ready for couplings that load nothing themselves.
        self.rest = 0.0 if self.loads else (1 + circuit.margin) * circuit.strength
        self.node = _node(circuit, process, f"{name}_node", rest=self.rest > 0)
        self.coupling = (_coupling if self.loads else _driver)(f"{name}_coupling")

    def ports(self, nodes) -> tuple[str, ...]:
        return cells.halves(*(f"x{i}" for i in nodes), *(f"y{i}" for i in nodes))

    def inside(self, nodes) -> tuple[str, ...]:
        return cells.halves(*(f"v{i}" for i in nodes), *(f"s{i}" for i in nodes))

    def nodes(self, nodes) -> list[Instance]:
        return [
            Instance(
                f"node{i}",
                self.node,
                (*cells.halves(f"x{i}", f"v{i}", f"s{i}", f"y{i}"), "ref"),
                {
                    "input_ohm": float(self.unit_ohm[i] / self.d[i]),
                    "offset": float(self.offset[i]),
                }
                | (
                    {"rest_ohm": float(self.unit_ohm[i] / self.rest)}
                    if self.rest
                    else {}
                ),
            )
            for i in nodes
        ]

    def couplings(self, pairs) -> list[Instance]:
        instances = []
        for j, i in sorted(pairs):
            g = self.g[j, i]
            if not g:
                continue
            source = cells.halves(f"s{j}")[:: 1 if g > 0 else -1]
            ohm = float(self.unit_ohm[i] / abs(g))
            values = {"through_ohm": ohm, "load_ohm": ohm / self.margin}
            if not self.loads:
                values = {"drive_siemens": 1 / ohm}
            nets = (*source, *cells.halves(f"v{i}"), "ref")
            instances.append(Instance(f"g{j}_{i}", self.coupling, nets, values))
        return instances


def _node(
    circuit: "SettlingNetwork", process: Process, name: str, *, rest: bool
) -> Netlist:
    devices = []
    for half in "pn":
        x, v, y = f"x{half}", f"v{half}", f"y{half}"
        devices += [
            Device(half, "capacitor", (v, "ref"), {"capacitance_F": circuit.state_F}),
            Device(
                f"input_{half}", "resistor", (x, v), {"resistance_ohm": "input_ohm"}
            ),
            Device(f"follower_{half}", "voltage", (y, "ref"), law=f"v({v}, ref)"),
        ]
        if rest:
            held = {"resistance_ohm": "rest_ohm"}
            devices.append(Device(f"rest_{half}", "resistor", (v, "ref"), held))
        if process.node_leakage_S > 0:
            leak = {"resistance_ohm": 1 / process.node_leakage_S}
            devices.append(Device(f"leak_{half}", "resistor", (v, "ref"), leak))
    reach = cells.number(process.linear_range())
    law = f"{reach} * tanh(({cells.difference('v', process)} + offset) / {reach})"
    return Netlist(
        name,
        (*cells.halves("x", "v", "s", "y"), "ref"),
        (*devices, *cells.differential_voltage("s", law, process)),
        parameters={
            "input_ohm": Parameter(1e6, "ohm", "one over the trained conductance"),
            "offset": Parameter(0.0, "full scale", "trained offset of the buffer"),
        }
        | (
            {"rest_ohm": Parameter(1e6, "ohm", "load for couplings without their own")}
            if rest
            else {}
        ),
        notes="C dv/dt = (x - v) / R + what couplings bring; s = r tanh((v + o) / r).",
    )


def _coupling(name: str) -> Netlist:
    devices = []
    for half in "pn":
        s, v = f"s{half}", f"v{half}"
        devices += [
            Device(
                f"through_{half}", "resistor", (s, v), {"resistance_ohm": "through_ohm"}
            ),
            Device(
                f"load_{half}", "resistor", (v, "ref"), {"resistance_ohm": "load_ohm"}
            ),
        ]
    return Netlist(
        name,
        (*cells.halves("s", "v"), "ref"),
        tuple(devices),
        parameters={
            "through_ohm": Parameter(1e6, "ohm", "one over the trained conductance"),
            "load_ohm": Parameter(1e7, "ohm", "beside it, for the margin"),
        },
        notes="A coupling; its sign is given by the order in which sp, sn are wired.",
    )


def _driver(name: str) -> Netlist:
    devices = [
        Device(
            f"drive_{half}",
            "transconductance",
            ("ref", f"v{half}", f"s{half}", "ref"),
            {"transconductance_S": "drive_siemens"},
        )
        for half in "pn"
    ]
    return Netlist(
        name,
        (*cells.halves("s", "v"), "ref"),
        tuple(devices),
        parameters={"drive_siemens": Parameter(1e-6, "S", "the trained conductance")},
        notes="A coupling that drives its node and does not load it.",
    )


def _bench(circuit: "SettlingNetwork", process: Process, name: str, tile):
    """Inputs held: for a token, or until the slowest node is at its equilibrium."""
    n = len(tile)
    whole = circuit.nodes(process)
    g, d = whole.g[:n, :n], whole.d[:n]
    leak = whole.load - circuit.load(whole.g, whole.d)
    nodes = whole._replace(
        g=g,
        d=d,
        load=circuit.load(g, d) + leak[:n],
        rate=whole.rate[:n],
        offset=whole.offset[:n],
        noise=whole.noise[:n],
    )
    xs = np.zeros((6, n), np.float32)
    xs[1:] = cells.trial_vectors((5, n))
    slot_s = circuit.period_s

    @jax.jit
    def predict(xs):
        if circuit.mode == "equilibrium":
            return circuit.solution(xs, nodes).value

        def token(v, x):
            v = circuit.think(v, x, None, nodes, n_steps=FINE_STEPS)
            return v, v

        return jax.lax.scan(token, jnp.zeros(n, xs.dtype), xs)[1]

    if circuit.mode == "equilibrium":
        slot_s = max(slot_s, SETTLING * slot_s / float(jnp.min(nodes.rate * nodes.d)))
    fastest = float(jnp.max(nodes.rate * nodes.load)) / circuit.period_s
    with jax.default_matmul_precision("highest"):
        ys = np.asarray(predict(jnp.asarray(xs)))
    return cells.differential_bench(
        f"{name}_tile_settling",
        cells.rows("x", xs),
        cells.rows("y", ys),
        process=process,
        slot_s=slot_s,
        gate="B2",
        absolute=1e-4,
        max_step=min(0.01, 1 / (40 * fastest * slot_s)),
    )
