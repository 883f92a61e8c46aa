"""Names of the controls of an experiment, for the command and for what trains them."""

from collections.abc import Sequence
from typing import Literal

# Those that are trained, as `evals.controls` says; chance needs no training.
Trained = Literal["removed", "frozen", "conventional"]


def asked_for(controls: Sequence[Trained | Literal["none"]]) -> list[Trained] | None:
    """The controls to train, all if that is empty; None if there are to be none.

    Raises `ValueError` for `none` among others.
    """
    names: list[Trained] = [name for name in controls if name != "none"]
    if names and "none" in controls:
        raise ValueError(
            "Argument `controls` must be `none` alone or names of controls, but is"
            f" {' '.join(controls)}."
        )
    return None if "none" in controls else names
