"""Event gate: a unit whose drive stays under its threshold spends nothing."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PyTree

from circuits.parts import NODE_F
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit, run
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.compose import array
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.full_scale import rectified
from physnn.keys import stream
from physnn.noise import coupled, thermal_noise
from physnn.process import Process
from physnn.products import shifted

# Drawn area of a comparator's pair, and the load that sets its charge and noise.
PAIR_M2 = 1e-12
COMPARATOR_F = 5e-15


class EventGate(AbstractMemorylessCircuit):
    """A rectifier with a threshold per unit: below it a unit is silent, exactly zero.

        x_i ──▷ comparator ── fired? ── switches the unit's tail current on
               T_i = inhibition·rms(x) + threshold_i + offset_i

        one-sided:  y_i = max(x_i + n_i − T_i, 0)
        two-sided:  y_i = sign(x_i + n_i)·max(|x_i + n_i| − T_i, 0)
        Var n_i = thermal_noise·kT/C_comparator / swing²

    `inhibition` is a line that all units drive with their squares and that raises the
    threshold of all (a translinear loop, as in `AutomaticGain`): the units compete, and
    of Gaussian drives the share Q(inhibition) fires, whatever their size. `threshold`
    is trained.

    Sparsity is counted: `measure_activity` runs a network and leaves in each of its
    gates how many drives it `seen` and how many of them `fired`. Until then `activity`
    is 1, an upper bound of what it spends. Tails are billed by activity; comparators
    and the inhibition line always.

    Assumes: the drive stands before the unit's own amplifier is switched on; a silent
    unit leaks nothing. Does not model: hysteresis, delay of the decision.

    References: Neil et al. 2017, "Delta networks for optimized recurrent network
    computation", arXiv 1612.05571; lateral inhibition: Lazzaro et al. 1989,
    "Winner-take-all networks of O(n) complexity", NeurIPS 1; Gilbert 1975, DOI
    10.1049/el:19750011.
    """

    threshold: Bank
    fired: Int[Array, " n"]
    seen: Int[Array, " 1"]
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    sides: str = eqx.field(static=True)
    inhibition: float = eqx.field(static=True)

    # What the inhibition line adds to the rms, so that silence stays silent.
    FLOOR = 0.01

    def __init__(
        self,
        n: int,
        *,
        threshold: float = 0.0,
        inhibition: float = 0.0,
        sides: str = "one",
    ):
        """`threshold` in full scale, `inhibition` in rms of the drives.

        Raises `ValueError` without a unit, for an amount that is negative and for sides
        that are neither "one" nor "two".
        """
        if n < 1:
            raise ValueError(f"Argument `n` must be positive, but is {n}.")
        for name, value in (("threshold", threshold), ("inhibition", inhibition)):
            if not 0 <= value < float("inf"):
                raise ValueError(
                    f"Argument `{name}` must be finite and not negative, but is"
                    f" {value}."
                )
        if sides not in ("one", "two"):
            raise ValueError(
                f'Argument `sides` must be "one" or "two", but is {sides!r}.'
            )
        self.n_in = self.n_out = n
        self.sides, self.inhibition = sides, inhibition
        self.threshold = Bank(
            threshold * jnp.ones(n),
            kind="threshold",
            unit="full scale",
            area_m2=PAIR_M2,
        )
        self.fired, self.seen = jnp.zeros(n, jnp.int32), jnp.zeros(1, jnp.int32)

    def lifted(self, x: Float[Array, "*batch n"]) -> Float[Array, "*batch 1"] | float:
        """By how much the inhibition line lifts the thresholds at drives `x`."""
        if not self.inhibition:
            return 0.0
        power = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        return self.inhibition * jnp.sqrt(power + self.FLOOR**2)

    def apply(self, x, *, process, key):
        x = coupled(x, process=process)
        lifted = self.lifted(x)
        variance = process.thermal_variance(COMPARATOR_F)
        x = thermal_noise(x, variance, process=process, key=key)
        threshold = self.threshold.realized()
        if self.sides == "one":
            return rectified(shifted(x - lifted, -threshold))
        # Of two sides a threshold below zero is none.
        threshold = jnp.maximum(threshold + lifted, 0.0)
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - threshold, 0.0)

    def activity(self) -> Float[Array, ""] | float:
        """Share of the units that fired where it was measured; 1 before it was."""
        if isinstance(self.seen, jax.ShapeDtypeStruct):
            return 1.0  # known by shapes alone: the upper bound
        seen = self.seen[0]
        share = jnp.mean(self.fired / jnp.maximum(seen, 1))
        return jnp.where(seen > 0, share, 1.0)

    def events(self, process, *, period_s):
        del period_s
        node_C = process.settling_charge_C(NODE_F)
        decisions = 2 * self.n_in * COMPARATOR_F * process.supply_V
        events = (
            Event("supply_charge_C", decisions, "comparators"),
            Event(
                "amplifier_charge_C", 2 * self.n_in * node_C * self.activity(), "tails"
            ),
        )
        if not self.inhibition:
            return events
        # The squarer of each unit settles one node, its pull on the line another.
        line = Event("amplifier_charge_C", 2 * self.n_in * node_C, "inhibition")
        return (*events, line)

    def diagnose(self, xs, *, process, key):
        fired = self.apply(xs, process=process, key=key) != 0
        each = jnp.mean(fired, axis=(*range(fired.ndim - 1),))
        return {"silent_share": 1 - jnp.mean(each), "dead_share": jnp.mean(each == 0)}

    def netlist(self, process, *, name) -> Netlist:
        thresholds = cells.realized(self.threshold).tolist()
        number, x = cells.number, cells.difference("x", process)
        lifted = "threshold"
        if self.inhibition:
            rms = f"sqrt(max(0, v(sum, ref)) + {number(self.FLOOR**2)})"
            lifted = f"(threshold + {number(self.inhibition)} * {rms})"
        y = f"max(0, {x} - {lifted})"
        if self.sides == "two":
            y = f"max(0, {x} - max(0, {lifted})) - max(0, -{x} - max(0, {lifted}))"
        devices = list(cells.differential_voltage("y", y, process))
        ports = (*cells.halves("x", "y"), *(("sum",) if self.inhibition else ()), "ref")
        if self.inhibition:
            square = f"{number(1e-6 / self.n_in)} * {x} * {x}"
            devices.append(Device("square", "current", ("ref", "sum"), law=square))
        unit = Netlist(
            f"{name}_unit",
            ports,
            tuple(devices),
            parameters={
                "threshold": Parameter(thresholds[0], "full scale", "trained threshold")
            },
        )
        xs = cells.trial_vectors((6, self.n_in))
        ys = cells.predicted(self, xs, process)
        bench = cells.static_bench(
            f"{name}_units", cells.rows("x", xs), cells.rows("y", ys), process=process
        )
        notes = "A unit is silent where y is exactly zero."
        if not self.inhibition:
            channels = [(unit, {"threshold": value}) for value in thresholds]
            whole = array(name, channels, notes=notes)
            devices, instances = (), whole.instances
        else:
            devices = (Device("sum", "resistor", ("sum", "ref"), _MEGOHM),)
            instances = tuple(
                Instance(
                    f"channel{i}",
                    unit,
                    (*cells.halves(f"x{i}", f"y{i}"), "sum", "ref"),
                    {"threshold": value},
                )
                for i, value in enumerate(thresholds)
            )
            notes += " v(sum, ref) is the mean square of the drives [full scale^2]."
        return Netlist(
            name,
            (*cells.bus("x", self.n_in), *cells.bus("y", self.n_out), "ref"),
            devices,
            instances,
            benches=(bench,),
            notes=notes,
        )


_MEGOHM = {"resistance_ohm": 1e6}


class _Counted(AbstractMemorylessCircuit):
    """An event gate that reports how many of its units fire, while it is run."""

    gate: EventGate
    report: Any = eqx.field(static=True)
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def apply(self, x, *, process, key):
        y = self.gate.apply(x, process=process, key=key)
        fired = jnp.sum(y != 0, axis=(*range(y.ndim - 1),))
        jax.debug.callback(self.report, fired, y.size // self.n_out)
        return y

    def events(self, process, *, period_s):
        return self.gate.events(process, period_s=period_s)

    def netlist(self, process, *, name):
        return self.gate.netlist(process, name=name)


def measure_activity(
    model: PyTree,
    xs: Float[Array, "time *batch n_in"] | Int[Array, "batch time"],
    *,
    process: Process,
    key: Key[Array, ""],
) -> PyTree:
    """`model` with the activity in each of its event gates that `xs` makes them show.

    `model` is a design or a chip: a circuit, run on `xs`, or a sequence model with
    `logits`, run on tokens. Nothing else of it changes, and counts of before are
    replaced. A model without event gates is returned as it is.
    """
    gates = _gates(model)
    if not gates:
        return model
    fired = [np.zeros(gate.n_in, np.int64) for gate in gates]
    seen = [0] * len(gates)

    def reporter(index):
        def report(count, n):
            fired[index] += np.asarray(count)
            seen[index] += int(n)

        return report

    counted = _replaced(
        model,
        [
            _Counted(gate=g, report=reporter(i), n_in=g.n_in, n_out=g.n_out)
            for i, g in enumerate(gates)
        ],
    )

    @eqx.filter_jit
    def observe(model, xs, key):
        if hasattr(model, "logits"):
            return model.logits(xs, process=process, key=key)
        return run(model, xs, process=process, key=key)

    jax.block_until_ready(observe(counted, xs, stream(key, "activity")))
    jax.effects_barrier()
    pair = lambda gate: (gate.fired, gate.seen)
    measured = [
        eqx.tree_at(
            pair, gate, (jnp.asarray(each, jnp.int32), jnp.asarray([n], jnp.int32))
        )
        for gate, each, n in zip(gates, fired, seen, strict=True)
    ]
    return _replaced(model, measured)


def _is_gate(node) -> bool:
    return isinstance(node, EventGate)


def _gates(model) -> list[EventGate]:
    return [g for g in jax.tree.leaves(model, is_leaf=_is_gate) if _is_gate(g)]


def _replaced(model, gates):
    """`model` with `gates` in the places of its event gates, in their order."""
    following = iter(gates)
    change = lambda node: next(following) if _is_gate(node) else node
    return jax.tree.map(change, model, is_leaf=_is_gate)
