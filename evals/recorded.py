"""Both sides of a comparison as the events they made: billed again without models."""

from dataclasses import dataclass, replace
from typing import Any

from circuits.mac import ChargeMac
from circuits.memory import HashedMemory
from evals.wind_tunnel import simulated
from physnn.energy.events import Event, adc_event
from physnn.energy.floor_plan import NOWHERE, Site, site_of
from physnn.export.selection import circuits_of
from physnn.process import Process

# What every digital machine resolves a number to, unless its config says otherwise.
BITS = 8


@dataclass(frozen=True)
class Recorded:
    """A design as the events it made at one period: billed again without its model.

    `site` is what a floor plan needs of it: its layers and circuits.
    """

    recorded: tuple[Event, ...]
    period_s: float
    site: Site = NOWHERE

    def events(self, process: Process, *, period_s: float) -> tuple[Event, ...]:
        """The events, whatever the process: they were counted for one."""
        del process, period_s
        return self.recorded


def record(design: Any, process: Process, period_s: float) -> Recorded:
    """The events of one step of `design`, as numbers."""
    events = design.events(process, period_s=period_s)
    plain = (event._replace(count=float(event.count)) for event in events)
    return Recorded(tuple(plain), period_s, site_of(design, process))


@dataclass(frozen=True)
class Physical:
    """The physical side of a waterfall: what it is, and what it could have been.

    - `built`: as billed; `dense`: with every unit acting; `converted`: dense, and with
      a DAC on every row and an ADC on every column of its charge MACs.
    - `digital`: its noiseless model as a digital chip computes it, 8 bits a weight.
    - `read_bits`, `stored_bits`: mean bits of a weight it reads, and of one it stores.
    """

    built: Recorded
    dense: Recorded
    converted: Recorded
    digital: Recorded
    read_bits: float
    stored_bits: float


def physical_side(
    model: Any, dense: Any, process: Process, *, period_s: float
) -> Physical:
    """Everything a waterfall asks of a physical model; `dense` is it before counting.

    A design without charge MACs has no rows and columns to convert, so its `converted`
    is its `dense`.
    """
    whole = record(dense, process, period_s)
    simulation = simulated(dense, process)
    macs = [(p, c) for p, c in circuits_of(dense) if isinstance(c, ChargeMac)]
    adc = adc_event(getattr(dense.config, "converter_bits", BITS))
    converters = []
    for path, mac in macs:
        converters.append(Event("dac_conversion", mac.n_in, f"row converters.{path}"))
        # The head has its own already, or its race needs none.
        if path != "head":
            converters.append(Event(adc, mac.n_out, f"column converters.{path}"))
    read, stored = float(simulation.read), float(simulation.stored)
    read_bits, stored_bits = BITS * read, BITS * stored
    for _, circuit in circuits_of(dense):
        if isinstance(circuit, ChargeMac):
            bits = float(circuit.weight.code_bits())
            saved = circuit.n_in * circuit.n_out * (BITS - bits)
            read_bits, stored_bits = read_bits - saved, stored_bits - saved
        elif isinstance(circuit, HashedMemory):
            heads, rows, row = circuit.table.shape
            saved = heads * row * (BITS - (circuit.row_bits or 8))
            read_bits, stored_bits = read_bits - saved, stored_bits - rows * saved
    return Physical(
        record(model, process, period_s),
        whole,
        replace(whole, recorded=(*whole.recorded, *converters)),
        record(simulation, process, period_s),
        read_bits / read if read else BITS,
        stored_bits / stored if stored else BITS,
    )
