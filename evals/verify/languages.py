"""Gates S1, B3 and B4: what is written in other languages says the same.

- S1: ADMS parses every Verilog-A cell; Icarus and Verilator read every real-number
  model; every JSON and YAML file is what its format says.
- B3: the equations that ADMS finds in a Verilog-A cell, evaluated here, are those of
  the netlist at 200 biases.
- B4: the real-number models give what the JAX model gives, and both simulators agree.
"""

import functools
import re
import time
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from evals.program import run_program
from evals.verify.check import Check, compared
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.export import real_number, system_verilog, verilog_a
from physnn.export.calibration_schema import COLUMNS
from physnn.export.laws import evaluate
from physnn.export.spice import read_results

EXPECTED = "spice/tb/expected.json"
# Gate B3: relative to the contribution at each bias.
EQUATIONS = 1e-9
# Gate B4: of full scale (or what the bench allows, if more); between the simulators.
MODEL, TOOLS = 1e-3, 1e-9
# What Verilator compiles with: compiling takes longer than simulating.
BUILD = ("--binary", "--timing", "-MAKEFLAGS", "OPT_FAST=-O0 OPT_GLOBAL=-O0")
# A template for ADMS: the parts of every module, one per line.
_DUMP = """<?xml version="1.0" encoding="ISO-8859-1"?>
<!DOCTYPE admst SYSTEM "admst.dtd">
<admst version="2.3.7" xmlns:admst="http://mot-adms.sourceforge.net/xml-files/admst">
<admst:for-each select="/module">
<admst:text format="module %(name)\\n"/>
<admst:for-each select="contribution">
<admst:text format="contribution %(lhs) = %(rhs)\\n"/>
</admst:for-each>
</admst:for-each>
</admst>
"""
_LINE = re.compile(r"contribution ([IV])\(([^()]*)\) = (.*)")
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d*)?(?:e[+-]?\d+)?")
_SDC = re.compile(
    r"(create_clock|set_clock_uncertainty|set_input_delay|set_output_delay"
    r"|set_false_path)\b[a-z0-9_. *\[\];#+-]*"
)
_CACE = ("name", "description", "PDK", "cace_format", "authorship", "paths", "pins")


def jobs(package: Package, options: Options) -> list[Job]:
    """A job for data files, one for Verilog-A, one per simulator of Verilog."""
    del options
    found = [Job("S1", "data files", _data_files, needs=())]
    if package.named(verilog_a.FOLDER, ".va"):
        found.append(Job("S1", "Verilog-A", _verilog_a, needs=("adms",), also=("B3",)))
    if package.named(real_number.FOLDER, ".sv"):
        icarus = Job("S1", "rnm in Icarus", _icarus, needs=("iverilog",), also=("B4",))
        both = ("verilator", "iverilog")
        found += [
            icarus,
            Job("S1", "rnm in Verilator", _verilator_lint, needs=both[:1]),
            Job("B4", "Icarus and Verilator", _both, slow=True, needs=both, cost_s=15),
        ]
    return found


def _verilog_a(package: Package, work: Path, options: Options) -> list[Check]:
    """S1 and B3 of every cell."""
    names = package.named(verilog_a.FOLDER, ".va")
    expected = {
        each["cell"]: each
        for each in _table(package, verilog_a.EXPECTED, "cells", dict)
    }
    for name in names:
        if (found := verilog_a.forbidden(package.text(name))) is not None:
            raise ValueError(
                f"{name} must hold only what an export writes, but holds {found!r}."
            )
    package.copy(names, work)
    (work / verilog_a.FOLDER / "dump.xml").write_text(_DUMP)
    checks = []
    for name in names:
        cell = PurePosixPath(name).stem
        started = time.perf_counter()
        output, code, problem = run_program(
            ["admsXml", f"{cell}.va", "-e", "dump.xml"],
            timeout_s=options.timeout_s,
            cwd=work / verilog_a.FOLDER,
        )
        seconds = time.perf_counter() - started
        lines = _module(output, cell)
        if problem or code or lines is None:
            said = next((li for li in output.splitlines() if "error" in li.lower()), "")
            detail = f"admsXml {problem or 'rejects it'}; {said.strip()[:200]}"
            checks.append(
                Check("S1", f"va: {cell}", "fail", seconds=seconds, detail=detail)
            )
            continue
        checks.append(Check("S1", f"va: {cell}", "pass", seconds=seconds))
        if cell in expected:
            checks.append(_equations(package, expected[cell], lines))
    return checks


def _module(output: str, cell: str) -> list[str] | None:
    """The contributions of a module in what ADMS printed; None if it is not there."""
    parts = re.split(r"^module (\w+)$", output, flags=re.MULTILINE)
    found = dict(zip(parts[1::2], parts[2::2], strict=True))
    if cell not in found:
        return None
    return [li for li in found[cell].splitlines() if li.startswith("contribution ")]


