"""Chip: a design with what was measured of a die, trims set, readout fitted."""

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np
from jaxtyping import Array, Key

from circuits.winner import WinnerTakeAll
from evals.calibrate.fit import Belief, Fit
from evals.calibration import CalibrationConfig
from evals.robustness.scoring import Seen
from evals.robustness.yields import Calibrated
from physnn.bank import Bank
from physnn.fabricate import is_bank
from physnn.materialized import compiled
from physnn.process import Process
from train.correction import Correction


def measured_chip(design: Any, prior: Belief, found: Fit) -> Any:
    """The die as it is now known: nothing of it is trimmed yet.

    Its `shift` makes every measured device hold the mean of the posterior, and
    `unknown` leaves its deviation. A bank of which nothing was measured stays.
    """

    def put(path, node):
        name = jtu.keystr(path).lstrip(".")
        if not isinstance(node, Bank) or name not in found.belief:
            return node
        before, after = prior[name], found.belief[name]
        moved = jnp.asarray(after.mean - before.mean)
        known = before.sigma > 0
        left = np.where(known, after.sigma / np.where(known, before.sigma, 1), 1)
        left = jnp.asarray(left, jnp.float32)
        return dataclasses.replace(
            node,
            shift=moved if node.shift is None else node.shift + moved,
            unknown=left if node.unknown is None else node.unknown * left,
        )

    return jtu.tree_map_with_path(put, design, is_leaf=is_bank)


def trimmed(chip: Any, prior: Belief, found: Fit) -> Any:
    """The chip with its trims set against what was measured: a new design value.

    Trims are as in `evals.calibration`, banks of one axis, as far as they are
    continuous and written. The programmed value moves against the shift, within its
    legal range. Weights are not written again.
    """

    def put(path, node):
        name = jtu.keystr(path).lstrip(".")
        if not isinstance(node, Bank) or name not in found.belief or not is_trim(node):
            return node
        moved = jnp.asarray(found.belief[name].mean - prior[name].mean)
        value = jnp.clip(node.value - moved, node.low, node.high)
        # What was found as designed is left alone, also outside of its legal range.
        return dataclasses.replace(node, value=jnp.where(moved == 0, node.value, value))

    return jtu.tree_map_with_path(put, chip, is_leaf=is_bank)


def is_trim(bank: Bank) -> bool:
    """Whether the values of a bank can be set on a finished chip, one by one."""
    return bank.value.ndim == 1 and bank.bits is None and bank.programmed


def has_readout(model: Any) -> bool:
    """Whether the logits of a model pass registers that can correct them."""
    races = isinstance(getattr(model, "readout", None), WinnerTakeAll)
    return hasattr(model, "correction") and not races


def with_readout(
    design: Any, chip: Any, seen: Seen, *, process: Process, key: Key[Array, ""]
) -> Any:
    """The chip with a readout fitted to it by `calibrate_chip`, its trims fixed.

    `process`: of the chip and of the design, which are compared at one point.
    """
    fitting = Calibrated.of(design, process, seen)
    fitting = dataclasses.replace(fitting, config=CalibrationConfig(passes=0))
    found = compiled(fitting)(chip, process, key)
    old = chip.correction
    gain, offset = found.gain, found.offset
    if old is not None:
        gain, offset = gain * old.gain, gain * old.offset + offset
    return eqx.tree_at(
        lambda model: model.correction,
        chip,
        Correction(gain, offset),
        is_leaf=lambda x: x is None,
    )
