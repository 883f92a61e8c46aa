"""What several tests share: a process, the catalogue of circuits, small measures."""

import dataclasses
from collections import defaultdict
from collections.abc import Callable
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
import pytest

from circuits.blocks import GatedUnit, RCMixer
from circuits.mac import ChargeMac
from circuits.parts import NODE_F, AutomaticGain, DelayLine, GilbertGate
from circuits.state_space import GatedRC
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit, run
from physnn.energy.events import Event
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.network import Chain, Parallel, Residual
from physnn.noise import thermal_noise
from physnn.process import Process, load_process

PROCESS = load_process("cmos28")
QUIET = PROCESS.noiseless()
PERIOD_S = 1e-6


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compile without much optimization what then runs for microseconds.

    For a module that imports it.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


class HostileTwins(AbstractMemorylessCircuit):
    """Two banks of equal kind, shape and values: shared draws would cancel in y.

    y = x·(plus − minus + 1), with kT/C noise. A law sees only what the catalogue holds,
    and no real family has two equal banks.
    """

    plus: Bank
    minus: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, n: int):
        self.n_in = self.n_out = n
        self.plus, self.minus = (
            Bank(
                jnp.linspace(0.1, 1.0, n)[None],
                kind="capacitor",
                unit="C/C_f",
                area_m2=1e-12,
                n_units=31,
            )
            for _ in range(2)
        )

    def apply(self, x, *, process, key):
        y = x * (self.plus.realized() - self.minus.realized() + 1)[0]
        return thermal_noise(
            y, process.thermal_variance(NODE_F), process=process, key=key
        )

    def events(self, process, *, period_s):
        held = self.n_in * period_s
        charge = self.n_in * NODE_F * process.swing_V
        return Event("supply_charge_C", charge), Event("stored_bit_s", held)

    def netlist(self, process, *, name):
        raise ValueError(f"`{name}` must be simulated, but is to be built.")


def _mac(key, n_in=4, n_out=3, bits=6):
    return ChargeMac(n_in, n_out, bits=bits, process=PROCESS, key=key, gain=0.5)


def _delay(key, n=3, n_taps=3):
    delay = DelayLine(n, n_taps=n_taps, process=PROCESS)
    taps = 0.3 * jr.normal(key, delay.tap.value.shape)
    return eqx.tree_at(lambda d: d.tap.value, delay, taps)


def _rc(key, n=3, period_s=PERIOD_S):
    cell = GatedRC(n, period_s=period_s)
    return eqx.tree_at(lambda c: c.offset.value, cell, 0.1 * jr.normal(key, (n,)))


def _mixer(key):
    return RCMixer(
        4,
        3,
        n_taps=3,
        bits=6,
        output_gain=0.5,
        period_s=PERIOD_S,
        longest_memory=8.0,
        process=PROCESS,
        key=key,
    )


def _unit(key):
    return GatedUnit(4, 5, bits=6, output_gain=0.5, process=PROCESS, key=key)


def _chain(key):
    a, b = jr.split(key)
    return Chain([_mac(a, 4, 6), _rc(b, 3), AutomaticGain(3)])


def _parallel(key):
    a, b = jr.split(key)
    return Parallel([_delay(a, 4), _mac(b, 4, 2)])


# Every family, once, small: (build from a key). A new family is one more line.
CATALOGUE: dict[str, Callable] = {
    "ChargeMac": _mac,
    "AutomaticGain": lambda key: AutomaticGain(4),
    "GilbertGate": lambda key: GilbertGate(3),
    "DelayLine": _delay,
    "GatedRC": _rc,
    "RCMixer": _mixer,
    "GatedUnit": _unit,
    "Chain": _chain,
    "Parallel": _parallel,
    "Residual": lambda key: Residual(_delay(key), hold_F=NODE_F),
    "HostileTwins": lambda key: HostileTwins(4),
}


# Parts whose noise is that of the capacitor that samples them, counted there.
WITHOUT_NOISE = {"AutomaticGain", "GilbertGate"}


@cache
def member(name: str):
    """The circuit called `name` in the catalogue, always the same."""
    return CATALOGUE[name](stream(jr.key(7), name))


@cache
def signal(name: str, time: int = 6, batch: tuple[int, ...] = (2,)) -> jax.Array:
    """Inputs for the circuit called `name`, about half of full scale."""
    shape = (time, *batch, member(name).n_in)
    return 0.5 * jr.uniform(jr.key(8), shape, minval=-1.0, maxval=1.0)


run_jit = eqx.filter_jit(run)
fabricate_jit = eqx.filter_jit(fabricate)


def with_process(**changes) -> Process:
    """The process with other amounts, of whatever type a caller may write."""
    names, values = zip(*changes.items(), strict=True)
    return eqx.tree_at(lambda p: [getattr(p, n) for n in names], PROCESS, values)


def is_bank(leaf) -> bool:
    return isinstance(leaf, Bank)


def banks(design) -> dict[str, Bank]:
    """Every bank of a design by its path."""
    leaves = jtu.tree_leaves_with_path(design, is_leaf=is_bank)
    return {jtu.keystr(path): leaf for path, leaf in leaves if is_bank(leaf)}


def error_of(bank: Bank | None) -> np.ndarray:
    """The frozen errors of a bank that was fabricated."""
    assert bank is not None
    assert bank.error is not None
    return np.asarray(bank.error)


def smooth(design):
    """The same design with continuous values: a code has no derivative to compare."""
    soften = lambda leaf: (
        dataclasses.replace(leaf, bits=None) if is_bank(leaf) else leaf
    )
    return jax.tree.map(soften, design, is_leaf=is_bank)


def totals(events) -> dict[str, float]:
    """Counts by name, over all parts."""
    counts: dict[str, float] = defaultdict(float)
    for event in events:
        counts[event.name] += float(event.count)
    return dict(counts)


def assert_variance(samples, expected, *, sigmas: float = 3.0, excess: float = -1 / 8):
    """The sample variance is `expected` within `sigmas` standard errors.

    Var s² = σ⁴·(2 + excess kurtosis)/N; that of one white draw is −1/8. Samples are
    `(N, ...)` with one expected variance per trailing entry.
    """
    samples = np.asarray(samples, np.float64)
    n = len(samples)
    measured = samples.var(axis=0)
    error = np.asarray(expected, np.float64) * np.sqrt((2 + excess) / n)
    assert np.all(np.abs(measured - expected) <= sigmas * error), (
        f"Measured variance {measured} must be {expected} ± {error}."
    )
