"""The state-space block: gated RC states behind a short convolution."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp

from circuits.blocks.base import Site
from circuits.blocks.gated_mixer import GatedMixer
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.parts import log_spaced_sigmoid_bias, positive
from circuits.state_space import GatedRC


@dataclass(frozen=True)
class GatedRCBlock:
    """A mixer on gated RC states."""

    kind: Literal["gated_rc"] = "gated_rc"
    n_states: int = 128
    n_taps: int = 4  # samples the delay line holds
    longest_memory: float = 512.0  # time constant of the slowest at the start [tokens]

    mechanism: ClassVar[str] = "cell"
    cut_in_time: ClassVar[bool] = True

    def __post_init__(self):
        positive(
            n_states=self.n_states,
            n_taps=self.n_taps,
            longest_memory=self.longest_memory,
        )

    def build(self, site: Site) -> GatedMixer:
        n = self.n_states
        cell = GatedRC(n, period_s=site.period_s)
        if self.longest_memory * cell.rate_max <= 1:
            raise ValueError(
                f"Argument `longest_memory` must be above the {1 / cell.rate_max:g}"
                f" tokens of an open gate, but is {self.longest_memory}."
            )
        steer = log_spaced_sigmoid_bias(
            n, fastest=0.3, slowest=1 / (cell.rate_max * self.longest_memory)
        )
        steer = steer * site.process.linear_range() / 2
        drive = jnp.concatenate([jnp.zeros(n), steer])
        return GatedMixer(cell, site, n_taps=self.n_taps, drive=drive)

    def without_mechanism(self) -> GatedUnitBlock:
        """No states: what is left is a gated unit behind the short convolution."""
        return GatedUnitBlock(n_hidden=self.n_states, n_taps=self.n_taps)
