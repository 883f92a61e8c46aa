"""Foreign models: any `f(tokens, key) -> logits` on the chips of its own numbers."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from flax import nnx
from jaxtyping import Array, Key, PyTree

from evals.chip_mesh import chip_keys, each_chip, everywhere, full_group
from evals.quality import Quality, quality_of
from evals.robustness.scoring import Seen, means_of
from physnn.bank import Bank
from physnn.environment import AMOUNTS, Environment
from physnn.fabricate import fabricate, is_bank
from physnn.keys import stream
from physnn.process import Process, load_process
from train.tasks.base import Windows

# What digital numbers can suffer: how they were written, and what holds them.
HONORED = ("programming", "dead", "stuck_full", "stuck_random")
ON_LOGITS = "output_noise"


class FromFlax(eqx.Module):
    """A Flax NNX module as a callable `f(tokens, key)` that is a pytree.

    The key is not used: give a function of your own for a module that draws.
    """

    state: PyTree
    graphdef: nnx.GraphDef = eqx.field(static=True)

    def __init__(self, module: nnx.Module):
        self.graphdef, self.state = nnx.split(module)

    def __call__(self, tokens, key):
        del key
        return nnx.merge(self.graphdef, self.state)(tokens)


class FromRun(eqx.Module):
    """The model of a digital run of this project, as such a callable."""

    model: Any
    process: Process

    def __call__(self, tokens, key):
        return self.model.logits(tokens, process=self.process, key=key)


def attack(
    f: Callable[[Any, Key[Array, ""]], Any],
    windows: Iterable[Windows],
    environments: Mapping[str, Environment],
    *,
    n_chips: int,
    key: Key[Array, ""],
    bits: int | None = None,
    process: Process | None = None,
) -> dict[str, Quality]:
    """Bits of a foreign model in several environments, each on the same `n_chips`.

    `f(tokens, key)` takes `(batch, time)` whole numbers and gives logits `(batch, time,
    vocabulary)`, or of the last token alone. Where it is a pytree (an Equinox module;
    a Flax NNX module by `FromFlax`), each array of real numbers becomes a `Bank` of
    programmed devices with one full scale, coded to `bits` (None: as they are), and
    `fabricate` gives it `programming` error and `dead` or stuck devices. `output_noise`
    goes onto the logits, relative to the largest of each position. That is all a
    digital model can honor; what is `Environment.ideal` gives it as it is.

    Raises `ValueError` for an amount that such a model cannot honor, for one of devices
    where `f` holds no arrays, and for no chips.
    """
    seen = Seen.of(windows)
    process = process or load_process("cmos28")
    design = banked(f, bits)
    n_banks = sum(map(is_bank, jax.tree.leaves(design, is_leaf=is_bank)))
    if n_chips < 1:
        raise ValueError(f"Argument `n_chips` must be at least 1, but is {n_chips}.")
    for name, environment in environments.items():
        _check(name, environment, n_banks)
    if bits is not None and not n_banks:
        raise ValueError(
            "Argument `bits` goes with a model that holds arrays, but this callable"
            " holds none: give an Equinox module, or `FromFlax` of a Flax one."
        )
    keys = chip_keys(stream(key, "chip"), 0, full_group(n_chips))
    design, process, seen = everywhere((design, process, seen))
    found = {}
    for name, environment in environments.items():
        # As arrays: one compilation for all environments.
        amounts = environment.traced(*HONORED, ON_LOGITS)
        each = np.asarray(_on_chips(design, process, seen, amounts, keys))
        quality = quality_of(each[:n_chips, None])
        found[name] = dataclasses.replace(quality, n_bytes=int(seen.scored.sum()))
    return found


@eqx.filter_jit
def _on_chips(design, process, seen, environment, keys):
    def one(key, design, process, seen, environment):
        # Of mismatch the callers say nothing: digital numbers have none.
        chip = fabricate(design, process.matched(), key=key, environment=environment)
        f = realized(chip)
        logits = f(seen.tokens[:, :-1], stream(key, "noise"))
        full = jnp.max(jnp.abs(logits), axis=-1, keepdims=True)
        noise = jr.normal(stream(key, "output"), logits.shape, logits.dtype)
        logits = logits + environment.output_noise * full * noise
        return means_of(logits.astype(jnp.float32), seen).bits

    return each_chip(one, keys, design, process, seen, environment, together=1)


def banked(f: Any, bits: int | None = None) -> Any:
    """`f` with every array of real numbers in a bank of devices of its own."""

    def bank(leaf):
        if not eqx.is_inexact_array(leaf) or jnp.iscomplexobj(leaf) or not leaf.ndim:
            return leaf
        # Flat: which axis is a column, a foreign model does not say.
        return Bank(
            jnp.asarray(leaf, jnp.float32).reshape(-1),
            kind="capacitor",
            unit="full scale",
            area_m2=1.0,
            bits=bits,
            clip_sigma=1e9,
        ), leaf.shape

    return jax.tree.map(lambda leaf: _Held.of(bank(leaf)), f)


class _Held(eqx.Module):
    """A bank, and the shape of the array that it holds."""

    bank: Any
    shape: tuple[int, ...] | None = eqx.field(static=True)

    @classmethod
    def of(cls, made):
        return cls(*made) if isinstance(made, tuple) else cls(made, None)


def realized(design: Any) -> Any:
    """The callable again, with what its devices hold."""
    is_held = lambda node: isinstance(node, _Held)

    def array(held):
        if held.shape is None:
            return held.bank
        return held.bank.realized().reshape(held.shape)

    return jax.tree.map(array, design, is_leaf=is_held)


def _check(name: str, environment: Environment, n_banks: int) -> None:
    allowed = {*HONORED, ON_LOGITS, "thermal", "shot", "mismatch"}
    asked = [n for n in AMOUNTS if not environment.is_none(n) and n != "ripple_Hz"]
    if environment.corner != "tt":
        asked.append("corner")
    if environment.temperature_K is not None:
        asked.append("temperature_K")
    # As an environment has them by itself: asked for by nobody.
    nominal = ("thermal", "shot", "mismatch")
    lost = [n for n in asked if n not in allowed]
    lost += [n for n in nominal if getattr(environment, n) not in (0.0, 1.0)]
    if lost:
        raise ValueError(
            f"A foreign model honors {[*HONORED, ON_LOGITS]} alone, but environment"
            f" `{name}` asks for `{lost[0]}`: leave it out."
        )
    devices = [n for n in asked if n in HONORED]
    if devices and not n_banks:
        raise ValueError(
            f"Environment `{name}` asks for `{devices[0]}`, but this callable holds no"
            " arrays: give an Equinox module, or `FromFlax` of a Flax one."
        )
