"""What settling networks are made of: their nodes, their start, bounds of couplings."""

from typing import TYPE_CHECKING, NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, Key

from physnn.equilibrium import residual
from physnn.keys import stream
from physnn.materialized import materialized

if TYPE_CHECKING:
    from circuits.equilibrium import SettlingNetwork

# Squarings behind a bound: it is too large by n^(1/128) at most, 4 % at 100 nodes.
SQUARINGS = 5


class Nodes(NamedTuple):
    """A network in one process: T·dv/dt = rate·(d·x + s(v) @ g − load·v), in units."""

    g: Float[Array, "n n"]  # coupling from node (row) to node (column), signed
    d: Float[Array, " n"]  # input conductance
    load: Float[Array, " n"]  # all conductance at a node
    rate: Float[Array, " n"]  # unit conductances of C/T
    offset: Float[Array, "*moving n"]  # of a buffer [full scale]
    reach: Float[Array, ""]  # output at which a buffer saturates [full scale]
    noise: Float[Array, " n"]  # of all currents into a node, over that of its load


def buffers(v, nodes: Nodes):
    """s(v): what the buffers of the nodes give."""
    return nodes.reach * jnp.tanh((v + nodes.offset) / nodes.reach)


def settling_map(v, args):
    """v ↦ s(v) @ W + target: what the nodes are pulled to."""
    weight, target, offset, reach = args
    return materialized(reach * jnp.tanh((v + offset) / reach) @ weight) + target


def few_signs(n: int, degree: int, key: Key[Array, ""]) -> Float[Array, "n n"]:
    """A matrix of ±1 with `degree` entries in each column, all others zero."""
    order = jnp.argsort(jr.uniform(stream(key, "wiring"), (n, n)), axis=0)
    signs = jr.rademacher(stream(key, "signs"), (n, n), jnp.float32)
    return jnp.where(order < degree, signs, 0.0)


def turning(
    n: int, degree: int, key: Key[Array, ""], *, skew: bool
) -> Float[Array, "n n"]:
    """An orthogonal matrix on random groups of `degree` nodes; a skew one, if asked.

    What is left over is a smaller group; in a skew one of odd size a direction is 0.
    """
    order = jr.permutation(stream(key, "wiring"), n)
    draws = jr.normal(stream(key, "signs"), (n, degree))
    value = jnp.zeros((n, n))
    for first in range(0, n, degree):
        group = order[first : first + degree]
        q = jnp.linalg.qr(draws[first : first + degree, : len(group)])[0]
        if skew:
            pairs = np.kron(np.eye(len(group) // 2), [[0.0, 1.0], [-1.0, 0.0]])
            odd = len(group) % 2
            q = q.T @ jnp.asarray(np.pad(pairs, (0, odd)), q.dtype) @ q
        value = value.at[group[:, None], group].set(q)
    return value


def norm_bound(a: Float[Array, "n n"]) -> Float[Array, ""]:
    """No less than the largest singular value of `a`, by squaring AᵀA.

    (tr (AᵀA)^2p)^(1/4p), p = 2^`SQUARINGS`: products of matrices alone, and smooth
    (Delattre, Barthélemy, Araujo & Allauzen 2023, arXiv 2305.16173).
    """
    tiny = 1e-30  # a slope of zero, not of 0/0, where nothing is coupled
    size = lambda m: jnp.sqrt(jnp.sum(m * m) + tiny)
    power, log = a.T @ a, jnp.zeros((), a.dtype)
    for _ in range(SQUARINGS):
        scale = size(power)
        power, log = (power / scale) @ (power / scale), 2 * (log + jnp.log(scale))
    return jnp.exp((log + jnp.log(size(power))) / 2 ** (SQUARINGS + 1))


def pull_bound(g: Float[Array, "n n"], *, at_rest: bool) -> Float[Array, ""]:
    """The load at every node [of g's unit] by which couplings `g` cannot grow a gap.

    For slopes D of the buffers from 0 to 1, δᵀgᵀDδ ≤ ½·(λ + |g|)·|δ|², λ the largest
    eigenvalue of its symmetric part: with D = ½·(1 + E), |E| ≤ 1. Below |g| itself, as
    what is antisymmetric, a gyrator, takes no power. `at_rest`: |g|, under which the
    fixed-point iteration contracts, too.
    """
    norm = norm_bound(g)
    if at_rest:
        return norm
    symmetric = (g + g.T) / 2
    shift = norm_bound(symmetric)
    eye = jnp.eye(len(g), dtype=g.dtype)
    largest = norm_bound(symmetric + shift * eye) - shift
    return (norm + jnp.maximum(largest, 0.0)) / 2


def figures(
    circuit: "SettlingNetwork", xs: Float[Array, "time *batch n"], *, process, key
) -> dict[str, Array]:
    """What a network says of its operation at inputs `xs`: did it settle, how far."""
    nodes = circuit.nodes(process)
    found = {"contraction": circuit.contraction(process)}
    if circuit.mode == "equilibrium":
        solution = circuit.solution(xs, nodes)
        v = solution.value
        left = residual(settling_map, v, circuit.problem(xs, nodes))
        settled = left <= circuit.solver.tolerance  # not so for a NaN
        found["residual"] = jnp.max(left)
        found["not settled"] = jnp.mean((~settled).astype(v.dtype))
        found["iterations"] = jnp.asarray(solution.stats["num_steps"], v.dtype)
        # The contraction in time, over a token.
        found["left after a token"] = jnp.exp(-jnp.min(nodes.rate * nodes.d))
    else:
        start = circuit.init_state(xs.shape[1:-1])
        _, v = circuit.scan(start, xs, process=process, key=key)
        failed = jnp.any(~jnp.isfinite(v), axis=-1)
        found["not a number"] = jnp.mean(failed.astype(v.dtype))
    found["drive of buffers"] = jnp.sqrt(jnp.mean(jnp.square(v))) / nodes.reach
    pull = buffers(v, nodes) @ nodes.g
    own = jnp.sqrt(jnp.mean(jnp.square(nodes.d * xs))) + 1e-12
    found["feedback / input"] = jnp.sqrt(jnp.mean(jnp.square(pull))) / own
    return found
