"""Real-number models: SystemVerilog of behavioral cells with plain `real` ports.

A cell that has a bench becomes one module with its ports; the cells below are drawn out
in it, as a plain `real` port cannot add the currents of several drivers. Icarus Verilog
and Verilator read it; nothing needs `nettype` or `wreal`, which neither takes.

What the devices do, discrete in time (`physnn.export.discrete`):

- a net held by a voltage source is its law;
- a net between resistors and current sources is what Kirchhoff's law makes of it;
- a net with a capacitor keeps its voltage; a closed switch sets it, or shares charge
  with another capacitor; currents move it, by a midpoint step every `step_s`;
- the inputs of an amplifier are virtual grounds: its output is what keeps their charge.
"""

import math
from collections.abc import Iterable

from physnn.export.discrete import Plan
from physnn.export.laws import real
from physnn.export.netlist import Bench, Netlist
from physnn.export.selection import Refusal
from physnn.export.system_verilog import expression, folded, functions, identifier

FOLDER = "rnm"
TOP = "tb_all"


def write_model(plan: Plan) -> str:
    """A planned cell as a SystemVerilog module."""
    cell = plan.cell
    moved = [net for net, store in plan.stores.items() if store.moved]
    ports = [
        f"{'input ' if port in plan.inputs else 'output'}"
        f" {'logic' if port in plan.logic else 'real '} {identifier(port)}"
        for port in cell.ports
    ]
    lines = [f"// cell {cell.name}: real-number model, SI units"]
    lines += folded(cell.notes, start="// ")
    if any(port != identifier(port) for port in cell.ports):
        lines.append("// A port whose name is a word of SystemVerilog ends in `_`.")
    lines += [f"module {identifier(cell.name)}("]
    lines += [f"  {port}," for port in ports[:-1]] + [f"  {ports[-1]}", ");"]
    lines += ["  timeunit 1ns;", "  timeprecision 1fs;"]
    for name, parameter in cell.parameters.items():
        lines += [
            f"  // [{parameter.unit}] {parameter.meaning}",
            f"  parameter real {identifier(name)} = {real(parameter.value)};",
        ]
    if moved:
        lines += [
            "  // [s] how often the states move",
            f"  parameter real period_s = {real(step_s(cell.benches[0]))};",
        ]
    given = {net for step in plan.steps for net in step.gives}
    inner = [identifier(net) for net in sorted(given)]
    inner += [f"kept__{net} = 0.0" for net in plan.stores]
    inner += [f"{kind}__{n} = 0.0" for n in plan.virtual for kind in ("kept", "given")]
    inner += [f"{kind}__{net} = 0.0" for net in moved for kind in ("rate", "old")]
    if inner:
        lines += folded(f"real {', '.join(inner)};", start="  ")
    statements = [line for step in plan.steps for line in step.lines] + plan.rates()
    lines += [
        f"  assign {identifier(port)} = {net};" for port, net in plan.outputs.items()
    ]
    lines += functions(statements)
    lines += ["", "  task evaluate;", "  begin"]
    for statement in statements:
        lines += folded(statement, start="    ")
    lines += ["  end", "  endtask"]
    sensitive = " or ".join(
        map(identifier, (p for p in cell.ports if p in plan.inputs))
    )
    # Evaluated once at the start, whichever process begins.
    lines += ["", "  always begin", "    evaluate;"]
    lines += [*folded(f"@({sensitive});", start="    "), "  end"]
    if moved:
        lines += _advance(moved, step_s(cell.benches[0]))
    return "\n".join([*lines, "endmodule", ""])


def _advance(moved: list[str], period_s: float) -> list[str]:
    """A midpoint step in the middle of every period: between the edges of inputs."""
    old = [f"old__{net} = kept__{net};" for net in moved]
    half, whole = (
        [f"kept__{net} = old__{net} + {part}period_s * rate__{net};" for net in moved]
        for part in ("0.5 * ", "")
    )
    times = _waits(0.5e9 * period_s)
    wait = f"repeat ({times}) " if times > 1 else ""
    wait += f"#({0.5 / times:.9g}e9 * period_s);"
    body = [wait, "evaluate;", *old, *half, "evaluate;", *whole, "evaluate;", wait]
    return ["", "  always begin", *(f"    {line}" for line in body), "  end"]


