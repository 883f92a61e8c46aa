"""Gates T1, T2, T3, T7, T9: drawn transconductor cells do what their card says.

The card was fitted when the cells were characterized (`physnn characterize`). Here they
are simulated again, with the models that this machine has.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evals.characterize.devices import CELL, window_errors
from evals.characterize.ota import curve_error
from evals.characterize.settling import rest_of
from evals.characterize.state import STEP_NAMES, twin_step
from evals.characterize.sweeps import measure_transistor
from evals.simulate import Simulation, run_deck
from evals.verify.check import Check, Trace, compared
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.export.drawn import CARD, CELLS
from physnn.export.spice import BEHAV, forbidden
from physnn.export.transconductor import STATE_F, OtaCard
from physnn.pdk import Models, find_models, pdk_names
from physnn.units import thermal_energy_J

# T1: rms error of I_d in the window of the cell, by n or p and by part; of g_m.
CURRENT_LIMITS, PAIR_LIMIT, GM_LIMIT = {"nmos": 0.05, "pmos_lvt": 0.07}, 0.03, 0.08
# T2: relative on g_m and full scale, of full scale rms on the curve.
SLOPE_LIMIT, SCALE_LIMIT, CURVE_LIMIT = 0.02, 0.04, 0.02
# T3: rms [V] of the small and of the large step. T7: largest [V] by kind of activation.
STEP_LIMITS_V = (0.5e-3, 5e-3)
REST_LIMITS_V = {"table": 3e-3, "twin": 5e-3}
# T9: relative. `trnoise` of ngspice 39 takes no seed, and its rms differs between
# processes by 1.3 % (12 runs), more than the draws allow: the mean of so many is held.
NOISE_LIMIT, CHARGE_LIMIT, CHARGE_RUNS = 0.20, 0.02, 8
# The grid on which a transistor is measured again: coarser than that of the fit [V].
RECHECK_V = 0.06


def jobs(package: Package, options: Options) -> list[Job]:
    """The jobs of a package with drawn cells; one skipped check without models."""
    if CARD not in package.files:
        return []
    card = package.json(CARD)
    decks = set(package.named("spice/tb", ".sp"))
    has = lambda *names: all(f"spice/tb/{name}.sp" in decks for name in names)
    if not has("ota_curve"):
        return []
    models, problem = models_for(card, options)
    if models is None:
        skipped = Check("T2", "drawn transconductors", "skipped", detail=problem)
        job = lambda *_: [skipped]
        return [Job("T2", skipped.name, job, needs=(), also=("T1", "T3", "T7", "T9"))]

    def of(gate: str, name: str, check, **more) -> Job:
        def run(package: Package, work: Path, options: Options) -> list[Check]:
            return check(_Bench(package, work, options, models), card)

        return Job(gate, name, run, **more)

    found = [of("T2", "transconductor", _transconductor)]
    if has(*STEP_NAMES):
        found.append(of("T3", "state after steps", _steps))
    if has("settling_rest"):
        found.append(of("T7", "settling network", _settling))
    if has("state_noise", "charge_noise"):
        found.append(of("T9", "noise of the state", _noise, slow=True, cost_s=15))
    found.append(of("T1", "transistors in their windows", _devices, slow=True))
    return found


def models_for(card: Mapping[str, Any], options: Options) -> tuple[Models | None, str]:
    """The models that a card was measured with; None and why, where they are not here.

    Raises `ValueError` for a path that was given and holds no models, or others.
    """
    # Several kits may be installed: that of the card is looked for.
    named = card["pdk"] if card["pdk"] in pdk_names() else None
    try:
        models = find_models(options.pdk or named)
    except ValueError as error:
        if options.pdk is not None:
            raise
        return None, str(error)
    if models.pdk.name != card["pdk"]:
        problem = (
            f"The models must be of {card['pdk']}, for which the package has its card,"
            f" but {models.folder} holds those of {models.pdk.name}"
        )
        if options.pdk is not None:
            raise ValueError(f"{problem}: export with --cells {models.pdk.name}.")
        return None, problem
    return models, ""


class _Bench:
    """Runs the decks of a package with models, each beside all its cells."""

    def __init__(self, package: Package, work: Path, options: Options, models: Models):
        self.package, self.work, self.options = package, work, options
        self.models = models

    def run(self, name: str, *, twin: bool = False) -> Simulation:
        """The deck `name`; `twin` takes the behavioral cells instead of the drawn ones.

        Raises `ValueError` for a file that is more than a circuit, and where a
        simulation fails.
        """
        deck = f"spice/tb/{name}.sp"
        text = self.package.text(deck)
        texts = {f"{name}.sp": text.replace("../cells/", "../behav/") if twin else text}
        for folder in (CELLS, BEHAV):
            for path in self.package.named(folder, ".spice"):
                texts[f"../{Path(folder).name}/{Path(path).name}"] = self.package.text(
                    path
                )
        place = self.work / ("twin" if twin else "drawn") / name
        for path, content in texts.items():
            statement = forbidden(content)
            if statement is not None:
                raise ValueError(
                    f"{path} must hold only circuit elements and the commands of an"
                    f" export, but holds {statement[:80]!r}: it is not run."
                )
            target = (place / "tb" / path).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(content)
        return run_deck(
            place / "tb" / f"{name}.sp",
            models=self.models,
            timeout_s=self.options.timeout_s,
        )


def _relative(gate, name, measured, expected, limit, *, trace=None) -> Check:
    deviation = measured / expected - 1
    return compared(gate, name, deviation, 0.0, limit, "1", trace=trace)


def _rms(gate, name, error, limit, unit, *, trace=None) -> Check:
    return compared(gate, name, error, 0.0, limit, unit, trace=trace)


def _transconductor(bench: _Bench, card) -> list[Check]:
    """T2: what cards of transistors predict of the OTA, and what its twin does."""
    table = card["ota"]
    predicted, twin = table["predicted"], OtaCard.of(table)
    found = bench.run("ota_curve")
    v_in, i_out = found.arrays["ota_curve"][:, 0], found.arrays["ota_curve"][:, 1]
    copied = bench.run("ota_curve", twin=True).arrays["ota_curve"][:, 1]
    model = np.asarray(predicted["i_out_A"])
    if model.shape != i_out.shape:
        raise ValueError(
            f"The curve of the OTA must have the {model.size} points of the card, but"
            f" has {i_out.size}: export again."
        )
    trace = Trace(
        tuple(v_in.tolist()),
        "input [V]",
        (
            ("cards of transistors", tuple(model.tolist())),
            ("twin", tuple(twin.current(v_in, twin.center_V).tolist())),
            ("ngspice", tuple(i_out.tolist())),
        ),
        "output current [A]",
    )
    results = found.results
    name = "transconductor"
    gm, high, low = (predicted[key] for key in ("gm_S", "high_A", "low_A"))
    return [
        _relative("T2", f"{name}: gm", results["gm_s"], gm, SLOPE_LIMIT, trace=trace),
        _relative("T2", f"{name}: high", results["high_a"], high, SCALE_LIMIT),
        _relative("T2", f"{name}: low", results["low_a"], low, SCALE_LIMIT),
        _rms(
            "T2", f"{name}: curve", curve_error(model, i_out), CURVE_LIMIT, "full scale"
        ),
        _rms(
            "T2", f"{name}: twin", curve_error(copied, i_out), CURVE_LIMIT, "full scale"
        ),
    ]


def _steps(bench: _Bench, card) -> list[Check]:
    """T3: the follower after a small and a large step, beside its twin."""
    twin = OtaCard.of(card["ota"])
    checks = []
    for name, limit in zip(STEP_NAMES, STEP_LIMITS_V, strict=True):
        time_s, v = bench.run(name).arrays[name].T
        model = twin_step(twin, float(card["state"][name]["step_V"]), time_s)
        error = float(np.sqrt(np.mean((model - v) ** 2)))
        thin = slice(None, None, 5)
        trace = Trace(
            tuple(time_s[thin].tolist()),
            "time [s]",
            (
                ("twin", tuple(model[thin].tolist())),
                ("ngspice", tuple(v[thin].tolist())),
            ),
            "state [V]",
        )
        checks.append(
            _rms("T3", f"state after steps: {name}", error, limit, "V", trace=trace)
        )
    return checks


def _settling(bench: _Bench, card) -> list[Check]:
    """T7: where 16 OTAs that pull each other come to rest."""
    nodes = int(card["settling"]["nodes"])
    results = bench.run("settling_rest").results
    rest = np.asarray([results[f"v{i}"] for i in range(nodes)])
    return [
        _rms(
            "T7",
            f"settling network: {how}",
            float(np.abs(rest_of(card["ota"], how) - rest).max()),
            limit,
            "V",
        )
        for how, limit in REST_LIMITS_V.items()
    ]


def _noise(bench: _Bench, card) -> list[Check]:
    """T9: noise of the state from that of its devices, and kT/C in time."""
    expected = float(card["state"]["noise"]["predicted_V"])
    measured = bench.run("state_noise").results["noise_v"]
    drawn = [bench.run("charge_noise").results["noise_v"] for _ in range(CHARGE_RUNS)]
    charge = math.sqrt(sum(v * v for v in drawn) / CHARGE_RUNS)
    thermal = math.sqrt(thermal_energy_J(300.15) / STATE_F)
    name = "noise of the state"
    return [
        _relative("T9", f"{name}: output", measured, expected, NOISE_LIMIT),
        _relative("T9", f"{name}: kT/C in time", charge, thermal, CHARGE_LIMIT),
    ]


def _devices(bench: _Bench, card) -> list[Check]:
    """T1: the cards of transistors beside a new sweep, in the windows of the cell."""
    checks = []
    for row in card["ota"]["devices"]:
        if row["window"] != CELL:
            continue
        sweep = measure_transistor(
            bench.models, row["kind"], row["width_m"], row["length_m"], step_V=RECHECK_V
        )
        current, _, gm = window_errors(row, sweep)
        limit = PAIR_LIMIT if row["part"] == "pair" else CURRENT_LIMITS[row["kind"]]
        name = f"transistors in their windows: {row['part']}"
        checks += [
            _rms("T1", f"{name} current", current, limit, "1"),
            _rms("T1", f"{name} gm", gm, GM_LIMIT, "1"),
        ]
    return checks
