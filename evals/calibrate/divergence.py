"""Divergence: how far a chip is from its design in what it predicts."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr

from evals.robustness.scoring import Seen, means_of
from physnn.process import Process
from train.noise_aware import distilled_bits

# Windows that are read at once.
TOGETHER = 4


def divergence(
    design: Any, chip: Any, seen: Seen, process: Process
) -> tuple[float, float, float]:
    """(mean KL(design ‖ chip), bits of the design, bits of the chip), without noise.

    In bits per byte of the scored text. A small deviation shifts the bits of a text by
    its first order, up or down with the text; the divergence has no first order, is
    never negative and is zero only where both predict the same.
    """
    total, n = [0.0, 0.0, 0.0], 0
    for start in range(0, len(seen.tokens), TOGETHER):
        rows = slice(start, start + TOGETHER)
        part = seen._replace(tokens=seen.tokens[rows], scored=seen.scored[rows])
        count = int(part.scored.sum())
        found = _divergence(design, chip, part, process.noiseless())
        total = [t + count * float(each) for t, each in zip(total, found, strict=True)]
        n += count
    far, own, other = (each / n for each in total)
    return far, own, other


@eqx.filter_jit
def _divergence(design, chip, seen: Seen, process: Process):
    tokens = jnp.asarray(seen.tokens, jnp.int32)
    meant, given = (
        model.logits(tokens[:, :-1], process=process, key=jr.key(0))
        for model in (design, chip)
    )
    far = distilled_bits(given, meant, temperature=1.0)
    n = jnp.sum(seen.scored, dtype=jnp.float32)
    mean = jnp.sum(jnp.where(seen.scored, far, 0.0)) / n / seen.bytes_per_token
    return jax.tree.map(
        jnp.asarray, (mean, means_of(meant, seen).bits, means_of(given, seen).bits)
    )
