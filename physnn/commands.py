"""The commands but `train`: each parses, calls one function, prints."""

import json as to_json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from physnn.controls import Trained, asked_for
from physnn.data_commands import prepare
from physnn.device_commands import characterize, on_device, serve_chip
from physnn.handoff_commands import calibrate, export, verify
from physnn.scale_commands import plan

# Exit codes: 2 a wrong argument, file or state; 1 done, but what was checked failed;
# 128 + signal when a signal stopped a run that can be continued.
WRONG, FAILED = 2, 1

Folder = Annotated[Path, tyro.conf.Positional]


def quickstart(
    data: Path | None = None, folder: Path = Path("runs/quickstart"), json: bool = False
) -> int:
    """Train, score, bill, export and report a small physical model: the whole story.

    Args:
        data: A text file or folder; without it the interpreter's own library.
        folder: Where runs, report and export go. An interrupted job continues there.
        json: Print the results as JSON instead of tables.
    """
    from evals.quickstart import run_quickstart

    outcome = run_quickstart(data=data, folder=folder)
    _print(outcome.results if json else outcome.text)
    return 0 if outcome.passed else FAILED


def generate(
    run: Folder,
    prompt: str = "def ",
    n_bytes: int = 400,
    temperature: float = 0.8,
    prices: str | None = None,
    seed: int = 0,
) -> int:
    """Write text from a prompt on one chip, with the Joules it would take.

    Args:
        run: A run folder.
        prompt: What the text begins with.
        n_bytes: How many bytes to add.
        temperature: 1 samples from the model, less is more cautious.
        prices: The price list for the Joules; analog28, or sram2030 for a transformer.
        seed: Of the chip, its noise and the sampling.
    """
    from evals.generate import print_generated

    print_generated(
        run,
        prompt=prompt,
        n_bytes=n_bytes,
        temperature=temperature,
        prices=prices,
        seed=seed,
    )
    return 0


def score(
    run: Folder,
    split: str = "test",
    chips: int = 8,
    windows: int = 0,
    counts: int | None = None,
    measure: bool = False,
    batch: int = 8,
    machine: str = "h100",
    seed: int = 0,
    json: bool = False,
) -> int:
    """Bits per byte of a run with noise on, over fabricated chips.

    Args:
        run: A run folder.
        split: train, validation or test.
        chips: How many chips to fabricate.
        windows: How many evenly spaced windows to score; 0 scores every byte.
        counts: Put n-gram counts with contexts up to so many bytes under the network.
        measure: Also measure what decoding a transformer takes on this machine.
        batch: Sequences that are decoded together when measured.
        machine: The price list that a measured GPU is compared with.
        seed: Of the chips and their noise.
        json: Print JSON.
    """
    from evals.chip_mesh import one_device_per_core
    from evals.measured import measured_or_why
    from evals.mixture import score_with_counts
    from evals.quality import score_run
    from evals.rulers import ruler_table, rulers_of_run

    one_device_per_core()
    asked: dict[str, Any] = {"split": split, "n_chips": chips, "windows": windows}
    if counts is None:
        found = score_run(run, **asked, seed=seed)
    else:
        found = score_with_counts(run, order=counts, **asked, seed=seed)
    if not measure:
        floors = rulers_of_run(run)
        if json:
            _print(found.to_json() | {"rulers": [each.to_json() for each in floors]})
        else:
            _print("\n".join([str(found), *([ruler_table(floors)] if floors else [])]))
        return 0
    if not json:
        _print(str(found))
    decoding, why = measured_or_why(run, batch=batch, prices=machine)
    if json:
        shown = decoding.to_json() if decoding else {"why": why}
        _print({"score": found.to_json(), "measured": shown})
    else:
        _print(str(decoding) if decoding else why)
    return 0 if decoding else FAILED


