"""Counted tables: interpolated n-gram counts, the model that learns nothing."""

import math
from dataclasses import dataclass
from typing import Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, Float64, Int, Integer, Key, UInt, UInt8

from circuits.rom import rom_wires_C
from physnn.energy.events import Event, token_events
from physnn.process import Process

SYMBOLS = 256
# A gram is held as one 64-bit key: seven bytes of context at most, and the symbol.
MAX_ORDER = 7
# Before the first byte of a window nothing is known.
UNKNOWN = -1

# Mean probes of a lookup that fails in a hash table half full, linear probing (Knuth
# 1998, The Art of Computer Programming 3, 6.4, theorem K): no lookup takes more.
PROBES = 2.5
# The two weights of a context, 1/(N+T) and T/(N+T), as codes.
WEIGHT_BITS = 16
# A 32-bit multiplication in 32-bit additions: 3.1 pJ over 0.1 pJ at 45 nm (Horowitz
# 2014, DOI 10.1109/ISSCC.2014.6757323).
ADDS_PER_MULTIPLY = 31


@dataclass(frozen=True)
class Order:
    """The contexts of one length, and what followed each of them.

    Context i owns the grams `first[i]` to `first[i + 1]`.
    """

    contexts: np.ndarray  # (contexts,) sorted keys of the bytes before
    first: np.ndarray  # (contexts + 1,)
    total: np.ndarray  # (contexts,) N, the sum of the counts
    grams: np.ndarray  # (grams,) sorted keys of context and symbol, the symbol last
    counts: np.ndarray  # (grams,) how often each was seen


