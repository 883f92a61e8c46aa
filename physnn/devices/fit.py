"""Fit: the parameters of one drawn transistor in the window it works in."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.optimize import least_squares

from physnn.devices.ekv import PARAMETERS, EkvTransistor

# The weight of data beside priors: how far the equations are from the cards at best,
# and how many points count as independent (errors of the equations bend slowly).
MODEL_ERROR, N_INDEPENDENT = 0.03, 50
# A fit looks at so many points of a window, evenly chosen; its errors are of all.
N_POINTS = 1500
# Starting values, of sky130 at W = 1 um, L = 1 um: any similar process gets there.
_START = {
    1: (6.6e-7, 0.60, 1.44, 0.06, 0.0034, 0.035, 0.12, 0.22, 0.05),
    -1: (3.9e-7, 0.90, 1.80, 0.15, -0.01, 0.0, 0.28, 0.55, 0.05),
}
# Widths of the priors. Narrow windows leave mobility, saturation, threshold and
# specific current to trade off along a line; these hold them where they mean something.
_WIDTH = (2.0, 0.2, 0.3, 0.05, 0.1, 0.5, 0.3, 0.5, 0.1)
_LEAST = (-math.inf, -math.inf, 1.0, 0.0, -1.0, 0.0, 0.0, -1.0, -0.5)


@dataclass(frozen=True)
class Window:
    """Where a fit holds: least and largest current per square, I_d·L/W [A].

    `drop_V` and `bulk_V` are the least |v_ds| and the largest |v_sb| [V] that the cell
    gives the device.
    """

    name: str
    least_A: float
    most_A: float = math.inf
    drop_V: float = 0.0
    bulk_V: float = math.inf


# The windows that a device is characterized in; a cell has its own beside them.
WINDOWS = (
    Window("weak", 1e-9, 1e-7),
    Window("moderate", 1e-8, 3e-6),
    Window("strong", 1e-6),
)


@dataclass(frozen=True)
class Sweep:
    """Currents of one transistor: flat arrays of voltages to the bulk [V], I_d [A]."""

    v_g: np.ndarray
    v_d: np.ndarray
    v_s: np.ndarray
    current_A: np.ndarray
    width_m: float
    length_m: float
    polarity: int
    temperature_K: float = 300.15

    def inside(self, window: Window) -> np.ndarray:
        """Which points are in a window, as booleans; those at v_ds = 0 never are."""
        square = np.abs(self.current_A) * self.length_m / self.width_m
        forward = self.polarity * (self.v_d - self.v_s) > max(
            window.drop_V - 1e-6, 1e-6
        )
        near = np.abs(self.v_s) <= window.bulk_V + 1e-6
        inside = (square >= window.least_A) & (square <= window.most_A)
        return forward & near & inside


@dataclass(frozen=True)
class Fit:
    """Parameters with what they are worth: relative errors in the window [1].

    `covariance` is of (ln I_s, the other parameters as they are), scaled by the misfit;
    `free` are the parameters that were fitted. `gm_error_rms` is of g_m along the
    sweep.
    """

    transistor: EkvTransistor
    window: Window
    error_rms: float
    error_max: float
    gm_error_rms: float
    n_points: int
    free: tuple[str, ...]
    covariance: np.ndarray


def fit_transistor(sweep: Sweep, window: Window, *, body: bool = True) -> Fit:
    """Least squares on ln I_d in `window`, with priors, after a robust first pass.

    `body` also fits the body effect and the bend of the slope, which needs currents at
    several source voltages; without it they are 0. Mobility, saturation and bend have
    priors 0.06 ± 0.05 (pMOS: 0.15), 0.035·L^−0.6 ± 0.5 of itself (pMOS: 0) and
    0.05 ± 0.1, the others wide ones.

    Raises `ValueError` when fewer points than parameters lie in the window, and when
    the fit does not converge.
    """
    inside = sweep.inside(window)
    n_free = 9 if body else 7
    if sweep.polarity < 0:
        free = [k for k in range(n_free) if PARAMETERS[k] != "saturation"]
    else:
        free = list(range(n_free))
    if inside.sum() < 3 * len(free):
        raise ValueError(
            f"A fit needs at least {3 * len(free)} currents in the window"
            f" {window.name}, but has {inside.sum()}: sweep finer, or give another."
        )
    start = np.asarray(_START[sweep.polarity], np.float64)
    width = np.asarray(_WIDTH, np.float64)
    start[0] *= sweep.width_m / sweep.length_m
    if sweep.polarity > 0:
        start[5] = 0.035 * (sweep.length_m * 1e6) ** -0.6
        width[5] *= start[5]
    start[0] = math.log(start[0])
    if not body:
        start[7:] = 0.0
    prior = start.copy()
    if sweep.polarity > 0:
        prior[3] = 0.06
    with jax.enable_x64(True):
        # Padded to one shape: one compilation serves all fits.
        chosen = np.flatnonzero(inside)[:: max(1, math.ceil(inside.sum() / N_POINTS))]
        at = np.resize(chosen, N_POINTS)
        counts = np.arange(N_POINTS) < chosen.size
        data = _Data(
            tuple(jnp.asarray(v[at], float) for v in (sweep.v_g, sweep.v_d, sweep.v_s)),
            jnp.asarray(np.log(np.abs(sweep.current_A[at]))),
            jnp.asarray(np.sqrt(N_INDEPENDENT / chosen.size) / MODEL_ERROR * counts),
            jnp.asarray(start),
            jnp.asarray(prior[free]),
            jnp.asarray(width[free]),
            jnp.asarray(sweep.temperature_K),
        )
        static = (sweep.polarity, tuple(free))
        x = start[free]
        # The scale that soft_l1 takes as an outlier: 3 times the error we expect.
        for loss, scale in (("soft_l1", 3.0), ("linear", 1.0)):
            found: Any = least_squares(
                lambda x: np.asarray(_residuals(x, data, *static)),
                x,
                jac=lambda x: np.asarray(_slopes(x, data, *static)),  # type: ignore[arg-type]
                bounds=(np.asarray(_LEAST)[free], np.inf),
                x_scale="jac",
                xtol=1e-6,
                ftol=1e-6,
                max_nfev=300,
                loss=loss,
                f_scale=scale,
            )
            x = found.x
        values = start.copy()
        values[free] = x
        transistor = _transistor(values, sweep.polarity)
    if not found.success or not np.isfinite(x).all() or transistor.slope <= 0:
        raise ValueError(
            f"The fit in the window {window.name} must converge, but scipy says:"
            f" {found.message}"
        )
    transistor = EkvTransistor(**transistor.values(), polarity=sweep.polarity)
    rms, largest, gm = errors(transistor, sweep, inside)
    misfit = found.fun[: chosen.size]
    scale = max(1.0, float(np.mean(misfit**2)))
    covariance = np.linalg.pinv(found.jac.T @ found.jac) * scale
    return Fit(
        transistor,
        window,
        rms,
        largest,
        gm,
        int(inside.sum()),
        tuple(PARAMETERS[k] for k in free),
        covariance,
    )


class _Data(NamedTuple):
    """What a fit is of, as arrays."""

    volts: tuple[Array, ...]
    target: Array  # ln |I_d|
    weight: Array  # 0 for padding
    fixed: Array  # all parameters, ln I_s first; those that are free are replaced
    prior: Array
    width: Array
    temperature_K: Array


@partial(jax.jit, static_argnums=(2, 3))
def _residuals(x, data: _Data, polarity: int, free: tuple[int, ...]):
    transistor = _transistor(data.fixed.at[jnp.asarray(free)].set(x), polarity)
    current = transistor.current(*data.volts, temperature_K=data.temperature_K)
    logarithm = jnp.log(jnp.maximum(jnp.abs(current), 1e-30))
    misfit = data.weight * (logarithm - data.target)
    return jnp.concatenate([misfit, (x - data.prior) / data.width])


_slopes = jax.jit(jax.jacfwd(_residuals), static_argnums=(2, 3))


def _transistor(x, polarity: int) -> EkvTransistor:
    values: Mapping = dict(zip(PARAMETERS[1:], x[1:], strict=True))
    return EkvTransistor(jnp.exp(x[0]), **values, polarity=polarity)


def errors(
    transistor: EkvTransistor, sweep: Sweep, inside: np.ndarray
) -> tuple[float, float, float]:
    """Relative errors at the points `inside`: rms and largest of I_d, rms of g_m.

    g_m is taken as a difference along v_g in both curves, where both neighbors are
    inside, too; NaN where there are none.
    """
    with jax.enable_x64(True):
        model = np.asarray(
            transistor.current(
                sweep.v_g, sweep.v_d, sweep.v_s, temperature_K=sweep.temperature_K
            )
        )
    error = model[inside] / sweep.current_A[inside] - 1
    step = np.diff(sweep.v_g)
    same = (np.diff(sweep.v_d) == 0) & (np.diff(sweep.v_s) == 0) & (step != 0)
    middle = np.flatnonzero(same[:-1] & same[1:]) + 1
    middle = middle[inside[middle - 1] & inside[middle] & inside[middle + 1]]
    rise = lambda current: current[middle + 1] - current[middle - 1]
    slope = rise(model) / rise(sweep.current_A) - 1
    return _rms(error), float(np.abs(error).max()), _rms(slope)


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else math.nan
