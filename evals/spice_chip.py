"""A chip played by ngspice: the exported cells of a circuit, simulated."""

import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np

from evals.doctor import PROGRAMS
from evals.program import run_program
from physnn.circuit import AbstractCircuit
from physnn.export import cells
from physnn.export.netlist import Netlist
from physnn.export.spice import SPICEINIT, read_results, write_bench, write_cell
from physnn.process import Process
from train.chip_protocol import ProtocolError


class SpiceChip:
    """Runs circuits by simulating their netlists: ideal switches, no noise.

    A circuit without state takes a batch as a sequence; one with state is simulated
    from rest once for each row of the batch. Raises `ValueError` where there is no
    ngspice, and `ProtocolError` for a circuit that is too large or that ngspice does
    not get through.
    """

    def __init__(self, *, timeout_s: float = 60.0, largest: int = 20_000):
        """`largest`: devices of a netlist that a training loop may wait for."""
        self.largest = largest
        self.simulator = shutil.which("ngspice")
        self.timeout_s = timeout_s
        if self.simulator is None:
            install = next(p for p in PROGRAMS if p.name == "ngspice").install()
            raise ValueError(
                "ngspice must be on PATH to play a chip, but was not found; to have it:"
                f" {install}."
            )

    def run(
        self, circuit: AbstractCircuit, xs: np.ndarray, process: Process
    ) -> np.ndarray:
        """Outputs `(time, batch, n_out)` for inputs `(time, batch, n_in)`."""
        netlist = circuit.netlist(process, name="dut")
        count = sum(len(cell.devices) for cell in _instances(netlist))
        if count > self.largest:
            raise ProtocolError(
                f"asked ngspice for {count:,} devices, of which it takes at most"
                f" {self.largest:,}"
            )
        time, batch, _ = xs.shape
        if not jax.tree.leaves(circuit.init_state(())):
            ys = self._simulated(netlist, xs.reshape(time * batch, -1), process)
            return ys.reshape(time, batch, -1)
        rows = [self._simulated(netlist, xs[:, b], process) for b in range(batch)]
        return np.stack(rows, axis=1)

    def _simulated(self, netlist: Netlist, xs, process: Process) -> np.ndarray:
        benches = [bench for cell in netlist.cells() for bench in cell.benches]
        clocks = _clocks(netlist)
        n_out = sum(port.startswith("y") for port in netlist.ports) // 2
        bench = cells.differential_bench(
            "asked",
            cells.rows("x", np.clip(xs, -1, 1)),
            cells.rows("y", np.zeros((len(xs), n_out))),
            process=process,
            # Every part settles within the slowest of their own benches.
            slot_s=max((each.slot_s for each in benches), default=1e-6),
            gate="B2",
            absolute=0.0,
            clocks=clocks,
            sample=cells.SAMPLE if clocks else 0.5,
            max_step=0.01 if clocks else 0.1,
        )
        with tempfile.TemporaryDirectory(prefix="physnn-chip-") as work:
            folder = Path(work)
            for cell in netlist.cells():
                (folder / f"{cell.name}.spice").write_text(write_cell(cell))
            (folder / "asked.sp").write_text(write_bench(netlist, bench, folder="."))
            (folder / ".spiceinit").write_text(SPICEINIT)
            ended = run_program(
                [self.simulator or "ngspice", "-b", "asked.sp"],
                timeout_s=self.timeout_s,
                cwd=folder,
                environment={"OMP_NUM_THREADS": "1"},
            )
        results = read_results(ended.output)
        wanted = [[f"y{j}_{i}" for j in range(n_out)] for i in range(len(xs))]
        missing = [name for row in wanted for name in row if name not in results]
        if ended.problem or missing:
            what = ended.problem or f"printed no {missing[0]}"
            raise ProtocolError(f"asked what ngspice could not do: it {what}")
        return np.asarray([[results[n] for n in row] for row in wanted], np.float32)


def _clocks(netlist: Netlist) -> dict[str, tuple[float, float]]:
    """The windows of the clock ports, which compositions name after their parts.

    Raises `ProtocolError` for several clocked stages, whose order only a designer of
    the whole chip's clocking knows.
    """
    ports = netlist.ports[:-1]
    names = [port for port in ports if port.split("_")[-1] in cells.CLOCKS]
    stages = {name.rpartition("_")[0] for name in names}
    if len(stages) > 1:
        raise ProtocolError(
            f"asked ngspice for {len(stages)} clocked stages in a row, of which it"
            " takes one: put the layers in the loop one by one"
        )
    return {name: cells.CLOCKS[name.split("_")[-1]] for name in names}


def _instances(netlist: Netlist):
    """The cell and every instance below it, as often as it is there."""
    yield netlist
    for instance in netlist.instances:
        yield from _instances(instance.cell)
