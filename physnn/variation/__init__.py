"""What differs from chip to chip, frozen by `fabricate`: one file for each source."""

from physnn.variation.ageing import TEN_YEARS_S as TEN_YEARS_S
from physnn.variation.ageing import ageing
from physnn.variation.crosstalk import crosstalk
from physnn.variation.faults import FAULTS as FAULTS
from physnn.variation.faults import faults as faults
from physnn.variation.faults import no_faults as no_faults
from physnn.variation.faults import stuck_values as stuck_values
from physnn.variation.gradient import gradient
from physnn.variation.line import line
from physnn.variation.matching import device_sigma as device_sigma
from physnn.variation.matching import mismatch
from physnn.variation.placement import floor_plan as floor_plan
from physnn.variation.programming import programming

# What adds to the error of a bank: its function, and the amounts it depends on. Each
# returns None for a bank on which it does not act. A new source is one more line.
VARIATIONS = {
    "mismatch": (mismatch, ("mismatch",)),
    "gradient": (gradient, ("gradient_per_mm", "gradient_per_mm2")),
    "programming": (programming, ("programming",)),
    "ageing": (ageing, ("age_s",)),
    "crosstalk": (crosstalk, ("crosstalk",)),
    "line": (line, ("line_ohm_per_m",)),
}
# Drawn once for all banks of a kind, not for each.
COMMON = ("gradient",)
