"""What a device does in a compiled program, read from its text: flops, bytes, sends.

XLA's own cost analysis counts the body of a loop once; here it counts as often as the
loop runs, where XLA knows how often.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
# What moves nothing by itself: names of buffers, and what is counted inside.
_FREE = frozenset(
    (
        *("parameter", "constant", "iota", "partition-id", "replica-id"),
        *("tuple", "get-tuple-element", "bitcast", "opt-barrier", "after-all"),
        *("while", "call", "conditional"),
        *("all-gather-done", "all-reduce-done", "copy-done"),
    )
)
_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f64": 8,
    "s64": 8,
    "u64": 8,
    "token": 0,
}
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^ *(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z\-]*)\((.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(r"\b(?:body|calls|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count":\{"n":"(\d+)"')
_CONTRACTED = re.compile(r"lhs_contracting_dims=\{([\d,]*)\}")
# Which devices a collective joins: a mesh and its axes, rows of devices, or a list.
_BY_MESH = re.compile(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}")
_BY_ROWS = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_BY_LIST = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_AXIS = re.compile(r"'([^']+)'=(\d+)")


@dataclass
class Cost:
    """What one device does in one run of a program.

    `flops`: of products of matrices, a multiplication and an addition each.
    `moved_bytes`: read and written by instructions outside of fusions, an upper bound
    of what reaches its memory. `sent_bytes`: results of collectives by kind;
    `wire_bytes`: what leaves a device where all join in rings (Patarasuk & Yuan 2009,
    DOI 10.1016/j.jpdc.2008.09.002).
    """

    flops: float = 0.0
    moved_bytes: float = 0.0
    sent_bytes: dict[str, float] = field(default_factory=dict)
    wire_bytes: float = 0.0

    def add(self, other: "Cost", times: float = 1.0) -> None:
        self.flops += times * other.flops
        self.moved_bytes += times * other.moved_bytes
        self.wire_bytes += times * other.wire_bytes
        for kind, n in other.sent_bytes.items():
            self.sent_bytes[kind] = self.sent_bytes.get(kind, 0) + times * n


class _Instruction(NamedTuple):
    name: str
    result: str  # its type
    kind: str
    rest: str  # operands and attributes
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names; what follows the closing bracket is called, not read."""
        return _NAME.findall(self.rest.partition(")")[0])

    @property
    def called(self) -> list[str]:
        return _CALLED.findall(self.rest)


def cost_of(program: str) -> Cost:
    """The cost of a compiled program's text, per device."""
    computations, entry = _read(program)
    return _Counter(computations).of(entry)


