"""Fit: what is known of every device before and after measurements of some."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from evals.calibrate.measured import Measurement, Term
from physnn.export.tables import columns_of
from physnn.fabricate import banks_of
from physnn.process import Process

# A measurement further from what was expected is named as a surprise.
SURPRISE = 5.0


@dataclass(frozen=True)
class Known:
    """Independent normals: `mean` and `sigma` of each device of a bank, in `unit`."""

    mean: Float[np.ndarray, "..."]
    sigma: Float[np.ndarray, "..."]
    unit: str


Belief = Mapping[str, Known]  # by the path of the bank, as in params/parameters.csv


def belief_of(design: Any, process: Process) -> dict[str, Known]:
    """What the export says of every device: its realized value, and its mismatch."""
    banks = {path.lstrip("."): bank for path, bank in banks_of(design).items()}
    columns = columns_of(list(banks.values()), process)
    return {
        path: Known(each["realized_value"], each["sigma_local"], bank.unit)
        for (path, bank), each in zip(banks.items(), columns, strict=True)
    }


def belief_of_package(
    parameters: Mapping[str, Any], array: Callable[[str], np.ndarray]
) -> dict[str, Known]:
    """The same from the `params/parameters.json` of a package.

    `array` reads one of its arrays by file name.
    """
    found = {}
    for path, entry in parameters["parameters"].items():
        columns = entry.get("values") or {}
        if entry.get("files"):
            columns = {k: array(entry["files"][k]) for k in entry["files"]}
        if "sigma_local" not in columns:
            continue  # an array outside of the banks
        mean, sigma = (
            np.asarray(columns[name], np.float32).reshape(entry["shape"])
            for name in ("realized_value", "sigma_local")
        )
        found[path] = Known(mean, sigma, entry["unit"])
    return found


@dataclass(frozen=True)
class Fit:
    """What measurements said of a belief, and how well they went with it.

    `belief` is the posterior of the banks that were touched. `z` of a measurement is
    its distance from what was expected, over the standard deviation of that.
    """

    belief: Belief
    touched: Mapping[str, np.ndarray]  # which devices were measured
    n_measured: int
    z_rms: float
    z_max: float
    surprises: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        devices = {path: int(mask.sum()) for path, mask in self.touched.items()}
        return {
            "measurements": self.n_measured,
            "devices": devices,
            "z_rms": self.z_rms,
            "z_max": self.z_max,
            "surprises": list(self.surprises),
        }


def fit(prior: Belief, rows: Sequence[Measurement]) -> Fit:
    """Least squares with the prior: the posterior of all devices that were measured.

        minimize Σ ((x − mean)/sigma)² + Σ ((y − H x)/sigma_y)²
        x̂ = mean + K (y − H·mean),  K = P Hᵀ (H P Hᵀ + R)⁻¹,  P̂ = (1 − K H) P

    P and R are diagonal. Devices that no measurement has in common are solved apart, so
    a device that was measured by itself has the textbook weights of two estimates. What
    is measured to be its mean stays that, to the last bit. Of P̂ the diagonal is kept.
    Reference: Bayesian linear Gauss estimate, Särkkä 2013, DOI
    10.1017/CBO9781139344203, section 3.2.

    Raises `ValueError` for an instance, symbol, index or unit that the design does not
    have, by name.
    """
    paths = list(prior)
    starts = np.concatenate([[0], np.cumsum([prior[p].mean.size for p in paths])])
    place = {path: (int(starts[i]), prior[path]) for i, path in enumerate(paths)}
    flat = lambda name: np.concatenate(
        [np.ravel(getattr(prior[p], name)).astype(np.float64) for p in paths] or [[]]
    )
    mean, variance = flat("mean"), flat("sigma") ** 2
    seen = [_entries(row, place) for row in rows]
    count = np.asarray([len(columns) for columns, _ in seen])
    columns = np.concatenate([c for c, _ in seen])
    weights = np.concatenate([w for _, w in seen])
    of_row = np.repeat(np.arange(len(rows)), count)
    y = np.asarray([row.value for row in rows])
    noise = np.asarray([row.sigma for row in rows]) ** 2
    expected = np.bincount(of_row, weights * mean[columns], len(rows))
    spread = np.bincount(of_row, weights**2 * variance[columns], len(rows)) + noise
    z = (y - expected) / np.sqrt(spread)

    new, left = mean.copy(), variance.copy()
    for entries in _components(of_row, columns, len(rows)):
        some, at = np.unique(of_row[entries], return_inverse=True)
        devices, device_at = np.unique(columns[entries], return_inverse=True)
        H = np.zeros((len(some), len(devices)))
        H[at, device_at] = weights[entries]
        P = variance[devices]
        gain = np.linalg.solve(H @ (P[:, None] * H.T) + np.diag(noise[some]), H * P).T
        new[devices] += gain @ (y[some] - H @ mean[devices])
        left[devices] -= np.sum(gain * H.T, axis=1) * P
    single = _alone(of_row, columns, len(rows))
    rows_of, devices = of_row[single], columns[single]
    gain = variance[devices] * weights[single]
    gain = gain / (weights[single] * gain + noise[rows_of])
    new[devices] += gain * (y[rows_of] - weights[single] * mean[devices])
    left[devices] -= gain * weights[single] * variance[devices]

    touched = np.zeros(len(mean), bool)
    touched[columns] = True
    belief, masks = {}, {}
    for i, path in enumerate(paths):
        part = slice(starts[i], starts[i + 1])
        if not touched[part].any():
            continue
        known = prior[path]
        shape = known.mean.shape
        # Through float64 and back a float32 is the same.
        belief[path] = Known(
            new[part].reshape(shape).astype(np.float32),
            np.sqrt(np.maximum(left[part], 0)).reshape(shape).astype(np.float32),
            known.unit,
        )
        masks[path] = touched[part].reshape(shape)
    far = np.flatnonzero(np.abs(z) > SURPRISE)
    surprises = tuple(
        f"line {rows[i].line}: {rows[i].name} is {z[i]:+.1f} sigma from the expected"
        for i in far[np.argsort(-np.abs(z[far]))]
    )
    return Fit(
        belief,
        masks,
        len(rows),
        float(np.sqrt(np.mean(z**2))),
        float(np.max(np.abs(z))),
        surprises,
    )


def _entries(row: Measurement, place) -> tuple[np.ndarray, np.ndarray]:
    """Which devices a measurement sees, and with what weight."""
    seen: dict[int, float] = {}
    for term in row.terms:
        path = f"{row.instance}.{term.symbol}" if row.instance else term.symbol
        if path not in place:
            raise ValueError(_unknown(row, term, place))
        start, known = place[path]
        if row.unit != known.unit:
            raise ValueError(
                f"Line {row.line}: the unit of `{row.name}` must be {known.unit!r}, but"
                f" is {row.unit!r}: convert the value."
            )
        shape = known.mean.shape
        index = tuple(slice(None) if i is None else i for i in term.index)
        inside = len(index) == len(shape) and all(
            i is None or i < n for i, n in zip(term.index, shape, strict=False)
        )
        if not inside:
            raise ValueError(
                f"Line {row.line}: the index of `{term}` in `{row.instance}` must be"
                f" one of shape {list(shape)}, but is {list(term.index)}."
            )
        for device in np.ravel(np.arange(known.mean.size).reshape(shape)[index]):
            seen[start + int(device)] = seen.get(start + int(device), 0.0) + term.sign
    return np.asarray(list(seen), np.int64), np.asarray(list(seen.values()))


def _unknown(row: Measurement, term: Term, place) -> str:
    split = [path.rpartition(".") for path in place]
    symbols = sorted(symbol for owner, _, symbol in split if owner == row.instance)
    if symbols:
        return (
            f"Line {row.line}: the symbol of `{row.instance}` must be one of {symbols},"
            f" but is {term.symbol!r}."
        )
    known = sorted({owner for owner, _, _ in split})
    return (
        f"Line {row.line}: the instance must be a circuit of the design, as"
        f" {json.dumps(known[0] if known else '')}, but is {row.instance!r}, which it"
        " does not have."
    )


def _alone(of_row, columns, n_rows) -> np.ndarray:
    """Entries of measurements of one device that no other measurement sees."""
    per_row = np.bincount(of_row, minlength=n_rows)
    per_device = np.bincount(columns)
    return (per_row[of_row] == 1) & (per_device[columns] == 1)


def _components(of_row, columns, n_rows):
    """Entries of the measurements that have devices in common, group by group."""
    many = np.flatnonzero(~_alone(of_row, columns, n_rows))
    if not len(many):
        return
    _, device = np.unique(columns[many], return_inverse=True)
    n = n_rows + device.max() + 1
    edges = (np.ones(len(many)), (of_row[many], n_rows + device))
    _, label = connected_components(coo_array(edges, shape=(n, n)), directed=False)
    group = label[of_row[many]]
    order = np.argsort(group, kind="stable")
    yield from np.split(many[order], np.flatnonzero(np.diff(group[order])) + 1)
