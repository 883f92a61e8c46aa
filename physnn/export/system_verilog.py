"""SystemVerilog: names, lines, and what a file of a package may hold."""

import re

from physnn.export.laws import real, render
from physnn.export.netlist import GROUND, Device

LINE = 96
# Words that SystemVerilog keeps for itself, of those that a name might be.
RESERVED = frozenset(
    re.findall(
        r"\w+",
        """alias always and assert assign assume automatic before begin bind bins bit
        break buf byte case cell chandle checker class clocking config const constraint
        context continue cover cross deassign default defparam design disable dist do
        edge else end enum event eventually expect export extends extern final first
        for force forever fork function generate genvar global if iff ifnone implies
        import incdir include initial inout input inside instance int integer interface
        intersect join large let liblist library local logic longint macromodule matches
        medium modport module nand negedge nettype new nexttime nor not null or output
        package packed parameter pmos posedge primitive priority program property
        protected pull0 pull1 pulldown pullup pure rand randc randcase real realtime ref
        reg reject_on release repeat restrict return rnmos rpmos rtran scalared sequence
        shortint shortreal showcancelled signed small soft solve specify specparam
        static string strong strong0 strong1 struct super supply0 supply1 table tagged
        task this throughout time timeprecision timeunit tran tri type typedef union
        unique unsigned until untyped use uwire var vectored virtual void wait wand weak
        while wildcard wire with within wor xnor xor period_s evaluate lesser larger
        magnitude clipped""",
    )
)
# Everything else a program could do to the machine it runs on goes through these.
_TASKS = frozenset(("$exp", "$finish", "$sqrt", "$tanh"))
_SUSPECT = re.compile(r"\$\w*|`\w*|\"|\b(?:import|export|bind|include)\b|/\*|\(\*|\\")
_RESULT = re.compile(
    r'\$display\("RESULT [a-z0-9_/]+ %\.12e",\s+[a-z0-9_() .*/+\s-]+\);'
)


def identifier(name: str) -> str:
    """A name as SystemVerilog may hold it: a reserved word gets a `_`."""
    return f"{name}_" if name in RESERVED else name


def folded(text: str, *, start: str = "") -> list[str]:
    """A statement, or a comment, over several lines."""
    lines: list[str] = []
    indent = len(text) - len(text.lstrip())
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < LINE:
            lines[-1] += f" {word}"
        else:
            more = "" if start.endswith("// ") or not lines else "  "
            lines.append(f"{start}{' ' * indent}{more}{word}")
    return lines


def forbidden(text: str) -> str | None:
    """The first thing in a SystemVerilog file that we would not have written, or None.

    A bench is a program, and Verilator makes machine code of it: no directive, no
    system task but those of `real_number`, no import, no comment that tools obey.
    """
    for line in text.splitlines():
        _, comment, rest = line.partition("//")
        if comment and re.match(r"\s*(verilator|synopsys|synthesis|pragma)\b", rest):
            return line.strip()
    code = re.sub(r"//.*", "", text)
    code = _RESULT.sub("", code)
    for found in _SUSPECT.finditer(code):
        if found.group() not in _TASKS:
            return found.group()
    return None


def amount(device: Device, key: str) -> str:
    value = device.parameters[key]
    return identifier(value) if isinstance(value, str) else real(value)


def flow(device: Device) -> str:
    """The current from the first net through a device to the second, as a law."""
    p = {
        key: value if isinstance(value, str) else repr(float(value))
        for key, value in device.parameters.items()
    }
    v = lambda a, b: (
        "0"
        if a == b == GROUND
        else (
            f"v({a})" if b == GROUND else f"-v({b})" if a == GROUND else f"v({a}, {b})"
        )
    )
    match device.kind:
        case "resistor":
            return f"{v(*device.nets)} / {p['resistance_ohm']}"
        case "transconductance":
            return f"{p['transconductance_S']} * {v(*device.nets[2:])}"
        case _:
            return device.law or "0"


def expression(law: str) -> str:
    return render(
        law, name=identifier, voltage=voltage, call=_call, constant=real, gap=" "
    )


def voltage(*nets: str) -> str:
    """The voltage of a net against ground, or between two nets."""
    high, *low = ("0.0" if net == GROUND else identifier(net) for net in nets)
    return f"({high} - {low[0]})" if low and low[0] != "0.0" else high


def plus(base: str, text: str) -> str:
    return text if base == GROUND else f"{identifier(base)} + {text}"


def total(terms: list[str]) -> str:
    return " + ".join(terms) if terms else "0.0"


def _call(function: str, *texts: str) -> str:
    names = {"min": "lesser", "max": "larger", "abs": "magnitude"}
    if function in ("min", "max"):
        body = texts[0]
        for text in texts[1:]:
            body = f"{names[function]}({body}, {text})"
        return body
    return f"{names.get(function, f'${function}')}({', '.join(texts)})"


def functions(statements: list[str]) -> list[str]:
    """The functions that statements call."""
    bodies = {
        "lesser": ("a, b", "(a < b) ? a : b"),
        "larger": ("a, b", "(a > b) ? a : b"),
        "magnitude": ("a", "(a < 0.0) ? -a : a"),
        "clipped": ("a, limit", "(a > limit) ? limit : (a < -limit) ? -limit : a"),
    }
    return [
        line
        for name, (arguments, body) in bodies.items()
        if any(f"{name}(" in statement for statement in statements)
        for line in (
            f"  function automatic real {name}(input real {arguments});",
            f"    {name} = {body};",
            "  endfunction",
        )
    ]
