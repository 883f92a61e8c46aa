"""Continuous time through Diffrax: the referee of every fast path."""

import abc
from dataclasses import dataclass

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
from jaxtyping import Array, Float, Key, PyTree

from physnn.circuit import AbstractCircuit
from physnn.energy.events import Event
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.process import Process


class AbstractDynamicCircuit(AbstractCircuit[Float[Array, "*batch states"]]):
    """A circuit that is a differential equation over a token, its inputs held.

        dv = drift(v, x) dt + diffusion(v, x) dW,   y = read(v at the end of the token)

    `step` and `scan` are its fast path: a closed form or fused fixed steps.
    `Integrated` runs the same equation through Diffrax.
    """

    period_s: eqx.AbstractVar[float]

    @abc.abstractmethod
    def drift(
        self,
        v: Float[Array, "*batch states"],
        x: Float[Array, "*batch n_in"],
        *,
        process: Process,
    ) -> Float[Array, "*batch states"]:
        """dv/dt [1/s]."""

    @abc.abstractmethod
    def diffusion(
        self,
        v: Float[Array, "*batch states"],
        x: Float[Array, "*batch n_in"],
        *,
        process: Process,
    ) -> Float[Array, "*batch states"]:
        """Standard deviation of each state's own noise [1/sqrt(s)]."""

    def parts(self) -> tuple["AbstractDynamicCircuit", ...]:
        """Equations that hold one after the other, each for an equal part of a token.

        Their states, inputs and period are those of the circuit.
        """
        return (self,)

    @abc.abstractmethod
    def read(
        self,
        v: Float[Array, "*batch states"],
        x: Float[Array, "*batch n_in"],
        *,
        process: Process,
    ) -> Float[Array, "*batch n_out"]:
        """The output at the end of a token."""


# name: (solver, is it for stochastic equations)
SOLVERS = {
    "euler": (dfx.Euler, True),
    "heun": (dfx.Heun, True),
    "shark": (dfx.ShARK, True),
    "tsit5": (dfx.Tsit5, False),
    "dopri8": (dfx.Dopri8, False),
    "kvaerno5": (dfx.Kvaerno5, False),
}
ADJOINTS = {
    "recursive": dfx.RecursiveCheckpointAdjoint,
    "direct": dfx.DirectAdjoint,
    "backsolve": dfx.BacksolveAdjoint,
}


@dataclass(frozen=True)
class SolverConfig:
    """How Diffrax integrates a token.

    `kvaerno5` is for stiff equations. `euler`, `heun` and `shark` take
    `steps_per_token` fixed steps and see the noise; the others adapt their steps to
    `rtol` and `atol` and run without it, as no adaptive one converges on a path.
    """

    name: str = "tsit5"
    steps_per_token: int = 64  # of the solvers with fixed steps
    rtol: float = 1e-5
    atol: float = 1e-7
    adjoint: str = "recursive"  # direct, or backsolve where there is no noise
    max_steps: int = 4096  # a token that needs more is not a number

    def __post_init__(self):
        for name, known in (("name", SOLVERS), ("adjoint", ADJOINTS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"Argument `{name}` must be one of {sorted(known)}, but is"
                    f" {getattr(self, name)!r}."
                )
        for name in ("steps_per_token", "rtol", "atol", "max_steps"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"Argument `{name}` must be positive, but is {getattr(self, name)}."
                )
        if self.adjoint == "backsolve" and self.is_stochastic:
            raise ValueError(
                "Argument `adjoint` must be `recursive` or `direct` for a solver that"
                f" sees noise, but is `backsolve` for `{self.name}`."
            )

    @property
    def is_stochastic(self) -> bool:
        return SOLVERS[self.name][1]


class Integrated(AbstractCircuit):
    """A dynamic circuit whose tokens Diffrax integrates instead of its fast path.

    Slower, and for any equation; what it makes happen and how it is built are the
    circuit's own. A solve that fails leaves NaN in the outputs, and `diagnose` counts
    how many tokens did.
    """

    circuit: AbstractDynamicCircuit
    solver: SolverConfig = eqx.field(static=True)
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)

    def __init__(self, circuit: AbstractDynamicCircuit, solver: SolverConfig):
        self.circuit, self.solver = circuit, solver
        self.n_in, self.n_out = circuit.n_in, circuit.n_out

    def init_state(self, batch_shape=()):
        return self.circuit.init_state(batch_shape)

    def step(self, state, x, *, process, key):
        v = solve_token(
            self.circuit, state, x, process=process, key=key, solver=self.solver
        )
        return v, self.circuit.read(v, x, process=process)

    def scan(self, state, xs, *, process, key):
        def body(v, inputs):
            x, step_key = inputs
            return self.step(v, x, process=process, key=step_key)

        return jax.lax.scan(body, state, (xs, jr.split(key, len(xs))))

    def diagnose(self, xs, *, process, key):
        state = self.circuit.init_state(xs.shape[1:-1])
        _, ys = self.scan(state, xs, process=process, key=key)
        failed = jnp.any(~jnp.isfinite(ys), axis=-1)
        return {"share of tokens not integrated": jnp.mean(failed.astype(ys.dtype))}

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        return self.circuit.events(process, period_s=period_s)

    def netlist(self, process: Process, *, name: str) -> Netlist:
        return self.circuit.netlist(process, name=name)


