"""Logic of a design as Verilog, BLIF and ROMs: what is written, and what is refused."""

import re

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from circuits.blocks.base import Site
from circuits.blocks.lookup import LookupBlock
from circuits.lookup import lookup_layer, softened, truth_tables
from circuits.memory import HashedMemory
from physnn import load_process
from physnn.export import blif, rtl
from physnn.export.digital import INDEX, N_VECTORS, files
from physnn.export.logic import Logic, Tables, chained, digital_parts, trial_bits

PROCESS = load_process("cmos28")


def layer(n_in, n, *, k=3, key=0, seed=0):
    return lookup_layer(n_in, n, k=k, start="random", seed=seed, key=jr.key(key))


def small_memory():
    return HashedMemory(
        3,
        longest=3,
        index_bits=4,
        row=2,
        row_bits=4,
        bits=4,
        output_gain=1.0,
        process=PROCESS,
        key=jr.key(2),
    )


@pytest.fixture(scope="module")
def mixer():
    block = LookupBlock(n_states=3, n_tables=4, k=4, seed=1)
    mixer = block.build(Site(3, PROCESS, jr.key(1)))
    # As if trained: tables that use all of their pins.
    random = lambda part, seed: jr.normal(jr.key(seed), part.trained.shape)
    state = mixer.state.with_stored(random(mixer.state, 5))
    tables = mixer.tables.with_stored(random(mixer.tables, 6))
    object.__setattr__(mixer, "state", state)
    object.__setattr__(mixer, "tables", tables)
    return mixer


def read_verilog_tables(text):
    """Table and pins of each signal, from the Verilog alone."""
    words = dict(re.findall(r"localparam \[\d+:0\] (T\w+) = \d+'h([0-9a-f]+);", text))
    found = {}
    for signal, table, pins in re.findall(r"wire (t\w+) = (T\w+)\[\{(.*?)\}\];", text):
        found[signal] = (int(words[table], 16), pins.split(", ")[::-1])
    return found


def test_verilog_of_a_layer_holds_its_tables_with_the_first_pin_lowest():
    circuit = layer(7, 5)
    found = read_verilog_tables(rtl.write_logic("a", circuit.logic(PROCESS)))
    for j, (bits, wires) in enumerate(
        zip(truth_tables(circuit), circuit.wires(), strict=True)
    ):
        word, pins = found[f"t0_{j}"]
        assert [(word >> a) & 1 for a in range(8)] == bits.tolist()
        assert pins == [f"x_{wire}" for wire in wires]


def test_a_tree_of_choices_is_the_table():
    rng = np.random.default_rng(0)
    pins = ["x_0", "x_1", "x_2", "x_3"]
    tables = [rng.integers(0, 2, 16) for _ in range(20)]
    tables += [
        np.zeros(16, int),
        np.ones(16, int),
        np.arange(16) >> 3,
        np.arange(16) % 2,
    ]
    for bits in tables:
        text = rtl._choice(bits.astype(np.uint8), pins)
        # As Python: `a ? b : c` is `b if a else c`.
        text = text.replace("1'b", "").replace("~", "1^")
        while "?" in text:
            text = re.sub(
                r"\((x_\d) \? ([^()?]*) : ([^()?]*)\)", r"<\2 if \1 else \3>", text
            )
        text = text.replace("<", "(").replace(">", ")")
        for address in range(16):
            values = {pin: (address >> i) & 1 for i, pin in enumerate(pins)}
            assert eval(text, {}, values) == bits[address], (text, address)


def test_state_bits_are_registers_and_readers_see_what_is_written(mixer):
    logic = mixer.logic(PROCESS)
    assert (logic.n_in, len(logic.registers), len(logic.outputs)) == (6, 3, 4)
    xs = trial_bits(12, 6)
    found, states = logic.evaluate(xs)
    assert not states[0].any()
    # Step by step through the circuit, not through its scan.
    state, seen = mixer.state.init_state(()), []
    for x in 2 * xs.astype(np.float32) - 1:
        seen.append(np.asarray(state) > 0)
        state, y = mixer._bits(
            "step", state, jnp.asarray(x), process=PROCESS.noiseless(), key=jr.key(0)
        )
        assert np.array_equal(found[len(seen) - 1], np.asarray(y) > 0)
    assert np.array_equal(states, np.stack(seen))
    assert states.any()


