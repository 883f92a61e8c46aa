"""Foreign models: any `f(tokens, key) -> logits` on the chips of its own numbers."""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jax.tree_util as jtu
import numpy as np
from flax import nnx
from jaxtyping import Array, Key, PyTree

from evals.chip_mesh import chip_keys, each_chip, everywhere
from evals.quality import Quality, quality_of
from evals.robustness.scoring import Seen, means_of
from physnn.bank import Bank
from physnn.environment import AMOUNTS, Environment
from physnn.fabricate import fabricate, frozen, is_bank
from physnn.keys import stream
from physnn.materialized import compiled
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
) -> dict[str, Quality]:
    """Bits of a foreign model in several environments, each on the same `n_chips`.

    `f(tokens, key)` takes `(batch, time)` whole numbers and gives logits `(batch, time,
    vocabulary)`, or of the last token alone. Where it is a pytree (an Equinox module;
    a Flax NNX module by `FromFlax`), each array of real numbers becomes a `Bank` of
    programmed devices with one full scale, coded to `bits` (None: as they are), and
    `fabricate` gives it `programming` error and `dead` or stuck devices; `f` reads what
    they hold in the dtype of the array. `output_noise` goes onto the logits, relative
    to the largest of each position. That is all a digital model can honor; what is
    `Environment.ideal` gives it as it is.

    Raises `ValueError` for an amount that such a model cannot honor, for one of devices
    where `f` holds no arrays, and for no chips.
    """
    design = banked(f, bits)
    chips = ForeignChips(design, Seen.of(windows), key, together=1)
    if n_chips < 1:
        raise ValueError(f"Argument `n_chips` must be at least 1, but is {n_chips}.")
    for name, environment in environments.items():
        _check(name, environment, chips.n_devices)
    found = {}
    for name, environment in environments.items():
        each, _ = chips.score(environment, n_chips)
        quality = quality_of(each[:, None])
        n_bytes = int(chips.seen.scored.sum())
        found[name] = dataclasses.replace(quality, n_bytes=n_bytes)
    return found


