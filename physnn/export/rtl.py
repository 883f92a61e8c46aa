"""Verilog: tables as parameters or as trees of choices, registers around them, benches.

What is written is IEEE 1364-2005 that Icarus, Verilator and Yosys read alike. The
combinational module has the present registers `s` as inputs and what they take over
(`s_next`) as outputs, so that it can be proven equal to other descriptions; the module
`<name>_clocked` holds the registers.
"""

import re

import numpy as np

from physnn.export.logic import HashedRoms, Logic, Tables

# Above this many tables the tree of choices: a netlist of it takes a quarter of the
# memory (0.25 instead of 1.4 GB for 1,024 tables of six inputs in Yosys 0.23).
READABLE = 500


def write_logic(name: str, logic: Logic) -> str:
    """Both modules of a network of tables: `name` and `name`_clocked."""
    n_s = len(logic.registers)
    ports = [("input", logic.n_in, "x")]
    if n_s:
        ports += [("input", n_s, "s"), ("output", n_s, "s_next")]
    ports.append(("output", len(logic.outputs), "y"))
    names = logic.names()
    lines = [f"// {name}: {logic.n_tables} lookup tables, {n_s} registers"]
    lines += _module(name, ports)
    # One wire per signal: Icarus takes minutes for the bits of a vector of thousands.
    groups = [("x", logic.n_in), ("s", n_s)]
    lines += [f"  wire {v}_{i} = {v}[{i}];" for v, n in groups for i in range(n)]
    write = _parameters if logic.n_tables <= READABLE else _choices
    for i, layer in enumerate(logic.layers):
        lines += write(layer, i, names)
    for port, signals in (("s_next", logic.registers), ("y", logic.outputs)):
        if signals:
            lines += [f"  assign {port} = {{", *_listed(signals, names), "  };"]
    lines.append("endmodule")
    return "\n".join([*lines, *_clocked(name, logic)]) + "\n"


def write_roms(name: str, roms: HashedRoms) -> str:
    """The module `name`_clocked of hashed ROMs; it reads the files of `rom_files`."""
    lines = [f"// {name}: {len(roms.rows)} ROMs, found by hashing the last bytes"]
    clocked = [("input", 1, "clk"), ("input", 1, "reset")]
    lines += _module(f"{name}_clocked", [*clocked, ("input", 8, "x")], roms.n_out)
    lines += [f"  reg [7:0] past{i};" for i in range(1, roms.n_past + 1)]
    loads = []
    for head, (words, rows) in enumerate(zip(roms.hashes, roms.rows, strict=True)):
        for place in range(len(words)):
            rom = f"hash{head}_{place}"
            lines.append(f"  reg [{roms.index_bits - 1}:0] {rom} [0:255];")
            loads.append(f'    $readmemh("../rom/{name}_{rom}.hex", {rom});')
        lines.append(f"  reg [{roms.row_bits - 1}:0] rows{head} [0:{len(rows) - 1}];")
        loads.append(f'    $readmemh("../rom/{name}_rows{head}.hex", rows{head});')
    lines += ["  initial begin", *loads, "  end"]
    for head, words in enumerate(roms.hashes):
        terms = [
            f"hash{head}_{place}[{f'past{place}' if place else 'x'}]"
            for place in range(len(words))
        ]
        low, width = head * roms.row_bits, roms.row_bits
        lines += [
            f"  wire [{roms.index_bits - 1}:0] index{head};",
            f"  assign index{head} = {' ^ '.join(terms)};",
            f"  assign y[{low + width - 1}:{low}] = rows{head}[index{head}];",
        ]
    moves = [("past1", "x")] if roms.n_past else []
    moves += [(f"past{i}", f"past{i - 1}") for i in range(2, roms.n_past + 1)]
    lines += _registers([(name, "8'h00", value) for name, value in moves])
    return "\n".join([*lines, "endmodule"]) + "\n"


