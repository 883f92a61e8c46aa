"""Disturbed: a chip with the temporal noise that has a memory, or is shared."""

import dataclasses
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, PyTree

from physnn.bank import Bank
from physnn.circuit import AbstractCircuit
from physnn.environment import Environment
from physnn.fabricate import is_bank
from physnn.keys import stream
from physnn.noise.flicker import flicker_poles, flicker_variance, pole_rates
from physnn.noise.ripple import advanced, first_phase, supply_V
from physnn.noise.white import white
from physnn.process import Process
from physnn.sites import Site, sites_of


class Disturbance(eqx.Module):
    """Flicker, supply ripple and output noise of all sites of a circuit, in one vector.

    A site is a bank of offsets or of bias currents (`physnn.sites`), whose
    value moves while the chip runs: what disturbs a pair is a moving offset of that
    pair, so every family that has the offset honors the source, and none has code for
    it. With S the vector of all sites,

        S_t = σ_f·Σ_p z_p,t + g·(ripple(t) + supply noise) + σ_w·N(0, 1)

    z_p the poles of `physnn.noise.flicker`, ripple as in `physnn.noise.ripple`, g what
    the finite rejection of a pair lets through.
    """

    flicker: Float[Array, " n"] | None  # standard deviation of one pole
    coupling: Float[Array, " n"] | None  # per volt of supply
    output: Float[Array, " n"] | None
    ripple_V: Any
    ripple_Hz: Any
    supply_noise_V: Any
    leaves: tuple[int, ...] = eqx.field(static=True)  # places of the sites
    shapes: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    rates_Hz: tuple[float, ...] = eqx.field(static=True)
    period_s: float = eqx.field(static=True)

    @property
    def n(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes)

    def init_state(self, batch_shape: tuple[int, ...]):
        """`(started, phase, poles)`: poles and phase are drawn at the first step."""
        poles = jnp.zeros((len(self.rates_Hz), *batch_shape, self.n))
        return jnp.zeros(()), jnp.zeros(batch_shape), poles

    def step(self, state, key: Key[Array, ""]):
        """`(state, S)` a token later."""
        started, phase, z = state
        total = jnp.zeros((*z.shape[1:-1], self.n))
        if self.flicker is not None:
            z = flicker_poles(
                z,
                self.rates_Hz,
                step_s=self.period_s,
                started=started,
                key=stream(key, "flicker"),
            )
            total = total + self.flicker * jnp.sum(z, axis=0)
        if self.coupling is not None:
            begin = first_phase(phase.shape, stream(key, "phase"))
            phase = jnp.where(started > 0, phase, begin)
            moved_V = supply_V(
                phase,
                ripple_V=self.ripple_V,
                noise_V=self.supply_noise_V,
                key=stream(key, "supply"),
            )
            total = total + self.coupling * moved_V[..., None]
            phase = advanced(phase, self.ripple_Hz, step_s=self.period_s)
        if self.output is not None:
            draw = white(stream(key, "output"), total.shape)
            total = total + self.output * draw
        return (jnp.ones(()), phase, z), total

    def scan(self, state, n_steps: int, key: Key[Array, ""]):
        """`(state, S)` of so many tokens, time first."""
        body = lambda state, key: self.step(state, key)
        return jax.lax.scan(body, state, jr.split(key, n_steps))

    def inject(self, circuit: PyTree, total: Float[Array, "*batch n"]) -> PyTree:
        """The circuit with S in the errors of its banks."""
        leaves, tree = jax.tree.flatten(circuit, is_leaf=is_bank)
        start = 0
        for place, shape in zip(self.leaves, self.shapes, strict=True):
            size, bank = math.prod(shape), leaves[place]
            moved = total[..., start : start + size]
            moved = moved.reshape(*moved.shape[:-1], *shape)
            error = moved if bank.error is None else bank.error + moved
            leaves[place] = dataclasses.replace(bank, error=error)
            start += size
        return jax.tree.unflatten(tree, leaves)


class Disturbed(AbstractCircuit):
    """A circuit that runs with a `Disturbance`; its state goes beside the circuit's.

    What it makes happen and how it is built are the circuit's own.
    """

    circuit: AbstractCircuit
    disturbance: Disturbance
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, circuit: AbstractCircuit, disturbance: Disturbance):
        self.circuit, self.disturbance = circuit, disturbance
        self.n_in, self.n_out = circuit.n_in, circuit.n_out

    def init_state(self, batch_shape=()):
        own = self.disturbance.init_state(batch_shape)
        return own, self.circuit.init_state(batch_shape)

    def step(self, state, x, *, process, key):
        own, inner = state
        own, total = self.disturbance.step(own, stream(key, "disturbance"))
        circuit = self.disturbance.inject(self.circuit, total)
        inner, y = circuit.step(inner, x, process=process, key=key)
        return (own, inner), y

    def scan(self, state, xs, *, process, key):
        own, inner = state
        own, total = self.disturbance.scan(own, len(xs), stream(key, "disturbance"))
        circuit = self.disturbance.inject(self.circuit, total)
        inner, ys = circuit.scan(inner, xs, process=process, key=key)
        return (own, inner), ys

    def diagnose(self, xs, *, process, key):
        return self.circuit.diagnose(xs, process=process, key=key)

    def events(self, process, *, period_s):
        return self.circuit.events(process, period_s=period_s)

    def netlist(self, process, *, name):
        return self.circuit.netlist(process, name=name)


