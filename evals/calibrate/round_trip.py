"""Round trip: silicon that is known in full, measured, calibrated, seen again."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import numpy as np

from evals.calibrate.chip import trimmed
from evals.calibrate.divergence import divergence
from evals.calibrate.fit import Belief, fit
from evals.calibrate.measured import parse_measured, write_measured
from evals.calibrate.silicon import Silicon
from evals.robustness.scoring import Seen
from physnn.fabricate import is_bank
from physnn.process import Process

DIE = "drawn"


@dataclass(frozen=True)
class RoundTrip:
    """What came back. `error` is the rms of posterior − truth over the drawn spread.

    `far` is how far the true silicon is from the design in what it predicts, before and
    after its trims are set (`divergence`); `bits` are what design and both score. None
    where there was no text.
    """

    n: int
    error: float
    z_rms: float
    far: tuple[float, float] | None = None
    bits: tuple[float, float, float] | None = None

    @property
    def left(self) -> float:
        """Share of the distance that is left."""
        return float("nan") if self.far is None else self.far[1] / self.far[0]


def steering_banks(belief: Belief) -> list[str]:
    """Offsets of pairs that steer or gate, one transconductor per channel."""
    return [
        path
        for path, known in belief.items()
        if known.mean.ndim == 1
        and known.unit == "full scale"
        and path.endswith(("cell.offset", "gate.offset"))
    ]


def shares(belief: Belief, paths: Sequence[str], values) -> dict[str, np.ndarray]:
    """One long array cut into the banks at `paths`, in order."""
    sizes = [belief[path].mean.size for path in paths]
    parts = np.split(np.asarray(values)[: sum(sizes)], np.cumsum(sizes)[:-1])
    return dict(zip(paths, parts, strict=True))


def measured_text(
    belief: Belief, paths: Sequence[str], silicon: Silicon, process: Process
) -> str:
    """The CSV that a tester of this silicon sends back."""
    found = shares(belief, paths, silicon.steering(silicon.measured_V, process))
    sigma = float(abs(silicon.steering([silicon.meter_V], process)[0]))
    rows = []
    for path, values in found.items():
        instance, _, symbol = path.rpartition(".")
        known = belief[path]
        for i, value in enumerate(known.mean.ravel() + values):
            row = {"instance": instance, "symbol": f"{symbol}[{i}]", "unit": known.unit}
            rows.append({**row, "value": float(value), "sigma": sigma})
    point = (float(process.temperature_K), float(process.supply_V))
    return write_measured(rows, die=DIE, temperature_K=point[0], supply_V=point[1])


def round_trip(
    belief: Belief,
    silicon: Silicon,
    process: Process,
    *,
    paths: Sequence[str],
    design: Any = None,
    seen: Seen | None = None,
) -> RoundTrip:
    """Import what was measured of `silicon` as devices at `paths`, and compare.

    With a `design` and windows that it reads, also what the true silicon gives before
    and after its trims are set against the posterior, without other mismatch or noise.
    """
    rows = parse_measured(
        measured_text(belief, paths, silicon, process), where="measured.csv"
    )
    found = fit(belief, rows.rows)
    true = shares(belief, paths, silicon.steering(silicon.true_V, process))
    errors = np.concatenate(
        [found.belief[p].mean - (belief[p].mean + true[p]) for p in paths]
    )
    spread = np.std(np.concatenate(list(true.values())), ddof=1)
    error = float(np.sqrt(np.mean(errors**2)) / spread)
    result = RoundTrip(len(errors), error, found.z_rms)
    if design is None or seen is None:
        return result
    chips = (_made(design, true), _made(trimmed(design, belief, found), true))
    before, after = (divergence(design, chip, seen, process) for chip in chips)
    bits = (before[1], before[2], after[2])
    return dataclasses.replace(result, far=(before[0], after[0]), bits=bits)


def _made(design: Any, true: Mapping[str, np.ndarray]) -> Any:
    """The silicon itself: a design whose devices are known to have these errors."""

    def put(path, node):
        name = jtu.keystr(path).lstrip(".")
        if name not in true:
            return node
        shift = jnp.asarray(true[name], jnp.float32)
        # Not `error`, which another chip of the design would not have.
        return dataclasses.replace(
            node, shift=shift if node.shift is None else node.shift + shift
        )

    return jtu.tree_map_with_path(put, design, is_leaf=is_bank)
