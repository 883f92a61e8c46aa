"""The resonator block: a bank of gm-C biquads behind a short convolution."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from circuits.blocks.base import Site
from circuits.blocks.gated_mixer import GatedMixer
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.parts import positive
from circuits.resonator import Resonator


@dataclass(frozen=True)
class ResonatorBlock:
    """A mixer on an oscillatory state space."""

    kind: Literal["resonator"] = "resonator"
    n: int = 96  # resonators: each has two states
    n_taps: int = 4  # samples the delay line holds
    shortest: float = 3.0  # period of the fastest resonator at the start [tokens]
    longest: float = 256.0  # of the slowest
    state_F: float = 50e-15  # each of the two capacitors of a resonator

    mechanism: ClassVar[str] = "cell"
    cut_in_time: ClassVar[bool] = True

    def __post_init__(self):
        positive(n=self.n, n_taps=self.n_taps)

    def build(self, site: Site) -> GatedMixer:
        cell = Resonator(
            self.n,
            period_s=site.period_s,
            process=site.process,
            state_F=self.state_F,
            shortest=self.shortest,
            longest=self.longest,
        )
        return GatedMixer(cell, site, n_taps=self.n_taps)

    def without_mechanism(self) -> GatedUnitBlock:
        """No states: what is left is a gated unit behind the short convolution."""
        return GatedUnitBlock(n_hidden=2 * self.n, n_taps=self.n_taps)
