"""Residual blocks of a sequence model, one config per family; a new one is one line."""

from circuits.blocks.base import Block as Block
from circuits.blocks.base import Site as Site
from circuits.blocks.channel import ChannelBlock, ChannelLayerConfig
from circuits.blocks.equilibrium import EquilibriumBlock
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.blocks.lookup import LookupBlock
from circuits.blocks.memory import MemoryBlock
from circuits.blocks.mixing_unit import MixingUnitBlock
from circuits.blocks.oscillator import OscillatorBlock
from circuits.blocks.resonator import ResonatorBlock
from circuits.blocks.sparse_unit import SparseUnitBlock
from circuits.blocks.state_space import GatedRCBlock
from circuits.layers import MacLayer
from circuits.lookup_network import LookupNetworkLayer

BlockConfig = (
    GatedRCBlock
    | ResonatorBlock
    | OscillatorBlock
    | LookupBlock
    | MemoryBlock
    | ChannelBlock
    | EquilibriumBlock
    | GatedUnitBlock
    | SparseUnitBlock
    | MixingUnitBlock
)
# Layers of a classifier, which change the width.
LayerConfig = MacLayer | ChannelLayerConfig | LookupNetworkLayer
