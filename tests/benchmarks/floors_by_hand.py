"""The plainest program of what each family computes, written by hand, beside ours.

A case gives `(floor, ours, arguments)`: two functions of the same arguments, the last
of which is a key. What each floor contains is said in its docstring, and that both give
the same values is tested (`tests/test_benchmarks_floors.py`). Those of resonators,
oscillators and settling networks are in `test_family_speed.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx

from circuits.channel import ChannelLayer
from circuits.event_gate import EventGate
from circuits.lookup import lookup_layer
from circuits.mac import ChargeMac
from circuits.memory import ROW_RANGE, HashedMemory, hash_table
from circuits.state_space import GatedRC
from physnn.circuit import run
from physnn.fabricate import fabricate
from physnn.materialized import compiler_options
from physnn.process import load_process
from physnn.recurrence import linear_recurrence
from tests.benchmarks.memory import held_bytes
from tests.benchmarks.test_family_speed import CASES as DYNAMIC
from train.kernels import causal_attention, linear

PROCESS, PERIOD_S = load_process("cmos28"), 1e-6
QUIET = PROCESS.noiseless()


class Case(NamedTuple):
    """Two functions of the same arguments, the last of them a key."""

    floor: Callable
    ours: Callable
    arguments: tuple


class Sizes(NamedTuple):
    """Of the arrays that the cases take."""

    rows: int = 256  # of what has no time
    width: int = 512
    time: int = 256
    batch: int = 16


def uniform(*shape: int):
    return jr.uniform(jr.key(1), shape, minval=-1.0, maxval=1.0)


def rounded(x, full_scale, levels):
    """Fake quantization: clipped and rounded, gradient 1 inside."""
    held = jnp.where(jnp.abs(x) <= full_scale, x, jnp.sign(x) * full_scale)
    step = full_scale / levels
    return held + jax.lax.stop_gradient(jnp.round(held / step) * step - held)


def drawn(key, shape):
    """Unit variance from 16 random bits, as `physnn.noise.white` does."""
    words = jr.bits(key, (*shape[:-1], shape[-1] // 2), jnp.uint32)
    halves = [words & 0xFFFF, words >> 16]
    ones = jnp.concatenate([jax.lax.population_count(h) for h in halves], axis=-1)
    return (ones.astype(jnp.float32) - 8) / 2


def charge_mac(sizes: Sizes, *, noise: bool = True) -> Case:
    """A plain product: weights coded to 8 bits at 2.5 rms of their column, a normal for
    the mismatch of each of them, a draw of 16 bits for each output, a clip."""
    n = sizes.width
    there = PROCESS if noise else QUIET.matched()
    mac = ChargeMac(n, n, bits=8, process=PROCESS, key=jr.key(0))
    # As numbers: what they follow from is the circuit's.
    noise_rms = np.sqrt(np.asarray(mac.noise_variance(there)))
    unit = there.spread("capacitor", mac.weight.area_m2)

    def by_hand(mac, x, key):
        w, held = mac.weight.value, jax.lax.stop_gradient(mac.weight.value)
        rms = jnp.sqrt(jnp.mean(held * held, axis=0))
        largest = jnp.max(jnp.abs(held), axis=0)
        full_scale = jnp.minimum(largest, mac.weight.clip_sigma * rms)
        w = rounded(w, full_scale, 127)
        a, b = jr.split(key)
        if noise:
            size = jnp.sqrt(jnp.abs(w) * full_scale / 127)
            w = w + unit * jax.lax.stop_gradient(size) * jr.normal(a, w.shape)
        y = x @ w + mac.offset.value
        if noise:
            y = y + noise_rms * drawn(b, y.shape)
        return jnp.clip(y, -1.0, 1.0)

    def ours(mac, x, key):
        # Sizes are not trained unless Joules stand in the loss.
        size = jax.lax.stop_gradient(mac.weight.size)
        mac = eqx.tree_at(lambda mac: mac.weight.size, mac, size)
        a, b = jr.split(key)
        chip = fabricate(mac, there, key=a) if noise else mac
        return chip.apply(x, process=there, key=b)

    return Case(by_hand, ours, (mac, 0.5 * uniform(sizes.rows, n), jr.key(2)))


def channel(sizes: Sizes) -> Case:
    """A scan over the inputs that adds sgn(x)·sgn(w)·min(|x|, |w|) of one input to all
    outputs; JAX's gradient of that; a product for the leak. No noise."""
    n = sizes.width // 2
    layer = ChannelLayer(n, n, bits=8, key=jr.key(0))

    def by_hand(layer, x, key):
        del key
        w = layer.weight.value
        held = jax.lax.stop_gradient(jnp.clip(w, -1.0, 1.0))
        rms = jnp.sqrt(jnp.mean(held * held, axis=0))
        largest = jnp.max(jnp.abs(held), axis=0)
        w = rounded(w, jnp.minimum(largest, layer.weight.clip_sigma * rms), 127)

        def add(y, each):
            x, w = each
            limited = jnp.minimum(jnp.abs(x)[:, None], jnp.abs(w))
            return y + jnp.sign(x)[:, None] * jnp.sign(w) * limited, None

        y = jax.lax.scan(add, jnp.zeros((len(x), n)), (x.T, w))[0]
        y = (y + x @ (layer.leak * jnp.sign(w))) / layer.units + layer.offset.value
        return jnp.clip(y, -1.0, 1.0)

    ours = lambda layer, x, key: layer.apply(x, process=QUIET, key=key)
    return Case(by_hand, ours, (layer, 0.5 * uniform(sizes.rows, n), jr.key(2)))


