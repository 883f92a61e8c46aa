"""SPICE: cells as subcircuits, and the test benches that try them.

Written for ngspice; cells hold nothing but R, C, S, B and X lines. A transistor is a
call of `dev_<kind>` with sizes in meters, which `pdk.spice` defines. Numbers have 9
significant digits and no suffix letter, names are lower case, the first line of a deck
is its title. A cell with more ports than a subcircuit can have is written without one:
its file is the circuit itself, and stands in a deck once.
"""

import re
from itertools import pairwise

from physnn.export.laws import number, render
from physnn.export.netlist import DRAWN, Bench, Device, Netlist

# The folder of behavioral cells in a package.
BEHAV = "spice/behav"
# What a deck with transistors includes: models and devices of a process (`physnn.pdk`).
PDK = "pdk.spice"
# What a simulation must start with, whatever the user's own `.spiceinit` says.
SPICEINIT = "set num_threads=1\nset ngbehavior=hsa\n"
# A floating node of 1 fF must not leak in a token. With tighter tolerances than these
# ngspice finds no step across an ideal switch.
OPTIONS = (
    ".option gmin=1e-18 reltol=1e-5 abstol=1e-12 vntol=1e-7 chgtol=1e-18 method=gear"
)
# Rise time of drives and clocks, as a fraction of a slot.
EDGE = 1e-5
LINE = 100
# A subcircuit with more than 1,005 ports ends ngspice ("N_GLOBAL_NODES overflow").
MOST_PORTS = 1000
# Transconductance inside the amplifiers [S]: only its ratios to the pole matter.
AMPLIFIER_S = 1e-3


def _wrap(line: str) -> str:
    """A line cut into `+` continuations at blanks."""
    words, lines = line.split(" "), [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) >= LINE:
            lines.append("+")
        lines[-1] += (" " if lines[-1] else "") + word
    return "\n".join(lines)


def _value(value: int | float | str) -> str:
    return f"{{{value}}}" if isinstance(value, str) else number(value)


def _law(law: str) -> str:
    return render(law, name=lambda name: f"{{{name}}}")


def _device(device: Device, models: dict[tuple[str, ...], str]) -> list[str]:
    p = {key: _value(value) for key, value in device.parameters.items()}
    nets = " ".join(device.nets)
    match device.kind:
        case "capacitor":
            return [f"c_{device.name} {nets} {p['capacitance_F']}"]
        case "resistor":
            return [f"r_{device.name} {nets} {p['resistance_ohm']}"]
        case "switch":
            values = (p["on_ohm"], p["off_ohm"], p["threshold_V"])
            model = models.setdefault(values, f"switch{len(models)}")
            return [f"s_{device.name} {nets} {model}"]
        case "transconductance":
            return [f"g_{device.name} {nets} {p['transconductance_S']}"]
        case "amplifier":
            return _amplifier(device)
        case "voltage":
            return [f"b_{device.name} {nets} v={_law(device.law or '0')}"]
        case "current":
            return [f"b_{device.name} {nets} i={_law(device.law or '0')}"]
        case kind if kind in DRAWN:
            values = " ".join(f"{name}={value}" for name, value in p.items())
            return [f"xm_{device.name} {nets} dev_{kind} {values}"]
        case kind:
            raise ValueError(
                f"SPICE must be able to hold every device, but `{device.name}` is a"
                f" {kind}, for which it has no primitive here."
            )


def _amplifier(device: Device) -> list[str]:
    """A transconductor into a pole, clamped outside the limit, and a limited buffer.

    The pole makes the output a state: an amplifier without one has no solution that
    Newton's method finds where a switch closes.
    """
    if any(isinstance(value, str) for value in device.parameters.values()):
        raise ValueError(
            f"SPICE amplifier `{device.name}` must have numbers as parameters, but has"
            f" {dict(device.parameters)}."
        )
    gain, limit_V, unity_s = (
        float(device.parameters[key]) for key in ("gain", "limit_V", "unity_s")
    )
    out_p, out_n, in_p, in_n, ref = device.nets
    limit, conductance = number(limit_V), number(AMPLIFIER_S / 2)
    lines = []
    for half, out, sign in (("p", out_p, ""), ("n", out_n, "-")):
        pole = f"pole_{device.name}_{half}"
        v, name = f"v({pole},{ref})", f"{device.name}_{half}"
        over = f"max(0,{v}-{limit})+min(0,{v}+{limit})"
        lines += [
            f"b_{name}_gm {ref} {pole} i={sign}{conductance}*v({in_p},{in_n})-({over})",
            f"r_{name} {pole} {ref} {number(gain / AMPLIFIER_S)}",
            f"c_{name} {pole} {ref} {number(unity_s * AMPLIFIER_S)}",
            f"b_{name} {out} {ref} v=max(-{limit},min({limit},{v}))",
        ]
    return lines