def write_bench(name: str, *, n_in: int, n_out: int, n_vectors: int) -> str:
    """A bench of `name`_clocked: all vectors in order, from reset on.

    Prints `RESULT <name>_mismatches n` and how many vectors it compared. Vectors are
    `vectors/<name>_x.hex` and `_y.hex`, read from a folder beside that one.
    """
    last = n_vectors - 1
    return "\n".join(
        [
            f"// bench of {name}_clocked: {n_vectors} vectors of the model",
            f"module tb_{name};",
            f"  reg [{n_in - 1}:0] xs [0:{last}];",
            f"  reg [{n_out - 1}:0] ys [0:{last}];",
            f"  reg [{n_in - 1}:0] x;",
            f"  wire [{n_out - 1}:0] y;",
            "  reg clk, reset;",
            "  integer i, compared, wrong;",
            f"  {name}_clocked dut(.clk(clk), .reset(reset), .x(x), .y(y));",
            "  initial begin",
            f'    $readmemh("../vectors/{name}_x.hex", xs);',
            f'    $readmemh("../vectors/{name}_y.hex", ys);',
            "    compared = 0; wrong = 0; clk = 0; reset = 1; x = xs[0];",
            "    #1 clk = 1; #1 clk = 0; reset = 0;",
            f"    for (i = 0; i < {n_vectors}; i = i + 1) begin",
            "      x = xs[i];",
            "      #1 if (^ys[i] !== 1'bx) compared = compared + 1;",
            "      if (y !== ys[i]) wrong = wrong + 1;",
            "      #1 clk = 1; #1 clk = 0;",
            "    end",
            f'    $display("RESULT {name}_vectors %0d", compared);',
            f'    $display("RESULT {name}_mismatches %0d", wrong);',
            "  end",
            "endmodule",
            "",
        ]
    )


def rom_files(name: str, roms: HashedRoms) -> dict[str, str]:
    """The contents of ROMs for `$readmemh`, by file name."""
    files = {}
    for head, (words, rows) in enumerate(zip(roms.hashes, roms.rows, strict=True)):
        for place, column in enumerate(words):
            bits = (column[:, None] >> np.arange(roms.index_bits)) & 1
            files[f"{name}_hash{head}_{place}.hex"] = to_hex(bits)
        files[f"{name}_rows{head}.hex"] = to_hex(roms.to_bits(rows))
    return files


