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
from physnn.export.top import (
    TOP,
    VALUES,
    predictions,
    read_values,
    said,
    write_deck,
)

# Of the tokens, how many must have the model's most probable successor.
AGREEMENT = 0.99
# Gate B2: of the range of the outputs.
DEVIATION = 0.002
# The slow set takes as many tokens as this is enough for, by what the first took, with
# room for one that is five times as slow.
SLOW_s, PATIENCE = 120.0, 5.0


def jobs(package: Package, options: Options) -> list[Job]:
    """One job, where the package holds a network; slow runs take more of its text."""
    if TOP not in package.files:
        return []
    name = "network, slow" if options.slow else "network"
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
    timeout_s = options.timeout_s * (PATIENCE if options.slow else 1.0)
    n = int(values["fast_tokens"])
    outputs, seconds = _outputs(values, circuit, n, timeout_s)
    if options.slow:
        # Families differ tenfold in what a token takes, and so do machines.
        affordable = int(n * SLOW_s / seconds)
        more = min(int(values["tokens"]), affordable)
        if more > n:
            n = more
            outputs, seconds = _outputs(values, circuit, n, timeout_s)
    expected = np.asarray(values["expected"], np.float64)[:n]
    same = predictions(outputs) == predictions(expected)
    span = float(np.ptp(expected))
    worst = float(np.max(np.abs(outputs - expected)))
    cut = (
        f"{said(int(values['first_block']), int(values['blocks']))},"
        f" {values['weights']} weights, on {n}"
        f" of {values['tokens']} tokens of {values['text']}; "
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
            seconds,
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


def _outputs(
    values: dict, circuit: str, n: int, timeout_s: float
) -> tuple[np.ndarray, float]:
    """What ngspice gives after each of the first `n` tokens, and the time it took [s].

    Raises `ValueError` where it gives anything else.
    """
    found = simulate(
        write_deck(values, n).replace("../top.spice", "top.spice"),
        files={"top.spice": circuit},
        timeout_s=timeout_s,
    )
    table = found.arrays.get("top")
    n_out = len(values["expected"][0])
    # A transient also gives the outputs before the first token.
    if table is None or table.shape != (n + (int(values["steps"]) > 0), n_out + 1):
        shape = None if table is None else table.shape
        raise ValueError(
            f"ngspice must give {n_out} outputs after each of {n} tokens, but gave"
            f" {shape}."
        )
    return table[-n:, 1:] / (2 * float(values["swing_V"])), found.seconds