def _equations(package: Package, expected: dict[str, Any], lines: list[str]) -> Check:
    """B3 of a cell: the largest relative deviation over biases and contributions."""
    name = f"va: {expected['cell']}"
    started = time.perf_counter()
    table = package.array(expected["file"])
    nets, parameters = expected["nets"], expected["parameters"]
    wanted = expected["contributions"]
    n_given = len(nets) + len(parameters)
    if table.ndim != 2 or table.shape[1] != n_given + len(wanted):
        raise ValueError(
            f"{expected['file']} must have a column for each net, parameter and"
            f" contribution, but has shape {table.shape}: export the run again."
        )
    volts = dict(zip(nets, table.T, strict=False)) | {"GND": np.zeros(len(table))}
    values = dict(zip(parameters, table.T[len(nets) :], strict=False))
    if len(lines) != len(wanted):
        detail = f"{len(lines)} contributions were found where there are {len(wanted)}"
        return Check("B3", name, "fail", detail=detail)
    worst = 0.0
    for line, contribution, column in zip(
        lines, wanted, table.T[n_given:], strict=True
    ):
        found = _evaluated(line, contribution, volts, values)
        scale = np.abs(column) + 1e-6 * np.max(np.abs(column)) + 1e-300
        worst = max(worst, float(np.max(np.abs(found - column) / scale)))
    check = compared("B3", name, worst, 0.0, EQUATIONS, "relative")
    return Check(**{**vars(check), "seconds": time.perf_counter() - started})


def _evaluated(line: str, contribution: dict[str, Any], volts, values) -> np.ndarray:
    """The value of a contribution that ADMS printed.

    Raises `ValueError` for another branch than expected, and for what Verilog would
    compute in integers.
    """
    match = _LINE.fullmatch(line)
    access, branch, law = match.groups() if match else ("", "", "")
    kind = {"V": "voltage", "I": "current"}.get(access, "")
    law = _bare(law)
    if law.startswith("ddt("):
        kind, law = "charge", _bare(law.removeprefix("ddt"))
    nets = [net for net in branch.split(",") if net != "GND"]
    if (kind, nets) != (contribution["kind"], contribution["branch"]):
        raise ValueError(
            f"A contribution must be a {contribution['kind']} of"
            f" {contribution['branch']}, but the file says {line[:120]!r}."
        )
    if any(number.isdigit() for number in _NUMBER.findall(law)):
        raise ValueError(
            "Numbers of Verilog-A must be reals, because 1/1000 is 0 there, but the"
            f" file says {law[:120]!r}."
        )
    found = evaluate(re.sub(r"\bV\(", "v(", law), volts, values)
    return np.asarray(found)


def _bare(text: str) -> str:
    """An expression without the parentheses around all of it."""
    while text.startswith("(") and text.endswith(")"):
        depth, closes = 0, len(text)
        for i, letter in enumerate(text):
            depth += (letter == "(") - (letter == ")")
            if depth == 0:
                closes = i
                break
        if closes < len(text) - 1:
            break
        text = text[1:-1]
    return text


def _sources(package: Package, work: Path) -> list[str]:
    """Lay the real-number models out; what is not plain is not compiled."""
    names = package.named(real_number.FOLDER, ".sv")
    for name in names:
        if (found := system_verilog.forbidden(package.text(name))) is not None:
            raise ValueError(
                f"{name} must hold only what an export writes, but holds {found!r}."
            )
    package.copy(names, work)
    return [PurePosixPath(name).name for name in names]


def _run_icarus(package: Package, work: Path, options: Options) -> dict[str, float]:
    names, top = _sources(package, work), real_number.TOP
    run = functools.partial(
        run_program, timeout_s=options.timeout_s, cwd=work / real_number.FOLDER
    )
    built = run(["iverilog", "-g2012", "-s", top, "-o", "../tb.vvp", *names])
    if built.problem or built.code:
        raise ValueError(f"iverilog {built.problem or _first(built.output)}.")
    ran = run(["vvp", "-n", "../tb.vvp"])
    if ran.problem:
        raise ValueError(f"vvp {ran.problem}.")
    return read_results(ran.output)


def _first(output: str) -> str:
    said = next((li for li in output.splitlines() if "rror" in li), "without a word")
    return f"rejects it: {said.strip()[:200].rstrip('.')}"


def _tolerance(result: dict) -> float:
    """What the bench itself allows: a circuit that settles differs from its model."""
    return float(result["absolute"]) + float(result["relative"]) * abs(
        float(result["value"])
    )