def to_hex(bits: np.ndarray) -> str:
    """Rows of bits `(n, width)`, the lowest bit first, as lines for `$readmemh`."""
    width = bits.shape[1]
    packed = np.packbits(bits.astype(np.uint8), axis=1, bitorder="little")
    digits = -(-width // 4)
    lines = [row[::-1].tobytes().hex()[-digits:] for row in packed]
    return "\n".join(lines) + "\n"


def _module(name: str, ports, n_out: int | None = None) -> list[str]:
    ports = [*ports, *([("output", n_out, "y")] if n_out else [])]
    heads = [f"  {way} wire [{width - 1}:0] {port}" for way, width, port in ports]
    return [f"module {name}(", ",\n".join(heads), ");"]


def _listed(signals: tuple[int, ...], names: list[str]) -> list[str]:
    """The signals of a concatenation, the highest bit first, ten to a line."""
    words = [names[signal] for signal in reversed(signals)]
    rows = [", ".join(words[i : i + 10]) for i in range(0, len(words), 10)]
    return [*(f"    {row}," for row in rows[:-1]), f"    {rows[-1]}"]


def _parameters(layer: Tables, index: int, names: list[str]) -> list[str]:
    """Each table as a number, bit a of which is its entry a."""
    entries = layer.bits.shape[1]
    lines = []
    for j, (bits, wires) in enumerate(zip(layer.bits, layer.wires, strict=True)):
        pins = ", ".join(names[wire] for wire in wires[::-1])
        word = to_hex(bits[None]).strip()
        lines += [
            f"  localparam [{entries - 1}:0] T{index}_{j} = {entries}'h{word};",
            f"  wire t{index}_{j} = T{index}_{j}[{{{pins}}}];",
        ]
    return lines


def _choices(layer: Tables, index: int, names: list[str]) -> list[str]:
    """Each table as a tree of choices, the highest pin at its root."""
    return [
        f"  wire t{index}_{j} = {_choice(bits, [names[wire] for wire in wires])};"
        for j, (bits, wires) in enumerate(zip(layer.bits, layer.wires, strict=True))
    ]


def _choice(bits: np.ndarray, pins: list[str]) -> str:
    if bits.min() == bits.max():
        return f"1'b{bits[0]}"
    low, high = np.split(bits, 2)
    pin, below = pins[-1], pins[:-1]
    if np.array_equal(low, high):
        return _choice(low, below)
    if low.max() == 0 and high.min() == 1:
        return pin
    if low.min() == 1 and high.max() == 0:
        return f"~{pin}"
    return f"({pin} ? {_choice(high, below)} : {_choice(low, below)})"


def _clocked(name: str, logic: Logic) -> list[str]:
    n_s = len(logic.registers)
    ports = [("input", 1, "clk"), ("input", 1, "reset"), ("input", logic.n_in, "x")]
    lines = _module(f"{name}_clocked", ports, len(logic.outputs))
    wires = ".x(x), .y(y)"
    if n_s:
        lines += [f"  reg [{n_s - 1}:0] s;", f"  wire [{n_s - 1}:0] s_next;"]
        wires = ".x(x), .s(s), .s_next(s_next), .y(y)"
    lines.append(f"  {name} tables({wires});")
    if n_s:
        lines += _registers([("s", f"{n_s}'h0", "s_next")])
    return [*lines, "endmodule"]


def _registers(moves: list[tuple[str, str, str]]) -> list[str]:
    if not moves:
        return []
    lines = ["  always @(posedge clk) begin"]
    for register, start, value in moves:
        lines.append(f"    {register} <= reset ? {start} : {value};")
    return [*lines, "  end"]


_NAME = r"[a-z][a-z0-9_]*"
_SIGNAL = r"[xst][0-9]*_[0-9]+"
_RANGE = r"\[[0-9]+:0\]"
_LINE = re.compile(
    rf"// [ -~]*|module {_NAME}\(|endmodule|\);|  end|  \}};|  initial begin"
    rf"|  (input|output) wire {_RANGE} {_NAME},?|    {_SIGNAL}(, {_SIGNAL})*,?"
    rf"|  (wire|reg) {_RANGE} {_NAME}( \[0:[0-9]+\])?;|  assign {_NAME} = \{{"
    rf"|  wire {_SIGNAL} = [xs]\[[0-9]+\];"
    rf"|  localparam {_RANGE} T[0-9]+_[0-9]+ = [0-9]+'h[0-9a-f]+;"
    rf"|  wire {_SIGNAL} = T[0-9]+_[0-9]+\[\{{{_SIGNAL}(, {_SIGNAL})*\}}\];"
    r"|  wire t[0-9]+_[0-9]+ = [xst0-9_()?:~ 'b]+;"
    rf"|  assign y\[[0-9]+:[0-9]+\] = {_NAME}\[{_NAME}\];"
    rf"|  assign {_NAME} = {_NAME}\[{_NAME}\]( \^ {_NAME}\[{_NAME}\])*;"
    rf"|  {_NAME} tables\([.a-z_(), ]*\);|  always @\(posedge clk\) begin"
    rf"|    {_NAME} <= reset \? [0-9]+'h[0-9a-f]+ : {_NAME};"
    rf'|    \$readmemh\("\.\./rom/{_NAME}\.hex", {_NAME}\);'
)


def forbidden(text: str) -> str | None:
    """The first line of Verilog that `write_logic` would not have written, or None.

    Verilog is a program: it opens files and, in Verilator, runs C++ and the shell.
    """
    for line in text.splitlines():
        if not _LINE.fullmatch(line):
            return line
    return None