def test_layers_one_after_another_read_what_the_one_before_gives():
    first, second = layer(5, 6, key=1), layer(6, 4, key=2, seed=3)
    parts = [first.logic(PROCESS), second.logic(PROCESS)]
    whole = chained(parts, lambda bits: parts[1].model(parts[0].model(bits)))
    whole.evaluate(trial_bits(50, 5))  # raises where they differ
    assert whole.n_tables == 10


def test_rows_of_a_memory_are_found_by_the_hash_of_its_roms():
    memory = small_memory()
    made = files([memory], PROCESS)
    words = [int(line, 16) for line in made["rom/cell_0_rows1.hex"].split()]
    hashes = [
        [int(w, 16) for w in made[f"rom/cell_0_hash1_{place}.hex"].split()]
        for place in range(3)
    ]
    text = np.asarray([7, 255, 0, 31, 7], np.int64)
    logic = memory.logic(PROCESS)
    held = np.concatenate([[0, 0], text])
    for t, codes in enumerate(logic.model(text)):
        index = hashes[0][held[t + 2]] ^ hashes[1][held[t + 1]] ^ hashes[2][held[t]]
        signed = [(words[index] >> (4 * i)) & 15 for i in range(2)]
        assert [code - 16 * (code > 7) for code in signed] == codes[2:].tolist()


def test_a_design_gives_the_whole_of_each_part_and_enough_vectors(mixer):
    made = files({"a": mixer, "b": [layer(7, 5)]}, PROCESS)
    assert {name for name in made if name.startswith("rtl/")} == {
        INDEX,
        *(f"rtl/{tb}{part}.v" for tb in ("", "tb_") for part in ("a", "b_0")),
    }
    assert N_VECTORS >= 500
    assert len(made["vectors/a_y.hex"].split()) == N_VECTORS
    assert made == files({"a": mixer, "b": [layer(7, 5)]}, PROCESS)
    assert files([jnp.ones(3)], PROCESS) == {}


def test_tables_that_are_not_what_the_circuit_computes_are_refused():
    circuit = layer(4, 3)
    logic = circuit.logic(PROCESS)
    wrong = 1 - logic.layers[0].bits
    inverted = Logic(
        4, (Tables(wrong, circuit.wires(), 1e-15),), logic.outputs, logic.model
    )
    with pytest.raises(ValueError, match="must compute what the circuit does"):
        inverted.evaluate(trial_bits(8, 4))
    with pytest.raises(ValueError, match="before them"):
        Logic(2, logic.layers, logic.outputs, logic.model)
    with pytest.raises(ValueError, match="hold 8 bits"):
        Tables(wrong[:, :4], circuit.wires(), 1e-15)
    real = HashedMemory(
        3, longest=2, index_bits=3, row=2, row_bits=None, bits=4, output_gain=1.0,
        process=PROCESS, key=jr.key(2),
    )  # fmt: skip
    with pytest.raises(ValueError, match="hold real numbers"):
        list(digital_parts([real], PROCESS))
    assert softened(circuit).logic(PROCESS).n_tables == 3


def test_only_text_that_an_export_writes_gets_through(mixer):
    made = files([mixer, small_memory()], PROCESS)
    verilog = made["rtl/cell_0.v"].decode()
    many = rtl._choices(layer(4, 3).logic(PROCESS).layers[0], 0, ["x_0"] * 4)
    assert rtl.forbidden(verilog) is None
    assert rtl.forbidden(made["rtl/cell_1.v"].decode()) is None
    assert rtl.forbidden("\n".join(many)) is None
    assert blif.forbidden(made["blif/cell_0.blif"].decode()) is None
    for line in (
        '  initial $system("touch x");',
        '`include "/etc/passwd"',
        '    $readmemh("/etc/passwd", rows0);',
        '    $readmemh("../rom/../../x.hex", rows0);',
        "  wire t0_0 = $fopen(1);",
        "  wire t0_0 = $c(1);",
    ):
        assert rtl.forbidden(verilog + line) == line
    for line in (".search /etc/passwd", ".names a;shell", ".subckt a b=c"):
        assert blif.forbidden(line) == line
