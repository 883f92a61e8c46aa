"""Time in parts: a sequence cut into stretches, each of which a device holds."""

import contextlib
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float

_asked = jax.make_user_context(None)


@contextlib.contextmanager
def cut_in_time(sharding: NamedSharding | None) -> Iterator[None]:
    """While entered, circuits are traced with their time cut by `sharding`.

    Its first axis is that of the parts, one for each device along it; None, or one
    part, is time as it is. JAX's caches know of it, as of `recurrence.computed_by`.
    """
    if sharding is None or _parts_of(sharding) == 1:
        yield
        return
    with _asked(sharding):
        yield


def n_parts() -> int:
    """Parts of time where a circuit is traced now; 1: it is not cut."""
    return 1 if _asked.value is None else _parts_of(_asked.value)


def in_parts(xs: Float[Array, " time *shape"]) -> Float[Array, "parts length *shape"]:
    """A sequence as its parts, each on its devices; its other axes lie as they did.

    Raises `ValueError` for a time that cannot be cut into equal parts.
    """
    parts, time = n_parts(), len(xs)
    if time % parts:
        raise ValueError(
            f"A sequence must have a multiple of {parts} tokens to be cut in time"
            f" (`mesh.sequence`), but has {time}."
        )
    cut = xs.reshape(parts, time // parts, *xs.shape[1:])
    free = [PartitionSpec.UNCONSTRAINED] * (cut.ndim - 1)
    spec = PartitionSpec(_asked.value.spec[0], *free)
    mesh = _asked.value.mesh
    return jax.lax.with_sharding_constraint(cut, NamedSharding(mesh, spec))


def joined(parts: Float[Array, "parts length *shape"]) -> Float[Array, " time *shape"]:
    """The sequence of all parts, in order."""
    return parts.reshape(parts.shape[0] * parts.shape[1], *parts.shape[2:])


def with_past(
    past: Float[Array, " past *shape"], xs: Float[Array, " time *shape"]
) -> Float[Array, "parts past_and_length *shape"]:
    """Every part behind the samples before it: of the one before, first `past`.

    Only these go from device to device. Raises `ValueError` for parts shorter than
    that.
    """
    parts = in_parts(xs)
    n, length = len(past), parts.shape[1]
    if length < n:
        raise ValueError(
            f"A part of a sequence cut in time (`mesh.sequence`) must hold the {n}"
            f" samples of a delay line, but holds {length}: cut it into fewer."
        )
    before = jnp.roll(parts[:, length - n :], 1, axis=0).at[0].set(past)
    return jnp.concatenate([before, parts], axis=1)


def _parts_of(sharding: NamedSharding) -> int:
    names = sharding.spec[0]
    names = names if isinstance(names, tuple) else (names,)
    return math.prod(sharding.mesh.shape[name] for name in names)