def evaluate(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    controls: tuple[Trained | Literal["none"], ...] = ("none",),
    split: str = "test",
    chips: int = 8,
    windows: int = 0,
    prices: str = "analog28",
    seed: int = 0,
    json: bool = False,
) -> int:
    """One row of a table of results: quality, energy, wind-tunnel ratio, diagnosis.

    Args:
        runs: Run folders of one experiment with different seeds.
        controls: Also train and score controls, beside the runs: those that are named,
            or all after `--controls` alone.
        split: train, validation or test.
        chips: How many chips of each seed to fabricate.
        windows: How many evenly spaced windows to score; 0 scores every byte.
        prices: The price list of a circuit: a name in configs/hardware or a TOML file.
        seed: Of the chips and their noise.
        json: Print JSON.
    """
    from evals.chip_mesh import one_device_per_core
    from evals.controls import run_controls
    from evals.evaluate import evaluate as evaluate_runs

    kinds = asked_for(controls)
    # Controls are trained, and training takes all cores for one device.
    if kinds is None:
        one_device_per_core()

    asked: dict[str, Any] = {"split": split, "n_chips": chips, "windows": windows}
    row = evaluate_runs(runs, **asked, prices=prices, seed=seed)
    found = None
    if kinds is not None:
        of = row.accuracy or row.bits
        found = run_controls(runs, of=of, kinds=kinds, **asked, seed=seed)
    if json:
        _print({"row": row.to_json()} | (found.to_json() if found else {}))
    else:
        _print(f"{row}\n{found}" if found else str(row))
    return 0


def compare(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional],
    out: Path = Path("runs/compare"),
    chips: int = 8,
    windows: int = 0,
    prices: str = "analog28",
    json: bool = False,
) -> int:
    """Joules per token at equal quality: physical runs against a transformer ladder.

    Args:
        runs: Run folders; at least one physical and one transformer, on the same text.
            Runs that differ in their seed alone are one system. Runs of images are
            compared at equal accuracy.
        out: Where report.html, results.json and CSVs are written; of images two files.
        chips: How many chips each physical model is scored on.
        windows: How many windows of the test split to score; 0 scores every byte.
        prices: The price list of circuits: a name in configs/hardware or a TOML file.
        json: Print the results as JSON instead of tables.
    """
    from evals.chip_mesh import one_device_per_core
    from evals.compare import compare_runs, summary
    from evals.image_ladder import (
        are_images,
        compare_images,
        image_table,
        write_images,
    )
    from evals.report import write_report

    one_device_per_core()
    asked: dict[str, Any] = {"n_chips": chips, "windows": windows, "prices": prices}
    if are_images(runs):
        found = compare_images(runs, **asked)
        table = write_images(found, out)
        _print(found if json else f"{image_table(found)}\n\nTable: {table}")
        return 0
    results = compare_runs(runs, **asked)
    report = write_report(results, out)
    _print(results if json else f"{summary(results)}\n\nReport: {report}")
    return 0


def bill(
    config: Annotated[Path, tyro.conf.Positional],
    parameters: float | None = None,
    context: int | None = None,
    vocabulary: int | None = None,
    kv_heads: int | None = None,
    experts: int | None = None,
    active_experts: int | None = None,
    bits: int | None = None,
    cache_bits: int | None = None,
    process: str | None = None,
    machine: str | None = None,
    batch: float | None = None,
    tokens_per_pass: float | None = None,
    drafted: float | None = None,
    cache_waste: float | None = None,
    prefill: bool = False,
    image_passes: int | None = None,
    tokens_per_second: float | None = None,
    user_rate: float | None = None,
    bytes_per_token: float | None = None,
    json: bool = False,
) -> int:
    """Joules per token of a design of any size, from its shapes: nothing is built.

    Args:
        config: An experiment's TOML file or name, or a run folder.
        parameters: Grow the design to so many parameters (evals/scale.py has the rule).
        context: Tokens a transformer attends to.
        vocabulary: Symbols; without it 256 bytes, or 10 classes of images.
        kv_heads: Heads of keys and values of a transformer (grouped-query attention).
        experts: Experts of a transformer's MLP.
        active_experts: Experts that a token chooses.
        bits: Of its weights, and of a transformer's activations, too.
        cache_bits: Of its keys and values; without it as `bits`.
        process: Of a physical design: a name in configs/processes or a TOML file.
        machine: A price list: a name in configs/hardware or a TOML file.
        batch: Sequences that are served together.
        tokens_per_pass: Tokens kept of a pass over the weights, in draft-and-verify.
        drafted: Tokens proposed for a pass.
        cache_waste: Share of the cache's memory that paging leaves unused.
        prefill: Compute a prompt of `context` tokens instead of one token after it.
        image_passes: Of a generator: Joules of an image of `context` patches that goes
            so often through the transformer; 1 for a circuit, which draws it in order.
        tokens_per_second: Of the whole machine; for the power, and how long it leaks.
        user_rate: Tokens per second that each user gets; instead of `batch`, which is
            then the largest that allows it.
        bytes_per_token: For Joules per byte.
        json: Print JSON.
    """
    asked = {name: value for name, value in locals().items() if name != "json"}
    from evals.scale_bill import Asked, scaled_bill

    found = scaled_bill(Asked(**asked))
    _print(found.to_json() if json else str(found))
    return 0


