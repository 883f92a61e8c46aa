"""Cells of a SAR converter."""

from typing import TYPE_CHECKING

import numpy as np

from physnn.export import cells
from physnn.export.compose import array
from physnn.export.netlist import Device, Netlist, Parameter
from physnn.process import Process

if TYPE_CHECKING:
    from circuits.converters import SarConverter

# Slope of a comparator in a netlist: 10 µV of full scale decides.
DECIDE = 1e5


def sar_netlist(sar: "SarConverter", process: Process, *, name: str) -> Netlist:
    """The loop of every channel of a SAR converter, unrolled."""
    bits = sar.resolution
    weights = np.asarray(sar.weights())[: bits - 1]
    offsets = cells.realized(sar.offset).tolist()
    number, unit = cells.number, []
    first = f"{cells.difference('x', process)} + offset"
    unit.append(Device("r0", "voltage", ("r0", "ref"), law=first))
    sign = lambda k: cells.clip(f"{number(DECIDE)} * v(r{k}, ref)")
    for k in range(bits - 1):
        law = f"v(r{k}, ref) - w{k} * {sign(k)}"
        unit.append(Device(f"r{k + 1}", "voltage", (f"r{k + 1}", "ref"), law=law))
    terms = [f"{number(2.0 ** -(k + 1))} * {sign(k)}" for k in range(bits)]
    unit += cells.differential_voltage("y", " + ".join(terms), process)
    xs = np.repeat(cells.trial_vectors((12, 1)), sar.n_in, axis=1)
    ys = cells.predicted(sar, xs, process)
    bench = cells.static_bench(
        f"{name}_unit_codes", {"x": xs[:, 0]}, {"y": ys[:, 0]}, process=process
    )
    parameters = {
        f"w{k}": Parameter(float(w), "C/C_total", "realized binary weight")
        for k, w in enumerate(weights[:, 0])
    }
    cell = Netlist(
        f"{name}_unit",
        (*cells.halves("x", "y"), "ref"),
        tuple(unit),
        parameters=parameters
        | {"offset": Parameter(offsets[0], "full scale", "of the comparator")},
        benches=(bench,),
        notes="The loop of successive approximation, unrolled: v(r_k, ref) is what"
        " is left of the sample before decision k, 1 V for full scale. A comparator"
        f" is a slope of {number(DECIDE)}.",
    )
    values = [
        {f"w{k}": float(w) for k, w in enumerate(column)} | {"offset": offset}
        for column, offset in zip(weights.T, offsets, strict=True)
    ]
    return array(name, [(cell, value) for value in values])
