"""The bill: events, prices, and the ledger that multiplies them."""

from physnn.energy.billing import bill, supply_energy_J
from physnn.energy.joules import Measured, Modeled
from physnn.energy.ledger import Ledger, Row
from physnn.energy.price_lists import load_prices
from physnn.energy.prices import LINES, Prices
from physnn.energy.serving import Serving

__all__ = [
    "LINES",
    "Ledger",
    "Measured",
    "Modeled",
    "Prices",
    "Row",
    "Serving",
    "bill",
    "load_prices",
    "supply_energy_J",
]