def _read(program: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = defaultdict(list)
    here = entry = ""
    for line in program.splitlines():
        if header := _COMPUTATION.match(line):
            here = header[2]
            entry = here if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            root, name, result, kind, rest = found.groups()
            computations[here].append(
                _Instruction(name, result, kind, rest, bool(root))
            )
    return computations, entry


class _Counter:
    def __init__(self, computations: Mapping[str, list[_Instruction]]):
        self.computations = computations
        self.known: dict[tuple[str, bool], Cost] = {}

    def of(self, name: str, *, fused: bool = False) -> Cost:
        """Of a computation; one that is `fused` moves nothing between its parts."""
        if (name, fused) in self.known:
            return self.known[name, fused]
        total = self.known[name, fused] = Cost()
        body = self.computations.get(name, [])
        types = {each.name: each.result for each in body}
        for each in body:
            trips = _TRIPS.search(each.rest)
            inside = fused or each.kind not in ("while", "call", "conditional")
            for called in each.called:
                times = float(trips[1]) if trips else 1.0
                total.add(self.of(called, fused=inside), times)
            kind = each.kind.removesuffix("-start")
            if kind == "dot":
                total.flops += _flops(each, types)
            if kind in COLLECTIVES:
                size = _size(each.result)
                sent = {kind: float(size)}
                total.add(Cost(0.0, 0.0, sent, _on_wires(kind, size, each)))
            if not fused and kind not in _FREE:
                total.moved_bytes += self._moved(each, types)
        return total

    def _moved(self, each: _Instruction, types: Mapping[str, str]) -> int:
        """What is written and read; of an array that is cut or updated, that part."""
        operands = [types.get(name, "") for name in each.operands]
        if each.kind in ("dynamic-slice", "slice", "gather"):
            return 2 * _size(each.result)
        if each.kind == "dynamic-update-slice":
            return 2 * _size(operands[1])
        if each.kind != "fusion":
            return _size(each.result) + sum(map(_size, operands))
        body = self.computations.get(each.called[0], [])
        inner = {i.name: i for i in body}
        written = _size(each.result)
        read = dict(enumerate(map(_size, operands)))
        numbers = {
            i.name: int(i.rest.partition(")")[0]) for i in body if i.kind == "parameter"
        }
        readers: dict[str, list[_Instruction]] = defaultdict(list)
        for i in body:
            for name in i.operands:
                readers[name].append(i)
        for name, number in numbers.items():
            users = _through(name, readers)
            # Not as the index of a cut: as what is cut.
            if any(name not in _sources(u.operands[0], inner) for u in users):
                continue
            if users and all(u.kind == "dynamic-slice" for u in users):
                read[number] = sum(_size(u.result) for u in users)
            elif len(users) == 1 and users[0].kind == "dynamic-update-slice":
                # In place: the array is not read, and its update is written.
                part = inner.get(users[0].operands[1])
                read[number] = 0
                written -= _size(users[0].result)
                written += _size(part.result) if part else 0
        return max(written, 0) + sum(read.values())


def _through(name: str, readers: Mapping[str, list[_Instruction]]):
    """Who reads a value, also under another name or shape."""
    found = []
    for user in readers.get(name, []):
        found += _through(user.name, readers) if user.kind == "bitcast" else [user]
    return found


def _sources(name: str, inner: Mapping[str, _Instruction]) -> set[str]:
    found = {name}
    while name in inner and inner[name].kind == "bitcast":
        name = inner[name].operands[0]
        found.add(name)
    return found


def _flops(each: _Instruction, types: Mapping[str, str]) -> int:
    (_, left), *_ = _arrays(types.get(each.operands[0], "")) or [("", ())]
    dims = _CONTRACTED.search(each.rest)
    axes = [int(i) for i in dims[1].split(",") if i] if dims else []
    contracted = math.prod(left[i] for i in axes)
    return 2 * contracted * sum(math.prod(shape) for _, shape in _arrays(each.result))


def _on_wires(kind: str, size: int, each: _Instruction) -> float:
    n = _joined(each.rest)
    if n < 2 and kind != "collective-permute":
        return 0.0
    return (
        size
        * {
            "all-gather": (n - 1) / n,
            "all-reduce": 2 * (n - 1) / n,
            "reduce-scatter": n - 1,
            "all-to-all": (n - 1) / n,
            "collective-permute": 1,
        }[kind]
    )


def _joined(attributes: str) -> int:
    """How many devices a collective joins; 2 where its text does not tell."""
    if by_mesh := _BY_MESH.search(attributes):
        lengths = dict(_AXIS.findall(by_mesh[1]))
        named = re.findall(r"'([^']+)'", by_mesh[2])
        return math.prod(int(lengths[axis]) for axis in named)
    if by_rows := _BY_ROWS.search(attributes):
        return int(by_rows[1])
    if by_list := _BY_LIST.search(attributes):
        return len(by_list[1].split(","))
    return 2


def _arrays(result: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (kind, tuple(int(n) for n in shape.split(",") if n))
        for kind, shape in _ARRAY.findall(result)
    ]


def _size(result: str) -> int:
    """Bytes of the arrays in the type of a result."""
    return sum(
        math.prod(shape) * _BYTES.get(kind, 4) for kind, shape in _arrays(result)
    )
