"""Yield: the share of chips above a bar, before and after calibration."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key
from scipy.stats import beta

from evals.calibration import CalibrationConfig, calibrate_chip
from evals.robustness.scoring import Seen
from evals.robustness.suite import Yield
from physnn.process import Process

# Windows that a chip reads at once while it is calibrated.
TOGETHER = 2


def clopper_pearson(passed: int, n: int, *, confidence: float) -> tuple[float, float]:
    """Interval of a share of which `passed` of `n` were seen, exact.

    Quantiles of beta distributions (Clopper & Pearson 1934, DOI
    10.1093/biomet/26.4.404); it covers the share at least as often as `confidence`.
    """
    if not 0 <= passed <= n or n < 1:
        raise ValueError(
            f"Argument `passed` must be from 0 to n, and n at least 1, but they are"
            f" {passed} and {n}."
        )
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, passed, n - passed + 1) if passed else 0.0
    high = beta.ppf(1 - tail, passed + 1, n - passed) if passed < n else 1.0
    return float(low), float(high)


class Bar(eqx.Module):
    """What a chip must reach: bits at most, or accuracy at least."""

    bits: float | None
    accuracy: float | None

    @classmethod
    def of(cls, settings: Yield, *, bits: float, accuracy: float) -> "Bar":
        """The bar of a suite; `bits` and `accuracy` are those of the design.

        Raises `ValueError` for a bar that the design itself, without noise, misses.
        """
        if settings.accuracy is not None:
            bar, own = cls(None, settings.accuracy), accuracy
            reached = accuracy >= settings.accuracy
        else:
            most = settings.bits
            if most is None:
                assert settings.lost is not None
                most = bits * (1 + settings.lost)
            bar, own, reached = cls(most, None), bits, bits <= most
        if not reached:
            raise ValueError(
                f"The bar of `yields` must be one that the design reaches without"
                f" noise, but it has {own:.4f} where {bar} is asked: lower the bar, or"
                " train longer."
            )
        return bar

    def passes(self, bits: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
        """Which chips reach it."""
        if self.bits is not None:
            return np.asarray(bits) <= self.bits
        return np.asarray(accuracy) >= self.accuracy

    def __str__(self):
        if self.bits is not None:
            return f"at most {self.bits:.4f} bits"
        return f"an accuracy of at least {self.accuracy:.4f}"


def yield_of(bar: Bar, row: dict[str, Any], *, confidence: float) -> dict[str, Any]:
    """The share of the chips of a row that pass, with its interval."""
    passed = bar.passes(np.asarray(row["bits"]), np.asarray(row["accuracy"]))
    n, k = len(passed), int(passed.sum())
    low, high = clopper_pearson(k, n, confidence=confidence)
    return {
        "chips": n,
        "passed": k,
        "share": k / n,
        "low": low,
        "high": high,
        "confidence": confidence,
    }


class Calibrated(eqx.Module):
    """Calibrates each chip by itself: what `Chips.score` does to it before scoring."""

    design: Any
    nominal: Process  # that the design was made on
    tokens: Int[Array, "batches batch time_and_one"]
    scored: Bool[Array, "batches batch targets"]
    config: CalibrationConfig = eqx.field(static=True)

    @classmethod
    def of(cls, design: Any, nominal: Process, seen: Seen) -> "Calibrated":
        """For chips of `design` on the process `nominal`, on the windows `seen`."""
        n = len(seen.tokens) // TOGETHER * TOGETHER or len(seen.tokens)
        each = min(TOGETHER, n)
        share = lambda x: jnp.reshape(x[:n], (n // each, each, *x.shape[1:]))
        windows = share(seen.tokens), share(seen.scored)
        return cls(design, nominal, *windows, CalibrationConfig())

    @property
    def n_windows(self) -> int:
        return self.tokens.shape[0] * self.tokens.shape[1]

    def __call__(self, chip: Any, process: Process, key: Key[Array, ""]):
        return calibrate_chip(
            self.design,
            chip,
            self.tokens,
            self.scored,
            process=process,
            nominal=self.nominal,
            key=key,
            config=self.config,
        )
