"""The hashed memory as a block: it reads the byte itself, beside the stream."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from circuits.blocks.base import Site
from circuits.blocks.gated_unit import GatedUnitBlock
from circuits.memory import HashedMemory
from circuits.parts import positive


@dataclass(frozen=True)
class MemoryBlock:
    """Rows of a mask ROM after hashes of the last bytes, gated by the context."""

    kind: Literal["memory"] = "memory"
    longest: int = 5  # bytes of the longest hash; the shortest takes 2
    n_heads: int = 1  # hashes of each length
    index_bits: int = 14  # log2 of the rows of a head
    row: int = 32  # values in a row
    row_bits: int = 4

    mechanism: ClassVar[str] = "table"

    def __post_init__(self):
        positive(
            longest=self.longest,
            n_heads=self.n_heads,
            index_bits=self.index_bits,
            row=self.row,
            row_bits=self.row_bits,
        )

    def build(self, site: Site) -> HashedMemory:
        return HashedMemory(
            site.width,
            longest=self.longest,
            n_heads=self.n_heads,
            index_bits=self.index_bits,
            row=self.row,
            row_bits=self.row_bits,
            bits=site.weight_bits,
            output_gain=site.output_gain,
            process=site.process,
            key=site.key,
        )

    def without_mechanism(self) -> GatedUnitBlock:
        """No table: a gated unit as wide as what was read."""
        return GatedUnitBlock(n_hidden=(self.longest - 1) * self.n_heads * self.row)