def solve_token(
    circuit: AbstractDynamicCircuit,
    v: Float[Array, "*batch states"],
    x: Float[Array, "*batch n_in"],
    *,
    process: Process,
    key: Key[Array, ""],
    solver: SolverConfig,
) -> Float[Array, "*batch states"]:
    """The state a token later. Time runs in tokens, so that one is of order 1."""
    period = circuit.period_s

    # All that can be differentiated is an argument: an adjoint must see it.
    def drift(t, v, args):
        circuit, x, process = args
        return period * circuit.drift(v, x, process=process)

    terms = dfx.ODETerm(drift)
    if solver.is_stochastic:

        def diffusion(t, v, args):
            circuit, x, process = args
            spread = period**0.5 * circuit.diffusion(v, x, process=process)
            return lx.DiagonalLinearOperator(jnp.broadcast_to(spread, v.shape))

        path = dfx.VirtualBrownianTree(
            t0=0.0,
            t1=1.0,
            tol=1 / (2 * solver.steps_per_token),
            shape=jax.ShapeDtypeStruct(v.shape, v.dtype),
            key=stream(key, "path"),
            levy_area=dfx.SpaceTimeLevyArea
            if solver.name == "shark"
            else dfx.BrownianIncrement,
        )
        noise = dfx.ControlTerm(diffusion, path)
        terms = dfx.MultiTerm(terms, noise)
        controller, dt0 = dfx.ConstantStepSize(), 1 / solver.steps_per_token
        max_steps = solver.steps_per_token + 1
    else:
        controller = dfx.PIDController(rtol=solver.rtol, atol=solver.atol)
        dt0, max_steps = None, solver.max_steps
    parts = circuit.parts()
    for i, part in enumerate(parts):
        solution = dfx.diffeqsolve(
            terms,
            SOLVERS[solver.name][0](),
            t0=i / len(parts),
            t1=(i + 1) / len(parts),
            dt0=dt0,
            y0=v,
            args=(part, x, process),
            stepsize_controller=controller,
            adjoint=ADJOINTS[solver.adjoint](),
            max_steps=max_steps,
            throw=False,
        )
        assert solution.ys is not None
        solved = solution.result == dfx.RESULTS.successful
        v = jnp.where(solved, solution.ys[0], jnp.nan)
    return v


def integrated(model: PyTree, solver: SolverConfig) -> PyTree:
    """The same model with Diffrax under every dynamic circuit in it.

    Circuits that are under Diffrax already get `solver` instead of theirs.
    """

    def is_dynamic(node) -> bool:
        return isinstance(node, AbstractDynamicCircuit | Integrated)

    def wrap(node):
        if isinstance(node, Integrated):
            node = node.circuit
        return Integrated(node, solver) if is_dynamic(node) else node

    return jax.tree.map(wrap, model, is_leaf=is_dynamic)
