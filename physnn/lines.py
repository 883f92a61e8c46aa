"""Lines: the wires that the devices of a matrix share, and what they carry."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ChargeLines:
    """Rows that charge capacitors, columns that add their charge up.

    In each of two phases a line has `settle_s` to settle. A cell is the capacitors of
    both differential halves and `bit_m2` for each stored bit, its switches included.
    """

    settle_s: float
    bit_m2: float
    halves: int = 2

    def __post_init__(self):
        _positive(settle_s=self.settle_s)


@dataclass(frozen=True)
class TailLines:
    """Columns of current cells whose tails return on one line for each column.

    A value of 1 is the current `share`·(`node_F` + wire)·V/`time_s` in its tail, V the
    `swing`, the `supply` or the `linear` range of a pair, and the wire that of the
    column itself where `with_wire`; `share` may be one for each column. The tails flow
    whatever the signal. A cell is its unit sources, in as many `halves` as it has, and
    `bit_m2` for each stored bit.
    """

    share: float | tuple[float, ...]
    node_F: float
    time_s: float
    voltage: Literal["swing", "supply", "linear"]
    bit_m2: float = 0.0
    halves: int = 1
    with_wire: bool = False

    def __post_init__(self):
        shares = self.share if isinstance(self.share, tuple) else (self.share,)
        _positive(time_s=self.time_s, node_F=self.node_F, share=min(shares))


Lines = ChargeLines | TailLines


def _positive(**amounts: float) -> None:
    for name, value in amounts.items():
        if not 0 < value < math.inf:
            raise ValueError(
                f"Argument `{name}` must be positive and finite, but is {value}."
            )
