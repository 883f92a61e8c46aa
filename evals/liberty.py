"""Liberty: the few facts of a library of standard cells that a bill needs.

A narrow reader: area, pin capacitance, function, internal energy, leakage. The parser
on the package index (liberty-parser 0.0.29) reads the same files but is under the GPL
and brings SymPy, so that it cannot be a dependency here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_TOKEN = re.compile(
    r'/\*.*?\*/|"((?:[^"\\]|\\.)*)"|([{}();:,])|([^\s{}();:,"\\]+)|\\', re.DOTALL
)
# Slew at which internal energy is read: the second of the table, a gate driven by one
# of its kind.
SLEW_INDEX = 1
_UNITS = {"f": 1e-15, "p": 1e-12, "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0}

# A function of pins: values of bits, as lanes of integers, and the mask of all lanes.
Function = Callable[[Mapping[str, int], int], int]


@dataclass
class Group:
    """A group of a Liberty file: `kind (name) { attributes, groups }`."""

    kind: str
    name: str
    attributes: dict[str, str] = field(default_factory=dict)
    groups: list["Group"] = field(default_factory=list)

    def of(self, kind: str) -> Iterator["Group"]:
        return (group for group in self.groups if group.kind == kind)


@dataclass(frozen=True)
class StandardCell:
    """A combinational cell with one output.

    `area` is in the unit of the library, by convention µm². `internal_J` is the mean
    energy of a transition of the output at the load [F], without the load's own charge.
    """

    name: str
    area: float
    leakage_W: float
    pins_F: Mapping[str, float]
    output: str
    function: Function
    internal_J: Callable[[float], float]


@dataclass(frozen=True)
class Library:
    name: str
    voltage_V: float
    cells: Mapping[str, StandardCell]


def read_library(path: Path) -> Library:
    """The combinational cells with one output of a Liberty file.

    Raises `ValueError` for a file that is missing or is not Liberty.
    """
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise ValueError(
            f"{path} must be a Liberty file, but cannot be read ({error.strerror}):"
            " give the path of a .lib file."
        ) from error
    library = _parse(text, path)
    units = library.attributes
    try:
        voltage_V = float(units["nom_voltage"])
        size, unit = re.findall(
            r"[0-9.]+|[a-z]+", units["capacitive_load_unit"].lower()
        )
        farad = float(size) * _UNITS[unit.removesuffix("f")]
        leakage = re.fullmatch(r"([0-9.]+)([a-z]?)W", units["leakage_power_unit"])
        watt = float(leakage[1]) * _UNITS[leakage[2]] if leakage else 0.0
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{path} must state nom_voltage, capacitive_load_unit and"
            f" leakage_power_unit, but {error} is missing or not of their form."
        ) from error
    cells = {}
    for group in library.of("cell"):
        cell = _cell(group, farad, watt, voltage_V)
        if cell is not None:
            cells[cell.name] = cell
    if not cells:
        raise ValueError(f"{path} must hold combinational cells, but has none.")
    return Library(library.name, voltage_V, cells)


def _cell(
    group: Group, farad: float, watt: float, voltage_V: float
) -> StandardCell | None:
    if any(True for kind in ("ff", "latch", "statetable") for _ in group.of(kind)):
        return None
    pins, outputs = {}, []
    for pin in group.of("pin"):
        if pin.attributes.get("direction") == "input":
            pins[pin.name] = float(pin.attributes.get("capacitance", 0)) * farad
        elif "function" in pin.attributes and "three_state" not in pin.attributes:
            outputs.append(pin)
    if len(outputs) != 1:
        return None
    # Internal energy has the unit of capacitance times voltage squared.
    curves = [
        _curve(table, farad, farad)
        for power in outputs[0].of("internal_power")
        for kind in ("rise_power", "fall_power", "power")
        for table in power.of(kind)
    ]
    return StandardCell(
        group.name,
        float(group.attributes.get("area", 0)),
        float(group.attributes.get("cell_leakage_power", 0)) * watt,
        pins,
        outputs[0].name,
        parse_function(outputs[0].attributes["function"]),
        lambda load_F: float(np.mean([c(load_F) for c in curves])) if curves else 0.0,
    )


def _curve(table: Group, farad: float, joule: float) -> Callable[[float], float]:
    """Internal energy over load [F] at the slew of a usual gate."""
    rows = [_numbers(row) for row in table.attributes["values"].split(";")]
    loads = _numbers(table.attributes.get("index_2", "")) or [0.0]
    row = rows[min(SLEW_INDEX, len(rows) - 1)]
    if len(row) != len(loads):
        row, loads = [float(np.mean(row))], [0.0]
    xs, ys = np.asarray(loads) * farad, np.asarray(row) * joule
    return lambda load_F: float(np.interp(load_F, xs, ys))


def _numbers(text: str) -> list[float]:
    return [float(word) for word in re.split(r"[\s,]+", text.strip()) if word]


def _parse(text: str, path: Path) -> Group:
    """The library group. Values of several strings are joined by semicolons."""
    tokens = [
        (found[1] if found[1] is not None else found[0], found[1] is not None)
        for found in _TOKEN.finditer(text)
        if not found[0].startswith("/*") and found[0] != "\\"
    ]
    root = Group("", "")
    stack, i = [root], 0

    def bad(what: str) -> ValueError:
        return ValueError(f"{path} must be a Liberty file, but {what}.")

    while i < len(tokens):
        word = tokens[i][0]
        following = tokens[i + 1][0] if i + 1 < len(tokens) else ""
        if word == "}":
            if len(stack) == 1:
                raise bad("closes a group that was not opened")
            stack.pop()
            i += 1
        elif word == ";":
            i += 1
        elif following == ":":
            stop = i + 2
            while stop < len(tokens) and tokens[stop] not in (
                (";", False),
                ("}", False),
            ):
                stop += 1
            stack[-1].attributes[word] = " ".join(t for t, _ in tokens[i + 2 : stop])
            i = stop
        elif following == "(":
            stop = i + 2
            while stop < len(tokens) and tokens[stop] != (")", False):
                stop += 1
            inside = tokens[i + 2 : stop]
            strings = [t for t, quoted in inside if quoted]
            words = [t for t, _ in inside if t != ","]
            value = ";".join(strings) if strings else " ".join(words)
            if stop + 1 < len(tokens) and tokens[stop + 1] == ("{", False):
                group = Group(word, value)
                stack[-1].groups.append(group)
                stack.append(group)
                i = stop + 2
            else:
                stack[-1].attributes[word] = value
                i = stop + 1
        else:
            raise bad(f"holds {word[:40]!r} where a group or an attribute begins")
    library = next(root.of("library"), None)
    if library is None or len(stack) != 1:
        raise bad("holds no whole group `library`")
    return library


def parse_function(text: str) -> Function:
    """A Boolean function of pins in Liberty's syntax, on lanes of integers.

    `!` or a trailing `'` inverts, `*`, `&` or a blank is and, `^` exclusive or, `+` or
    `|` or. Raises `ValueError` for anything else.
    """
    tokens = re.findall(r"[A-Za-z_]\w*|[01!'*&^+|()]|\S", text)

    def fail() -> ValueError:
        return ValueError(f"A cell's function must be Boolean, but is {text!r}.")

    def peek() -> str:
        return tokens[0] if tokens else ""

    def either() -> Function:
        terms = [exclusive()]
        while peek() in ("+", "|"):
            tokens.pop(0)
            terms.append(exclusive())
        return terms[0] if len(terms) == 1 else _reduced(terms, int.__or__)

    def exclusive() -> Function:
        terms = [both()]
        while peek() == "^":
            tokens.pop(0)
            terms.append(both())
        return terms[0] if len(terms) == 1 else _reduced(terms, int.__xor__)

    def both() -> Function:
        terms = [single()]
        while peek() in ("*", "&", "!", "(") or re.match(r"[A-Za-z_01]", peek()):
            if peek() in ("*", "&"):
                tokens.pop(0)
            terms.append(single())
        return terms[0] if len(terms) == 1 else _reduced(terms, int.__and__)

    def single() -> Function:
        if not tokens:
            raise fail()
        word = tokens.pop(0)
        if word == "!":
            value = _inverted(single())
        elif word == "(":
            value = either()
            if not tokens or tokens.pop(0) != ")":
                raise fail()
        elif word in ("0", "1"):
            value = lambda pins, mask: mask if word == "1" else 0
        elif re.match(r"[A-Za-z_]", word):
            value = lambda pins, mask: pins[word]
        else:
            raise fail()
        while peek() == "'":
            tokens.pop(0)
            value = _inverted(value)
        return value

    function = either()
    if tokens:
        raise fail()
    return function


def _inverted(value: Function) -> Function:
    return lambda pins, mask: mask ^ value(pins, mask)


def _reduced(terms: list[Function], operator) -> Function:
    def value(pins: Mapping[str, int], mask: int) -> int:
        result = terms[0](pins, mask)
        for term in terms[1:]:
            result = operator(result, term(pins, mask))
        return result

    return value
