"""Netlist: a neutral description between circuits and the formats of tools."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from physnn.export.laws import names_of, nets_of

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
GROUND = "0"

# Neutral kinds of transistors; a PDK (`physnn.pdk`) says which device each one is.
TRANSISTORS = ("nmos", "pmos", "nmos_lvt", "pmos_lvt")
# All that is drawn in a process: also a metal capacitor, plates a and b.
DRAWN = (*TRANSISTORS, "mim")

# kind: (number of nets, SI parameters, whether it has a law)
KINDS = MappingProxyType(
    {
        # between a and b
        "capacitor": (2, ("capacitance_F",), False),
        "resistor": (2, ("resistance_ohm",), False),
        # a, b, control+, control-: closed while the control is above the threshold
        "switch": (4, ("on_ohm", "off_ohm", "threshold_V"), False),
        # from, to, in+, in-: a current of transconductance_S·v(in) flows from -> to
        "transconductance": (4, ("transconductance_S",), False),
        # out+, out-, in+, in-, reference: each output is reference ± gain·v(in)/2,
        # limited to ± limit_V, with one pole: gain 1 at 1/(2π·unity_s)
        "amplifier": (5, ("gain", "limit_V", "unity_s"), False),
        # drain, gate, source, bulk; `multiple` identical units of a width and length,
        # so that ratios and mismatch are those of units drawn side by side
        **{
            kind: (4, ("width_m", "length_m", "multiple"), False)
            for kind in TRANSISTORS
        },
        "mim": (2, ("width_m", "length_m", "multiple"), False),
        # a, b: the law is v(a, b) [V]
        "voltage": (2, (), True),
        # a, b: the law is the current that flows from a through the device to b [A]
        "current": (2, (), True),
    }
)

# Parameters that are sizes: what has none of them is left out, not drawn.
_SIZES = {"capacitance_F": "F", "width_m": "m", "length_m": "m", "multiple": "units"}


def check_name(name: str, what: str) -> str:
    """`name`, if every simulator reads it alike. Raises `ValueError` otherwise."""
    if not _NAME.match(name):
        raise ValueError(
            f"The name of {what} must be lower-case letters, digits and underscores"
            f" after a letter, but is {name!r}."
        )
    return name


def cell_name(path: str) -> str:
    """A path in a design as a legal name: `.mixers[0].inputs` is `mixers0_inputs`."""
    name = re.sub(r"[^a-z0-9_]+", "_", path.lower().replace("[", "").replace("]", ""))
    name = name.strip("_")
    return name if _NAME.match(name) else f"cell_{name}".rstrip("_")


@dataclass(frozen=True, slots=True)
class Device:
    """One primitive of a `kind` in `KINDS`, between nets.

    A parameter is an SI value or the name of a parameter of the cell.
    """

    name: str
    kind: str
    nets: tuple[str, ...]
    parameters: Mapping[str, float | str] = field(default_factory=dict)
    law: str | None = None

    def __post_init__(self):
        check_name(self.name, "a device")
        if self.kind not in KINDS:
            raise ValueError(
                f"Device `{self.name}` must be of a kind in {sorted(KINDS)}, but is a"
                f" {self.kind!r}."
            )
        n_nets, parameters, has_law = KINDS[self.kind]
        if (
            len(self.nets) != n_nets
            or set(self.parameters) != set(parameters)
            or (self.law is not None) != has_law
        ):
            raise ValueError(
                f"Device `{self.name}`, a {self.kind}, must have {n_nets} nets,"
                f" parameters {list(parameters)} and {'a' if has_law else 'no'} law,"
                f" but has {len(self.nets)} nets, parameters {list(self.parameters)}"
                f" and law {self.law!r}."
            )
        for size, unit in _SIZES.items():
            value = self.parameters.get(size, 1.0)
            if not isinstance(value, str) and not value > 0:
                raise ValueError(
                    f"The {size} of `{self.name}`, a {self.kind}, must be positive, but"
                    f" is {value} {unit}."
                )
        multiple = self.parameters.get("multiple", 1)
        if not isinstance(multiple, str) and multiple != int(multiple):
            raise ValueError(
                f"The multiple of `{self.name}`, a {self.kind}, must be a whole number"
                f" of units, but is {multiple}."
            )


@dataclass(frozen=True, slots=True)
class Instance:
    """A copy of a cell: `nets` in the order of its ports, own values of parameters."""

    name: str
    cell: "Netlist"
    nets: tuple[str, ...]
    parameters: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self):
        if len(self.nets) != len(self.cell.ports):
            raise ValueError(
                f"Instance `{self.name}` must connect the {len(self.cell.ports)} ports"
                f" of `{self.cell.name}`, but has {len(self.nets)} nets."
            )
        unknown = set(self.parameters) - set(self.cell.parameters)
        if unknown:
            raise ValueError(
                f"Instance `{self.name}` of `{self.cell.name}` must set only"
                f" {sorted(self.cell.parameters)}, but sets {sorted(unknown)}."
            )


@dataclass(frozen=True)
class Parameter:
    """A value of a cell that its instances may override: default, SI unit, meaning.

    Of a capacitance that is programmed, say what programs it in `meaning`.
    """

    value: float
    unit: str
    meaning: str


@dataclass(frozen=True)
class Expected:
    """A value the model predicts: `law` of the ports, in slot `slot` of the bench.

    A simulation passes when it is within `absolute + relative·|value|`.
    """

    name: str
    slot: int
    law: str
    value: float
    unit: str
    gate: Literal[
        "B1", "B2"
    ]  # static or transient (docs: the gates of `physnn verify`)
    absolute: float
    relative: float = 0.0

    @property
    def limit(self) -> float:
        return self.absolute + self.relative * abs(self.value)


@dataclass(frozen=True)
class Bench:
    """How to try a cell: what to drive, when to look, what to see.

    Time is cut into slots of `slot_s`. `drive` gives the voltage of a port in each
    slot, `clocks` the fractions of every slot in which a clock is high, `supplies` the
    constant voltages [V]. All voltages are against ground. Values are read at fraction
    `sample` of their slot. `max_step` is the longest time step as a fraction of a slot.
    """

    name: str
    slot_s: float
    drive: Mapping[str, tuple[float, ...]]
    expected: tuple[Expected, ...]
    clocks: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    supplies: Mapping[str, float] = field(default_factory=dict)
    clock_high_V: float = 0.0
    sample: float = 1.0
    max_step: float = 0.01

    @property
    def n_slots(self) -> int:
        return max(len(values) for values in self.drive.values())


@dataclass(frozen=True)
class Netlist:
    """A cell: ports, devices, instances of other cells, and how to try it.

    `notes` says what a reader must know: signal convention, timing, what is ideal.
    Raises `ValueError` for an illegal or repeated name, and for a net or parameter
    that is used without being there.
    """

    name: str
    ports: tuple[str, ...]
    devices: tuple[Device, ...] = ()
    instances: tuple[Instance, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    benches: tuple[Bench, ...] = ()
    notes: str = ""

    def __post_init__(self):
        check_name(self.name, "a cell")
        for what, names in (
            ("port", self.ports),
            ("device", [f"{device.kind} {device.name}" for device in self.devices]),
            ("instance", [instance.name for instance in self.instances]),
            ("parameter", list(self.parameters)),
        ):
            repeated = (
                {name for name in names if names.count(name) > 1}
                if (len(set(names)) < len(names))
                else ()
            )
            if repeated:
                raise ValueError(
                    f"Cell `{self.name}` must name every {what} once, but repeats"
                    f" {sorted(repeated)}."
                )
        nets = self.nets()
        for net in nets - {GROUND}:
            check_name(net, f"a net of `{self.name}`")
        for device in self.devices:
            law = device.law or "0"
            wanted = names_of(law) | {
                value for value in device.parameters.values() if isinstance(value, str)
            }
            for missing in sorted(wanted - set(self.parameters)):
                raise ValueError(
                    f"Device `{device.name}` of cell `{self.name}` must refer to its"
                    f" parameters {sorted(self.parameters)}, but uses `{missing}`."
                )
            for missing in sorted(nets_of(law) - nets):
                raise ValueError(
                    f"The law of `{device.name}` in cell `{self.name}` must read nets"
                    f" of the cell, but `{missing}` is none."
                )
        for bench in self.benches:
            driven = {*bench.drive, *bench.clocks, *bench.supplies}
            read = {net for e in bench.expected for net in nets_of(e.law)}
            if not driven | read <= set(self.ports):
                raise ValueError(
                    f"Bench `{bench.name}` must use the ports of cell `{self.name}`,"
                    f" but also uses {sorted((driven | read) - set(self.ports))}."
                )

    def nets(self) -> set[str]:
        """All nets of this cell, ports included."""
        elements = (*self.devices, *self.instances)
        return {*self.ports, *(net for element in elements for net in element.nets)}

    def cells(self) -> Iterator["Netlist"]:
        """This cell and every cell below it, each once, what is used before its user.

        Raises `ValueError` when two different cells have the same name.
        """
        seen: dict[str, Netlist] = {}

        def visit(cell: Netlist) -> Iterator[Netlist]:
            known = seen.get(cell.name)
            if known is not None:
                if known is not cell and known != cell:
                    raise ValueError(
                        f"Cells below `{self.name}` must have different names, but two"
                        f" different ones are called `{cell.name}`."
                    )
                return
            seen[cell.name] = cell
            for instance in cell.instances:
                yield from visit(instance.cell)
            yield cell

        yield from visit(self)

    def count(self, kind: str) -> int:
        """How many devices of a kind the cell has, instances included."""
        return sum(device.kind == kind for device in self.devices) + sum(
            instance.cell.count(kind) for instance in self.instances
        )
