"""Gates R1, R2, C2: the way back from silicon, and the yield that is promised.

R1 needs only the folder. R2 draws silicon with the mismatch models of a PDK and
imports what a tester would measure of it. What a network scores needs its text, which
no package holds: with the run that a package is of (`physnn verify DIR --run RUN`), R2
also looks at its predictions, and C2 samples dies.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from evals.calibrate.fit import Belief, belief_of, belief_of_package, fit
from evals.calibrate.measured import COLUMNS, parse_measured, write_measured
from evals.calibrate.round_trip import round_trip, steering_banks
from evals.calibrate.silicon import drawn_silicon
from evals.robustness.run import setting_of
from evals.robustness.scoring import Seen
from evals.robustness.suite import load_suite
from evals.robustness.yields import Bar, yield_of
from evals.verify.check import Check
from evals.verify.jobs import Job, Options
from evals.verify.package import Package
from physnn.environment import Environment
from physnn.export.manifest import model_sha256
from physnn.pdk import find_models
from physnn.process import load_process
from train.loop import TrainedRun, load_run

PARAMETERS, TEMPLATE = "params/parameters.json", "calib/measured_template.csv"
# R1: so many devices of every bank are imported, at most.
DEVICES_R1 = 256
# R2: error of offsets over their spread, and of the divergence what may be left.
OFFSET_LIMIT, DIVERGENCE_LIMIT = 0.10, 0.10
# R2: so many devices are drawn, whole banks; windows that are read.
DEVICES, WINDOWS, SEED = 128, 8, 1
# C2: the promise is a suite of its own.
SUITE, SHARE = "signoff", 0.95


def jobs(package: Package, options: Options) -> list[Job]:
    """R1 of every package, R2 and C2 among the slow ones."""
    if PARAMETERS not in package.files:
        return []
    found = [Job("R1", "import of what was exported", _same, needs=())]
    if steering_banks(_belief(package)):
        cost_s = 15 if options.run else 5
        name = "import of drawn silicon"
        found.append(Job("R2", name, _silicon, slow=True, cost_s=cost_s))
    cost_s = 120 if options.run else 0
    found.append(Job("C2", "sampled dies", _dies, slow=True, needs=(), cost_s=cost_s))
    return found


def _belief(package: Package) -> dict:
    array = lambda name: package.array(f"params/{name}")
    return belief_of_package(package.json(PARAMETERS), array)


def _same(package: Package, work: Path, options: Options) -> list[Check]:
    """Every exported value, written as measured and imported: bit for bit the same."""
    belief = _belief(package)
    text = write_measured(
        _as_measured(belief), die="exported", temperature_K=300.0, supply_V=1.0
    )
    rows = parse_measured(text, where="the exported values").rows
    after = fit(belief, rows).belief
    same = lambda path: (
        belief[path].mean.view(np.uint32) == after[path].mean.view(np.uint32)
    )
    changed = sum(int(np.sum(~same(path))) for path in belief)
    n = sum(known.mean.size for known in belief.values())
    detail = f"{len(rows)} of {n} parameters, of every bank"
    checks = [_counted("import of what was exported", changed, detail)]
    if TEMPLATE in package.files:
        # Its rows must name devices that an import knows: filled with anything.
        lines = package.text(TEMPLATE).splitlines()
        place = COLUMNS.index("value")
        filled = [lines[0]]
        for line in lines[1:]:
            head, unit = line.rsplit(",,,", 1)
            assert place == len(COLUMNS) - 3
            filled.append(f"{head},0,1,{unit}")
        wanted = parse_measured("\n".join(filled) + "\n", where=TEMPLATE).rows
        fit(belief, wanted)  # refuses what it does not know, by name
        checks.append(_counted("rows of the template", 0, f"of {len(wanted)} unknown"))
    return checks


def _as_measured(belief: Belief):
    for path, known in belief.items():
        instance, _, symbol = path.rpartition(".")
        # 9 digits bring back every float32 alike: a few hundred of a bank are enough.
        n = known.mean.size
        for flat in range(0, n, -(-n // DEVICES_R1)):
            index = np.unravel_index(flat, known.mean.shape)
            place = f"[{','.join(map(str, index))}]" if index else ""
            # What has no spread, as a weight of zero, has no device to move.
            sigma = float(known.sigma[index]) or 1e-6
            yield {
                "instance": instance,
                "symbol": symbol + place,
                "value": float(known.mean[index]),
                "sigma": sigma,
                "unit": known.unit,
            }


def _counted(name: str, n: int, detail: str) -> Check:
    status = "fail" if n else "pass"
    return Check("R1", name, status, float(n), 0.0, "values", detail=detail)


def _silicon(package: Package, work: Path, options: Options) -> list[Check]:
    """Offsets of drawn transconductors, measured, imported and looked at again."""
    name = "import of drawn silicon"
    try:
        models = find_models(options.pdk)
    except ValueError as error:
        if options.pdk is not None:
            raise
        return [Check("R2", name, "skipped", detail=str(error))]
    run = _run_of(package, options)
    belief = belief_of(run.model, run.process) if run else _belief(package)
    process = run.process if run else load_process(package.manifest["process"]["name"])
    paths = _first_banks(belief, steering_banks(belief))
    n = sum(belief[path].mean.size for path in paths)
    silicon = drawn_silicon(models, max(n, 2), seed=SEED, timeout_s=options.timeout_s)
    seen = None
    if run:
        task = run.experiment.task.build()
        seen = Seen.of(task.windows("test", batch=1, limit=WINDOWS))
    design = run.model if run else None
    found = round_trip(belief, silicon, process, paths=paths, design=design, seen=seen)
    sigma_V = f"{silicon.sigma_V * 1e3:.2f} mV"
    checks = [
        Check(
            "R2",
            f"offsets of {n} transconductors, sigma {sigma_V}",
            "pass" if found.error <= OFFSET_LIMIT else "fail",
            found.error,
            OFFSET_LIMIT,
            "sigma",
        )
    ]
    what = "divergence from the nominal network that is left"
    if found.far is None or found.bits is None:
        detail = "what a network predicts needs its text: give the run with --run"
        return [*checks, Check("R2", what, "skipped", detail=detail)]
    nominal, before, after = found.bits
    detail = f"{nominal:.5f} bits nominal, {before:.5f} before, {after:.5f} after"
    status = "pass" if found.left <= DIVERGENCE_LIMIT else "fail"
    return [
        *checks,
        Check("R2", what, status, found.left, DIVERGENCE_LIMIT, "", detail=detail),
    ]


def _first_banks(belief: Belief, paths: Sequence[str]) -> list[str]:
    chosen: list[str] = []
    for path in paths:
        n = sum(belief[each].mean.size for each in (*chosen, path))
        if chosen and n > DEVICES:
            break
        chosen.append(path)
    return chosen


def _dies(package: Package, work: Path, options: Options) -> list[Check]:
    """Share of dies, each of own corner and mismatch, that lose no more than stated."""
    run = _run_of(package, options)
    suite = load_suite(SUITE)
    assert suite.yields is not None
    asked = suite.yields
    name = f"yield of {asked.chips} dies at {asked.lost:.0%} loss, lower bound"
    if run is None:
        detail = "what a network scores needs its text: give the run with --run"
        return [Check("C2", name, "skipped", detail=detail)]
    setting = setting_of(run, suite, seed=0)
    (own,), (share,) = setting.chips.score(Environment.ideal(), 1)
    bar = Bar.of(asked, bits=float(own), accuracy=float(share))
    bits, hits = setting.chips.score(setting.environment, asked.chips)
    row = {"bits": bits, "accuracy": hits}
    found = yield_of(bar, row, confidence=asked.confidence)
    detail = (
        f"{found['passed']} of {found['chips']} reach {bar}; {asked.confidence:.0%}"
        f" interval {found['low']:.3f} to {found['high']:.3f}"
    )
    status = "pass" if found["low"] >= SHARE else "fail"
    return [Check("C2", name, status, found["low"], SHARE, "share", detail=detail)]


def _run_of(package: Package, options: Options) -> TrainedRun | None:
    """The run that a package is of. Raises `ValueError` for any other."""
    if options.run is None:
        return None
    run = load_run(options.run)
    if model_sha256(run.model) != package.manifest["model"]["sha256"]:
        raise ValueError(
            f"The run in {options.run} must be the one that the package was exported"
            " from, but its parameters are others: give that run, or export again."
        )
    return run