def write_cell(cell: Netlist) -> str:
    """One cell as a `.subckt`, without the cells it uses; a wide one as bare lines.

    Raises `ValueError` for what SPICE cannot hold.
    """
    for below in [instance.cell for instance in cell.instances if wide(instance.cell)]:
        raise ValueError(
            f"A cell that others use must have at most {MOST_PORTS} ports in SPICE, but"
            f" `{below.name}` in `{cell.name}` has {len(below.ports)}: split it."
        )
    if wide(cell) and cell.parameters:
        raise ValueError(
            f"A cell with parameters must have at most {MOST_PORTS} ports in SPICE, but"
            f" `{cell.name}` has {len(cell.ports)}: split it."
        )
    models: dict[tuple[str, ...], str] = {}
    body = [line for device in cell.devices for line in _device(device, models)]
    for instance in cell.instances:
        values = "".join(
            f" {name}={number(value)}" for name, value in instance.parameters.items()
        )
        body.append(
            f"x_{instance.name} {' '.join(instance.nets)} {instance.cell.name}{values}"
        )
    level = "transistors" if has_transistors(cell) else "behavioral"
    head = [f"* cell {cell.name}: {level}, SI units"]
    notes = f"{cell.notes} {_WIDE}" if wide(cell) else cell.notes
    head += [f"* {line}" for line in _comment(notes)]
    for name, parameter in cell.parameters.items():
        head.append(f"* parameter {name} [{parameter.unit}]: {parameter.meaning}")
    defaults = "".join(f" {n}={number(p.value)}" for n, p in cell.parameters.items())
    lines = [] if wide(cell) else [_head(cell) + defaults]
    lines += body
    for (on, off, threshold), model in models.items():
        lines.append(f".model {model} sw vt={threshold} vh=0 ron={on} roff={off}")
    if not wide(cell):
        lines.append(f".ends {cell.name}")
    return "\n".join([*head, *map(_wrap, lines)]) + "\n"


_WIDE = (
    "No subcircuit, because ngspice takes no more than 1,005 ports: include this file"
    " once, its nets are those of the deck."
)


def _head(cell: Netlist) -> str:
    return f".subckt {cell.name} {' '.join(cell.ports)}"


def wide(cell: Netlist) -> bool:
    """Whether a cell has too many ports for a subcircuit of ngspice."""
    return len(cell.ports) > MOST_PORTS


def has_transistors(cell: Netlist) -> bool:
    """Whether a cell or one below it is drawn: then its deck must include a PDK."""
    return any(cell.count(kind) for kind in DRAWN)


def _comment(text: str) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) > LINE - 4:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return [line for line in lines if line]


def _steps(values: tuple[float, ...], slot_s: float, *, late: float = 0.0) -> str:
    """A piecewise linear source that holds each value for a slot.

    Its edges are `late` by that part of a slot.
    """
    points = [(0.0, values[0])]
    for i, (old, new) in enumerate(pairwise(values), start=1):
        if new != old:
            at = i + late
            points += [(at * slot_s, old), ((at + EDGE) * slot_s, new)]
    return " ".join(f"{number(t)} {number(v)}" for t, v in points)


def _clock(window: tuple[float, float], slot_s: float, high_V: float) -> str:
    start, stop = window
    edge = number(EDGE * slot_s)
    return (
        f"pulse(0 {number(high_V)} {number(start * slot_s)} {edge} {edge}"
        f" {number((stop - start) * slot_s)} {number(slot_s)})"
    )


