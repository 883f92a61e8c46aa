"""Calibration after fabrication: trims and readout of a chip, from few measurements."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import Array, Bool, Float, Integer, Key

from physnn.bank import Bank
from physnn.keys import stream
from physnn.process import Process
from train.hardware import physics_aware
from train.noise_aware import distilled_bits


@dataclass(frozen=True)
class CalibrationConfig:
    """How one chip is calibrated; zero passes or steps leave a part as it is.

    `passes`: how often the chip reads all measurements while its trims move;
    `trim_rate`: step of a trim [its own unit]; `range_rate`: step of the log of a
    converter's range; `readout_steps`: of the readout, which is fitted to one reading
    and costs no further measurement; `readout_rate`: its step;
    `readout_spread`: how far gains and offsets [nats] are expected from 1 and 0, a
    normal prior, without which few measurements are learned by heart.
    """

    passes: int = 4
    trim_rate: float = 2e-3
    range_rate: float = 2e-3
    readout_steps: int = 100
    readout_rate: float = 1e-2
    readout_spread: float = 0.1

    def __post_init__(self):
        for name in ("passes", "readout_steps"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"Argument `{name}` must not be negative, but is"
                    f" {getattr(self, name)}."
                )
        for name in ("trim_rate", "range_rate", "readout_rate", "readout_spread"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"Argument `{name}` must be positive, but is {getattr(self, name)}."
                )


class CalibratedChip(eqx.Module):
    """A chip with its trims set, behind a digital gain and offset for every symbol.

    Scored like any model. The readout costs a multiplication and an addition per
    logit, in registers behind the ADCs.
    """

    chip: Any
    gain: Float[Array, " vocabulary"]
    offset: Float[Array, " vocabulary"]  # [nats]

    @property
    def vocabulary(self) -> int:
        return self.chip.vocabulary

    @property
    def config(self) -> Any:
        return self.chip.config

    def logits(self, tokens, *, process: Process, key: Key[Array, ""]):
        """Logits of the chip, corrected."""
        return self._read(self.chip.logits(tokens, process=process, key=key))

    def init_state(self, batch_shape: tuple[int, ...] = ()):
        return self.chip.init_state(batch_shape)

    def step(self, state, token, *, process: Process, key: Key[Array, ""]):
        """One token in, the corrected logits of the next one out."""
        state, logits = self.chip.step(state, token, process=process, key=key)
        return state, self._read(logits)

    def _read(self, logits):
        return self.gain * logits + self.offset


def calibrate_chip(
    design: Any,
    chip: Any,
    tokens: Integer[Array, "batches batch time_and_one"],
    scored: Bool[Array, "batches batch targets"],
    *,
    process: Process,
    nominal: Process,
    key: Key[Array, ""],
    config: CalibrationConfig = CalibrationConfig(),
) -> CalibratedChip:
    """Fit the trims and the readout of one chip to what it gives, with noise on.

    What is fitted to is what the design gives for `tokens` on the `nominal` process
    without noise: a few hundred tokens say far more about a chip that way than by what
    follows them in the text, which a readout would learn by heart.

    1. Trims are the banks of one axis (offsets of amplifiers, gains and biases, one
       device to a signal) and the ranges of the converters, where the model learned
       them. They take Adam steps on the divergence from the design: forward is the
       chip, backward the design at the same trims, nominal and without noise
       (physics-aware), because nobody can differentiate a chip or see its errors.
    2. The readout, gain and offset of every symbol, is fitted to one more reading of
       the same tokens, offline.

    `chip` is one of `fabricate` or `deploy`, `process` the one it is run on (of
    `deploy`: at the operating point of that die), `nominal` the one it was designed
    on. Weights are not written again. Reads `tokens` `passes + 1` times. Works under
    `jit`, and under `vmap` over chips and keys: then a population is calibrated at
    once. Bits that are not in `scored` do not count. A digital model has nothing to
    fit but the readout.

    Raises `ValueError` for a chip that is not of `design`.
    """
    trims = trims_of(chip)
    if _shapes(trims) != _shapes(trims_of(design)):
        raise ValueError(
            "Argument `chip` must be a chip of `design`, but has other trims than that:"
            " give the design it was fabricated from."
        )
    weights = scored.astype(jnp.float32)

    meant_on = nominal.noiseless()

    def measured(trims, rest):
        batch, key = rest
        held = _trimmed(chip, trims)
        return held.logits(batch[:, :-1], process=process, key=key)

    def modeled(trims, rest):
        batch, key = rest
        held = _trimmed(design, trims)
        return held.logits(batch[:, :-1], process=meant_on, key=key)

    through = physics_aware(measured, modeled)
    whole = tokens.astype(jnp.int32)
    # A range is a log, a trim has the unit of its bank: each kind has a rate.
    optimizer = optax.partition(
        {
            "banks": optax.adam(config.trim_rate),
            "ranges": optax.adam(config.range_rate),
        },
        Trims("banks", "ranges"),  # pyright: ignore[reportArgumentType]
    )

    def should(batch):
        return design.logits(batch[:, :-1], process=meant_on, key=key)

    meant = jax.lax.map(should, whole)

    def loss(trims, index, key):
        logits = through(trims, (whole[index], key))
        far = distilled_bits(logits, meant[index], temperature=1.0)
        return _mean(far, weights[index])

    def move(carry: Any, inputs: Any) -> Any:
        trims, state = carry
        index, noise_key = inputs
        slope = jax.grad(loss)(trims, index, noise_key)
        changes, state = optimizer.update(slope, state, trims)
        return (optax.apply_updates(trims, changes), state), None

    n = len(tokens)
    if config.passes and jax.tree.leaves(trims):
        keys = jr.split(stream(key, "trims"), config.passes * n)
        order = jnp.tile(jnp.arange(n), config.passes)
        carry = (trims, optimizer.init(trims))
        (trims, _), _ = jax.lax.scan(move, carry, (order, keys))
    chip = _trimmed(chip, trims)
    reading = jax.lax.map(
        lambda each: chip.logits(each[0][:, :-1], process=process, key=each[1]),
        (whole, jr.split(stream(key, "readout"), n)),
    )
    readout = _fitted(reading, meant, weights, config=config)
    return CalibratedChip(chip, *readout)


class Trims(NamedTuple):
    """What of a chip can be trimmed, in order.

    `banks`: values of its banks of one axis [unit of the bank]; `ranges`: logs of the
    ranges of its converters [full scale].
    """

    banks: list[Float[Array, " devices"]]
    ranges: list[Float[Array, ""]]


def trims_of(model: Any) -> Trims:
    """The trims of a model, as they are set: nothing for a digital one."""
    banks = [bank.value for bank in _banks(model) if bank.value.ndim == 1]
    return Trims(banks, [getattr(model, name) for name in _ranges(model)])


def _ranges(model: Any) -> list[str]:
    names = ("input_range", "output_range")
    return [name for name in names if getattr(model, name, None) is not None]


def _shapes(trims: Trims) -> list[list[tuple[int, ...]]]:
    return [[value.shape for value in kind] for kind in trims]


def _banks(model: Any) -> list[Bank]:
    leaves = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, Bank))
    return [leaf for leaf in leaves if isinstance(leaf, Bank)]


def _trimmed(model: Any, trims: Trims) -> Any:
    places = [i for i, bank in enumerate(_banks(model)) if bank.value.ndim == 1]
    names = _ranges(model)
    values = lambda m: (
        [_banks(m)[i].value for i in places] + [getattr(m, name) for name in names]
    )
    flat = [*trims.banks, *trims.ranges]
    return eqx.tree_at(values, model, flat) if flat else model


def _fitted(logits, meant, weights, *, config: CalibrationConfig) -> Any:
    """Gain and offset of every symbol: nearest to what is meant, with the prior."""
    vocabulary = logits.shape[-1]
    start = (jnp.ones(vocabulary), jnp.zeros(vocabulary))
    optimizer = optax.adam(config.readout_rate)

    def loss(readout):
        gain, offset = readout
        far = distilled_bits(gain * logits + offset, meant, temperature=1.0)
        measured = _mean(far, weights)
        nats = jnp.sum((gain - 1) ** 2 + offset**2) / (2 * config.readout_spread**2)
        return measured + nats / jnp.log(2.0) / jnp.maximum(jnp.sum(weights), 1.0)

    def move(carry, _):
        readout, state = carry
        changes, state = optimizer.update(jax.grad(loss)(readout), state)
        return (optax.apply_updates(readout, changes), state), None

    carry: Any = (start, optimizer.init(start))
    carry, _ = jax.lax.scan(move, carry, None, length=config.readout_steps)
    return carry[0]


def _mean(each, weights):
    return jnp.sum(each * weights) / jnp.maximum(jnp.sum(weights), 1.0)
