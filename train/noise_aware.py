"""What makes training noise-aware: chips, operating points, clipping, a teacher."""

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, Key, PyTree

from physnn.bank import Bank
from physnn.environment import CORNERS, Environment
from physnn.keys import stream


@dataclass(frozen=True)
class Sampled:
    """Operating points to draw from: each chip of each batch has one of its own.

    One of `corners`, by equal chance; temperature and supply uniform between the two
    ends, age log-uniform. What is left out stays as the environment has it.
    """

    corners: tuple[str, ...] = ()
    temperature_K: tuple[float, float] | None = None
    supply: tuple[float, float] | None = None  # of nominal
    age_s: tuple[float, float] | None = None

    def __post_init__(self):
        for name in ("temperature_K", "supply", "age_s"):
            ends = getattr(self, name)
            if ends is not None and not 0 < ends[0] <= ends[1] < math.inf:
                raise ValueError(
                    f"Argument `{name}` of what is sampled must be two positive ends,"
                    f" the lower one first, but is {ends}."
                )
        unknown = sorted(set(self.corners) - set(CORNERS))
        if unknown:
            raise ValueError(
                f"Argument `corners` of what is sampled must be of {list(CORNERS)}, but"
                f" holds {unknown}."
            )
        if not any(vars(self).values()):
            raise ValueError(
                "What is sampled must name corners, temperatures, supplies or ages, but"
                " names nothing: leave it out."
            )

    @property
    def drawn(self) -> frozenset[str]:
        """The amounts of an environment that are drawn, whatever it has there."""
        ends = ("temperature_K", "supply", "age_s")
        found = {name for name in ends if getattr(self, name) is not None}
        return frozenset(found | ({"nmos", "pmos"} if self.corners else set()))

    def named(self, environment: Environment) -> Environment:
        """`environment` with what is drawn away from none: to ask what acts at all."""
        away = {"nmos": 1.0, "pmos": 1.0} if any(map("tt".__ne__, self.corners)) else {}
        for name in ("temperature_K", "supply", "age_s"):
            ends = getattr(self, name)
            if ends is not None:
                away[name] = ends[0] if ends[0] != 1 else ends[1]
        return environment.replace(**away)

    def draw(self, environment: Environment, key: Key[Array, ""]) -> Environment:
        """`environment` at an operating point drawn from `key`; traced."""
        changes = {}
        if self.corners:
            points = jnp.asarray([CORNERS[name] for name in self.corners])
            drawn = jr.choice(stream(key, "corner"), points)
            changes |= {"corner": "tt", "nmos": drawn[0], "pmos": drawn[1]}
        for name in ("temperature_K", "supply", "age_s"):
            ends = getattr(self, name)
            if ends is None:
                continue
            low, high = jnp.log(jnp.asarray(ends)) if name == "age_s" else ends
            drawn = jr.uniform(stream(key, name), minval=low, maxval=high)
            changes[name] = jnp.exp(drawn) if name == "age_s" else drawn
        return environment.replace(**changes)


