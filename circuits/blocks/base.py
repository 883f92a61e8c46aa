"""What a block is built from, and what every block does with its parts."""

from dataclasses import dataclass
from typing import ClassVar, Protocol

from jaxtyping import Array, Key

from physnn.circuit import AbstractCircuit
from physnn.energy.events import Event
from physnn.keys import stream
from physnn.process import Process


@dataclass(frozen=True)
class Site:
    """Where a block stands: what the model gives to every block it builds."""

    width: int  # channels of the residual stream
    process: Process
    key: Key[Array, ""]
    period_s: float = 1e-6  # time a token takes
    weight_bits: int = 6
    # Gain of a block's last MAC: the branches of all blocks add up to unit variance.
    output_gain: float = 1.0

    def stream(self, name: str) -> Key[Array, ""]:
        """The key of the part called `name`."""
        return stream(self.key, name)


class Block(Protocol):
    """The config of a block: frozen, named by its `kind`, scalars only.

    `mechanism` is the attribute of the built circuit that holds what is the family's
    own, for the control that freezes it at random.
    """

    mechanism: ClassVar[str]
    # Whether devices may hold parts of its time (`physnn.time_parts`): it is per token,
    # or linear in its state. What does not say so may not.
    cut_in_time: ClassVar[bool] = False

    @property
    def kind(self) -> str: ...

    def build(self, site: Site) -> AbstractCircuit:
        """The circuit: `site.width` channels in (or the 8 byte lines more) and out."""
        ...

    def without_mechanism(self) -> "Block | None":
        """The control: the block with its mechanism removed; None if there is none."""
        ...


def events_of(block, process: Process, period_s: float) -> tuple[Event, ...]:
    """The events of every circuit among the fields of a block, under their names."""
    return tuple(
        event.under(name)
        for name, part in vars(block).items()
        if isinstance(part, AbstractCircuit)
        for event in part.events(process, period_s=period_s)
    )


def netlists_of(block, process: Process, name: str, wires):
    """`(part, netlist, inputs, outputs)` of each part in `wires`, for `compose`."""
    return [
        (part, getattr(block, part).netlist(process, name=f"{name}_{part}"), *nets)
        for part, nets in wires.items()
    ]
