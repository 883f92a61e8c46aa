"""Equilibrium blocks: a network that settles under what a window of tokens drives."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from circuits.blocks.base import Site
from circuits.blocks.gated_mixer import GatedMixer
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.equilibrium import SettlingNetwork
from circuits.parts import positive
from physnn.equilibrium import FixedPointConfig


@dataclass(frozen=True)
class EquilibriumBlock:
    """A settling network behind a gate: mixes channels, and what its taps hold.

    In mode `transient` the network is a mixer of its own: a token lasts `n_settle` of
    its fastest time constants, and its nodes remember up to `longest_memory` tokens.
    An AGC behind the nodes makes up for what a node shares its load with, and for the
    small swing of the slow ones.

    Reference: Bai, Kolter & Koltun 2019, "Deep equilibrium models", arXiv 1909.01377.
    """

    kind: Literal["equilibrium"] = "equilibrium"
    n: int = 128  # nodes
    n_taps: int = 4  # samples the delay line holds; 1: there is none
    mode: Literal["equilibrium", "transient"] = "equilibrium"
    n_settle: float = 12.0  # time constants of the fastest node in a token
    longest_memory: float = 0.0  # of the slowest node at the start [tokens]; 0: none
    n_steps: int = 2  # steps per token in mode transient
    # What couples: loads its node as much as it drives it, or drives alone.
    coupler: Literal["resistor", "transconductor"] = "resistor"
    degree: int = 4  # couplings of a node that are not zero at the start; 0: none
    strength: float = 2.0  # of all couplings of a node at the start, over its input
    margin: float = 0.1  # load beside a coupling, over the coupling
    adjoint: Literal["exact", "one_term"] = "exact"
    tolerance: float = 1e-6  # of the fixed point [full scale]
    max_steps: int = 64  # iterations to it

    mechanism: ClassVar[str] = "cell"

    def __post_init__(self):
        positive(n=self.n, n_taps=self.n_taps)
        self.solver()

    def solver(self) -> FixedPointConfig:
        return FixedPointConfig(self.tolerance, self.max_steps, self.adjoint)

    def build(self, site: Site) -> GatedMixer:
        cell = SettlingNetwork(
            self.n,
            period_s=site.period_s,
            key=site.stream("cell"),
            mode=self.mode,
            coupler=self.coupler,
            degree=self.degree,
            strength=self.strength,
            margin=self.margin,
            bits=site.weight_bits,
            n_settle=self.n_settle,
            longest_memory=self.longest_memory,
            n_steps=self.n_steps,
            solver=self.solver(),
        )
        spread = start_spread(cell)
        level = jnp.sqrt(jnp.mean(spread**2)) / spread
        return GatedMixer(cell, site, n_taps=self.n_taps, level=level)

    def without_mechanism(self) -> "EquilibriumBlock | GatedUnitBlock":
        """The same nodes without couplings; of those, a gated unit without nodes."""
        if self.degree == 0:
            return GatedUnitBlock(n_hidden=self.n, n_taps=self.n_taps)
        return replace(self, degree=0)


def start_spread(cell: SettlingNetwork) -> Float[Array, " n"]:
    """Of a token's nodes at the start, for inputs that change, over slow ones."""
    if cell.mode == "equilibrium":
        return jnp.ones(cell.n_out)
    left = jnp.exp(-cell.rates() * cell.start_load())
    return jnp.sqrt((1 - left) / (1 + left))
