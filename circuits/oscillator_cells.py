"""Cells of an oscillator network: each ring as its envelope, two held voltages."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from circuits.parts import NODE_F
from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.process import Process

if TYPE_CHECKING:
    from circuits.oscillator import PhaseOscillators
    from circuits.stuart_landau import StuartLandau

# A token begins with this part of a slot in which the rings are held at their start.
RESTART = (0.0, 0.05)
# How fast an envelope returns to its amplitude [1/token]: it must only hold rounding.
HOLD = 50.0
FINE_STEPS = 128
FIELD_OHM = 1e6
# Rings that are simulated together: all of a large network would take hours.
TILE = 4


def network(cell: "PhaseOscillators", process: Process, name: str) -> Netlist:
    """Rings, couplers, detectors; clocks `restart` and of segments `segment0`, ... .

    Restart is high at the start of a token, or once, where phases last. The first rings
    are a tile, whose bench has a slot for a token and the restart before it.
    """
    n, segments = cell.n + cell.n_pool, cell.n_segments
    harmonics = [k for k, pair in enumerate(cell.shape, 1) if any(pair)]
    with jax.default_matmul_precision("highest"):
        K = np.stack([np.asarray(cell.pulls(k)(jnp.eye(n))) for k in range(segments)])
    omega = np.asarray(cell.detuning())
    main = list(range(min(TILE, cell.n)))
    if cell.reference == "ring" and cell.n - 1 not in main:
        main[-1] = cell.n - 1
    tile = np.asarray([*main, *range(cell.n, min(cell.n + TILE // 2, n))])
    read = [i for i in main if i < cell.n_read]

    def predict(x):
        """Phases of the tile alone after a token, read."""
        rates = tuple(
            cell.rate_of(jnp.asarray(omega[tile]), lambda v, k=k: v @ k[tile][:, tile])
            for k in map(jnp.asarray, K)
        )
        theta = jnp.zeros((len(x), len(tile)))
        steps = FINE_STEPS * segments
        theta = cell.settle(theta, x, rates=rates, n_steps=steps)[:, : len(main)]
        if cell.reference == "ring":
            theta = theta - theta[:, -1:]
        theta = theta[:, : len(read)]
        return jnp.concatenate([jnp.sin(theta), jnp.cos(theta)], axis=-1)

    plan = _Plan(
        name,
        _ring(cell, process, f"{name}_ring", harmonics, cell.period_s),
        _coupler(process, f"{name}_coupler", segments, harmonics),
        _detector(cell, process, f"{name}_detector"),
        harmonics,
        K,
        omega,
        cell.n_read,
        cell.n - 1 if cell.reference == "ring" else 0,
    )
    return plan.netlist(
        tile.tolist(),
        read,
        process,
        cell.period_s,
        predict,
        notes="Envelopes in the frame of the reference: v(c), v(s) of a ring are swing"
        " times cos and sin of its phase; a coupler adds its pull [rad per token, 1 V"
        " each] to the field of a ring. While restart is high every ring is at its"
        " start; the token follows, its inputs held, and its outputs are valid at its"
        " end.",
    )


@dataclass(frozen=True)
class _Plan:
    """What a network is wired from. `couplings` is (segment, from, to)."""

    name: str
    ring: Netlist
    coupler: Netlist
    detector: Netlist
    harmonics: list[int]
    couplings: np.ndarray
    detuning: np.ndarray
    n_read: int
    reference: int  # ring that the detectors compare with, if they do

    def ports(self, i: int) -> tuple[str, ...]:
        """Nets of ring i: cos and sin of each harmonic, then the fields that pull."""
        phases = tuple(f"{x}{i}_{k}" for k in self.harmonics for x in "cs")
        return (*phases, *(f"f{net}" for net in phases))

    def inputs(self, rings) -> tuple[str, ...]:
        n = len(self.detuning)
        return (*(f"x{i}" for i in rings), *(f"x{n + i}" for i in rings))

    def outputs(self, rings) -> tuple[str, ...]:
        return (*(f"y{i}" for i in rings), *(f"y{self.n_read + i}" for i in rings))

    @property
    def clocks(self) -> tuple[str, ...]:
        segments = len(self.couplings)
        return ("restart", *(f"segment{k}" for k in range(segments) if segments > 1))

    def rings(self, rings) -> list[Instance]:
        return [
            Instance(
                f"ring{i}",
                self.ring,
                (*cells.halves(*self.inputs([i])), *self.ports(i), "restart", "ref"),
                {"detuning": float(self.detuning[i])},
            )
            for i in rings
        ]

    def couplers(self, pairs) -> list[Instance]:
        """A coupler wherever one of the segments has a pull."""
        half = 2 * len(self.harmonics)
        instances = []
        for j, i in pairs:
            values = {f"rate{k}": float(r[j, i]) for k, r in enumerate(self.couplings)}
            if not any(values.values()):
                continue
            nets = (*self.ports(j)[:half], *self.ports(i)[half:])
            nets = (*nets, *self.clocks[1:], "ref")
            instances.append(Instance(f"coupler{j}_{i}", self.coupler, nets, values))
        return instances

    def detectors(self, rings) -> list[Instance]:
        turn = (f"c{self.reference}_1", f"s{self.reference}_1")
        instances = []
        for i in rings:
            outputs = cells.halves(*self.outputs([i]))
            nets = (f"c{i}_1", f"s{i}_1", *turn, *outputs, "ref")
            instances.append(Instance(f"detector{i}", self.detector, nets))
        return instances

    def netlist(self, tile, read, process, period_s, predict, *, notes) -> Netlist:
        """The network: a tile of rings and all others, with all couplers."""
        n = len(self.detuning)
        bench = _bench(self, tile, read, process, period_s, predict)
        signals = cells.halves(*self.inputs(tile), *self.outputs(read))
        nets = tuple(net for i in tile for net in self.ports(i))
        within = [(j, i) for j in tile for i in tile]
        first = Netlist(
            f"{self.name}_tile",
            (*signals, *nets, *self.clocks, "ref"),
            instances=(
                *self.rings(tile),
                *self.couplers(within),
                *self.detectors(read),
            ),
            benches=(bench,),
            notes=notes,
        )
        rest = [i for i in range(n) if i not in tile]
        pairs = [(j, i) for j in range(n) for i in range(n) if (j, i) not in within]
        unread = [i for i in range(self.n_read) if i not in read]
        return Netlist(
            self.name,
            (
                *cells.bus("x", 2 * n),
                *cells.bus("y", 2 * self.n_read),
                *self.clocks,
                "ref",
            ),
            instances=(
                Instance("tile", first, first.ports),
                *self.rings(rest),
                *self.couplers(pairs),
                *self.detectors(unread),
            ),
            notes=notes,
        )


def _ring(cell, process, name, harmonics, token_s) -> Netlist:
    """dc/dt = -s·rate, ds/dt = c·rate on two capacitors, and the sums of the pulls."""
    number = cells.number
    swing = number(process.swing_V)
    c, s = (_phase(x, 1, process) for x in "cs")
    p, q = _injection(cell, process)
    rate = f"detuning + {q} * {c} - {p} * {s}"
    if cell.second_harmonic > 0:
        rate += f" - {number(2 * cell.second_harmonic)} * {s} * {c}"
    devices = []
    for k in range(1, max(harmonics) + 1):
        if k > 1:
            x, y = (f"v({part}_{k - 1}, ref)" for part in "cs")
            laws = (("c", f"{x} * {c} - {y} * {s}"), ("s", f"{y} * {c} + {x} * {s}"))
            devices += [
                Device(f"{part}{k}", "voltage", (f"{part}_{k}", "ref"), law=law)
                for part, law in laws
            ]
        if k not in harmonics:
            continue
        odd, even = cell.shape[k - 1]
        ck, sk = (_phase(x, k, process) for x in "cs")
        fc, fs = f"v(fc_{k}, ref)", f"v(fs_{k}, ref)"
        if odd:
            rate += f" + {number(odd)} * ({ck} * {fs} - {sk} * {fc})"
        if even:
            rate += f" + {number(even)} * ({ck} * {fc} + {sk} * {fs})"
        devices += _fields(k)
    hold = f"{number(HOLD)} * (1 - {c} * {c} - {s} * {s})"
    laws = (f"{hold} * {c} - {s} * ({rate})", f"{hold} * {s} + {c} * ({rate})")
    devices += _envelope(laws, swing, process, token_s)
    notes = "Envelope of an injection-locked ring in the frame of the reference."
    return _ring_cell(name, harmonics, devices, notes)


def _phase(part: str, k: int, process) -> str:
    return f"(v({part}_{k}, ref) / {cells.number(process.swing_V)})"


def _injection(cell, process) -> list[str]:
    rate = cells.number(cell.drive_rate)
    return [f"({rate} * {cells.difference(x, process)})" for x in "pq"]


def _fields(k: int) -> list[Device]:
    """The nets on which the pulls of harmonic k add up, 1 V for a rad per token."""
    ohm = {"resistance_ohm": FIELD_OHM}
    return [Device(f"f{x}{k}", "resistor", (f"f{x}_{k}", "ref"), ohm) for x in "cs"]


def _envelope(laws, start: str, process, token_s) -> list[Device]:
    """Two capacitors with `laws` = d/dt of (c, s) per token, and their restart."""
    # A unit of rate is C·swing/token amperes.
    current = cells.number(NODE_F * process.swing_V / token_s)
    devices = [Device("start", "voltage", ("start", "ref"), law=start)]
    for x, law, at in zip("cs", laws, ("start", "ref"), strict=True):
        net = f"{x}_1"
        devices += [
            Device(x, "capacitor", (net, "ref"), {"capacitance_F": NODE_F}),
            Device(f"turn_{x}", "current", ("ref", net), law=f"{current} * ({law})"),
            cells.switch(f"restart_{x}", net, at, "restart", process),
        ]
    return devices


def _ring_cell(name, harmonics, devices, notes) -> Netlist:
    phases = tuple(f"{x}_{k}" for k in harmonics for x in "cs")
    fields = tuple(f"f{net}" for net in phases)
    detuning = Parameter(0.0, "rad/token", "of the ring against the reference")
    return Netlist(
        name,
        (*cells.halves("p", "q"), *phases, *fields, "restart", "ref"),
        tuple(devices),
        parameters={"detuning": detuning},
        notes=notes,
    )


def amplitudes(cell: "StuartLandau", process: Process, name: str) -> Netlist:
    """Stuart-Landau oscillators, couplers and detectors; clock `restart`."""
    number, swing = cells.number, cells.number(process.swing_V)
    c, s = (_phase(x, 1, process) for x in "cs")
    p, q = _injection(cell, process)
    gain = f"{number(cell.growth)} * (1 - {c} * {c} - {s} * {s})"
    laws = (
        f"{gain} * {c} - detuning * {s} + v(fc_1, ref) + {p}",
        f"{gain} * {s} + detuning * {c} + v(fs_1, ref) + {q}",
    )
    start = f"{number(cell.start)} * {swing}"
    devices = [*_fields(1), *_envelope(laws, start, process, cell.period_s)]
    notes = "x + iy of an oscillator near its onset, in the frame of the reference."
    ring = _ring_cell(f"{name}_ring", [1], devices, notes)
    scale = number(1 / cell.AMPLITUDE_RANGE)
    outputs = (("a", s), ("b", c))
    detector = Netlist(
        f"{name}_detector",
        ("c_1", "s_1", "tc", "ts", *cells.halves("a", "b"), "ref"),
        tuple(
            device
            for signal, part in outputs
            for device in cells.differential_voltage(
                signal, cells.clip(f"{scale} * {part}"), process
            )
        ),
    )
    K, omega = np.asarray(cell.couplings()), np.asarray(cell.detuning())
    tile = list(range(min(TILE, cell.n)))

    def predict(x):
        within = jnp.asarray(K[: len(tile), : len(tile)])

        def pull(v):
            return jnp.concatenate([part @ within for part in jnp.split(v, 2, -1)], -1)

        v = jnp.tile(jnp.repeat(jnp.asarray([cell.start, 0.0]), len(tile)), (len(x), 1))
        turn = jnp.asarray(omega[tile])
        v = cell.settled(v, cell.drive_rate * x, None, turn, pull, FINE_STEPS)
        return cell.read(v, x, process=process)

    plan = _Plan(
        name,
        ring,
        _coupler(process, f"{name}_coupler", 1, [1]),
        detector,
        [1],
        K[None],
        omega,
        cell.n,
        0,
    )
    notes = "While restart is high every oscillator is at its start."
    return plan.netlist(tile, tile, process, cell.period_s, predict, notes=notes)


def _coupler(process, name, segments, harmonics) -> Netlist:
    """A pull on the fields of a ring, in every segment its own."""
    number = cells.number
    names = [f"rate{k}" for k in range(segments)]
    rate = names[0]
    if segments > 1:
        high = number(process.supply_V)
        rate = " + ".join(f"{r} * v(segment{k}) / {high}" for k, r in enumerate(names))
    phases = tuple(f"{x}_{k}" for k in harmonics for x in "cs")
    # One volt of field for a rad per token of pull at full amplitude.
    scale = number(1 / FIELD_OHM / process.swing_V)
    devices = tuple(
        Device(
            net,
            "current",
            ("ref", f"f{net}"),
            law=f"{scale} * ({rate}) * v({net}, ref)",
        )
        for net in phases
    )
    clocks = tuple(f"segment{k}" for k in range(segments) if segments > 1)
    fields = tuple(f"f{net}" for net in phases)
    return Netlist(
        name,
        (*phases, *fields, *clocks, "ref"),
        devices,
        parameters={
            r: Parameter(1.0, "rad/token", f"trained pull in segment {k}")
            for k, r in enumerate(names)
        },
    )


def _detector(cell, process, name) -> Netlist:
    """sin and cos of a ring's phase, against the reference or another ring."""
    swing = cells.number(process.swing_V)
    c, s, tc, ts = (f"(v({x}, ref) / {swing})" for x in ("c", "s", "tc", "ts"))
    sine, cosine = s, c
    if cell.reference == "ring":
        sine, cosine = f"{s} * {tc} - {c} * {ts}", f"{c} * {tc} + {s} * {ts}"
    devices = (
        *cells.differential_voltage("a", sine, process),
        *cells.differential_voltage("b", cosine, process),
    )
    ports = ("c", "s", "tc", "ts", *cells.halves("a", "b"), "ref")
    return Netlist(name, ports, devices)


def _bench(plan: _Plan, tile, read, process, period_s, predict):
    """Tokens that each start anew, against steps so fine that they are exact."""
    segments = len(plan.couplings)
    inputs, outputs = plan.inputs(tile), plan.outputs(read)
    xs = 0.5 * cells.trial_vectors((3, len(inputs)))
    with jax.default_matmul_precision("highest"):
        ys = np.asarray(predict(jnp.asarray(xs)))
    begin = RESTART[1]
    length = (1 - begin) / segments
    clocks = {"restart": RESTART}
    for k, clock in enumerate(plan.clocks[1:]):
        clocks[clock] = (begin + k * length, begin + (k + 1) * length)
    return cells.differential_bench(
        f"{plan.name}_tile_tokens",
        dict(zip(inputs, xs.T, strict=True)),
        dict(zip(outputs, ys.T, strict=True)),
        process=process,
        slot_s=period_s / (1 - begin),
        gate="B2",
        absolute=2e-3,
        clocks=clocks,
        max_step=1 / 400,
    )