def _icarus(package: Package, work: Path, options: Options) -> list[Check]:
    """S1 of every bench, B4 of every result."""
    measured = _run_icarus(package, work, options)
    checks = []
    for bench in _table(package, EXPECTED, "benches", dict):
        name = str(bench["bench"])
        if f"{real_number.FOLDER}/tb_{name}.sv" not in package.files:
            continue  # the manifest says why it has no model
        results = {f"{name}/{result['name']}": result for result in bench["results"]}
        missing = [key for key in results if key not in measured]
        detail = f"printed no RESULT for {missing[0]}" if missing else ""
        status = "fail" if missing else "pass"
        checks.append(Check("S1", f"rnm {name}", status, detail=detail))
        checks += [
            compared(
                "B4",
                f"rnm {name}: {result['name']}",
                measured[key],
                float(result["value"]),
                max(MODEL, _tolerance(result)),
                str(result.get("unit", "")),
            )
            for key, result in results.items()
            if key in measured
        ]
    return checks


def _verilator_lint(package: Package, work: Path, options: Options) -> list[Check]:
    """S1: Verilator reads every model without a warning."""
    names, top = _sources(package, work), real_number.TOP
    output, code, problem = run_program(
        ["verilator", "--lint-only", "--timing", "--top-module", top, *names],
        timeout_s=options.timeout_s,
        cwd=work / real_number.FOLDER,
    )
    warned = "%" in output
    status = "fail" if problem or code or warned else "pass"
    detail = f"Verilator {problem or _first(output)}" if status == "fail" else ""
    return [Check("S1", "rnm in Verilator", status, detail=detail)]


def _both(package: Package, work: Path, options: Options) -> list[Check]:
    """B4: Icarus and Verilator print the same."""
    icarus = _run_icarus(package, work, options)
    names = _sources(package, work)
    folder, top = work / real_number.FOLDER, real_number.TOP
    build = ["verilator", *BUILD, "--top-module", top, "--Mdir", "../obj", *names]
    output, code, problem = run_program(build, timeout_s=options.timeout_s, cwd=folder)
    if problem or code:
        raise ValueError(f"Verilator {problem or _first(output)}.")
    ran = run_program(
        [str(work / "obj" / f"V{top}")], timeout_s=options.timeout_s, cwd=folder
    )
    if ran.problem:
        raise ValueError(f"The program that Verilator built {ran.problem}.")
    verilator = read_results(ran.output)
    if not icarus or icarus.keys() != verilator.keys():
        raise ValueError(
            "Icarus and Verilator must print the same results, but print"
            f" {len(icarus)} and {len(verilator)} of them."
        )
    worst = max(abs(icarus[key] - verilator[key]) for key in icarus)
    name = f"Icarus and Verilator, {len(icarus)} results"
    return [compared("B4", name, worst, 0.0, TOOLS, "full scale")]


def _table(package: Package, name: str, key: str, kind: type) -> list[Any]:
    """A list in a JSON file. Raises `ValueError` for anything else."""
    table = package.json(name)
    rows = table.get(key) if isinstance(table, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, kind) for row in rows):
        raise ValueError(
            f"{name} must hold a list `{key}`, but is damaged: export the run again."
        )
    return rows


def _data_files(package: Package, work: Path, options: Options) -> list[Check]:
    """S1 of JSON, YAML, constraints and the calibration template."""
    del work, options
    wrong = []
    names = sorted(
        name for name in package.files if name.endswith((".json", ".yaml", ".sdc"))
    )
    for name in names:
        try:
            if name.endswith(".json"):
                package.json(name)
            elif name.endswith(".yaml"):
                _check_cace(name, yaml.safe_load(package.text(name)))
            else:
                _check_sdc(name, package.text(name))
        except (ValueError, yaml.YAMLError) as error:
            wrong.append(str(error))
    if "calib/measured_template.csv" in package.files:
        names.append("calib/measured_template.csv")
        head = package.text("calib/measured_template.csv").splitlines()[:1]
        if head != [",".join(COLUMNS)]:
            wrong.append(f"The columns of a measured file must be {COLUMNS}.")
    limit, measured = 0.0, float(len(wrong))
    return [
        Check(
            "S1",
            f"{len(names)} data files",
            "fail" if wrong else "pass",
            measured,
            limit,
            "files",
            detail="; ".join(wrong),
        )
    ]


def _check_cace(name: str, table: Any) -> None:
    missing = [key for key in _CACE if not isinstance(table, dict) or key not in table]
    if missing:
        raise ValueError(f"{name} must have {list(_CACE)}, but lacks {missing}.")


def _check_sdc(name: str, text: str) -> None:
    for line in text.splitlines():
        if line.strip() and not line.startswith("#") and not _SDC.fullmatch(line):
            raise ValueError(f"{name} must hold clocks and delays, but holds {line!r}.")
