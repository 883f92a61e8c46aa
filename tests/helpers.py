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

from circuits.blocks.base import Site
from circuits.blocks.channel import ChannelBlock
from circuits.blocks.equilibrium import EquilibriumBlock
from circuits.blocks.gated_unit import GatedUnit, GatedUnitBlock
from circuits.blocks.lookup import LookupBlock
from circuits.blocks.mixing_unit import MixingUnitBlock
from circuits.blocks.oscillator import OscillatorBlock
from circuits.blocks.resonator import ResonatorBlock
from circuits.blocks.sparse_unit import SparseUnitBlock
from circuits.blocks.state_space import GatedRCBlock
from circuits.channel import ChannelLayer
from circuits.converters import Dac, SarConverter
from circuits.equilibrium import SettlingNetwork
from circuits.event_gate import EventGate
from circuits.lookup import lookup_layer, softened
from circuits.lookup_encoders import binary_encoder, thermometer
from circuits.lookup_network import LookupNetworkLayer
from circuits.lookup_readout import GroupSum
from circuits.lookup_state import lookup_state
from circuits.mac import ChargeMac
from circuits.memory import HashedMemory
from circuits.mixing import PassiveMixing
from circuits.oscillator import PhaseOscillators
from circuits.parts import NODE_F, AutomaticGain, DelayLine, GilbertGate
from circuits.resonator import Resonator
from circuits.sample_hold import SampleHold
from circuits.state_space import GatedRC
from circuits.stuart_landau import StuartLandau
from circuits.winner import WinnerTakeAll
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit, run
from physnn.energy.events import Event
from physnn.equilibrium import FixedPointConfig
from physnn.fabricate import fabricate
from physnn.keys import stream
from physnn.network import Chain, Parallel, Residual
from physnn.noise import thermal_noise
from physnn.process import Process, load_process
from train.model import PhysicalConfig

PROCESS = load_process("cmos28")
QUIET = PROCESS.noiseless()
PERIOD_S = 1e-6


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


def _unit(key):
    return GatedUnit(4, 5, bits=6, output_gain=0.5, process=PROCESS, key=key)


def _phases(key):
    return PhaseOscillators(
        4,
        period_s=PERIOD_S,
        key=key,
        n_pool=2,
        n_hidden=1,
        n_segments=2,
        n_steps=2,
        # Weak enough that rounding does not grow from token to token.
        coupling_rate=0.5,
        drive_rate=2.0,
        second_harmonic=0.5,
        reference="ring",
    )


def _landau(key):
    return StuartLandau(3, period_s=PERIOD_S, key=key, n_steps=2)


def _settling(key):
    # To the last digit also in float64, for difference quotients.
    solver = FixedPointConfig(tolerance=1e-12, max_steps=100)
    return SettlingNetwork(4, period_s=PERIOD_S, key=key, solver=solver)


def _site(key):
    return Site(width=4, process=PROCESS, key=key, output_gain=0.5)


def _memory(key):
    # Real numbers in the rows, as large as a trained one's.
    sizes = {"longest": 3, "index_bits": 3, "row": 2, "row_bits": None, "bits": 6}
    memory = HashedMemory(4, **sizes, output_gain=1.0, process=PROCESS, key=key)
    return eqx.tree_at(lambda m: m.table, memory, 5 * memory.table)


# A node so small that its bits flip every few reads: else no law would see it.
TINY_F = 1e-20


