"""Worst case: the mismatch that hurts most, as improbable as any random chip."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from evals.chip_mesh import chip_keys, each_chip, everywhere, full_group
from evals.robustness.mismatched import Draws, chip_of, draws, n_devices, norm
from evals.robustness.scoring import Seen, means_of
from evals.robustness.suite import WorstCase
from physnn.keys import stream
from physnn.materialized import compiled
from physnn.process import Process

Get = Callable[[str, Callable[[], Any]], Any]

# Random chips of one line of the store, and how many of them are computed at once.
CHUNK, TOGETHER = 1000, 50
# The ascent moves a chip by this share of its norm at first, and less at each step.
STRIDE = 0.3


def worst_case(
    model: Any,
    process: Process,
    settings: WorstCase,
    *,
    near: Seen,
    far: Seen,
    key: Key[Array, ""],
    get: Get,
) -> dict[str, Any]:
    """The worst chip by gradient, beside the worst of many random ones.

    With z the draws of a chip in standard deviations of each device (`mismatched`):
    a random chip of n devices has |z| = √n within a share of 1/√(2n), so chips with
    |z| ≤ √n and |z_i| ≤ `sigmas` are as near to the design as random ones, in total
    and device by device. Projected gradient ascent on the loss (Madry et al. 2018,
    arXiv 1706.06083) searches that set from the first random chip.

    `shifts`: what a shift of that first chip by so many standard deviations along its
    gradient, one direction of n, already does. In the linear regime 10,000 random chips
    reach 3.7 of them, and yield is read from this distance (Antreich et al. 1994, DOI
    10.1109/43.273749).

    All chips are compared by mismatch alone: temporal noise is off. `near` are the
    windows of the search and of the random chips, `far` others, on which both worst
    chips are scored again; a chip that is worst by chance on `near` is not on `far`.
    """
    quiet = process.noiseless()
    limits = {"radius": n_devices(model, process) ** 0.5, "sigmas": settings.sigmas}
    root = stream(key, "worst case")
    key_of = lambda i: jr.fold_in(root, i)
    found, done = [], 0
    while done < settings.random:
        n = min(CHUNK, settings.random - done)
        name = f"worst_case/random/{done}+{n}"
        chunk = range(done, done + n)
        found += get(name, lambda c=chunk: _random(model, quiet, near, root, c))
        done += n
    first = draws(model, process, key_of(0))
    climbed = get(
        "worst_case/ascent",
        lambda: _ascent(model, quiet, near, far, first, settings, limits),
    )
    worst = int(np.argmax(found))
    again = get(
        "worst_case/again",
        lambda: float(_loss(draws(model, process, key_of(worst)), model, quiet, far)),
    )
    design = get(
        "worst_case/design",
        lambda: [float(_design(model, quiet, seen)) for seen in (near, far)],
    )
    counts, edges = np.histogram(found, bins=40)
    return {
        "n_devices": n_devices(model, process),
        "bound": limits,
        "n_random": len(found),
        "random": {
            "worst": float(np.max(found)),
            "worst_elsewhere": again,
            "median": float(np.median(found)),
            "quantile_99": float(np.quantile(found, 0.99)),
            "histogram": {"counts": counts.tolist(), "edges": edges.tolist()},
        },
        "design": design[0],
        "design_elsewhere": design[1],
        **climbed,
        "found_worse": climbed["worst"] > float(np.max(found)),
    }


def _random(model, process, seen: Seen, root, which: range) -> list[float]:
    """Bits of random chips, in groups of the same size."""
    found, group = [], full_group(TOGETHER)
    shared = everywhere((model, process, seen))
    for start in range(which.start, which.stop, group):
        each = _random_group(chip_keys(root, start, group), *shared)
        found += np.asarray(each)[: which.stop - start].tolist()
    return found


@compiled
def _random_group(keys, model, process, seen):
    def one(key, model, process, seen):
        return _bits(draws(model, process, key), model, process, seen)

    # A few at a time by vmap: all at once would not fit into a cache.
    return each_chip(one, keys, model, process, seen, together=5)


def _bits(drawn: Draws, model, process, seen: Seen) -> Float[Array, ""]:
    chip = chip_of(model, process, drawn)
    inputs = seen.tokens[:, :-1]
    logits = chip.logits(inputs, process=process, key=jr.key(0))
    return means_of(logits, seen).bits


_loss = compiled(_bits)


@compiled
def _design(model, process, seen):
    return _bits({}, model, process, seen)


_slope = compiled(eqx.filter_value_and_grad(_bits))


def _ascent(model, process, near, far, first: Draws, settings, limits) -> dict:
    """The worst chip that is found, and what shifts of the first one do."""
    start, slope = _slope(first, model, process, near)
    unit = _scaled(slope, 1 / jnp.maximum(norm(slope), 1e-30))
    shifted = []
    for sigma in settings.shifts:
        there = jax.tree.map(lambda z, d, s=sigma: z + s * d, first, unit)
        # The same distance from the design, in another direction.
        there = _scaled(there, norm(first) / norm(there))
        bits = float(_loss(there, model, process, near))
        shifted.append({"sigmas": sigma, "bits": bits})
    drawn, curve = first, [float(start)]
    best, worst = float(start), first
    for step in range(settings.steps):
        stride = STRIDE * limits["radius"] * (1 - step / settings.steps)
        way = stride / jnp.maximum(norm(slope), 1e-30)
        drawn = jax.tree.map(lambda z, g, w=way: z + w * g, drawn, slope)
        drawn = into_bound(drawn, **limits)
        bits, slope = _slope(drawn, model, process, near)
        curve.append(float(bits))
        if float(bits) > best:
            best, worst = float(bits), drawn
    return {
        "worst": best,
        "worst_elsewhere": float(_loss(worst, model, process, far)),
        "norm": float(norm(worst)),
        "furthest_device": max(float(jnp.max(jnp.abs(z))) for z in worst.values()),
        "ascent": curve,
        "slope_per_sigma": float(norm(_slope(first, model, process, near)[1])),
        "shifts": shifted,
    }


def into_bound(drawn: Draws, *, radius: float, sigmas: float) -> Draws:
    """The draws with |z_i| ≤ `sigmas` and |z| ≤ `radius`: clipped, then shrunk."""
    clipped = jax.tree.map(lambda z: jnp.clip(z, -sigmas, sigmas), drawn)
    return _scaled(clipped, jnp.minimum(1.0, radius / norm(clipped)))


def _scaled(drawn: Draws, factor) -> Draws:
    return jax.tree.map(lambda z: factor * z, drawn)
