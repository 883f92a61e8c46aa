"""Gate B2 of the network: its predictions in ngspice are those of the model on a text.

The deck is written anew from `spice/tb/top.json`, for as many tokens as there is time
for; the circuit is `spice/top.spice` as it stands in the package.
"""

import numpy as np

from evals.simulate import simulate
from evals.verify.check import Check, Trace
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.export.spice import forbidden
from physnn.export.top import TOP, VALUES, predictions, read_values, write_deck

# Of the tokens, how many must have the model's most probable successor.
AGREEMENT = 0.99
# Gate B2: of the range of the outputs.
DEVIATION = 0.002
# What the slow set takes, where a time limit says nothing of a whole text.
PATIENCE = 5.0


def jobs(package: Package, options: Options) -> list[Job]:
    """One job, where the package holds a network; slow runs take its whole text."""
    if TOP not in package.files:
        return []
    name = "network, whole text" if options.slow else "network"
    run, cost_s = lambda *args: _run(name, *args), 45 if options.slow else 5
    return [Job("B2", name, run, cost_s=cost_s)]


def _run(name: str, package: Package, work, options: Options) -> list[Check]:
    del work  # the simulation has a folder of its own
    values = read_values(package.text(VALUES))
    circuit = package.text(TOP)
    statement = forbidden(circuit)
    if statement is not None:
        raise ValueError(
            f"{TOP} must hold only circuit elements, but holds {statement[:80]!r}: it"
            " was not run."
        )
    n = int(values["tokens"] if options.slow else values["fast_tokens"])
    expected = np.asarray(values["expected"], np.float64)[:n]
    found = simulate(
        write_deck(values, n).replace("../top.spice", "top.spice"),
        files={"top.spice": circuit},
        timeout_s=options.timeout_s * (PATIENCE if options.slow else 1.0),
    )
    table = found.arrays.get("top")
    # A transient also gives the outputs before the first token.
    if table is None or table.shape != (
        n + (int(values["steps"]) > 0),
        expected.shape[1] + 1,
    ):
        shape = None if table is None else table.shape
        raise ValueError(
            f"ngspice must give {expected.shape[1]} outputs after each of {n} tokens,"
            f" but gave {shape}."
        )
    outputs = table[-n:, 1:] / (2 * float(values["swing_V"]))
    same = predictions(outputs) == predictions(expected)
    span = float(np.ptp(expected))
    worst = float(np.max(np.abs(outputs - expected)))
    cut = (
        f"blocks {values['first_block']} to {int(values['blocks']) - 1} of"
        f" {values['blocks']} and the readout, {values['weights']} weights, on {n}"
        f" tokens of {values['text']}; "
        + (
            f"over time, {values['steps']} steps or more per token"
            if int(values["steps"])
            else "no states in it: an operating point per token"
        )
    )
    wrong = int(n - same.sum())
    best = int(np.argmax(np.ptp(expected, axis=0)))
    trace = Trace(
        tuple(map(float, range(n))),
        "token",
        (
            ("model", tuple(map(float, expected[:, best]))),
            ("ngspice", tuple(map(float, outputs[:, best]))),
        ),
        f"output {best} [full scale]",
    )
    status = "pass" if wrong <= (1 - AGREEMENT) * n else "fail"
    return [
        Check(
            "B2",
            f"{name}: predictions",
            status,
            wrong / n,
            1 - AGREEMENT,
            "of tokens",
            found.seconds,
            f"{n - wrong} of {n} agree; {cut}",
        ),
        Check(
            "B2",
            f"{name}: outputs",
            "pass" if worst <= DEVIATION * span else "fail",
            worst,
            DEVIATION * span,
            "full scale",
            trace=trace,
        ),
    ]
