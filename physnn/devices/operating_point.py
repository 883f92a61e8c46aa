"""Operating point: the DC solution of a drawn cell whose transistors are EKV ones."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from physnn.devices.ekv import EkvTransistor
from physnn.export.netlist import GROUND, TRANSISTORS, Netlist

# A drawn geometry: kind, width [m], length [m]; `drawn` rounds it.
Drawn = tuple[str, float, float]
# Newton steps, each at most so far [V]: exponentials overshoot otherwise.
N_STEPS, LONGEST_V = 120, 0.1
# What may be left at a net, of the largest current in the cell.
LEFT = 1e-6


class OperatingPoint(NamedTuple):
    """Voltages `(points,)` of every net [V] and currents into the forced ones [A].

    A current is what the outside must push into the cell at that net.
    """

    volts: dict[str, np.ndarray]
    currents: dict[str, np.ndarray]


def drawn(kind: str, width_m: float, length_m: float) -> Drawn:
    """A geometry as a key: sizes to a tenth of a nanometer."""
    return kind, round(width_m, 10), round(length_m, 10)


def operating_point(
    cell: Netlist,
    transistors: Mapping[Drawn, EkvTransistor],
    volts: Mapping[str, np.ndarray | float],
    *,
    pushed_A: Mapping[str, float] | None = None,
    temperature_K: float = 300.15,
) -> OperatingPoint:
    """Solve Kirchhoff's current law at every net that `volts` does not force.

    `volts` are numbers or arrays `(points,)`, `pushed_A` currents that flow into nets
    from outside. Capacitors are open. Raises `ValueError` for a device without a card
    or of another kind, and where Newton's method does not converge.
    """
    elements = list(_elements(cell, "", {port: port for port in cell.ports}))
    nets = sorted({net for _, net_names, _ in elements for net in net_names})
    forced = {GROUND: 0.0, **volts}
    unknown = [net for net in nets if net not in forced]
    points = np.broadcast_shapes(*(np.shape(value) for value in forced.values()))
    with jax.enable_x64(True):
        known = {
            n: jnp.broadcast_to(jnp.asarray(v, float), points)
            for n, v in forced.items()
        }

        def flows(x):
            """The current out of each net through the devices, and the largest one."""
            at = known | {net: x[..., k] for k, net in enumerate(unknown)}
            out = {net: jnp.zeros(points) for net in {*nets, *known}}
            for kind, ends, p in elements:
                if kind in TRANSISTORS:
                    d, g, s, b = ends
                    card = _card(transistors, cell, kind, p)
                    current = p["multiple"] * card.current(
                        at[g] - at[b],
                        at[d] - at[b],
                        at[s] - at[b],
                        temperature_K=temperature_K,
                    )
                    ends = (d, s)
                elif kind == "resistor":
                    current = (at[ends[0]] - at[ends[1]]) / p["resistance_ohm"]
                else:
                    continue
                out[ends[0]] = out[ends[0]] + current
                out[ends[1]] = out[ends[1]] - current
            for net, current in (pushed_A or {}).items():
                out[net] = out[net] - current
            return out

        def residual(x):
            out = flows(x)
            return jnp.stack([out[net] for net in unknown], -1)

        def slopes(x):
            # Points do not depend on each other: one direction per unknown does for
            # all.
            push = lambda k: jax.jvp(
                residual, (x,), (jnp.zeros_like(x).at[..., k].set(1.0),)
            )[1]
            return jnp.stack([push(k) for k in range(len(unknown))], -1)

        def newton(_, x):
            j, f = slopes(x), residual(x)
            # A net where nothing flows yet has no slope: it stays.
            j = j + 1e-15 * jnp.eye(len(unknown))
            step = jnp.linalg.solve(j, f[..., None])[..., 0]
            return x - jnp.clip(step, -LONGEST_V, LONGEST_V)

        x = jnp.full(
            (*points, len(unknown)),
            float(np.mean([np.mean(v) for v in volts.values()])),
        )
        if unknown:
            x = jax.jit(lambda x: jax.lax.fori_loop(0, N_STEPS, newton, x))(x)
            left = np.abs(np.asarray(residual(x))).max(initial=0.0)
            most = max(float(np.abs(v).max(initial=0.0)) for v in flows(x).values())
            if not left <= LEFT * max(most, 1e-15):
                raise ValueError(
                    f"The operating point of `{cell.name}` must obey Kirchhoff's law,"
                    f" but {left:.2g} A are left: force more nets or check the cards."
                )
        out = flows(x)
        solved = known | {net: x[..., k] for k, net in enumerate(unknown)}
        return OperatingPoint(
            {net: np.asarray(v) for net, v in solved.items()},
            {net: np.asarray(out[net]) for net in known},
        )


def _card(transistors, cell: Netlist, kind: str, p) -> EkvTransistor:
    key = drawn(kind, p["width_m"], p["length_m"])
    if key not in transistors:
        raise ValueError(
            f"Every transistor of `{cell.name}` must have a card, but a {kind} of"
            f" {key[1]:g} m by {key[2]:g} m has none: characterize that geometry."
        )
    return transistors[key]


def _elements(
    cell: Netlist, prefix: str, wired: Mapping[str, str], values: Mapping | None = None
) -> Iterator[tuple[str, tuple[str, ...], dict[str, float]]]:
    """All devices below a cell as (kind, nets, parameters), instances opened."""
    net = lambda name: wired.get(name, name if name == GROUND else f"{prefix}{name}")
    own = {name: p.value for name, p in cell.parameters.items()} | dict(values or {})
    for device in cell.devices:
        if device.kind not in (*TRANSISTORS, "resistor", "capacitor"):
            raise ValueError(
                f"An operating point is of transistors, resistors and capacitors, but"
                f" `{device.name}` of `{cell.name}` is a {device.kind}."
            )
        parameters = {
            key: own[value] if isinstance(value, str) else value
            for key, value in device.parameters.items()
        }
        yield device.kind, tuple(map(net, device.nets)), parameters
    for instance in cell.instances:
        inner = dict(zip(instance.cell.ports, map(net, instance.nets), strict=True))
        yield from _elements(
            instance.cell, f"{prefix}{instance.name}.", inner, instance.parameters
        )