class CountedTables:
    """Byte counts after contexts of 0 to `order` bytes, Witten-Bell interpolated.

        p_k(s | c) = (n(c, s) + T(c)·p_(k−1)(s | c′)) / (N(c) + T(c)),  p_(−1) = 1/256

    n counts symbol s after context c of k bytes, N is the sum of n over s, T the number
    of different symbols seen there, c′ the context without its oldest byte. A context
    that was never seen has p_k = p_(k−1).

    Reference: Witten & Bell 1991, "The zero-frequency problem", DOI 10.1109/18.87000,
    method C, interpolated.
    """

    def __init__(self, orders: tuple[Order, ...], *, n_tokens: int):
        self.orders, self.n_tokens = orders, n_tokens

    @staticmethod
    def count(tokens: UInt[np.ndarray, " time"], order: int) -> "CountedTables":
        """Count a text once, from its start to its end.

        Raises `ValueError` for an order outside 0..7, a text that is not longer, and
        more than 256 symbols.
        """
        _check_order(order)
        if tokens.dtype.itemsize > 1:
            raise ValueError(
                "Argument `tokens` must be bytes or other small symbols to be counted,"
                f" but is of type {tokens.dtype}: take a vocabulary of 256 at most."
            )
        if len(tokens) <= order:
            raise ValueError(
                f"Argument `tokens` must hold more than {order} bytes, but holds"
                f" {len(tokens)}."
            )
        symbols = np.asarray(tokens).astype(np.uint64)
        keys, orders = symbols, []
        for k in range(order + 1):
            if k:  # one older byte in front of each gram of the order below
                keys = symbols[:-k] << np.uint64(8 * k) | keys[1:]
            orders.append(_counted(keys))
        return CountedTables(tuple(orders), n_tokens=len(tokens))

    @property
    def order(self) -> int:
        """Length of the longest context."""
        return len(self.orders) - 1

    def log_probabilities(
        self, contexts: Integer[np.ndarray, "n order"]
    ) -> Float64[np.ndarray, "n 256"]:
        """Natural log of the probability of every next byte, oldest byte first.

        An `UNKNOWN` (-1) byte ends a context: only what is newer is looked up.
        """
        p = np.full((len(contexts), SYMBOLS), 1 / SYMBOLS)
        for k, table in enumerate(self.orders):
            rows, at = _find(table, contexts, k)
            first = table.first[at]
            distinct = table.first[at + 1] - first
            weight = 1 / (table.total[at] + distinct)
            p[rows] *= (distinct * weight)[:, None]
            # Every gram of every row at once; none comes twice.
            row = np.repeat(np.arange(len(rows)), distinct)
            before = np.repeat(np.cumsum(distinct) - distinct, distinct)
            gram = first[row] + np.arange(len(row)) - before
            symbol = (table.grams[gram] & np.uint64(0xFF)).astype(np.intp)
            p[rows[row], symbol] += table.counts[gram] * weight[row]
        return np.log(p)

    def bits(
        self, tokens: UInt8[np.ndarray, " time"], *, start: int = 0
    ) -> Float64[np.ndarray, " scored"]:
        """Bits that each byte from `start` on takes; all bytes before it are known."""
        tokens = np.asarray(tokens)
        before = np.concatenate([np.full(self.order, UNKNOWN), tokens])
        found = np.empty(max(len(tokens) - start, 0))
        for low in range(start, len(tokens), 1 << 18):
            at = np.arange(low, min(low + (1 << 18), len(tokens)))
            contexts = before[at[:, None] + np.arange(self.order)]
            p = np.full(len(at), 1 / SYMBOLS)
            for k, table in enumerate(self.orders):
                rows, context = _find(table, contexts, k)
                target = tokens[at[rows]].astype(np.uint64)
                wanted = table.contexts[context] << np.uint64(8) | target
                gram = np.searchsorted(table.grams, wanted)
                gram = np.minimum(gram, len(table.grams) - 1)
                n = np.where(table.grams[gram] == wanted, table.counts[gram], 0)
                distinct = table.first[context + 1] - table.first[context]
                total = table.total[context] + distinct
                p[rows] = (n + distinct * p[rows]) / total
            found[at - start] = -np.log2(p)
        return found

    def entries(self) -> tuple[int, ...]:
        """Different grams of each order."""
        return tuple(len(table.grams) for table in self.orders)

    def stored_bits(self) -> tuple[int, ...]:
        """Bits of the tables of each order: headers in a hash table half full, grams.

        A header holds the whole context (no false hit), both weights of the context, T
        and where its grams begin; a gram its symbol and its count.
        """
        return tuple(
            2 * len(table.contexts) * self.header_bits(k)
            + len(table.grams) * self.gram_bits(k)
            for k, table in enumerate(self.orders)
        )

    def grams_read(self) -> tuple[float, ...]:
        """Mean grams of a context by order: what a byte of the counted text reads."""
        return tuple(
            float(np.average(np.diff(table.first), weights=table.total))
            for table in self.orders
        )

    def header_bits(self, k: int) -> int:
        """Bits of one context: its bytes, two weights, T, and where its grams begin."""
        pointer = math.ceil(math.log2(len(self.orders[k].grams) + 1))
        return 8 * k + 2 * WEIGHT_BITS + 9 + pointer

    def gram_bits(self, k: int) -> int:
        """Bits of one gram: its symbol, and its count as the largest one needs it."""
        return 8 + math.ceil(math.log2(int(self.orders[k].counts.max()) + 1))


@dataclass(frozen=True)
class CountsConfig:
    """Counted tables in place of a network: nothing is learned, nothing is fitted."""

    kind: Literal["counts"] = "counts"
    order: int = 6  # bytes of the longest context
    period_s: float = 1e-6  # time a token takes

    def __post_init__(self):
        _check_order(self.order)
        if not self.period_s > 0:
            raise ValueError(
                f"Argument `period_s` must be positive, but is {self.period_s}."
            )

    def count(self, tokens: UInt[np.ndarray, " time"]) -> "CountedModel":
        """The model of a text: its counts."""
        return CountedModel(CountedTables.count(tokens, self.order), self)


