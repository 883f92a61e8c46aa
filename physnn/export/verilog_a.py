"""Verilog-A: behavioral cells in the subset that ADMS reads, and what they must give.

One module per file, named as the cell, with its ports in its order. Branch equations
are those of `physnn.export.equations`; only `V`, `I`, `ddt` and the functions of laws
are used, no events and no loops. Include guards, as a cell may be used by several.
"""

import re
from collections.abc import Iterable

import numpy as np

from physnn.export.equations import (
    Branch,
    Contribution,
    biases,
    contributions,
    internal_nets,
    reference,
)
from physnn.export.laws import real, render
from physnn.export.netlist import Netlist
from physnn.export.selection import Refusal
from physnn.export.system_verilog import folded
from physnn.export.tables import to_json, to_npy
from physnn.process import Process

FOLDER = "va"
EXPECTED = f"{FOLDER}/expected.json"
# Random biases at which gate B3 compares the equations.
N_BIASES = 200
# Words that Verilog-A or Verilog keep for themselves, of those that a name might be.
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """above abs abstol access aliasparam always analog analysis and assign begin
        bound branch buf case cell charge config connect cos current ddt ddx default
        defparam disable discipline discrete domain edge electrical else end endmodule
        event exclude exp final_step flicker_noise flow for force fork from function
        generate genvar ground if inf initial initial_step inout input integer join
        laplace_nd limexp ln log max medium merged min module nature negedge net
        noise_table not or output parameter posedge potential pow primitive pulldown
        pullup real reg release repeat scalared sin slew small specify specparam sqrt
        string strong0 supply0 supply1 table tan tanh task temperature time timer
        transition tri units vectored voltage wait wand weak0 while white_noise wire wor
        xnor xor zi_nd""",
    )
)


def identifier(name: str) -> str:
    """A net or parameter as Verilog-A may call it: a reserved word gets a `_`."""
    return f"{name}_" if name in RESERVED else name


def write_cell(cell: Netlist) -> str:
    """A behavioral cell as a Verilog-A module.

    Raises `ValueError` for a cell with transistors, whose equations are those of a PDK,
    and for two names that are one.
    """
    names = [*cell.ports, *internal_nets(cell), *cell.parameters]
    written = [identifier(name) for name in names]
    _check_distinct(cell, names, written)
    guard = f"PHYSNN_{cell.name.upper()}_VA"
    lines = [f"// cell {cell.name}: behavioral, SI units, the subset that ADMS reads"]
    lines += folded(cell.notes, start="// ")
    lines += [
        f"// {n} is called {w}, as {n} is a word of Verilog-A"
        for n, w in zip(names, written, strict=True)
        if n != w
    ]
    lines += [f"`ifndef {guard}", f"`define {guard}", '`include "disciplines.vams"']
    used = {instance.cell.name: None for instance in cell.instances}
    lines += [f'`include "{name}.va"' for name in used]
    ports = ", ".join(map(identifier, cell.ports))
    lines += ["", *folded(f"module {identifier(cell.name)}({ports});")]
    lines += folded(f"inout {ports};", start="  ")
    inner = [identifier(net) for net in internal_nets(cell)]
    lines += folded(f"electrical {', '.join([ports, *inner])};", start="  ")
    for name, parameter in cell.parameters.items():
        legal = " from (0.0:inf)" if parameter.unit in ("F", "ohm", "S") else ""
        lines += [
            f"  // [{parameter.unit}] {parameter.meaning}",
            f"  parameter real {identifier(name)} = {real(parameter.value)}{legal};",
        ]
    for instance in cell.instances:
        values = ", ".join(
            f".{identifier(key)}({real(value)})"
            for key, value in instance.parameters.items()
        )
        head = f"{identifier(instance.cell.name)} {f'#({values}) ' if values else ''}"
        nets = ", ".join(map(identifier, instance.nets))
        lines += folded(f"{head}x_{instance.name}({nets});", start="  ")
    found = contributions(cell)
    if found:
        lines += ["", "  analog begin"]
        for contribution in found:
            lines += folded(_statement(contribution), start="    ")
        lines.append("  end")
    return "\n".join([*lines, "endmodule", "`endif", ""])


def _statement(found: Contribution) -> str:
    law = render(found.law, name=identifier, voltage=_voltage, constant=real, gap=" ")
    access = "V" if found.kind == "voltage" else "I"
    law = f"ddt({law})" if found.kind == "charge" else law
    return f"{access}({_branch(found.branch)}) <+ {law};"


def _branch(nets: Branch) -> str:
    return ", ".join(map(identifier, nets))


def _voltage(*nets: str) -> str:
    return f"V({_branch(nets)})"


def _check_distinct(cell: Netlist, names: list[str], written: list[str]) -> None:
    for name, word in zip(names, written, strict=True):
        if written.count(word) > 1 and len(set(written)) < len(written):
            raise ValueError(
                f"Cell `{cell.name}` must name every net and parameter of its own in"
                f" Verilog-A, but `{name}` and another are both `{word}` there."
            )


def files(
    cells: Iterable[Netlist], process: Process
) -> tuple[dict[str, bytes], list[Refusal]]:
    """`va/<cell>.va` of behavioral cells, and the contributions that gate B3 expects.

    `va/expected.json` names the nets, parameters and contributions of each cell, whose
    values at `N_BIASES` biases are the columns of `va/expected/<cell>.npy` (float64).
    Second, the cells that Verilog-A cannot hold, and why.
    """
    found: dict[str, bytes] = {}
    refused: list[Refusal] = []
    expected = []
    for cell in cells:
        try:
            found[f"{FOLDER}/{cell.name}.va"] = write_cell(cell).encode()
        except ValueError as error:
            refused.append(Refusal("Verilog-A", cell.name, str(error)))
            continue
        if not cell.devices:
            continue
        volts, names = biases(
            cell,
            N_BIASES,
            supply_V=float(process.supply_V),
            swing_V=float(process.swing_V),
        )
        values = reference(cell, volts, names)
        file = f"{FOLDER}/expected/{cell.name}.npy"
        found[file] = to_npy(
            np.column_stack([*volts.values(), *names.values(), values])
        )
        expected.append(
            {
                "cell": cell.name,
                "file": file,
                "nets": [identifier(net) for net in volts],
                "parameters": [identifier(name) for name in names],
                "contributions": [
                    {"kind": c.kind, "branch": [identifier(net) for net in c.branch]}
                    for c in contributions(cell)
                ],
            }
        )
    head = {EXPECTED: to_json({"biases": N_BIASES, "cells": expected})}
    return head | found, refused


def forbidden(text: str) -> str | None:
    """The first directive or system task of a Verilog-A file that we do not write.

    ADMS only parses, but a directive could make it read other files of the machine.
    """
    code = re.sub(r"//.*", "", text)
    for word in re.findall(r"`\w+(?:\s+\"[^\"]*\")?|\$\w+|/\*", code):
        if not re.fullmatch(
            r"`ifndef|`define|`endif|`include\s+\"(disciplines\.vams|[a-z][a-z0-9_]*\.va)\"",
            word,
        ):
            return word
    return None
