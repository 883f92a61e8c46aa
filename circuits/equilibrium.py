"""Equilibrium: a passive RC network with saturating feedback that settles."""

import math
from typing import ClassVar, Literal

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from circuits import equilibrium_cells
from circuits.equilibrium_parts import (
    Nodes,
    buffers,
    few_signs,
    figures,
    pull_bound,
    settling_map,
    turning,
)
from circuits.parts import one_of
from physnn.bank import Bank
from physnn.dynamics import AbstractDynamicCircuit
from physnn.equilibrium import FixedPointConfig, fixed_point, solve
from physnn.export.netlist import Netlist
from physnn.keys import stream
from physnn.noise import coupled, is_zero, rms, thermal_noise, white
from physnn.process import Process

# Drawn area of one unit of a conductance, and of the pair of a buffer.
UNIT_M2 = 0.1e-12
PAIR_M2 = 1e-12
# The weakest input conductance, in units.
DRIVE_MIN = 0.5


class SettlingNetwork(AbstractDynamicCircuit):
    """A network of nodes that pull each other to an equilibrium, or part of the way.

                  d_i            |g_ji|
        x_i ──/\\/\\/──┬──/\\/\\/── ±s_j ◁── v_j      s(v) = r·tanh((v + o) / r)
                       │   m·|g_ji|               r = 2nU_T: unity-gain buffers
                     C ═   to ref, leak           that saturate
                       ⏚

        C dv_i/dt = G_i·[d_i·x_i + Σ_j g_ji·s(v_j) − L_i·v_i] + noise
        L_i = d_i + (1 + m)·Σ_j |g_ji| + g_leak/G_i

    Conductances are in units G_i; a negative one crosses the two halves. The output is
    v. In mode `equilibrium` it is the fixed point v_i = (d_i·x_i + Σ_j g_ji·s_j) / L_i,
    which is not a matter of time or of what was before. In mode `transient` a token
    lasts `n_settle` units of time C/G, starting from where the last one ended: the
    nodes remember, and think as long as they are given (G_i falls from node to node
    where `longest_memory` asks for it).

    It is a contraction whatever was trained and whatever mismatch was drawn, because a
    conductance loads its node by as much as it can drive it. The slope of s is at most
    1, so in the largest-difference norm the fixed-point map has the constant
    Σ|g| / L < 1/(1 + m); and for the difference δ of two solutions, at the node where
    it is largest, C d|δ_i|/dt ≤ G_i·(Σ|g_ji| − L_i)·|δ_i| ≤ −G_i·d_i·|δ_i|, so it falls
    at least as fast as e^(−n_settle·d) in a token. No coupling can change this.

    That is the load which n couplings of any sign take in step. A `coupler` that is a
    `transconductor` drives and does not load. Then L_i = d_i + (1 + m)·`strength` +
    g_leak/G_i, and one current for all couplings scales them down where ½·(λ + |g|)
    would exceed `strength`: |g| their norm, λ the largest eigenvalue of the symmetric
    part, as what is antisymmetric, a gyrator, takes no power (in `equilibrium`: |g|).
    Two solutions then approach each other in the norm Σ_i δ_i²/G_i, by e^(−G_i·d_i·T/C)
    in a token at least: in the design; `diagnose` says what mismatch takes of m.

    The thermal noise of all conductance at a node has the variance kT/C there, and
    reaches the others as far as it is slower than they are: to first order in the
    coupling half of its power does, so half of it is one draw inside the solve, held
    while it settles, and half is added to the sample. `transient` draws in every step.
    Transconductors add noise as conductances of their size do, which load nothing.

    Assumes: linear conductances; buffers much faster than C/G; in `equilibrium` that a
    token is long enough, `diagnose` says what is left. Does not model: noise and output
    resistance of the buffers beyond the process's `thermal_noise`.

    References: Hopfield 1984, DOI 10.1073/pnas.81.10.3088; Bai, Kolter & Koltun 2019,
    "Deep equilibrium models", arXiv 1909.01377; the norms, Davydov, Jafarpour & Bullo
    2022, "Non-Euclidean contraction theory", DOI 10.1109/TAC.2022.3183966; free
    antisymmetric parts, Winston & Kolter 2020, arXiv 2006.08591.
    """

    coupling: Bank | None
    drive: Bank
    offset: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    mode: Literal["equilibrium", "transient"] = eqx.field(static=True)
    coupler: Literal["resistor", "transconductor"] = eqx.field(static=True)
    margin: float = eqx.field(static=True)
    n_settle: float = eqx.field(static=True)
    longest_memory: float = eqx.field(static=True)
    strength: float = eqx.field(static=True)
    degree: int = eqx.field(static=True)
    n_steps: int = eqx.field(static=True)
    state_F: float = eqx.field(static=True)
    solver: FixedPointConfig = eqx.field(static=True)
    period_s: float = eqx.field(static=True)

    limits: ClassVar = {
        "not settled": (0.0, 0.0),
        "not a number": (0.0, 0.0),
        "left after a token": (0.0, 1e-3),
    }

    def __init__(
        self,
        n: int,
        *,
        period_s: float,
        key: Key[Array, ""],
        mode: Literal["equilibrium", "transient"] = "equilibrium",
        coupler: Literal["resistor", "transconductor"] = "resistor",
        degree: int = 4,
        strength: float = 2.0,
        margin: float = 0.1,
        bits: int | None = 6,
        n_settle: float = 12.0,
        longest_memory: float = 0.0,
        n_steps: int = 4,
        state_F: float = 50e-15,
        solver: FixedPointConfig = FixedPointConfig(),
    ):
        """`degree`: couplings of a node that are not zero at the start; 0: never any.

        Transconductors start in random groups of that size, orthogonal or in time skew.
        `strength`: Σ|g| of a node at the start [input conductances], of transconductors
        the bound that always holds; `margin`: m;
        `n_settle`: units of time C/G of the fastest node in a token; `longest_memory`:
        of the slowest node at the start [tokens], 0 is that of the fastest; `n_steps`:
        of a token in mode `transient`; `state_F`: C [F].
        """
        amounts = {"n": n, "period_s": period_s, "strength": strength, "margin": margin}
        amounts |= {"n_settle": n_settle, "n_steps": n_steps, "state_F": state_F}
        for name, value in amounts.items():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"Argument `{name}` must be positive and finite, but is {value}."
                )
        one_of("equilibrium", "transient", mode=mode)
        one_of("resistor", "transconductor", coupler=coupler)
        if not 0 <= degree <= n:
            raise ValueError(
                f"Argument `degree` must be from 0 to the {n} nodes, but is {degree}."
            )
        if (coupler, mode, degree) == ("transconductor", "transient", 1):
            raise ValueError(
                "Argument `degree` must be 0, or 2 or more nodes that turn, but is 1."
            )
        self.n_in = self.n_out = n
        self.mode, self.coupler, self.margin = mode, coupler, margin
        self.n_settle, self.n_steps = n_settle, n_steps
        self.longest_memory = longest_memory
        # Transconductors leave the load that their nodes have for them.
        loaded = degree or coupler == "transconductor"
        self.strength, self.degree = (strength if loaded else 0.0), degree
        self.state_F, self.solver, self.period_s = state_F, solver, period_s
        fastest = 1 / (n_settle * self.start_load())
        if longest_memory and not fastest <= longest_memory < math.inf:
            raise ValueError(
                "Argument `longest_memory` must be 0 or at least that of the fastest"
                f" node, {fastest:.3g} tokens, but is {longest_memory}."
            )
        self.coupling = None
        if degree:
            top = 4.0
            if coupler == "resistor":
                g = (strength / degree) * few_signs(n, degree, key)
            else:
                g = turning(n, degree, key, skew=mode == "transient")
                g, top = g * (strength / self._pull(g)), max(top, 4 * strength)
            self.coupling = Bank(
                g,
                kind="current",
                unit="G/G_unit",
                n_units=1 if bits is None else 2 ** (bits - 1) - 1,
                area_m2=UNIT_M2,
                bits=bits,
                # Few are large: the largest is no outlier to be cut.
                clip_sigma=max(math.sqrt(n), 1.0),
                low=-top,
                high=top,
                lines=equilibrium_cells.tails(self._rates(), state_F, period_s),
            )
        self.drive = Bank(
            jnp.ones(n),
            kind="current",
            unit="G/G_unit",
            n_units=31,
            area_m2=UNIT_M2,
            low=DRIVE_MIN,
            high=4.0,
        )
        self.offset = Bank(
            jnp.zeros(n), kind="threshold", unit="full scale", area_m2=PAIR_M2
        )

    def rates(self) -> Float[Array, " n"]:
        """T·G_i/C: units of time C/G_i of each node in a token, fastest first."""
        return jnp.asarray(self._rates(), jnp.result_type(float))

    def _rates(self) -> np.ndarray:
        slowest = self.n_settle
        if self.longest_memory:
            slowest = 1 / (self.longest_memory * self.start_load())
        return np.geomspace(self.n_settle, slowest, self.n_out)

    def nodes(self, process: Process) -> Nodes:
        """The conductances of the network, or of the chip."""
        n, rate = self.n_out, process.rate * self.rates()
        d = jnp.maximum(self.drive.realized(), DRIVE_MIN / 2)  # none is negative
        g = jnp.zeros((n, n)) if self.coupling is None else self.coupling.realized()
        if self.coupling is not None and self.coupler == "transconductor":
            pull = self._pull(self.coupling.nominal())
            g = g * (self.strength / jnp.maximum(pull, self.strength))
        leak = process.node_leakage_S * self.period_s / (self.state_F * rate)
        reach = jnp.asarray(process.linear_range(), d.dtype)
        load = self.load(g, d) + leak
        noise = jnp.ones_like(load)
        if self.coupler == "transconductor":
            noise = jax.lax.stop_gradient(1 + jnp.sum(jnp.abs(g), axis=0) / load)
        return Nodes(g, d, load, rate, self.offset.realized(), reach, noise)

    def _pull(self, g) -> Float[Array, ""]:
        return pull_bound(g, at_rest=self.mode == "equilibrium")

    def start_load(self) -> float:
        """Conductance at a node at the start, over that of its input."""
        return 1 + (1 + self.margin) * self.strength

    def load(self, g, d):
        """Conductance at a node but its leak: of its input and for its couplings."""
        if self.coupler == "transconductor":
            return d + (1 + self.margin) * self.strength
        # Not `abs`: at 0 its slope in JAX is 1, this one's is 0.
        return d + (1 + self.margin) * jnp.sum(g * jnp.sign(g), axis=0)

    def contraction(self, process: Process) -> Float[Array, ""]:
        """What couplings take of the load, at most: below 1 it contracts.

        Of resistors it is the constant of the fixed-point map, the largest Σ|g| / L.
        """
        nodes = self.nodes(process)
        if self.coupler == "transconductor":
            return self._pull(nodes.g) / jnp.min(nodes.load)
        return jnp.max(jnp.sum(jnp.abs(nodes.g), axis=0) / nodes.load)

    def init_state(self, batch_shape=()):
        return jnp.zeros((*batch_shape, self.n_out))

    def drift(self, v, x, *, process):
        nodes = self.nodes(process)
        x = coupled(x, process=process)
        pull = nodes.d * x + buffers(v, nodes) @ nodes.g - nodes.load * v
        return nodes.rate * pull / self.period_s

    def diffusion(self, v, x, *, process):
        del x
        nodes = self.nodes(process)
        fastest = nodes.rate * nodes.load / self.period_s
        # Fluctuation-dissipation: alone, a node has kT/C at any conductance.
        each = nodes.noise * process.thermal_variance(self.state_F)
        spread = rms(2 * fastest * each)
        return jnp.broadcast_to(spread, v.shape).astype(v.dtype)

    def read(self, v, x, *, process):
        return v

    def problem(self, x, nodes: Nodes):
        """What `fixed_point` solves for inputs `x`: the map's arguments."""
        target = x * (nodes.d / nodes.load)
        return nodes.g / nodes.load, target, nodes.offset, nodes.reach

    def solution(self, x, nodes: Nodes):
        """The solve for inputs `x` without noise and gradient: value, steps, result."""
        args = self.problem(x, nodes)
        return solve(settling_map, args[1], args, self.solver)

    def equilibrium(self, x, *, process: Process, key: Key[Array, ""]):
        """The fixed points of inputs `(*batch, n)`, under one noise draw each."""
        nodes = self.nodes(process)
        half = nodes.noise * process.thermal_variance(self.state_F) / 2
        weight, target, *buffers = self.problem(x, nodes)
        forced = stream(key, "forcing")
        target = thermal_noise(target, half, process=process, key=forced)
        args = (weight, target, *buffers)
        v = fixed_point(settling_map, target, args, self.solver)
        return thermal_noise(v, half, process=process, key=stream(key, "sample"))

    def think(self, v, x, noise, nodes: Nodes, *, n_steps: int):
        """A token of exponential midpoint steps: each is an average, so it contracts.

        Between two of them v decays exactly to where the network at their middle pulls;
        `noise` is what each step adds, or None. Half of it has come by the middle.
        """
        args = self.problem(x, nodes)
        decay = nodes.rate * nodes.load / n_steps
        whole, half = jnp.exp(-decay), jnp.exp(-decay / 2)

        def body(v, noise):
            middle = half * v + (1 - half) * settling_map(v, args)
            if noise is not None:
                middle = middle + noise / 2
            v = whole * v + (1 - whole) * settling_map(middle, args)
            return (v if noise is None else v + noise), None

        return jax.lax.scan(body, v, noise, length=n_steps, unroll=min(n_steps, 8))[0]

    def _noise(self, shape, nodes: Nodes, *, process, key):
        """What each of the steps adds, `(*shape, n)`; None at zero noise."""
        if is_zero(process.thermal_noise):
            return None
        decay = jax.lax.stop_gradient(nodes.rate * nodes.load) / self.n_steps
        each = nodes.noise * process.thermal_variance(self.state_F)
        spread = rms(each * -jnp.expm1(-2 * decay))
        return spread * white(stream(key, "steps"), (*shape, self.n_out))

    def step(self, state, x, *, process, key):
        x = coupled(x, process=process)
        if self.mode == "equilibrium":
            v = self.equilibrium(x, process=process, key=key)
            return v, v
        nodes = self.nodes(process)
        shape = (self.n_steps, *x.shape[:-1])
        noise = self._noise(shape, nodes, process=process, key=key)
        v = self.think(state, x, noise, nodes, n_steps=self.n_steps)
        return v, v

    def scan(self, state, xs, *, process, key):
        xs = coupled(xs, process=process)
        if self.mode == "equilibrium":
            vs = self.equilibrium(xs, process=process, key=key)
            return vs[-1], vs
        nodes = self.nodes(process)
        shape = (len(xs), self.n_steps, *xs.shape[1:-1])
        noise = self._noise(shape, nodes, process=process, key=key)

        # Where flicker moves the buffers it is different for every token.
        moving = nodes.offset if nodes.offset.ndim > 1 else None

        def token(v, inputs):
            x, drawn, offset = inputs
            here = nodes if offset is None else nodes._replace(offset=offset)
            v = self.think(v, x, drawn, here, n_steps=self.n_steps)
            return v, v

        return jax.lax.scan(token, state, (xs, noise, moving))

    def settle(
        self,
        x: Float[Array, "*batch n"],
        times_s: Float[Array, " times"],
        *,
        process: Process,
        start: Float[Array, "*batch n"] | None = None,
        rtol: float = 1e-6,
        atol: float = 1e-8,
    ) -> Float[Array, "times *batch n"]:
        """The network in time, by Diffrax: its nodes at rising `times_s` [s] after x.

        Without noise. How far they are from the equilibrium is the accuracy that a
        settling time buys.
        """
        period = self.period_s
        drift = lambda t, v, x: period * self.drift(v, x, process=process)
        ts = jnp.asarray(times_s) / period
        solution = dfx.diffeqsolve(
            dfx.ODETerm(drift),
            dfx.Tsit5(),
            t0=0.0,
            t1=ts[-1],
            dt0=None,
            y0=jnp.zeros_like(x) if start is None else start,
            args=x,
            saveat=dfx.SaveAt(ts=ts),
            stepsize_controller=dfx.PIDController(rtol=rtol, atol=atol),
            throw=False,
        )
        assert solution.ys is not None
        return solution.ys

    def diagnose(self, xs, *, process, key):
        """Did it settle? Where `not settled` is above 0, give it more `max_steps`."""
        return figures(self, xs, process=process, key=key)

    def events(self, process, *, period_s):
        return equilibrium_cells.events(self, process, period_s=period_s)

    def netlist(self, process, *, name) -> Netlist:
        return equilibrium_cells.network(self, process, name)
