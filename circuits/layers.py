"""Layers that change the width: what a classifier is a chain of."""

from dataclasses import dataclass
from typing import Literal

from circuits.blocks.base import Site
from circuits.mac import ChargeMac
from circuits.parts import AutomaticGain, positive
from physnn.network import Chain


@dataclass(frozen=True)
class MacLayer:
    """Gain control and a charge MAC, which saturates: the conventional layer."""

    kind: Literal["mac_layer"] = "mac_layer"
    n_out: int = 256
    gain: float = 1.0  # output over input, root mean square, at the start

    def __post_init__(self):
        positive(n_out=self.n_out, gain=self.gain)

    def build(self, n_in: int, site: Site) -> Chain:
        mac = ChargeMac(
            n_in,
            self.n_out,
            bits=site.weight_bits,
            process=site.process,
            key=site.key,
            gain=self.gain,
        )
        return Chain([AutomaticGain(n_in), mac])