class CountedModel(eqx.Module):
    """Counted tables where a network would be: bytes in, log-probabilities out.

    Every window begins anew: its first bytes have shorter contexts. The tables are no
    leaves of the model, so it has no parameters, is not trained and knows no noise.

    Assumes, when billed: hash tables half full; every order is looked up, and the whole
    distribution formed, for every token. Does not model: where on a chip so large a ROM
    would be; its wires are those across the array of each order.
    """

    tables: CountedTables = eqx.field(static=True)
    config: CountsConfig = eqx.field(static=True)
    vocabulary: int = eqx.field(static=True, default=SYMBOLS)

    def logits(
        self, tokens: Int[Array, "batch time"], *, process: Process, key: Key[Array, ""]
    ) -> Float[Array, "batch time vocabulary"]:
        """Natural log of the probability of the byte after every token."""
        del process, key
        shape = jax.ShapeDtypeStruct((*tokens.shape, SYMBOLS), np.float32)
        # Integers of 64 bits and searches are NumPy's: JAX calls it.
        return jax.pure_callback(
            self._windows, shape, tokens, vmap_method="broadcast_all"
        )

    def _windows(self, tokens) -> np.ndarray:
        tokens = np.asarray(tokens, np.int64)
        k = self.tables.order
        before = np.full((*tokens.shape[:-1], max(k - 1, 0)), UNKNOWN)
        held = np.concatenate([before, tokens], axis=-1)
        contexts = np.lib.stride_tricks.sliding_window_view(held, max(k, 1), axis=-1)
        contexts = contexts.reshape(-1, max(k, 1))[:, :k]
        found = self.tables.log_probabilities(contexts).astype(np.float32)
        return found.reshape(*tokens.shape, SYMBOLS)

    def table_events(
        self, process: Process, *, period_s: float, digital: bool
    ) -> tuple[Event, ...]:
        """What the tables alone make happen: without a sampler, for a mixture.

        In a mask ROM beside an analog chip they are read bit by bit and do not leak. A
        `digital` machine keeps them where its weights are: bytes brought to its
        multipliers, one multiplication for each count, and leakage if that is SRAM.
        """
        tables, stored_bits = self.tables, self.tables.stored_bits()
        events: list[Event] = []
        for k, grams in enumerate(tables.grams_read()):
            part = f"order{k}"
            probes = PROBES if k else 1.0
            bits = probes * tables.header_bits(k) + grams * tables.gram_bits(k)
            multiplies = grams + 1  # each count by its weight, and the rest by T/(N+T)
            # A hash adds a product for each byte; a probe compares all of them.
            adds = k * (1 + ADDS_PER_MULTIPLY) + probes * math.ceil(k / 4) + grams
            if digital:
                events.append(Event("mac", multiplies, part))
                events.append(Event("weight_byte", bits / 8, part))
            else:
                adds += multiplies * ADDS_PER_MULTIPLY
                wires_C = rom_wires_C(stored_bits[k], bits, process)
                events.append(Event("rom_bit", bits, part))
                events.append(Event("supply_charge_C", wires_C, f"{part}.wires"))
            events.append(Event("compare", adds, part))
        if digital:
            held = sum(stored_bits) * period_s
            events.append(Event("stored_bit_s", held, "tables"))
        return tuple(events)

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """What one token makes happen in a ROM, sampler included."""
        tables = self.table_events(process, period_s=period_s, digital=False)
        return (*tables, *token_events(SYMBOLS))


def _counted(keys: np.ndarray) -> Order:
    ordered = np.sort(keys)
    starts = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
    grams = ordered[starts]
    counts = np.diff(np.append(starts, len(ordered)))
    of_gram = grams >> np.uint64(8)
    first = np.flatnonzero(np.append(True, of_gram[1:] != of_gram[:-1]))
    total = np.add.reduceat(counts, first)
    return Order(of_gram[first], np.append(first, len(grams)), total, grams, counts)


def _find(table: Order, contexts, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of `contexts` seen with k bytes, and where each is in the table."""
    newest = contexts[:, contexts.shape[1] - k :]
    keys = np.zeros(len(contexts), np.uint64)
    for column in newest.T:
        keys = keys << np.uint64(8) | (column & 0xFF).astype(np.uint64)
    at = np.searchsorted(table.contexts, keys)
    at = np.minimum(at, len(table.contexts) - 1)
    seen = (table.contexts[at] == keys) & np.all(newest >= 0, axis=1)
    rows = np.flatnonzero(seen)
    return rows, at[rows]


def _check_order(order: int) -> None:
    if not 0 <= order <= MAX_ORDER:
        raise ValueError(
            f"Argument `order` must be from 0 to {MAX_ORDER}, but is {order}."
        )
