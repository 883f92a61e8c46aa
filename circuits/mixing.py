"""Passive mixing: streams that share charge, doubly stochastic by construction."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from circuits.parts import NODE_F
from physnn.bank import Bank
from physnn.circuit import AbstractMemorylessCircuit
from physnn.energy.events import Event
from physnn.export import cells
from physnn.export.netlist import Device, Instance, Netlist, Parameter
from physnn.keys import stream
from physnn.noise import is_zero, rms, white
from physnn.process import Process

# A netlist draws at least this part of a capacitor on either side of a share.
PORTION_MIN = 1e-4


class PassiveMixing(AbstractMemorylessCircuit):
    """Parallel streams on equal capacitors, mixed in pairs by connecting parts of them.

        v_i ──┬── rest ═        v_i' = (1 − θ)·v_i + θ·v_j + n
              ╱                 v_j' = θ·v_i + (1 − θ)·v_j − n
        portion 2θC ═ ──╱── ═ portion 2θC of stream j        0 ≤ θ ≤ 1/2

        Var n = thermal_noise·(kT/C)·2θ(1 − θ) / swing²

    A pair takes a portion of either capacitor off, connects the two, and puts them
    back. Charge is conserved and nothing amplifies, so every step is symmetric and
    doubly stochastic whatever was trained, and so is what a product of steps can be:
    rows and columns sum to one, spectral norm 1, at any depth. Steps are those of a
    butterfly: after log2(n_streams) of them each stream has met every other.

    θ of a pair, trained per channel and step, is half the ratio of portion and
    capacitor; unequal portions only change θ. The noise moves from one capacitor to the
    other, so it too conserves charge; its variance is the one that keeps two
    capacitors in thermal equilibrium.

    Inputs are n_streams vectors of n_channels, one after another. Supply charge: the
    samples and the gates of the switches; the sharing itself costs nothing.

    Assumes: complete settling; equal capacitors of the streams. Does not model: their
    mismatch (it keeps charge, not the sum of voltages), charge injection.

    References: passive charge sharing as arithmetic: Lee & Wong 2016, DOI
    10.1109/JSSC.2016.2599536; doubly stochastic residual streams: Xie et al. 2025,
    "mHC: manifold-constrained hyper-connections", arXiv 2512.24880.
    """

    share: Bank
    n_in: int = eqx.field(static=True)
    n_out: int = eqx.field(static=True)
    n_streams: int = eqx.field(static=True)
    store_F: float = eqx.field(static=True)

    def __init__(
        self,
        n_streams: int,
        n_channels: int,
        *,
        process: Process,
        n_rounds: int = 1,
        share: float = 0.25,
        store_F: float = NODE_F,
    ):
        """`n_rounds`: butterflies one after another. `share`: θ at the start.

        Raises `ValueError` unless `n_streams` is a power of two from 2 on, `share`
        within 0..1/2 and every other amount positive.
        """
        if n_streams < 2 or n_streams & (n_streams - 1):
            raise ValueError(
                "Argument `n_streams` must be a power of two from 2 on, but is"
                f" {n_streams}."
            )
        if not 0 <= share <= 0.5:
            raise ValueError(
                f"Argument `share` must be from 0 to 1/2, but is {share}: two equal"
                " capacitors cannot exchange more."
            )
        amounts = {"n_channels": n_channels, "n_rounds": n_rounds, "store_F": store_F}
        for name, value in amounts.items():
            if not 0 < value < math.inf:
                raise ValueError(f"Argument `{name}` must be positive, but is {value}.")
        self.n_in = self.n_out = n_streams * n_channels
        self.n_streams, self.store_F = n_streams, store_F
        n_steps = n_rounds * round(math.log2(n_streams))
        self.share = Bank(
            jnp.full((n_steps, n_streams // 2 * n_channels), share),
            kind="capacitor",
            unit="C/2C",
            n_units=max(1, round(store_F / process.capacitor_min_F)),
            area_m2=process.capacitor_min_F / process.capacitor_density_F_per_m2,
            low=0.0,
            high=0.5,
        )

    @property
    def n_channels(self) -> int:
        """Channels of one stream."""
        return self.n_in // self.n_streams

    def thetas(self) -> Float[Array, "n_steps pairs_channels"]:
        """θ of this chip: more than all of two capacitors cannot be shared."""
        return jnp.clip(self.share.realized(), 0.0, 0.5)

    def _distance(self, step: int) -> int:
        """How many streams lie between the two that meet in a step."""
        return 2 ** (step % round(math.log2(self.n_streams)))

    def pairs(self, step: int) -> list[tuple[int, int]]:
        """The streams that meet in a step, in the order of `share`."""
        near = self._distance(step)
        return [(i, i + near) for i in range(self.n_streams) if not i & near]

    def apply(self, x, *, process, key):
        lead, n_channels = x.shape[:-1], self.n_channels
        quiet = is_zero(process.thermal_noise)
        unit = process.thermal_variance(self.store_F)
        for step, share in enumerate(self.thetas()):
            near = self._distance(step)
            shape = (self.n_streams // (2 * near), 2, near, n_channels)
            v = x.reshape(*lead, *shape)
            low, high = v[..., 0, :, :], v[..., 1, :, :]
            theta = share.reshape(shape[0], near, n_channels)
            moved = theta * (high - low)
            if not quiet:
                loss = jax.lax.stop_gradient(2 * theta * (1 - theta))
                sigma = rms(unit * loss)
                moved += sigma * white(stream(key, f"step{step}"), moved.shape)
            x = jnp.stack([low + moved, high - moved], axis=-3).reshape(*lead, -1)
        return x

    def matrix(self) -> Float[Array, "n_channels n_streams n_streams"]:
        """What this chip does to the streams of each channel: v' = M v."""
        n, channels = self.n_streams, self.n_channels
        product = np.broadcast_to(np.eye(n), (channels, n, n))
        for step, share in enumerate(np.asarray(self.thetas(), np.float64)):
            mixing = np.broadcast_to(np.eye(n), (channels, n, n)).copy()
            rows = share.reshape(-1, channels)
            for (i, j), theta in zip(self.pairs(step), rows, strict=True):
                mixing[:, i, i] = mixing[:, j, j] = 1 - theta
                mixing[:, i, j] = mixing[:, j, i] = theta
            product = mixing @ product
        return jnp.asarray(product)

    def diagnose(self, xs, *, process, key):
        del xs, process, key
        theta = self.thetas()
        return {
            "mean_share": jnp.mean(theta),
            # A pair at either end of its range is no longer trained.
            "stuck_share": jnp.mean((theta <= 0) | (theta >= 0.5)),
        }

    def events(self, process, *, period_s):
        del period_s
        n_steps = self.share.value.shape[0]
        sample_C = self.store_F * process.swing_V
        buffer_C = process.settling_charge_C(self.store_F)
        # Of each stream: portion to rest, and portion to portion, in both halves.
        switches = 2 * 2 * self.n_in * n_steps
        gates_C = switches * process.switch_C()
        return (
            Event("supply_charge_C", 2 * self.n_in * sample_C, "samples"),
            Event("amplifier_charge_C", 2 * self.n_in * buffer_C, "buffers"),
            Event("clock_charge_C", gates_C, "switches"),
            Event("flop_cycle", 2 * n_steps, "clock phases"),
        )

    def netlist(self, process, *, name) -> Netlist:
        shares = np.asarray(self.thetas())
        n_steps, channels = len(shares), self.n_channels
        devices = []
        for half in "pn":
            for side in "ab":
                x, part = f"{side}{half}", f"part_{side}{half}"
                rest = f"rest_{side}{half}"
                devices += [
                    cells.switch(f"in_{side}{half}", x, rest, "sample", process),
                    # One that is closed while sampling, one while joining.
                    cells.switch(f"fill_{side}{half}", x, part, "sample", process),
                    cells.switch(f"join_{side}{half}", rest, part, "join", process),
                    Device(
                        f"part_{side}{half}",
                        "capacitor",
                        (part, "ref"),
                        {"capacitance_F": "portion"},
                    ),
                    Device(
                        f"rest_{side}{half}",
                        "capacitor",
                        (rest, "ref"),
                        {"capacitance_F": "rest"},
                    ),
                    Device(
                        f"out_{side}{half}",
                        "voltage",
                        (f"{side}{half}_out", "ref"),
                        law=f"v({rest}, ref)",
                    ),
                ]
            parts = (f"part_a{half}", f"part_b{half}")
            devices.append(cells.switch(f"share_{half}", *parts, "share", process))
        outputs = ("ap_out", "an_out", "bp_out", "bn_out")
        half_F = self.store_F / 2
        pair = Netlist(
            f"{name}_pair",
            (*cells.halves("a", "b"), *outputs, "sample", "share", "join", "ref"),
            tuple(devices),
            parameters={
                "portion": Parameter(half_F, "F", "2 theta C: what is shared"),
                "rest": Parameter(half_F, "F", "(1 - 2 theta) C: what is kept"),
            },
            notes="Outputs are valid after `join`. A copy of the capacitors per step;"
            " a chip may take the same ones again.",
        )
        clocks, phases = {}, ("sample", "share", "join")
        instances = []
        for step in range(n_steps):
            names = [f"{phase}{step}" for phase in phases]
            windows = ((0.02, 0.30), (0.35, 0.60), (0.65, 0.95))
            for clock, (start, stop) in zip(names, windows, strict=True):
                clocks[clock] = ((step + start) / n_steps, (step + stop) / n_steps)
            before = "x" if step == 0 else f"s{step}_"
            after = "y" if step == n_steps - 1 else f"s{step + 1}_"
            rows = shares[step].reshape(-1, channels)
            for (i, j), row in zip(self.pairs(step), rows, strict=True):
                for c, theta in enumerate(row):
                    a, b = i * channels + c, j * channels + c
                    part = float(np.clip(2 * theta, PORTION_MIN, 1 - PORTION_MIN))
                    nets = (
                        *cells.halves(f"{before}{a}", f"{before}{b}"),
                        *cells.halves(f"{after}{a}", f"{after}{b}"),
                    )
                    values = {
                        "portion": part * self.store_F,
                        "rest": (1 - part) * self.store_F,
                    }
                    instances.append(
                        Instance(
                            f"step{step}_{i}_{j}_{c}",
                            pair,
                            (*nets, *names, "ref"),
                            values,
                        )
                    )
        xs = cells.trial_vectors((4, self.n_in))
        ys = cells.predicted(self, xs, process)
        bench = cells.differential_bench(
            f"{name}_streams",
            cells.rows("x", xs),
            cells.rows("y", ys),
            process=process,
            slot_s=n_steps * cells.slot_s(self.store_F),
            gate="B2",
            absolute=2e-4,
            clocks=clocks,
            sample=0.999,
        )
        ports = (
            *cells.bus("x", self.n_in),
            *cells.bus("y", self.n_out),
            *clocks,
            "ref",
        )
        return Netlist(name, ports, instances=tuple(instances), benches=(bench,))