def lookup(sizes: Sizes, *, k: int) -> Case:
    """A gather of the pins and one of the bits; backwards JAX's scatter-adds to pins
    and bits, and for each pin two gathers: the table with that pin high and low."""
    n_in, n = 2 * sizes.width, 8 * sizes.width
    layer = lookup_layer(n_in, n, k=k, blur=0.0, start="random", key=jr.key(0))
    wires, places = layer.wires(), 2 ** np.arange(k)
    table = np.arange(n)

    @jax.custom_vjp
    def read(pins, logits):
        return jnp.where(logits[table, addresses(pins)] > 0, 1.0, -1.0)

    def addresses(pins):
        return jnp.sum(jnp.where(pins > 0, places, 0), axis=-1)

    def backward(kept, dy):
        pins, logits = kept
        a = addresses(pins)
        p = jax.nn.sigmoid(logits)
        found = p[table, a]
        to_logits = jnp.zeros_like(logits)
        to_logits = to_logits.at[table, a].add(dy * 2 * found * (1 - found))
        to_pins = [dy * (p[table, a | bit] - p[table, a & ~bit]) for bit in places]
        return jnp.stack(to_pins, axis=-1), to_logits

    read.defvjp(lambda *given: (read(*given), given), backward)
    by_hand = lambda layer, x, key: read(x[:, wires], layer.trained)
    ours = lambda layer, x, key: layer.apply(x, process=QUIET, key=key)
    return Case(by_hand, ours, (layer, uniform(sizes.rows, n_in), jr.key(2)))


def memory(sizes: Sizes) -> Case:
    """Hash by table, gather of the rows, rounding to their codes; backwards JAX's
    scatter-add. Without the products and the gate behind it, which are other rows."""
    width = sizes.width // 4
    circuit = HashedMemory(
        width, bits=8, output_gain=1.0, process=PROCESS, key=jr.key(0)
    )
    past = circuit.longest - 1
    heads, rows, _ = circuit.table.shape
    held = jr.randint(jr.key(1), (past + sizes.time, sizes.batch), 0, 256)

    def by_hand(circuit, held, key):
        del key
        index = []
        for head, n in enumerate(circuit.orders):
            words = jnp.asarray(hash_table(head, n, (rows - 1).bit_length()))
            found = words[0][held[past:]]
            for place in range(1, n):
                found ^= words[place][held[past - place : len(held) - place]]
            index.append(found)
        index = jnp.stack(index, axis=-1)
        codes = circuit.table[np.arange(heads), index]
        codes = codes.reshape(*index.shape[:2], -1)
        return rounded(codes, ROW_RANGE, 2 ** (circuit.row_bits - 1) - 1)

    ours = lambda circuit, held, key: circuit.read(circuit.indices(held))
    return Case(by_hand, ours, (circuit, held, jr.key(2)))


def event_gate(sizes: Sizes) -> Case:
    """max(x − T, 0) with T = threshold + inhibition·rms(x). No noise."""
    gate = EventGate(sizes.width, threshold=0.1, inhibition=0.5)

    def by_hand(gate, x, key):
        del key
        rms = jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True) + gate.FLOOR**2)
        return jnp.maximum(x - gate.threshold.value - gate.inhibition * rms, 0.0)

    ours = lambda gate, x, key: gate.apply(x, process=QUIET, key=key)
    x = uniform(sizes.time, sizes.batch, sizes.width)
    return Case(by_hand, ours, (gate, x, jr.key(2)))


