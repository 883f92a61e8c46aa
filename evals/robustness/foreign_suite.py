"""attack_suite(f, windows): the tables of a suite that a foreign model can honor."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.random as jr
from jaxtyping import Array, Key

from evals.robustness.conduct import Setting, conduct, varied, yields
from evals.robustness.foreign import (
    HONORED,
    ON_LOGITS,
    ForeignChips,
    arrays_of,
    banked,
    program_of,
)
from evals.robustness.scoring import Seen
from evals.robustness.studies import asked_of
from evals.robustness.suite import Suite, load_suite
from physnn.deploy import Source
from physnn.environment import AMOUNTS, Environment, load_environment
from physnn.keys import stream
from train.tasks.base import Windows

# Of a suite that names none: errors of weights and outputs, nothing of capacitors.
ENVIRONMENT = "analog_foundation"
LOGITS = "logits"
# Why a table is not run. Its amounts act on circuits, or it asks for their banks.
REFUSED = {
    "operating": "digital weights have no corner, supply or temperature",
    "ageing": "digital weights do not age",
    "converters": "digital weights have no DACs and ADCs around them",
    "worst_case": "digital weights have no mismatch to search",
    "ranking": "digital weights have no device area, so no mismatch and no price",
}
NOT_CALIBRATED = "the weights of a foreign model have no trims"
ABOUT_RUN = (
    "A digital run, of kind {kind}: its weights are taken as programmed devices, as if"
    " a crossbar held them. Nothing of this is a chip of this project."
)
ABOUT = (
    "A foreign model: its arrays are taken as programmed devices, as if a crossbar held"
    " them."
)


def attack_suite(
    f: Callable[[Any, Key[Array, ""]], Any],
    windows: Iterable[Windows],
    suite: str | Path | Suite = "robustness",
    *,
    out: str | Path,
    seed: int = 0,
    bits: int | None = None,
    unit: str = "bits/byte",
    progress: bool = True,
) -> dict[str, Any]:
    """Attack a foreign model with a suite; write `robustness.json` and a page to `out`.

    `f` and `bits` are as in `attack`; the windows are the caller's, so `windows` and
    `split` of the suite do not count. `unit`: of the quality, for its labels. The
    environment is that of the suite, or `analog_foundation`. What the model cannot
    honor, amounts and whole tables, is left out and named in the results (`left_out`,
    `refused` with the reason), on the page and in the summary.

    What is measured is kept in `robustness.jsonl` at once: an interrupted suite
    continues. Other weights, windows or settings, another program of `f`, other logits
    of it at a fixed key or another commit begin anew.

    Raises `ValueError` for a suite of which nothing is left, for `bits` where `f` holds
    no arrays, and for a bar that cannot be reached; `ConfigError` for a suite that is
    wrong.
    """
    shown = "suite" if isinstance(suite, Suite) else repr(str(suite))
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    name = getattr(f, "__name__", type(f).__name__)
    seen = Seen.of(windows)
    setting = foreign_setting(f, seen, suite, seed=seed, bits=bits)
    program, constants = program_of(f, seen)
    return conduct(
        setting,
        Path(out),
        facts={**program, "bits": bits, "unit": unit},
        held=(f, constants, seen),
        heading=heading_of(setting, ABOUT)
        | {
            "title": f"Robustness of {name}",
            "run": f"a callable, {name}",
            "command": f"attack_suite({name}, windows, {shown}, out={str(out)!r},"
            f" seed={seed}, bits={bits})",
            "step": None,
            "unit": unit,
            "process": None,
            "split": None,
        },
        seed=seed,
        progress=progress,
    )


def foreign_setting(
    f: Any, seen: Seen, suite: Suite, *, seed: int, bits: int | None = None
) -> Setting:
    """What of `suite` a foreign model honors, and the names of what it does not.

    Raises `ValueError` where nothing is left.
    """
    name = suite.environment or ENVIRONMENT
    default = load_environment(name)
    refused = {t: why for t, why in REFUSED.items() if getattr(suite, t) is not None}
    suite = replace(suite, environment=name, **dict.fromkeys(refused))
    design = banked(f, bits)
    devices, digital = arrays_of(design)
    can = {ON_LOGITS: (LOGITS,)} | {n: devices for n in HONORED if devices}
    everything = asked_of(suite, default)
    asked = [n for n in AMOUNTS if _is_asked(everything, n)]
    asked += [n for n in ("corner", "temperature_K") if _is_moved(everything, n)]
    lost = tuple(n for n in asked if n not in can)
    default = default.replace(**{n: getattr(Environment.ideal(), n) for n in lost})
    # As an environment has them by itself, of circuits.
    default = default.replace(thermal=0.0, shot=0.0, mismatch=0.0)
    parts = (*devices, *digital, LOGITS)
    sources = tuple(
        varied(_source(n, can[n], parts, default), default) for n in asked if n in can
    )
    if all(default.is_none(n) for n in can):
        why = f"nothing in the environment {name} acts on this model: it is the design"
        still = [n for n in ("monte_carlo", "yields") if getattr(suite, n) is not None]
        refused |= dict.fromkeys(still, why)
        suite = replace(suite, **dict.fromkeys(still))
    if not sources:
        raise ValueError(
            f"The suite must hold something that a foreign model honors, {list(can)}"
            f" here, but holds none of it: take the environment `{ENVIRONMENT}`, or"
            " `one_factor.amounts`."
        )
    together = seen.group(suite.fewest_chips, suite.together, design)
    key = stream(jr.key(seed), "robustness")
    chips = ForeignChips(design, seen, key, together)
    later = {"yields": partial(yields, calibrate=None, why=NOT_CALIBRATED)}
    return Setting(suite, chips, default, lost, sources, later, refused)


def heading_of(setting: Setting, about: str) -> dict[str, list[str]]:
    """The sentences that say what was attacked, and as what."""
    chips = setting.chips
    assert isinstance(chips, ForeignChips)
    devices, digital = arrays_of(chips.design)
    held = f"{chips.n_devices:,} numbers in {len(devices)} arrays are devices,"
    held += " one full scale per array" if devices else " for it holds none"
    if digital:
        held += f"; {len(digital)} other arrays stay digital"
    honored = [*(HONORED if devices else ()), ON_LOGITS]
    return {
        "about": [
            about,
            f"{held}. It honors {', '.join(honored)}, and nothing else.",
            f"Environment: {setting.suite.environment}.",
        ]
    }


def _is_asked(environment: Environment, name: str) -> bool:
    # Noise and mismatch that a process states: asked for by nobody, if as stated.
    if name in ("thermal", "shot", "mismatch"):
        return getattr(environment, name) not in (0.0, 1.0)
    return name != "ripple_Hz" and not environment.is_none(name)


def _is_moved(environment: Environment, name: str) -> bool:
    return getattr(environment, name) not in ("tt", None)


def _source(name, acts, parts, environment) -> Source:
    value = getattr(environment, name)
    deaf = tuple(part for part in parts if part not in acts)
    return Source(name, value, AMOUNTS[name].unit, acts, deaf)
