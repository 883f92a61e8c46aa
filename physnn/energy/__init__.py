"""The bill: events, prices, and the ledger that multiplies them."""

from physnn.energy.joules import Measured, Modeled
from physnn.energy.ledger import Ledger, Row, bill, supply_energy_J
from physnn.energy.prices import LINES, Prices, load_prices

__all__ = [
    "LINES",
    "Ledger",
    "Measured",
    "Modeled",
    "Prices",
    "Row",
    "bill",
    "load_prices",
    "supply_energy_J",
]