def write_bench(cell: Netlist, bench: Bench, *, folder: str = "../behav") -> str:
    """A deck that tries `cell` as `bench` says and prints `RESULT name value` lines.

    It includes `folder`/<cell>.spice of the cell and of all it uses.
    """
    lines = [f"* bench {bench.name} of cell {cell.name}"]
    lines += [f".include {PDK}"] if has_transistors(cell) else []
    lines += [f".include {folder}/{part.name}.spice" for part in cell.cells()]
    lines.append(OPTIONS)
    if not wide(cell):
        lines.append(f"x_dut {' '.join(cell.ports)} {cell.name}")
    for port, volts in bench.supplies.items():
        lines.append(f"v_{port} {port} 0 {number(volts)}")
    for port, window in bench.clocks.items():
        lines.append(
            f"v_{port} {port} 0 {_clock(window, bench.slot_s, bench.clock_high_V)}"
        )
    for port, volts in bench.drive.items():
        if len(set(volts)) == 1:
            lines.append(f"v_{port} {port} 0 {number(volts[0])}")
        else:
            lines.append(f"v_{port} {port} 0 pwl({_steps(volts, bench.slot_s)})")
    laws: dict[str, str] = {}
    for expected in bench.expected:
        laws.setdefault(expected.law, f"law{len(laws)}")
    # A measurement at the very end can miss the last point by a rounding.
    stop = (bench.n_slots + bench.max_step) * bench.slot_s
    step = number(bench.max_step * bench.slot_s)
    lines += [".control", "set numdgt=12", f"tran {step} {number(stop)} 0 {step} uic"]
    lines += [f"let {name} = {_law(law)}" for law, name in laws.items()]
    for e in bench.expected:
        at = number((e.slot + bench.sample) * bench.slot_s)
        lines.append(f"meas tran {e.name} find {laws[e.law]} at={at}")
        lines.append(f'echo "RESULT {e.name} $&{e.name}"')
    lines += ["quit 0", ".endc", ".end"]
    return "\n".join([lines[0], *map(_wrap, lines[1:])]) + "\n"


def read_results(output: str) -> dict[str, float]:
    """The `RESULT name value` lines in what a simulator printed."""
    results = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "RESULT":
            try:
                results[words[1]] = float(words[2])
            except ValueError:
                continue
    return results


def statements(text: str) -> list[str]:
    """The statements of a deck: comments dropped, continuations joined."""
    joined: list[str] = []
    for line in text.splitlines():
        if line.startswith("+") and joined:
            joined[-1] += " " + line[1:].strip()
        elif line.strip() and not line.startswith("* "):
            joined.append(line.rstrip())
    return joined


def forbidden(text: str) -> str | None:
    """The first statement of a deck that we would not have written, or None.

    A deck is a program: ngspice runs shell commands from `.control` blocks, from lines
    that begin with `*#` and from back quotes. Only elements, cards and commands that
    `write_cell` and `write_bench` write get through.
    """
    if not text.startswith(("* bench ", "* cell ")):
        return text.split("\n", 1)[0]
    commands = False
    for statement in statements(text):
        if statement in (".control", ".endc"):
            commands = statement == ".control"
        elif not (_COMMAND if commands else _CIRCUIT).fullmatch(statement):
            return statement
    return None


def read_values(text: str) -> dict[str, float]:
    """The numbers of a cell: of each C and R line, and `line.name` of each X line."""
    values = {}
    for statement in statements(text):
        name, *words = statement.split()
        if name[:2] in ("c_", "r_") and not words[2].startswith("{"):
            values[name] = float(words[2])
        elif name.startswith("x_"):
            pairs = (word.split("=") for word in words if "=" in word)
            values |= {f"{name}.{key}": float(value) for key, value in pairs}
    return values


_NUMBER = r"-?[0-9.]+(e[+-]?[0-9]+)?"
_NAME = r"[a-z][a-z0-9_]*"
_COMMAND = re.compile(
    rf"set numdgt=[0-9]+|quit 0|op|tran( {_NUMBER})+( uic)?"
    rf"|dc( v_[a-z0-9_]+( {_NUMBER}){{3}}){{1,2}}|setplot noise[12]"
    rf"|noise v\({_NAME}\) v_{_NAME} dec [0-9]+( {_NUMBER}){{2}}"
    rf"|linearize( v\({_NAME}\))+|wrdata {_NAME}\.data( [a-z0-9_()]+)+"
    rf"|let {_NAME} = [a-z0-9_(),.+*/-]+"
    rf"|meas (?:tran|dc) {_NAME} [a-z0-9_()=. +-]+"
    rf'|echo "RESULT {_NAME} \$&{_NAME}"'
)
_CIRCUIT = re.compile(
    rf"(?:[cefghirsvbx]|xm)_[a-z0-9_]+ [a-z0-9_ (){{}},.+*/=-]+"
    rf"|\.include \.\./(?:behav|cells)/{_NAME}\.spice|\.include pdk\.spice"
    rf"|\.subckt [a-z0-9_ =.+-]+|\.ends {_NAME}"
    rf"|\.option( [a-z]+=({_NUMBER}|gear))+|\.end"
    rf"|\.model {_NAME} sw( [a-z]+={_NUMBER})+"
)