def _bits(n_out: int):
    return thermometer(4, n_out // 4, comparator_F=TINY_F)


def _tables(key):
    tables = lookup_layer(24, 16, k=3, start="random", node_F=TINY_F, key=key)
    return Chain([_bits(24), tables])


def _state_bits(key):
    state = lookup_state(12, k=4, basis="walsh", node_F=TINY_F)
    noise = jr.normal(key, state.trained.shape)
    return Chain([_bits(24), dataclasses.replace(state, trained=noise)])


def _codes(key):
    del key
    return dataclasses.replace(binary_encoder(6, 4), sample_F=5 * TINY_F)


def _table_network(key):
    config = LookupNetworkLayer(
        n_tables=12,
        n_later=10,
        n_later_layers=1,
        n_classes=2,
        k=3,
        levels=2,
        n_candidates=4,
        group=6,
        tau=0.5,
    )
    return config.build(4, _site(key))


def _table_block(key):
    return LookupBlock(n_states=5, n_tables=7, k=3, n_taps=2).build(_site(key))


def _winners(key):
    del key
    # Of a small full scale, or no draw would ever differ from the last one.
    return Parallel([WinnerTakeAll(5, nats=2.0, process=PROCESS) for _ in range(4)])


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
    "GatedRCBlock": lambda key: GatedRCBlock(
        n_states=3, n_taps=3, longest_memory=8.0
    ).build(_site(key)),
    "GatedUnit": _unit,
    "Resonator": lambda key: Resonator(
        3, period_s=PERIOD_S, process=PROCESS, longest=9.0
    ),
    "ResonatorBlock": lambda key: ResonatorBlock(n=3, n_taps=2, longest=9.0).build(
        _site(key)
    ),
    "PhaseOscillators": _phases,
    "StuartLandau": _landau,
    "OscillatorBlock": lambda key: OscillatorBlock(n=3, n_taps=3, n_steps=2).build(
        _site(key)
    ),
    "ChannelLayer": lambda key: ChannelLayer(4, 3, bits=6, key=key),
    "ChannelUnit": lambda key: ChannelBlock(n_hidden=5, n_taps=3).build(_site(key)),
    "HashedMemory": _memory,
    "Thermometer": lambda key: _bits(12),
    "BinaryEncoder": _codes,
    "LookupLayer": _tables,
    "LookupState": _state_bits,
    "GroupSum": lambda key: Chain([_bits(12), GroupSum(12, 3, 0.5)]),
    "LookupNetwork": _table_network,
    "LookupMixer": _table_block,
    "SettlingNetwork": _settling,
    "EquilibriumBlock": lambda key: EquilibriumBlock(
        n=3, n_taps=3, degree=2, mode="transient", n_settle=2.0
    ).build(_site(key)),
    "SarConverter": lambda key: SarConverter(3, process=PROCESS, comparator_F=TINY_F),
    "Dac": lambda key: Dac(3, bits=6, process=PROCESS),
    "SampleHold": lambda key: Chain([SampleHold(4, hold_s=PERIOD_S), _mac(key)]),
    "EventGate": lambda key: EventGate(4, threshold=0.05, sides="two"),
    "SparseUnit": lambda key: SparseUnitBlock(n_hidden=9, inhibition=0.3).build(
        _site(key)
    ),
    "PassiveMixing": lambda key: PassiveMixing(2, 3, process=PROCESS),
    "MixingUnit": lambda key: MixingUnitBlock(n_hidden=6, n_groups=2).build(_site(key)),
    "WinnerTakeAll": _winners,
    "Chain": _chain,
    "Parallel": _parallel,
    "Residual": lambda key: Residual(_delay(key), hold_F=NODE_F),
    "HostileTwins": lambda key: HostileTwins(4),
}


# Parts whose noise is that of the capacitor that samples them, counted there.
WITHOUT_NOISE = {"AutomaticGain", "GilbertGate"}

# What they put out is a code, whose slope is that of another function, by design.
CODES = {"SarConverter", "Dac", "WinnerTakeAll"}


@cache
def member(name: str):
    """The circuit called `name` in the catalogue, always the same."""
    return CATALOGUE[name](stream(jr.key(7), name))


@cache
def signal(name: str, time: int = 6, batch: tuple[int, ...] = (2,)) -> jax.Array:
    """Inputs for the circuit called `name`, about half of full scale."""
    shape = (time, *batch, member(name).n_in)
    return 0.5 * jr.uniform(jr.key(8), shape, minval=-1.0, maxval=1.0)


def physical_config(
    *,
    n_layers: int = 1,
    n_states: int = 8,
    n_hidden: int = 8,
    n_taps: int = 4,
    longest_memory: float = 512.0,
    **sizes,
) -> PhysicalConfig:
    """A sequence model of gated RC states and gated units."""
    mixer = GatedRCBlock(
        n_states=n_states, n_taps=n_taps, longest_memory=longest_memory
    )
    layer = (mixer, GatedUnitBlock(n_hidden=n_hidden))
    return PhysicalConfig(layer=layer, n_layers=n_layers, **sizes)


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
    """The same design with continuous values: a code has no derivative to compare.

    Nor has a bit: comparators, tables and wiring choices are soft.
    """
    design = softened(design, tables_only=False)
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


def analog_C(events) -> float:
    """All charge of analog parts, amplifiers as ideal ones."""
    counts = totals(events)
    return sum(
        counts.get(name, 0.0) for name in ("supply_charge_C", "amplifier_charge_C")
    )


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
