"""Calibrate: measured values of a chip back into the design it was made from."""

from evals.calibrate.fit import Belief, Fit, Known, belief_of, belief_of_package, fit
from evals.calibrate.measured import (
    Measured,
    Measurement,
    parse_measured,
    read_measured,
    write_measured,
)
from evals.calibrate.run import Calibration, calibrate

__all__ = [
    "Belief",
    "Calibration",
    "Fit",
    "Known",
    "Measured",
    "Measurement",
    "belief_of",
    "belief_of_package",
    "calibrate",
    "fit",
    "parse_measured",
    "read_measured",
    "write_measured",
]