@dataclasses.dataclass(frozen=True)
class ForeignChips:
    """Scores chips of a foreign model over all local devices.

    `together` of them at a time; without it `Seen.group` chooses. Chip i has its own
    key, the same in every environment. `design` is `banked`; there is one compiled
    program for all environments.
    """

    design: Any
    seen: Seen
    key: Key[Array, ""]
    together: int | None = None

    @property
    def n_devices(self) -> int:
        leaves = jax.tree.leaves(self.design, is_leaf=is_bank)
        return sum(bank.value.size for bank in filter(is_bank, leaves))

    def score(
        self, environment: Environment, n: int, *, adjust: Any = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bits and accuracy of chips 0 to n; nothing of them can be adjusted."""
        if adjust is not None:
            raise ValueError(
                "Argument `adjust` must be None of a foreign model, whose weights have"
                " no trims, but is given: leave the calibration out."
            )
        # As arrays: one compilation for all environments.
        amounts = environment.traced(*HONORED, ON_LOGITS)
        # Of mismatch the callers say nothing: digital numbers have none.
        process = load_process("cmos28").matched()
        shared = (self.design, process, self.seen, amounts)
        group = self.seen.group(n, self.together, self.design)
        program = partial(_on_chips, *everywhere(shared, group))
        found, root = [], stream(self.key, "chip")
        for start in range(0, n, group):
            found.append(program(chip_keys(root, start, group)))
        bits = np.concatenate([np.asarray(means.bits) for means in found])
        hits = np.concatenate([np.asarray(means.accuracy) for means in found])
        return bits[:n], hits[:n]


@compiled
def _on_chips(design, process, seen, environment, keys):
    def one(key, design, process, seen, environment):
        amounts = frozen(environment)
        chip = fabricate(design, process, key=key, environment=amounts)
        logits = realized(chip)(seen.tokens[:, :-1], stream(key, "noise"))
        logits = _rounded(logits.astype(jnp.float32), logits.dtype)
        full = jnp.max(jnp.abs(logits), axis=-1, keepdims=True)
        noise = jr.normal(stream(key, "output"), logits.shape, logits.dtype)
        logits = logits + environment.output_noise * full * noise
        return means_of(logits, seen)

    return each_chip(one, keys, design, process, seen, environment)


def banked(f: Any, bits: int | None = None) -> Any:
    """`f` with every array of real numbers in a bank of devices of its own.

    Raises `ValueError` for `bits` where there is no such array.
    """

    def bank(leaf):
        if not eqx.is_inexact_array(leaf) or jnp.iscomplexobj(leaf) or not leaf.ndim:
            return _Held(leaf)
        leaf = jnp.asarray(leaf)
        # Flat: which axis is a column, a foreign model does not say.
        devices = Bank(
            leaf.astype(jnp.float32).reshape(-1),
            kind="capacitor",
            unit="full scale",
            area_m2=1.0,
            bits=bits,
            clip_sigma=1e9,
        )
        return _Held(devices, leaf.shape, leaf.dtype)

    design = jax.tree.map(bank, f)
    if bits is not None and not arrays_of(design)[0]:
        raise ValueError(
            "Argument `bits` goes with a model that holds arrays, but this callable"
            " holds none: give an Equinox module, or `FromFlax` of a Flax one."
        )
    return design


def arrays_of(design: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of the arrays of a banked model: those of devices, and the digital ones."""
    is_held = lambda node: isinstance(node, _Held)
    rows = jtu.tree_flatten_with_path(design, is_leaf=is_held)[0]
    name = lambda path: jtu.keystr(path).lstrip(".")
    held = [(name(path), each) for path, each in rows if is_held(each)]
    devices = [path for path, each in held if is_bank(each.bank)]
    arrays = [path for path, each in held if eqx.is_array(each.bank)]
    return tuple(devices), tuple(arrays)


def program_of(f: Any, seen: Seen) -> tuple[dict[str, str], list[Any]]:
    """What `f` computes: digests of its jaxpr and logits, and the jaxpr's constants.

    The logits are those of all windows at a fixed key, bit by bit. They tell apart what
    the jaxpr does not show: constants of a nested `jax.jit`, and callbacks.
    """
    arrays, rest = eqx.partition(f, eqx.is_array)
    run = lambda arrays, tokens, key: eqx.combine(arrays, rest)(tokens, key)
    given = (arrays, seen.tokens[:, :-1], jr.key(0))
    closed = jax.make_jaxpr(run)(*given)
    text = re.sub(r"0x[0-9a-f]+", "", str(closed.jaxpr))  # addresses of functions
    found = hashlib.sha256()
    # By the window: a large vocabulary is never whole on the host.
    for row in jax.jit(run)(*given):
        found.update(np.asarray(row).tobytes())
    program = hashlib.sha256(text.encode()).hexdigest()
    return {"program": program, "logits": found.hexdigest()}, list(closed.consts)


class _Held(eqx.Module):
    """A bank, and shape and dtype of the array that it holds; or what is no bank."""

    bank: Any
    shape: tuple[int, ...] | None = eqx.field(static=True, default=None)
    dtype: Any = eqx.field(static=True, default=None)


def realized(design: Any) -> Any:
    """The callable again, with what its devices hold in the dtypes it had."""
    is_held = lambda node: isinstance(node, _Held)

    def whole(held):
        if held.shape is None:
            return held.bank
        array = _rounded(held.bank.realized(), held.dtype)
        return array.reshape(held.shape).astype(held.dtype)

    return jax.tree.map(whole, design, is_leaf=is_held)


def _rounded(x: Array, dtype: Any) -> Array:
    """What `dtype` holds of `x`; a cast may be dropped where it is undone at once."""
    kept = jnp.finfo(dtype)
    if kept.bits >= 32:
        return x
    return jax.lax.reduce_precision(x, kept.nexp, kept.nmant)


def _check(name: str, environment: Environment, n_devices: int) -> None:
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
    if devices and not n_devices:
        raise ValueError(
            f"Environment `{name}` asks for `{devices[0]}`, but this callable holds no"
            " arrays: give an Equinox module, or `FromFlax` of a Flax one."
        )
