"""A projection, not a result: what fits of a ladder would say at sizes never trained.

Loss is fitted over the sizes of a ladder that all saw the same tokens,

    bits(N) = floor + a·N^(−α),   a, α, floor >= 0

(Kaplan et al. 2020, arXiv 2001.08361; Hoffmann et al. 2022, arXiv 2203.15556), and read
at 1, 8 and 100 billion parameters. Three to five sizes cannot tell a floor from none:
both are fitted, and the interval spans both, over resamples of seeds and of residuals.
Joules of the transformer are the bill of its largest rung with its events stretched:
what touches a weight grows as N, what it does per channel of a block as N^(2/3); the
physical model's are fitted as a power of its size. `physnn bill` bills one grown design
part by part.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from evals.energy import MACHINES, Scored
from evals.recorded import Recorded, record
from evals.waterfall import is_context, is_touch
from physnn.energy import bill, load_prices
from physnn.energy.events import Event

SIZES = (1e9, 8e9, 100e9)
MIN_RUNGS = 3
N_DRAWS = 200
QUANTILES = (0.025, 0.5, 0.975)
LABEL = (
    "Projection, not a result: nothing of this size was trained, and every figure here"
    " lies far outside the sizes that were."
)

# (floor, a, α)
Law = tuple[float, float, float]


def fit_law(
    sizes: Float[np.ndarray, " rung"],
    bits: Float[np.ndarray, " rung"],
    *,
    floored: bool,
) -> Law:
    """Least squares of log(bits − floor) in log N; the best floor of a grid, or none.

    An exponent that came out negative is set to 0: larger models are then no better.
    """
    floors = np.linspace(0.0, 0.98 * bits.min(), 99) if floored else np.zeros(1)
    above = np.log(bits[:, None] - floors)
    slope, start = np.polyfit(np.log(sizes), above, 1)
    start = np.where(slope > 0, above.mean(axis=0), start)
    slope = np.minimum(slope, 0.0)
    fitted = floors + np.exp(start + slope * np.log(sizes)[:, None])
    best = int(np.argmin(np.sum(np.square(fitted - bits[:, None]), axis=0)))
    return float(floors[best]), float(np.exp(start[best])), float(-slope[best])


def law_at(law: Law, sizes):
    """Bits per byte at `sizes` [parameters]."""
    floor, a, alpha = law
    return floor + a * np.asarray(sizes, float) ** -alpha


def size_at(law: Law, bits: float) -> float:
    """Parameters at which the law reaches `bits` per byte; infinite where it never."""
    floor, a, alpha = law
    if bits <= floor or alpha <= 0:
        return np.inf
    with np.errstate(over="ignore"):
        return float(np.float64(a / (bits - floor)) ** (1 / alpha))


def project(
    physical: Sequence[Scored], ladder: Sequence[Scored], systems: list[dict]
) -> dict[str, Any]:
    """Bits per byte, J and ratio at `SIZES`, with intervals, as plain values:

        label, tokens, n_rungs, largest [parameters],
        sizes [{parameters, beyond, bits {low, nominal, high},
                transformer_J {machine: {low, nominal, high}},
                physical_parameters [low, middle, high] (None: infinite) and
                ratio {machine: {low, nominal, high}}; without a ratio, None}]
        reason: a sentence where there is none, of the whole or of the ratio

    `systems` are those of `evals.energy.compare`. In a ratio both sides are projected,
    so it needs three sizes of each; a `low` of 0 says that some fits never reach that
    quality at all.
    """
    sizes_of = {s["name"]: s["parameters"] for s in systems}
    sizes = np.asarray([sizes_of[each.name] for each in ladder], float)
    if len(set(sizes)) < MIN_RUNGS:
        return {
            "label": LABEL,
            "reason": f"There must be at least {MIN_RUNGS} sizes of transformers to"
            f" project from, but there are {len(set(sizes))}: train more rungs.",
        }
    laws = _laws(ladder, sizes)
    own_sizes = np.asarray([sizes_of[each.name] for each in physical], float)
    reason, own_laws, J_law = "", None, None
    if len(set(own_sizes)) < MIN_RUNGS:
        reason = (
            f"No ratio is projected: there must be at least {MIN_RUNGS} sizes of the"
            f" physical model, but there are {len(set(own_sizes))}."
        )
    else:
        own_laws, bills = _laws(physical, own_sizes), {}
        for each in systems:
            bills[each["name"]] = next(iter(each["bills"].values()))["total_J"]
        spent = [bills[each.name]["nominal"] for each in physical]
        J_law = np.polyfit(np.log(own_sizes), np.log(spent), 1)
    laws, largest = _laws(ladder, sizes), ladder[int(np.argmax(sizes))]
    period_s = next(s["latency_s"] for s in systems if s["kind"] == "physical")
    built = record(largest.models[0], largest.process, period_s)
    rows = []
    for size in SIZES:
        design = _stretched(built, size / float(sizes.max()))
        bits = np.asarray([law_at(law, size) for law in laws])
        J = {
            name: bill(design, load_prices(file), process=largest.process)
            for name, file in MACHINES.items()
        }
        ratio = needed = None
        if own_laws is not None and J_law is not None:
            found = [size_at(law, b) for law, b in zip(own_laws, bits, strict=True)]
            own_J = np.exp(np.polyval(J_law, np.log(found)))
            ratio = {m: _span(each.total.nominal / own_J) for m, each in J.items()}
            needed = [float(v) for v in np.quantile(found, QUANTILES, method="nearest")]
        rows.append(
            {
                "parameters": size,
                "beyond": size / float(sizes.max()),
                "bits": _span(bits),
                "transformer_J": {m: each.total.to_json() for m, each in J.items()},
                "physical_parameters": needed,
                "ratio": ratio,
            }
        )
    return {
        "label": LABEL,
        "tokens": ladder[0].tokens,
        "n_rungs": len(sizes),
        "largest": float(sizes.max()),
        "sizes": rows,
        "reason": reason,
    }


def _stretched(design: Recorded, factor: float) -> Recorded:
    """A transformer of `factor` times the parameters, width and depth grown alike."""

    def scale(event: Event) -> float:
        if event.part.split(".")[0] == "embedding":
            return factor ** (1 / 3)
        if is_context(event):
            return factor ** (2 / 3)
        return factor if is_touch(event) else 1.0

    events = tuple(e._replace(count=e.count * scale(e)) for e in design.recorded)
    layers = max(1, round(design.site.n_layers * factor ** (1 / 3)))
    site = design.site._replace(n_layers=layers)
    return replace(design, recorded=events, site=site)


def _laws(systems: Sequence[Scored], sizes: np.ndarray, seed: int = 0) -> list[Law]:
    """Both forms of the law, fitted to resamples of seeds and of residuals."""
    rng = np.random.default_rng(seed)
    values = [np.asarray([q.median for q in each.seeds]) for each in systems]
    medians = np.asarray([np.median(each) for each in values])
    laws = []
    for floored in (False, True):
        fitted = law_at(fit_law(sizes, medians, floored=floored), sizes)
        residuals = medians - fitted
        for _ in range(N_DRAWS):
            drawn = [np.median(rng.choice(v, len(v))) - np.median(v) for v in values]
            bits = fitted + rng.choice(residuals, len(sizes)) + np.asarray(drawn)
            laws.append(fit_law(sizes, bits, floored=floored))
    return laws


def _span(values: np.ndarray) -> dict[str, float]:
    low, middle, high = (float(v) for v in np.quantile(values, QUANTILES))
    return {"low": low, "nominal": middle, "high": high}
