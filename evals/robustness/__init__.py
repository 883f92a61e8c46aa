"""robustness: a run under every non-ideality, each with its amount, and its worst."""

from evals.robustness.foreign import attack as attack
from evals.robustness.foreign_suite import attack_suite as attack_suite
from evals.robustness.run import robustness as robustness
from evals.robustness.suite import Suite as Suite
from evals.robustness.suite import load_suite as load_suite