def attention(sizes: Sizes) -> Case:
    """`jax.nn.dot_product_attention`, 4 heads of 32."""
    shape = (sizes.batch, sizes.time, 4, 32)
    qkv = tuple(jr.normal(jr.key(i), shape) for i in range(3))
    plain = partial(jax.nn.dot_product_attention, is_causal=True)
    without_key = lambda f: lambda q, k, v, key: f(q, k, v)
    return Case(without_key(plain), without_key(causal_attention), (*qkv, jr.key(0)))


def dense(sizes: Sizes) -> Case:
    """A plain product over the last axis of `(batch, time, width)`."""
    shape = (sizes.width // 4, sizes.width)
    layer = linear(*shape, rngs=nnx.Rngs(0))
    split = nnx.split(layer)
    given = (split[1], uniform(sizes.batch, sizes.time, shape[0]), jr.key(0))
    by_hand = lambda params, x, key: x @ params["kernel"][...]
    ours = lambda params, x, key: nnx.merge(split[0], params)(x)
    return Case(by_hand, ours, given)


def recurrence(sizes: Sizes) -> Case:
    """`jax.lax.scan` of v ← α·v + β, and JAX's gradient of it."""
    shape = (sizes.time, sizes.batch, 168)
    alpha, beta = jr.uniform(jr.key(0), shape), jr.normal(jr.key(1), shape)

    def by_hand(alpha, beta, v0, key):
        del key

        def body(v, each):
            v = each[0] * v + each[1]
            return v, v

        return jax.lax.scan(body, v0, (alpha, beta))[1]

    ours = lambda alpha, beta, v0, key: linear_recurrence(alpha, beta, v0)
    return Case(by_hand, ours, (alpha, beta, jnp.zeros(shape[1:]), jr.key(0)))


def gated_rc(sizes: Sizes) -> Case:
    """A scan that takes gate, leak and exact step of each token inside. No noise."""
    cell = GatedRC(168, period_s=PERIOD_S)
    xs = uniform(sizes.time, sizes.batch, cell.n_in)

    def by_hand(cell, xs, key):
        del key
        leak = QUIET.node_leakage_S * PERIOD_S / cell.state_F

        def token(v, x):
            u, s = jnp.split(x, 2, axis=-1)
            steer = 2 * (s + cell.offset.value) / QUIET.linear_range()
            rate = cell.rate_max * jax.nn.sigmoid(steer)
            kept = jnp.exp(-(rate + leak))
            v = kept * v + (1 - kept) * u * rate / (rate + leak)
            return v, v

        return jax.lax.scan(token, jnp.zeros((*xs.shape[1:-1], cell.n_out)), xs)[1]

    ours = lambda cell, xs, key: run(cell, xs, process=QUIET, key=key)
    return Case(by_hand, ours, (cell, xs, jr.key(0)))


def dynamic(sizes: Sizes, *, name: str) -> Case:
    """A scan over tokens by hand (`test_family_speed.py`), which takes 256 of 16."""
    del sizes
    build, by_hand = DYNAMIC[name]
    cell = build()
    xs = jr.uniform(jr.key(1), (256, 16, cell.n_in), minval=-0.5, maxval=0.5)
    floor = lambda cell, xs, key: by_hand(cell, xs)
    ours = lambda cell, xs, key: run(cell, xs, process=QUIET, key=key)
    return Case(floor, ours, (cell, xs, jr.key(0)))


CASES: dict[str, Callable[[Sizes], Case]] = {
    "charge MAC, a new chip each step": charge_mac,
    "channel synapses": channel,
    "lookup tables of 2 inputs": partial(lookup, k=2),
    "lookup tables of 4 inputs": partial(lookup, k=4),
    "lookup tables of 6 inputs": partial(lookup, k=6),
    "hashed memory": memory,
    "event gate": event_gate,
    "linear recurrence": recurrence,
    "gated RC states": gated_rc,
    "resonators": partial(dynamic, name="resonators"),
    "phase oscillators": partial(dynamic, name="oscillators"),
    "settling network": partial(dynamic, name="settling"),
    "transformer: attention": attention,
    "transformer: dense layer": dense,
}


def gradient(function: Callable, arguments: tuple) -> tuple[Callable, int]:
    """A step that computes value and gradient; bytes it holds at most."""
    arrays, static = eqx.partition(arguments, eqx.is_array)
    real, other = eqx.partition(arrays, eqx.is_inexact_array)

    def loss(real, other):
        return jnp.mean(jnp.square(function(*eqx.combine(real, other, static))))

    slope = jax.jit(jax.value_and_grad(loss), compiler_options=compiler_options())
    program = slope.lower(real, other).compile()
    return lambda: program(real, other), held_bytes(program)
