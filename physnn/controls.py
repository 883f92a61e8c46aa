"""Names of the controls of an experiment, for the command and for what trains them."""

from typing import Literal

# Those that are trained, as `evals.controls` says; chance needs no training.
Trained = Literal["removed", "frozen", "conventional"]
