"""Wiring of lookup tables: which bit each pin reads, fixed at random or learned."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Int, Key

from physnn.materialized import materialized


def _scrambled(values: np.ndarray) -> np.ndarray:
    """Hash of 64-bit integers (splitmix64, DOI 10.1145/2660193.2660195).

    Unlike the generators of NumPy, whose streams may change, it makes a wiring a
    function of its seed forever: a checkpoint holds no wires.
    """
    z = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def permutation(n: int, seed: int) -> np.ndarray:
    """A random order of `n` things, the same on every machine."""
    start = _scrambled(np.asarray([seed + 1]))[0]
    with np.errstate(over="ignore"):
        keys = _scrambled(np.arange(n, dtype=np.uint64) + start)
    return np.argsort(keys, kind="stable")


@functools.lru_cache(maxsize=256)
def random_wires(n_in: int, n_out: int, seed: int) -> np.ndarray:
    """A bit for each of `n_out` pins, all bits equally often, give or take one."""
    rounds = max(1, -(-n_out // n_in))
    wires = [permutation(n_in, seed + 7919 * i) for i in range(rounds)]
    return np.concatenate(wires)[:n_out].astype(np.int32)


def inverse_of(wires: np.ndarray, n_in: int) -> np.ndarray:
    """For each bit the pins that read it, filled up with `len(wires)`."""
    fan_out = np.bincount(wires, minlength=n_in)
    pins = np.argsort(wires, kind="stable")
    place = np.arange(len(wires)) - np.repeat(np.cumsum(fan_out) - fan_out, fan_out)
    inverse = np.full((n_in, max(1, fan_out.max())), len(wires), np.int32)
    inverse[wires[pins], place] = pins
    return inverse


def gather(x: Float[Array, "*batch n_in"], wires: np.ndarray) -> Float[Array, "..."]:
    """`x[..., wires]`, whose gradient gathers over the inverse wiring.

    The transpose of a gather is a scatter-add, which CPUs and GPUs do one collision
    after another; reading for each bit the pins on it measured four times faster.
    """
    n_in = x.shape[-1]
    inverse = inverse_of(wires, n_in)

    @jax.custom_vjp
    def gathered(x):
        return x.at[:, wires].get(mode="promise_in_bounds")

    def backward(_, cotangent):
        nothing = jnp.zeros((*cotangent.shape[:-1], 1), cotangent.dtype)
        padded = jnp.concatenate([cotangent, nothing], axis=-1)
        padded = materialized(padded)
        total = jnp.zeros((*cotangent.shape[:-1], n_in), cotangent.dtype)
        # One addend after another: the pins of all bits at once would not fit a cache.
        for pins in inverse.T:
            total = total + padded.at[:, pins].get(mode="promise_in_bounds")
        # Else it is read against its layout wherever it is used.
        return (materialized(total),)

    gathered.defvjp(lambda x: (gathered(x), None), backward)
    # One batch axis: XLA's CPU gathers are 20 times slower with two.
    pins = gathered(x.reshape(-1, n_in))
    return pins.reshape(*x.shape[:-1], len(wires))


class FixedWiring(eqx.Module):
    """Random wires that stay: every bit is read equally often, give or take one.

    `seed` is the wiring; the same seed is the same wires on every machine.
    """

    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    seed: int = eqx.field(static=True, default=0)

    def __check_init__(self):
        _check_counts(self.n_in, self.n_out)

    def chosen(self) -> Int[np.ndarray, " n_out"]:
        """The bit that each pin reads."""
        return random_wires(self.n_in, self.n_out, self.seed)

    def __call__(self, x: Float[Array, "*batch n_in"]) -> Float[Array, "*batch n_out"]:
        return gather(x, self.chosen())


class LearnedWiring(eqx.Module):
    """Each pin chooses one of its group's candidates: the one with the highest score.

    Pins stand in groups of `group` that see the same `n_candidates` bits, so that a
    choice is one small matrix product per group. On chip the
    choice is made (metal, or a few stored bits); in training the gradient is that of
    softmax(score / temperature), straight through the argmax. `soft` uses the softmax.

    Reference: Bacellar et al. 2024, "Differentiable weightless neural networks", arXiv
    2410.11112 (learnable mapping, there from all bits).
    """

    score: Float[Array, "groups n_candidates group"]
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    seed: int = eqx.field(static=True)
    soft: bool = eqx.field(static=True)

    def candidates(self) -> Int[np.ndarray, "groups n_candidates"]:
        """The bits that the pins of each group may choose from."""
        groups, n_candidates, _ = self.score.shape
        return candidates_of(self.n_in, groups, n_candidates, self.seed)

    def chosen(self) -> Int[np.ndarray, " n_out"]:
        """The bit that each pin reads on chip."""
        best = np.asarray(jnp.argmax(self.score, axis=1))
        wires = np.take_along_axis(self.candidates(), best, axis=1)
        return wires.reshape(-1).astype(np.int32)

    def __call__(self, x: Float[Array, "*batch n_in"]) -> Float[Array, "*batch n_out"]:
        groups, n_candidates, group = self.score.shape
        seen = gather(x, self.candidates().reshape(-1))
        seen = seen.reshape(-1, groups, n_candidates)
        if self.soft:
            share = jax.nn.softmax(self.score / self.temperature, axis=1)
        else:
            share = choose(self.score, self.temperature)
        pins = jnp.einsum("bgc,gcp->bgp", seen, share)
        return pins.reshape(*x.shape[:-1], groups * group)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def choose(score: Float[Array, "g c p"], temperature: float) -> Float[Array, "g c p"]:
    """One-hot of the highest score of each pin, with the gradient of the softmax."""
    del temperature
    best = jnp.argmax(score, axis=1)
    return jax.nn.one_hot(best, score.shape[1], axis=1, dtype=score.dtype)


def _choose_gradient(temperature, score, cotangent):
    share = jax.nn.softmax(score / temperature, axis=1)
    mean = jnp.sum(share * cotangent, axis=1, keepdims=True)
    return (share * (cotangent - mean) / temperature,)


choose.defvjp(lambda score, t: (choose(score, t), score), _choose_gradient)


def learned_wiring(
    n_in: int,
    n_out: int,
    *,
    group: int = 60,
    n_candidates: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    key: Key[Array, ""],
) -> LearnedWiring:
    """Learned wiring of `n_out` pins in groups of `group`, scores drawn at random.

    Raises `ValueError` for groups that do not add up and more candidates than bits.
    """
    _check_counts(n_in, n_out)
    if group < 1 or n_out % group:
        raise ValueError(
            f"Argument `group` must divide the {n_out} pins, but is {group}."
        )
    if not temperature > 0:
        raise ValueError(
            f"Argument `temperature` must be positive, but is {temperature}."
        )
    if not 1 <= n_candidates <= n_in:
        raise ValueError(
            f"Argument `n_candidates` must be from 1 to the {n_in} bits, but is"
            f" {n_candidates}."
        )
    return LearnedWiring(
        score=jr.normal(key, (n_out // group, n_candidates, group)),
        n_in=n_in,
        n_out=n_out,
        temperature=temperature,
        seed=seed,
        soft=False,
    )


@functools.lru_cache(maxsize=256)
def candidates_of(n_in: int, groups: int, n_candidates: int, seed: int) -> np.ndarray:
    """The candidate bits of each group, `n_candidates` different ones of all."""
    rows = [
        permutation(n_in, seed + 104729 * (g + 1))[:n_candidates] for g in range(groups)
    ]
    return np.stack(rows).astype(np.int32)


def _check_counts(n_in: int, n_out: int) -> None:
    if n_in < 1 or n_out < 1:
        raise ValueError(
            f"A wiring must have bits and pins, but has {n_in} bits and {n_out} pins."
        )
