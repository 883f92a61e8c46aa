"""physnn: neural networks whose layers are circuits."""

from physnn.bank import Bank as Bank
from physnn.circuit import AbstractCircuit as AbstractCircuit
from physnn.circuit import AbstractMemorylessCircuit as AbstractMemorylessCircuit
from physnn.circuit import run as run
from physnn.circuit import run_stepwise as run_stepwise
from physnn.energy import Ledger as Ledger
from physnn.energy import Prices as Prices
from physnn.energy import bill as bill
from physnn.energy import load_prices as load_prices
from physnn.fabricate import fabricate as fabricate
from physnn.network import Chain as Chain
from physnn.network import Parallel as Parallel
from physnn.network import Residual as Residual
from physnn.process import Process as Process
from physnn.process import load_process as load_process