@dataclass(frozen=True)
class NoiseAware:
    """How a physical model is trained: always with temporal noise, on several chips.

    `energy_weight`: what a nanojoule billed for a byte costs in the loss [bits per
    byte]. Above zero the sizes of devices are trained, too; else they stay.
    `energy_prices`: the price list of that bill.
    `sizes_from`, `sizes_until`: parts of the steps between which sizes are trained.
    Before, weights settle in whole codes; after, in those that were found. The energy
    term acts on sizes alone, so it does nothing outside.
    `clip_sigma`: after every step no trained weight is further from zero than this
    multiple of the root mean square of its channel, the column of a matrix (Büchel et
    al. 2025, arXiv 2505.09663, clip at 2.5); `inf` clips nothing.
    `environment`: what chips are trained in, amount by amount; without it noise and
    mismatch as the process states them. `card`: every amount the process's card states,
    the full default environment, in place of such a table. `sampled`: operating points
    that are drawn anew for every chip of every batch.
    """

    chips_per_batch: int = 2  # the batch is shared out among them
    energy_weight: float = 0.0
    energy_prices: str = "analog28"
    sizes_from: float = 0.25
    sizes_until: float = 0.75
    clip_sigma: float = math.inf
    card: bool = False
    environment: Environment | None = None
    sampled: Sampled | None = None

    def __post_init__(self):
        if self.chips_per_batch < 1:
            raise ValueError(
                "Argument `chips_per_batch` must be at least 1, but is"
                f" {self.chips_per_batch}."
            )
        if not self.energy_weight >= 0:
            raise ValueError(
                "Argument `energy_weight` must not be negative, but is"
                f" {self.energy_weight}."
            )
        if not 0 <= self.sizes_from < self.sizes_until <= 1:
            raise ValueError(
                "Arguments `sizes_from` and `sizes_until` must be parts of the steps,"
                f" one after the other, but are {self.sizes_from} and"
                f" {self.sizes_until}."
            )
        if not self.clip_sigma >= 1:
            raise ValueError(
                "Argument `clip_sigma` must be at least 1, or a channel shrinks at"
                f" every step, but is {self.clip_sigma}."
            )
        if self.card and self.environment is not None:
            raise ValueError(
                "Chips are trained in the environment of the process's `card` or in the"
                " one of the table `environment`, but both are given: leave one out."
            )


@dataclass(frozen=True)
class Distillation:
    """A digital teacher: its softened distribution beside the text in the loss.

        (1 − w)·CE(text) + w·T²·KL(softmax(teacher/T) ‖ softmax(student/T))

    in bits, w = `weight`, T = `temperature` (Hinton, Vinyals & Dean 2015, arXiv
    1503.02531). `teacher` is the folder of a digital run over the same symbols; a
    relative path is relative to the file it stands in.
    """

    teacher: str = ""
    weight: float = 0.5
    temperature: float = 2.0

    def __post_init__(self):
        if not self.teacher:
            raise ValueError(
                "Argument `teacher` must be the folder of a digital run, but is empty."
            )
        if not 0 <= self.weight <= 1:
            raise ValueError(
                "Argument `weight` of the distillation must be from 0 to 1, but is"
                f" {self.weight}."
            )
        if not self.temperature > 0:
            raise ValueError(
                "Argument `temperature` of the distillation must be positive, but is"
                f" {self.temperature}."
            )


def clip_channels(trained: PyTree, sigma: float) -> PyTree:
    """Every trained matrix of a bank with its columns clipped at `sigma` times their
    root mean square, as it is before.

    What has one axis, like offsets and gains, is no channel and stays.
    """

    def clip(node):
        if not isinstance(node, Bank) or node.value is None or node.value.ndim < 2:
            return node
        value = node.value
        end = sigma * jnp.sqrt(jnp.mean(jnp.square(value), axis=0, keepdims=True))
        clipped = jnp.clip(value, -end, end)
        return eqx.tree_at(lambda bank: bank.value, node, clipped)

    return jax.tree.map(clip, trained, is_leaf=lambda node: isinstance(node, Bank))


def distilled_bits(
    student: Float[Array, "*batch vocabulary"],
    teacher: Float[Array, "*batch vocabulary"],
    *,
    temperature: float,
) -> Float[Array, "*batch"]:
    """T²·KL(teacher ‖ student) at temperature T [bits]; zero where they agree.

    T² keeps its gradient as large as that of the text (Hinton et al. 2015).
    """
    p = jax.nn.log_softmax(jax.lax.stop_gradient(teacher) / temperature, axis=-1)
    q = jax.nn.log_softmax(student / temperature, axis=-1)
    return temperature**2 * jnp.sum(jnp.exp(p) * (p - q), axis=-1) / jnp.log(2.0)