def sweep(
    config: Annotated[Path, tyro.conf.Positional],
    vary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction],
    fixed: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = (),
    out: Path = Path("runs/sweep"),
    seeds: int = 1,
    chips: int = 8,
    windows: int = 0,
    prices: str | None = None,
    json: bool = False,
) -> int:
    """Train an experiment at several values of a setting: quality against Joules.

    Args:
        config: An experiment's TOML file or name.
        vary: KEY=VALUE,VALUE,... is a curve, as noise.energy_weight=0.01,0.1; give it
            again for another curve. The last one is the control of the others.
        fixed: KEY=VALUE for all runs, as task.path=FOLDER or steps=100.
        out: Where the runs, sweep.json, sweep.csv and sweep.svg are written.
        seeds: Trainings of each value.
        chips: How many chips of each training are scored.
        windows: How many windows of the test split to score; 0 scores every byte.
        prices: The price list of the bill; without it that of the experiment.
        json: Print JSON.
    """
    from evals.sweep import sweep as sweep_settings
    from evals.sweep import sweep_table
    from physnn.configs import find_config

    found = sweep_settings(
        find_config("experiments", config),
        vary,
        fixed=fixed,
        out=out,
        seeds=seeds,
        n_chips=chips,
        windows=windows,
        prices=prices,
    )
    _print(found if json else f"{sweep_table(found)}\n\nPlot: {out / 'sweep.svg'}")
    return 0


def robustness(
    run: Folder,
    suite: str = "robustness",
    seed: int = 0,
    json: bool = False,
    quiet: bool = False,
) -> int:
    """Attack a run with noise, faults, corners, age and the worst mismatch; its yield.

    The weights of a digital network are taken as programmed devices; what those do not
    honor is named.

    Args:
        run: A run folder; robustness.json and robustness.html are written there. An
            interrupted suite continues.
        suite: A name in configs/evals (robustness, quick) or a TOML file.
        seed: Of the chips and their noise.
        json: Print JSON.
        quiet: No progress bar.
    """
    from evals.chip_mesh import one_device_per_core
    from evals.robustness import robustness as attack_run
    from evals.robustness.summary import summary

    one_device_per_core()

    found = attack_run(run, suite, seed=seed, progress=not quiet)
    page = run / "robustness.html"
    _print(found if json else f"{summary(found)}\n\nReport: {page}")
    return 0


def report(results: Folder, out: Path | None = None) -> int:
    """Write report.html again from the results.json of a comparison.

    Args:
        results: results.json, or the folder it lies in.
        out: Where to write; without it beside the results.
    """
    from evals.report import read_results, write_report

    print(write_report(read_results(results), out or _folder_of(results)))
    return 0


def doctor(json: bool = False) -> int:
    """Say what this machine has, what is missing and how to get it.

    Args:
        json: Print JSON.
    """
    from evals.doctor import doctor as examine

    found = examine()
    _print(found.to_json() if json else str(found))
    return 0


COMMANDS = (
    quickstart,
    prepare,
    generate,
    score,
    evaluate,
    compare,
    bill,
    plan,
    sweep,
    robustness,
    export,
    verify,
    calibrate,
    report,
    characterize,
    on_device,
    serve_chip,
    doctor,
)


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def _print(value: Any) -> None:
    print(value if isinstance(value, str) else to_json.dumps(value, indent=2))
