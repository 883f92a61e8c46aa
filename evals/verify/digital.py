"""Gates S1, D1 and D2 of logic: simulated bit for bit, and proven equal once mapped.

D1 runs the vectors of the model through Icarus and through Verilator. D2 lets ABC prove
that BLIF, Verilog and the netlist mapped to standard cells are one function, and says
what that netlist costs. Registers are outside of the proof: both sides have them as
inputs and outputs.

Verilog is a program that could open files and run others: what is not text that an
export writes is not run.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from evals.liberty import read_library
from evals.mapped import (
    activity,
    gates_J,
    lanes,
    read_mapped,
    read_vectors,
    switching_J,
)
from evals.program import run_program
from evals.verify.check import Check
from evals.verify.jobs import Job, Options
from evals.verify.languages import BUILD
from evals.verify.package import Package
from physnn.export import blif, rtl
from physnn.export.digital import GENERIC, INDEX
from physnn.export.generic_library import NAME as GENERIC_NAME
from physnn.export.spice import read_results
from physnn.process import Process, load_process

LEAST_VECTORS = 500
# An analytic price that is off by more than this factor is a finding.
FINDING = 1.5
# Above this many tables a simulation or a proof takes tens of seconds.
FAST_TABLES = 1000
_SIZES = ("n_in", "n_out", "n_vectors", "n_registers")
_EQUIVALENT = "Networks are equivalent"


def jobs(package: Package, options: Options) -> list[Job]:
    """Jobs for the parts in `rtl/index.json`; none for a package without logic.

    Raises `ValueError` for a damaged index.
    """
    del options
    if INDEX not in package.files:
        return []
    try:
        parts = [_read(part) for part in package.json(INDEX)["parts"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{INDEX} must list the digital parts, but is damaged ({error!r})."
        ) from error
    found = []
    for slow in (False, True):
        some = [part for part in parts if (part["n_tables"] > FAST_TABLES) == slow]
        if not some:
            continue
        count = f"{len(some)} parts" if len(some) > 1 else some[0]["name"]
        checks: list[tuple[str, str, str, Callable]] = [
            ("S1", f"Verilog of {count} in Icarus", "iverilog", _parse_icarus),
            ("S1", f"Verilog of {count} in Verilator", "verilator", _parse_verilator),
            ("D1", f"{count} in Icarus", "iverilog", _run_icarus),
            ("D1", f"{count} in Verilator", "verilator", _run_verilator),
        ]
        for gate, name, program, run in checks:
            late = slow and gate == "D1"
            found.append(
                Job(gate, name, _with_parts(run, some), slow=late, needs=(program,))
            )
    for part in parts:
        if part["kind"] == "tables":
            found.append(
                Job(
                    "D2",
                    part["name"],
                    _with_parts(_prove, [part]),
                    slow=part["n_tables"] > FAST_TABLES,
                    needs=("yosys",),
                )
            )
    return found


def _read(part: dict[str, Any]) -> dict[str, Any]:
    name = str(part["name"])
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError(f"the part {name!r} has no legal name")
    layers = [
        {"n": int(row["n"]), "k": int(row["k"]), "node_F": float(row["node_F"])}
        for row in part.get("layers", [])
    ]
    sizes = {size: int(part[size]) for size in _SIZES}
    n_tables = sum(row["n"] for row in layers)
    kind = {"name": name, "kind": str(part["kind"]), "n_tables": n_tables}
    return {**kind, **sizes, "layers": layers}


def _with_parts(run: Callable, parts: Sequence[dict]) -> Callable:
    def job(package: Package, work: Path, options: Options) -> list[Check]:
        _lay_out(package, parts, work)
        return run(package, parts, work, options)

    return job


def _lay_out(package: Package, parts: Sequence[dict], work: Path) -> None:
    """Copy the files of parts. Raises `ValueError` for text that no export wrote."""
    for part in parts:
        name = part["name"]
        sizes = {size: part[size] for size in ("n_in", "n_out", "n_vectors")}
        if package.text(f"rtl/tb_{name}.v") != rtl.write_bench(name, **sizes):
            raise ValueError(
                f"rtl/tb_{name}.v must be the bench that an export writes for"
                f" {sizes}, but is another: it was not run."
            )
        own = [f"rtl/tb_{name}.v", f"rtl/{name}.v"]
        own += [f"vectors/{name}_x.hex", f"vectors/{name}_y.hex"]
        suspicious = [(own[1], rtl.forbidden(package.text(own[1])))]
        if part["kind"] == "tables":
            own.append(f"blif/{name}.blif")
            suspicious.append((own[-1], blif.forbidden(package.text(own[-1]))))
        else:
            own += [file for file in package.named("rom") if f"/{name}_" in file]
        for file, line in suspicious:
            if line is not None:
                raise ValueError(
                    f"{file} must hold only what an export writes, but holds"
                    f" {line[:80]!r}: it was not run."
                )
        package.copy(own, work)


def _parse_icarus(package, parts, work: Path, options: Options) -> list[Check]:
    del package
    command = ["iverilog", "-g2005", "-t", "null"]
    return [_parsed(part, "Icarus", command, work, options) for part in parts]


def _parse_verilator(package, parts, work: Path, options: Options) -> list[Check]:
    del package
    command = ["verilator", "--lint-only", "--timing", "-Wno-MULTITOP"]
    return [_parsed(part, "Verilator", command, work, options) for part in parts]


def _parsed(part: dict, tool: str, command, work: Path, options: Options) -> Check:
    name = part["name"]
    top = [f"tb_{name}"] if tool == "Icarus" else []
    flags = ["-s", *top] if top else ["--top-module", f"tb_{name}"]
    ended = run_program(
        [*command, *flags, f"tb_{name}.v", f"{name}.v"],
        timeout_s=options.timeout_s,
        cwd=work / "rtl",
    )
    problem = ended.problem or (ended.output.strip() if ended.code else "")
    status = "fail" if problem else "pass"
    return Check("S1", f"{name}.v in {tool}", status, detail=problem[:300])


def _run_icarus(package, parts, work: Path, options: Options) -> list[Check]:
    del package
    sources = [f"{kind}{part['name']}.v" for part in parts for kind in ("tb_", "")]
    tops = [word for part in parts for word in ("-s", f"tb_{part['name']}")]
    built = run_program(
        ["iverilog", "-g2005", *tops, "-o", "benches.vvp", *sources],
        timeout_s=options.timeout_s,
        cwd=work / "rtl",
    )
    _done(built, "Icarus")
    # -n: a bench that asks for input ends.
    ran = run_program(
        ["vvp", "-n", "benches.vvp"], timeout_s=options.timeout_s, cwd=work / "rtl"
    )
    return _compared(parts, "Icarus", ran)


def _run_verilator(package, parts, work: Path, options: Options) -> list[Check]:
    """All benches in one build, since that alone takes seconds.

    Without Verilator's dataflow graphs, which make one function of all tables, and
    without the optimizer of g++: that did not end with 3,000 tables in 15 minutes.
    """
    del package
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        detail = "Verilator needs a C++ compiler; to run this: apt-get install g++ make"
        return [Check("D1", "Verilator", "skipped", detail=detail)]
    names = [part["name"] for part in parts]
    lines = ["module all;", *(f"  tb_{name} {name}();" for name in names), "endmodule"]
    (work / "rtl" / "all.v").write_text("\n".join(lines) + "\n")
    sources = [f"{kind}{name}.v" for name in names for kind in ("tb_", "")]
    flags = "-Wno-fatal -Wno-lint -j 2 -fno-dfg --top-module all -Mdir built"
    built = run_program(
        ["verilator", *BUILD, *flags.split(), "all.v", *sources],
        timeout_s=options.timeout_s,
        cwd=work / "rtl",
    )
    _done(built, "Verilator")
    ran = run_program(
        [str(work / "rtl" / "built" / "Vall")],
        timeout_s=options.timeout_s,
        cwd=work / "rtl",
    )
    return _compared(parts, "Verilator", ran)


def _done(ended, tool: str) -> None:
    if ended.problem or ended.code:
        said = ended.problem or f"says: {ended.output.strip()[-300:]}"
        raise ValueError(f"{tool} must build the benches, but {said}.")


def _compared(parts: Sequence[dict], tool: str, ended) -> list[Check]:
    if ended.problem:
        raise ValueError(f"The benches must run in {tool}, but it {ended.problem}.")
    results = read_results(ended.output)
    checks = []
    for part in parts:
        name = part["name"]
        wrong = results.get(f"{name}_mismatches")
        vectors = results.get(f"{name}_vectors", 0.0)
        enough = vectors == part["n_vectors"] and vectors >= LEAST_VECTORS
        status = "pass" if wrong == 0 and enough else "fail"
        detail = f"{vectors:.0f} vectors"
        if not enough:
            detail = (
                f"{vectors:.0f} of {part['n_vectors']} vectors were compared, and a"
                f" proof takes {LEAST_VECTORS} at least"
            )
        checks.append(
            Check("D1", f"{name} in {tool}", status, wrong, 0.0, "vectors", 0.0, detail)
        )
    return checks


def _prove(package, parts, work: Path, options: Options) -> list[Check]:
    part = parts[0]
    name = part["name"]
    liberty = options.liberty
    if liberty is None:
        package.copy([GENERIC], work)
        liberty = work / GENERIC
    library = read_library(liberty)
    shutil.copyfile(liberty, work / "cells.lib")
    # Yosys reads the Verilog, down to and-gates and inverters.
    script = (
        f"read_verilog rtl/{name}.v; hierarchy -top {name}; proc; techmap; opt_clean;"
        " aigmap; write_aiger -symbols verilog.aig"
    )
    read = run_program(
        ["yosys", "-q", "-p", script], timeout_s=options.timeout_s, cwd=work
    )
    if read.problem or read.code:
        said = read.problem or f"says: {read.output.strip()[-300:]}"
        raise ValueError(f"Yosys must read rtl/{name}.v, but {said}.")
    # For thousands of tables area recovery alone, which takes a tenth of the time.
    effort = "dch; map" if part["n_tables"] <= FAST_TABLES else "map -a"
    steps = [
        f"read_blif blif/{name}.blif; strash; write_aiger -s blif.aig",
        f"read_lib -w cells.lib; {effort}; write_blif mapped.blif",
        "read_blif mapped.blif; strash; write_aiger -s mapped.aig",
    ]
    _abc("; ".join(steps), work, options)
    checks = []
    for what, other in (("Verilog = BLIF", "verilog"), ("BLIF = mapped", "mapped")):
        said = _abc(f"cec blif.aig {other}.aig", work, options)
        equal = _EQUIVALENT in said
        detail = _EQUIVALENT if equal else said.strip()[-300:]
        status = "pass" if equal else "fail"
        checks.append(Check("D2", f"{name}, {what}", status, detail=detail))
    if checks[1].status == "pass":
        checks.append(_cost(package, part, work, library))
    return checks


def _abc(commands: str, work: Path, options: Options) -> str:
    """What ABC says to commands, without its echo of them."""
    ended = run_program(
        ["yosys-abc", "-c", commands], timeout_s=options.timeout_s, cwd=work
    )
    if ended.problem:
        raise ValueError(f"ABC must end by itself, but {ended.problem}.")
    lines = ended.output.splitlines()
    return "\n".join(line for line in lines if not line.startswith("ABC command line"))


def _cost(package: Package, part: dict, work: Path, library) -> Check:
    """Gates, area and energy of the mapped netlist, on the vectors of the package."""
    name = part["name"]
    mapped = read_mapped((work / "mapped.blif").read_text(), library)
    xs = read_vectors(package.text(f"vectors/{name}_x.hex"), part["n_in"])
    inputs = {f"x[{i}]": lane for i, lane in enumerate(lanes(xs))}
    if part["n_registers"]:
        states = read_vectors(
            package.text(f"vectors/{name}_s.hex"), part["n_registers"]
        )
        inputs |= {f"s[{i}]": lane for i, lane in enumerate(lanes(states))}
    seen = activity(mapped, inputs, len(xs))
    quiet_J = switching_J(mapped, seen.settled, seen.n_steps)
    all_J = switching_J(mapped, seen.all, seen.n_steps)
    ratio = ""
    process = _process_of(library.name, package.manifest)
    if process is not None and all_J > 0:
        billed, measured = gates_J(part["layers"], process), process.as_drawn("tables")
        analytic = billed / measured / all_J
        finding = "" if 1 / FINDING <= analytic <= FINDING else ", a finding"
        ratio = f"; the analytic price is {analytic:.2g} of that{finding}"
        ratio += f", and {process.name} bills {billed / all_J:.2g} of it for gates"
    area = f"{mapped.area * 1e-12:.3g} m2"
    if library.name == "physnn_generic":
        area = f"{mapped.area:.0f} transistors"
    return Check(
        "D2",
        f"{name}, cost",
        "pass",
        detail=f"{len(mapped.gates)} gates of {library.name}, {area},"
        f" {all_J:.3g} J per evaluation on random vectors ({quiet_J:.3g} J without"
        f" glitches; no wires){ratio}; leakage {mapped.leakage_W:.2g} W",
    )


def _process_of(library: str, manifest: dict[str, Any]) -> Process | None:
    """The card of the process of a library: the package's own for the generic one."""
    name = library.split("_")[0]
    if library == GENERIC_NAME:
        name = str(manifest.get("process", {}).get("name", ""))
    try:
        return load_process(name) if name.isidentifier() else None
    except (ValueError, OSError):
        return None
