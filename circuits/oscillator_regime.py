"""The computing regime of phase oscillators: its figures and their limits."""

import math
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits.oscillator_parts import RING_Q, sincos
from physnn.process import Process

if TYPE_CHECKING:
    from circuits.oscillator import PhaseOscillators

# figure: (lowest, highest) in the computing regime. Too weak a coupling leaves static
# random features, too strong a one synchrony.
REGIME = {
    "phase spread [rad]": (0.5, 2.0),
    "share beyond pi": (0.0, 0.01),
    "coupling / drive": (0.3, 2.0),
    "participation ratio / outputs": (0.05, 1.0),
    "step x coupling norm": (0.0, 1.0),
    "injection ratio": (0.0, 0.3),
    "error of the steps": (0.0, 0.05),
}


def figures(
    cell: "PhaseOscillators",
    thetas: Float[Array, "time *batch rings"],
    xs: Float[Array, "time *batch n_in"],
    *,
    process: Process,
) -> dict[str, Float[Array, ""]]:
    """What `REGIME` limits, of the phases at the end of each token of `xs`.

    The participation ratio (Σλ)²/Σλ² of the covariance of the outputs says how many of
    them are independent. Error of the steps: rms of the outputs after a token from the
    start, against steps an eighth as long. The norm of K − diag(K·1) bounds |λ_max|.
    """
    s, c = sincos(thetas)
    pull = cell.pulls(cell.n_segments - 1)
    rms = lambda *parts: jnp.sqrt(sum(jnp.mean(v * v) for v in parts))
    coupled = rms(pull(s), pull(c))
    driven = rms(*jnp.split(cell.drive_rate * xs, 2, axis=-1))
    features = cell.read(thetas, xs, process=process).reshape(-1, cell.n_out)
    centered = features - jnp.mean(features, axis=0)
    covariance = centered.T @ centered / len(centered)
    K = pull(jnp.eye(cell.n + cell.n_pool, dtype=thetas.dtype))
    laplacian = K - jnp.diag(jnp.sum(K, axis=0))
    start = cell.init_state(xs.shape[:-1])
    rough, fine = (
        cell.read(cell.settle(start, xs, n_steps=k), xs, process=process)
        for k in (cell.n_steps, 8 * cell.n_steps)
    )
    beyond = jnp.abs(thetas) > jnp.pi
    # A driven pool of silent inputs has neither drive nor spread: not a number is none.
    tiny = 1e-12
    return {
        "phase spread [rad]": jnp.std(thetas[..., : cell.n]),
        "share beyond pi": jnp.mean(beyond.astype(s.dtype)),
        "coupling / drive": coupled / (driven + tiny),
        "participation ratio / outputs": jnp.trace(covariance) ** 2
        / (jnp.sum(covariance**2) + tiny)
        / cell.n_out,
        "step x coupling norm": jnp.linalg.norm(laplacian, 2) / cell.n_steps,
        "injection ratio": RING_Q * (coupled + driven) / (math.pi * cell.cycles),
        "error of the steps": rms(rough - fine),
        "jitter [rad per token]": jnp.sqrt(jnp.asarray(cell.jitter_variance(process))),
    }