def step_s(bench: Bench) -> float:
    """A whole number of steps per slot, none longer than the bench allows [s]."""
    return bench.slot_s / -(-1 // bench.max_step)


def write_bench(plan: Plan, bench: Bench) -> str:
    """A module that tries a model as a bench says: `RESULT bench/name value` lines."""
    cell = plan.cell
    events: list[tuple[float, str]] = []
    for port, volts in bench.supplies.items():
        events.append((0.0, f"{identifier(port)} = {real(volts)};"))
    for slot in range(bench.n_slots):
        for port, values in bench.drive.items():
            now = values[min(slot, len(values) - 1)]
            if slot == 0 or now != values[min(slot, len(values)) - 1]:
                events.append((slot, f"{identifier(port)} = {real(now)};"))
        for port, window in bench.clocks.items():
            for at, high in zip(window, (True, False), strict=True):
                level = f"1'b{high:d}" if port in plan.logic else _level(bench, high)
                events.append((slot + at, f"{identifier(port)} = {level};"))
    for expected in bench.expected:
        text = f'$display("RESULT {bench.name}/{expected.name} %.12e",'
        text += f" {expression(expected.law)});"
        events.append((expected.slot + bench.sample, text))
    lines = [f"// bench {bench.name} of cell {cell.name}"]
    lines += [f"module tb_{bench.name};", "  timeunit 1ns;", "  timeprecision 1fs;"]
    for port in cell.ports:
        kind = "logic" if port in plan.logic else "real"
        start = " = 1'b0" if kind == "logic" else " = 0.0"
        start = start if port in plan.inputs else ""
        lines.append(f"  {kind} {identifier(port)}{start};")
    wires = ", ".join(f".{p}({p})" for p in map(identifier, cell.ports))
    lines += [
        *folded(f"{identifier(cell.name)} dut({wires});", start="  "),
        "  initial begin",
    ]
    now = 0.0
    # What is read at the end of a slot comes before what is driven in the next one.
    order = sorted(events, key=lambda e: (e[0], not e[1].startswith("$display")))
    for at, text in order:
        if at > now:
            lines.append(f"    {_delay((at - now) * bench.slot_s * 1e9)}")
            now = at
        lines += folded(text, start="    ")
    return "\n".join([*lines, "  end", "endmodule", ""])


def _waits(ns: float) -> int:
    """In how many parts to wait `ns`: Verilator counts one delay in 32 bits of 1 fs."""
    return math.ceil(ns / 4000) or 1


def _delay(ns: float) -> str:
    times = _waits(ns)
    return (
        f"repeat ({times}) #({real(ns / times)});" if times > 1 else f"#({real(ns)});"
    )


def _level(bench: Bench, high: bool) -> str:
    return real(bench.clock_high_V if high else 0.0)


def files(
    benches: Iterable[tuple[Netlist, Bench]],
) -> tuple[dict[str, bytes], list[Refusal]]:
    """Models, their benches and `tb_all.sv`, which runs all; what has none, and why.

    A bench prints what the bench of the same name prints in SPICE, under the name
    `bench/result`, for the same expected values.
    """
    found: dict[str, bytes] = {}
    refused: list[Refusal] = []
    tops: list[Bench] = []
    for cell, bench in benches:
        try:
            plan = Plan(cell)
            model, trial = write_model(plan), write_bench(plan, bench)
        except ValueError as error:
            refused.append(Refusal("real-number model", cell.name, str(error)))
            continue
        found[f"{FOLDER}/{cell.name}.sv"] = model.encode()
        found[f"{FOLDER}/tb_{bench.name}.sv"] = trial.encode()
        tops.append(bench)
    if tops:
        found[f"{FOLDER}/{TOP}.sv"] = _all(tops).encode()
    return found, refused


def _all(benches: list[Bench]) -> str:
    """One module that holds every bench, and ends when the last has ended."""
    stop = max((bench.n_slots + 0.5) * bench.slot_s for bench in benches)
    lines = ["// all benches at once", f"module {TOP};", "  timeunit 1ns;"]
    lines.append("  timeprecision 1fs;")
    lines += [f"  tb_{bench.name} {bench.name}();" for bench in benches]
    lines += ["  initial begin", f"    {_delay(stop * 1e9)}", "    $finish;", "  end"]
    return "\n".join([*lines, "endmodule", ""])
