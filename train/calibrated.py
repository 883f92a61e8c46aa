"""Calibrated: what a measured chip adds to the run it was made from, in its folder.

`calibration/` in a run folder holds `state.npz` (arrays by bank and field),
`calibration.json` (its hash) and `history/` (an entry for each import). The checkpoint
beside it stays that of the parent.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from physnn.fabricate import banks_of, is_bank
from train.correction import Correction
from train.run_folder import RunFolderError

FOLDER = "calibration"
STATE, FACTS = "state.npz", "calibration.json"
# Fields of a bank that a calibration sets, and those of the readout.
FIELDS = ("value", "shift", "unknown")
READOUT = ("gain", "offset")
_READOUT = "readout"


def with_arrays(model: Any, arrays: Mapping[str, Any]) -> Any:
    """`model` with arrays by `path field`, as `arrays_of` gives them.

    Raises `ValueError` for a bank, a field or a shape that the model does not have.
    """
    changes: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        path, _, field = name.rpartition(" ")
        changes.setdefault(path, {})[field] = jnp.asarray(array)
    readout = changes.pop(_READOUT, None)
    banks = banks_of(model)
    for path, fields in changes.items():
        wrong = path not in banks or not set(fields) <= set(FIELDS)
        if wrong or any(a.shape != banks[path].value.shape for a in fields.values()):
            raise ValueError(
                "A calibration must be of the banks of its model, but has"
                f" {sorted(fields)} of `{path}`, which is none of that shape."
            )

    def put(path, node):
        fields = changes.get(jtu.keystr(path))
        return dataclasses.replace(node, **fields) if fields else node

    model = jtu.tree_map_with_path(put, model, is_leaf=is_bank)
    if readout is None:
        return model
    correction = Correction(readout["gain"], readout["offset"])
    return eqx.tree_at(
        lambda m: m.correction, model, correction, is_leaf=lambda x: x is None
    )


def arrays_of(model: Any) -> dict[str, np.ndarray]:
    """All that a calibration set in `model`: nothing for a model that was never."""
    found = {}
    for path, bank in banks_of(model).items():
        if bank.shift is None:
            continue
        fields = {name: getattr(bank, name) for name in FIELDS}
        found |= {f"{path} {k}": v for k, v in fields.items() if v is not None}
    correction = getattr(model, "correction", None)
    if correction is not None:
        found |= {f"{_READOUT} {name}": getattr(correction, name) for name in READOUT}
    return {name: np.asarray(array) for name, array in found.items()}


def is_calibrated(folder: Path) -> bool:
    """Whether a run folder is of a measured chip."""
    return (folder / FOLDER).is_dir()


def read_calibrated(folder: Path, model: Any) -> Any:
    """`model` as the calibration in its run folder made it; itself without one.

    Raises `RunFolderError` where that is damaged or of another model.
    """
    if not is_calibrated(folder):
        return model
    try:
        content = (folder / FOLDER / STATE).read_bytes()
        facts = json.loads((folder / FOLDER / FACTS).read_text())
        if hashlib.sha256(content).hexdigest() != facts["sha256"]:
            raise ValueError("its hash does not match")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            return with_arrays(model, dict(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"The calibration in {folder / FOLDER} must be whole, but is not"
            f" ({error}): calibrate the run it was made from again."
        ) from error


def write_calibrated(
    folder: Path, model: Any, *, files: Mapping[str, bytes], facts: Mapping[str, Any]
) -> None:
    """Write `calibration/` of a run folder in the making; `files` by path in it."""
    content = io.BytesIO()
    arrays = arrays_of(model)
    np.savez(content, **{name: arrays[name] for name in sorted(arrays)})  # pyright: ignore[reportArgumentType]
    facts = {"sha256": hashlib.sha256(content.getvalue()).hexdigest(), **facts}
    written = {
        **files,
        STATE: content.getvalue(),
        FACTS: (json.dumps(facts, indent=1) + "\n").encode(),
    }
    for name, each in written.items():
        path = folder / FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(each)
