"""Cells as decks use them: text of subcircuits, calls of them, waveforms."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evals.simulate import simulate
from physnn.export.laws import number
from physnn.export.netlist import Netlist
from physnn.export.spice import write_cell
from physnn.pdk import Conditions, Models, Pdk

# The steps that callers bound set the error; tighter tolerances halve them for nothing.
RELTOL = 1e-3


@dataclass(frozen=True)
class Cell:
    """A transistor-level cell: `ports` in order, and the `files` (name: text) of it."""

    name: str
    ports: tuple[str, ...]
    files: Mapping[str, str]

    @staticmethod
    def of(netlist: Netlist) -> "Cell":
        """The cell that a netlist writes, with all below it."""
        files = {f"{part.name}.spice": write_cell(part) for part in netlist.cells()}
        return Cell(netlist.name, netlist.ports, files)

    def includes(self) -> list[str]:
        return [f".include {name}" for name in self.files]

    def call(self, instance: str, nets: Mapping[str, str], **values: float) -> str:
        """The line that puts a copy of the cell into a deck; its port vss is ground."""
        nets = {"vss": "0", **nets}
        pairs = "".join(f" {name}={number(value)}" for name, value in values.items())
        wires = " ".join(nets[port] for port in self.ports)
        return f"x_{instance} {wires} {self.name}{pairs}"


@dataclass(frozen=True)
class Waves:
    """Vectors at the points of a solver: `time` [s], and a column per name."""

    time: np.ndarray
    columns: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def at(self, name: str, times) -> np.ndarray:
        """A vector at other times, between its samples on a straight line."""
        return np.asarray(np.interp(times, self.time, self.columns[name]))

    def mean(self, name: str, start: float, stop: float) -> float:
        """Mean of a vector over a stretch of time."""
        total = np.concatenate(
            [[0.0], np.cumsum(np.diff(self.time) * _middles(self.columns[name]))]
        )
        first, last = np.interp((start, stop), self.time, total)
        return float(last - first) / (stop - start)

    def rising(self, name: str, level: float) -> np.ndarray:
        """The times at which a vector rises through `level`.

        By the cubic in v through four points: a straight line between two would shift
        a crossing by up to a hundredth of a step.
        """
        v = self.columns[name]
        i = np.flatnonzero((v[:-1] < level) & (v[1:] >= level))
        i = i[(i >= 1) & (i + 2 < len(v))]
        near = i[:, None] + np.arange(-1, 3)
        x, t = v[near] - level, self.time[near]
        found = np.zeros(len(i))
        for j in range(4):
            others = [k for k in range(4) if k != j]
            weight = np.prod([-x[:, k] / (x[:, j] - x[:, k]) for k in others], axis=0)
            found += weight * t[:, j]
        # Where v is no rising curve the cubic means nothing.
        share = -x[:, 1] / (x[:, 2] - x[:, 1])
        line = t[:, 1] + share * (t[:, 2] - t[:, 1])
        rises = np.all(np.diff(x, axis=1) > 0, axis=1)
        return np.where(rises, found, line)


def _middles(values: np.ndarray) -> np.ndarray:
    return (values[1:] + values[:-1]) / 2


_DRAWN = re.compile(
    r"^(x\S+) ([^=]+) dev_([a-z_]+) width_m=(\S+) length_m=(\S+) multiple=(\S+)$", re.M
)


def inlined(text: str, pdk: Pdk) -> str:
    """Calls of the wrappers `dev_...` as calls of what they wrap.

    The same circuit: ngspice reads a wrapper per transistor in a time that grows with
    their square, 30 s for 600 of them instead of 3.
    """

    def direct(found: re.Match) -> str:
        name, nets, kind, width, length, multiple = found.groups()
        if "{" in found.group() or kind not in pdk.devices:
            return found.group()
        side = pdk.diffusion_m / pdk.unit_m
        w, long = float(width) / pdk.unit_m, float(length) / pdk.unit_m
        sizes = {"w": w, "l": long}
        if kind != "mim":
            sizes |= {"ad": w * side, "as": w * side}
            sizes |= {"pd": 2 * (w + side), "ps": 2 * (w + side)}
        sizes |= dict.fromkeys(pdk.multiplicity, float(multiple))
        values = " ".join(f"{key}={number(value)}" for key, value in sizes.items())
        device = pdk.devices[kind]
        if device.card:
            name = f"{device.letter}{name}"
        return f"{name} {nets} {device.name}\n+ {values}"

    return _DRAWN.sub(direct, text.replace("\n+", ""))


def transient(
    title: str,
    lines: Sequence[str],
    *,
    files: Mapping[str, str],
    vectors: Sequence[str],
    stop_s: float,
    step_s: float,
    models: Models,
    conditions: Conditions = Conditions(),
    initial: Mapping[str, float] | None = None,
    reltol: float = RELTOL,
    timeout_s: float = 120.0,
) -> Waves:
    """Simulate a circuit over time in steps of `step_s` at most; what `vectors` are.

    `initial` [V] are node voltages at the start; without them the operating point is.
    Raises `ValueError` where `simulate` does, and for a run that stopped early.
    """
    step, files = number(step_s), dict(files)
    for name, text in files.items():
        files[name] = inlined(text, models.pdk)
    deck = [f"* {title}", ".include pdk.spice", f".option reltol={number(reltol)}"]
    deck += [f".include {name}" for name in files]
    deck += lines
    if initial is not None:
        values = " ".join(f"v({net})={number(v)}" for net, v in initial.items())
        deck.append(f".ic {values}")
    deck.append(f".save {' '.join(vectors)}")
    run = f"tran {step} {number(stop_s)} 0 {step}" + (" uic" if initial else "")
    deck += [".control", "set numdgt=12", run]
    deck += [f"wrdata waves.data {' '.join(vectors)}", ".endc", ".end"]
    found = simulate(
        "\n".join(deck) + "\n",
        models=models,
        conditions=conditions,
        files=files,
        timeout_s=timeout_s,
    )
    if (
        "waves" not in found.arrays
        or found.arrays["waves"][-1, 0] < stop_s - 2 * step_s
    ):
        raise ValueError(
            f"The simulation `{title}` must run for {stop_s:g} s, but ended before."
        )
    table = found.arrays["waves"]
    columns = {name: table[:, 1 + i] for i, name in enumerate(vectors)}
    return Waves(table[:, 0], columns)
