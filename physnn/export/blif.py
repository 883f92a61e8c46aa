"""BLIF: tables as rows of their truth, for logic synthesis and its proofs.

Berkeley Logic Interchange Format, University of California, 1992. Signals have the
names that Yosys gives the bits of the Verilog of `physnn.export.rtl`.
"""

import re

import numpy as np

from physnn.export.logic import Logic


def write_blif(name: str, logic: Logic) -> str:
    """The combinational part: registers are inputs `s` and outputs `s_next`."""
    names = logic.names()
    n_s = len(logic.registers)
    inputs = [f"x[{i}]" for i in range(logic.n_in)] + [f"s[{i}]" for i in range(n_s)]
    names[: len(inputs)] = inputs
    outputs = [f"y[{i}]" for i in range(len(logic.outputs))]
    nexts = [f"s_next[{i}]" for i in range(n_s)]
    lines = [
        f"# {name}: {logic.n_tables} lookup tables",
        f".model {name}",
        f".inputs {' '.join(inputs)}",
        f".outputs {' '.join([*nexts, *outputs])}",
    ]
    signal = logic.n_in + n_s
    for layer in logic.layers:
        k = layer.wires.shape[1]
        # Row a of `rows` is address a as text, the first pin first.
        rows = [
            "".join("1" if (a >> pin) & 1 else "0" for pin in range(k))
            for a in range(2**k)
        ]
        for bits, wires in zip(layer.bits, layer.wires, strict=True):
            pins = " ".join(names[wire] for wire in wires)
            lines.append(f".names {pins} {names[signal]}")
            lines += _cover(bits, rows)
            signal += 1
    given = zip([*nexts, *outputs], [*logic.registers, *logic.outputs], strict=True)
    for output, wire in given:
        lines += [f".names {names[wire]} {output}", "1 1"]
    return "\n".join([*lines, ".end"]) + "\n"


def _cover(bits: np.ndarray, rows: list[str]) -> list[str]:
    """The ones of a table, or its zeros where they are fewer."""
    ones = int(bits.sum())
    if 0 < ones <= len(rows) // 2 or ones == 0:
        return [f"{rows[a]} 1" for a in np.flatnonzero(bits)]
    if ones == len(rows):
        return [f"{'-' * len(rows[0])} 1"]
    return [f"{rows[a]} 0" for a in np.flatnonzero(bits == 0)]


_BIT = r"[a-z][a-z0-9_]*(\[[0-9]+\])?"
_LINE = re.compile(
    rf"# [ -~]*|\.model [a-z][a-z0-9_]*|\.(inputs|outputs|names)( {_BIT})+|[01-]+ [01]"
    r"|\.end"
)


def forbidden(text: str) -> str | None:
    """The first line of BLIF that `write_blif` would not have written, or None."""
    return next((line for line in text.splitlines() if not _LINE.fullmatch(line)), None)