class DisturbedModel(eqx.Module):
    """A model of tokens with `init_state`, `step` and `logits`, with a `Disturbance`.

    All else (`config`, `draw`, `events`, ...) is the model's.
    """

    model: Any
    disturbance: Disturbance

    def __getattr__(self, name: str):
        if name in ("model", "disturbance") or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.model, name)

    def init_state(self, batch_shape: tuple[int, ...] = ()):
        own = self.disturbance.init_state(batch_shape)
        return own, self.model.init_state(batch_shape)

    def step(self, state, token, *, process: Process, key: Key[Array, ""]):
        own, inner = state
        own, total = self.disturbance.step(own, stream(key, "disturbance"))
        model = self.disturbance.inject(self.model, total)
        inner, y = model.step(inner, token, process=process, key=key)
        return (own, inner), y

    def logits(self, tokens, *, process: Process, key: Key[Array, ""]):
        own = self.disturbance.init_state(tokens.shape[:1])
        key_of_it = stream(key, "disturbance")
        _, total = self.disturbance.scan(own, tokens.shape[1], key_of_it)
        model = self.disturbance.inject(self.model, total)
        return model.logits(tokens, process=process, key=key)


def disturbed(
    model: PyTree, process: Process, environment: Environment, *, period_s: float
) -> PyTree:
    """The same model or chip with the temporal sources of `environment` around it.

    `flicker_V2m2`, `ripple_V`, `supply_noise_V` and `output_noise`: the sources that
    have a memory, are common to a chip or belong to no capacitor; thermal and shot
    noise, jitter and flips of bits are in the circuits and follow `process`. With all
    of them none it is the model itself.

    A circuit becomes a `Disturbed`, a model with `init_state` a `DisturbedModel`; in
    any other, each outermost circuit becomes one. `process` is at its operating point
    (`Process.at`); `period_s` the time of a token, up to half the rate of which flicker
    is a random walk from token to token.
    """
    if not any(not environment.is_none(name) for name in TEMPORAL):
        return model

    def around(circuit):
        disturbance = _disturbance(circuit, process, environment, period_s)
        if disturbance is None:
            return circuit
        if isinstance(circuit, AbstractCircuit):
            return Disturbed(circuit, disturbance)
        return DisturbedModel(circuit, disturbance)

    if isinstance(model, AbstractCircuit) or hasattr(model, "init_state"):
        return around(model)
    is_circuit = lambda node: isinstance(node, AbstractCircuit)
    return jax.tree.map(
        lambda node: around(node) if is_circuit(node) else node,
        model,
        is_leaf=is_circuit,
    )


TEMPORAL = ("flicker_V2m2", "ripple_V", "supply_noise_V", "output_noise")


def _disturbance(circuit, process, environment, period_s) -> Disturbance | None:
    sites = sites_of(circuit, process)
    on = {name: not environment.is_none(name) for name in TEMPORAL}
    parts: dict[str, Any] = {"flicker": None, "coupling": None, "output": None}
    rates = ()
    if on["flicker_V2m2"]:
        high_Hz = 1 / (2 * period_s)
        rates = pole_rates(environment.flicker_low_Hz, high_Hz)
        band = flicker_variance(1.0, low_Hz=environment.flicker_low_Hz, high_Hz=high_Hz)
        root = jnp.sqrt(environment.flicker_V2m2 * band / len(rates))
        parts["flicker"] = _joined(sites, lambda s: root * per_meter(s, process))
    if on["ripple_V"] or on["supply_noise_V"]:
        parts["coupling"] = _joined(sites, lambda s: supply_coupling(s, process))
    if on["output_noise"]:
        sigma = environment.output_noise
        parts["output"] = _joined(sites, lambda s: sigma if s.is_output else 0.0)
    if not sites:
        return None
    return Disturbance(
        **parts,
        ripple_V=environment.ripple_V,
        ripple_Hz=environment.ripple_Hz,
        supply_noise_V=environment.supply_noise_V,
        leaves=tuple(site.leaf for site in sites),
        shapes=tuple(site.bank.value.shape for site in sites),
        rates_Hz=rates,
        period_s=period_s,
    )


def per_meter(site: Site, process: Process):
    """Rms of a site's value over the root of S_v·area·band, [unit/(V·m)].

    Two transistors of a pair: √(2/area) of the gate voltage; a threshold is that over
    the swing, a current value·gm/I times it. The trained size of a bank is area.

    A ring is as fast as the current of its stages. One transistor sets each of its
    edges, so with M of them of area/M a cycle has the mean of M independent delays,
    each off by gm/I·√(S_v·M/area): value·gm/I·√(1/area), however many stages there are
    (mechanism: Abidi 2006, DOI 10.1109/JSSC.2006.876206; edges of equal weight).
    """
    bank: Bank = site.bank
    devices = 1 if bank.kind == "ring_frequency" else 2
    root = math.sqrt(devices / bank.area_m2) / jnp.sqrt(bank.area_factor())
    if bank.kind == "threshold":
        return root / process.swing_V
    return root * process.operating["gm_per_I"] * jnp.abs(bank.nominal())


def supply_coupling(site: Site, process: Process):
    """Rms of a site's value per volt of supply: a ratio of currents rejects it.

    A ring follows it by `ring_per_supply`, as in `Process.at`.
    """
    if site.bank.kind == "ring_frequency":
        pushed = process.operating["ring_per_supply"] / process.supply_V
        return pushed * jnp.abs(site.bank.nominal())
    if site.bank.kind != "threshold":
        return 0.0
    return process.operating["supply_rejection"] / process.swing_V


def _joined(sites, amount):
    rows = [jnp.broadcast_to(amount(s), s.bank.value.shape).ravel() for s in sites]
    return jnp.concatenate(rows) if rows else None
