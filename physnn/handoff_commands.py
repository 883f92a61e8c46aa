"""Commands of the hand-off to a tape-out team; `physnn.commands` lists them."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import tyro

Folder = Annotated[Path, tyro.conf.Positional]


def export(run: Folder, out: Path, windows: int = 8, cells: str | None = None) -> int:
    """Write the hand-off package of a physical run: parameters, cells, test benches.

    Args:
        run: A run folder.
        out: The folder to write; an older export there is replaced.
        windows: Held-out windows on which the network is scored again with the values
            that are exported; 0 skips that and says so.
        cells: The PDK whose drawn cells are added, as sky130: a card in configs/cells.
    """
    from evals.handoff import export_run

    tell = lambda line: print(line, file=sys.stderr)
    print(export_run(run, out, windows=windows, cells=cells, tell=tell))
    return 0


def verify(
    folder: Folder,
    gates: str = "",
    slow: bool = False,
    pdk: Path | None = None,
    liberty: Path | None = None,
    run: Path | None = None,
    out: Path | None = None,
    timeout_s: float = 120.0,
    json: bool = False,
) -> int:
    """Re-simulate an exported folder; needs nothing but the folder.

    Args:
        folder: What `physnn export` wrote.
        gates: Only these, as S,B or T4,T7; without it all that the folder has.
        slow: Also the gates that take more than a few seconds.
        pdk: A folder of transistor models, if not where they are looked for.
        liberty: Standard cells that logic is mapped to, if not the package's own.
        run: The run that was exported, for the gates of --slow that score its text.
        out: Where validation.json, .md and .html go; without it reports/ in the folder.
        timeout_s: Longest time of one run of a simulator.
        json: Print JSON.
    """
    from evals.verify import verify as verify_folder
    from evals.verify.report import write_validation

    found = verify_folder(
        folder,
        gates=tuple(filter(None, gates.replace(" ", "").split(","))),
        slow=slow,
        pdk=pdk,
        liberty=liberty,
        run=run,
        timeout_s=timeout_s,
    )
    page = write_validation(found, out or folder / "reports")
    if json:
        print(json_format.dumps(found.to_json(), indent=2))
    else:
        print(f"{found}\n\nReport: {page}")
    return 0 if found.passed else 1


def calibrate(
    run: Folder,
    measured: Path,
    out: Path | None = None,
    die: str | None = None,
    split: str = "test",
    windows: int = 16,
    readout_windows: int = 8,
    seed: int = 0,
    json: bool = False,
) -> int:
    """Make the run of one measured die: parameters, trims and readout fitted to it.

    Args:
        run: The run folder of the design.
        measured: A CSV with the columns of calib/measured_template.csv.
        out: The run folder to write; without it beside the run, named after the die.
        die: Which die of the file, where it has several.
        split: On what quality is scored: train, validation or test.
        windows: On how many evenly spaced windows.
        readout_windows: Validation windows that the readout is fitted with; 0: none.
        seed: Of the noise.
        json: Print JSON.
    """
    from evals.calibrate import calibrate as calibrate_run

    found = calibrate_run(
        run,
        measured,
        out=out,
        die=die,
        split=split,
        windows=windows,
        readout_windows=readout_windows,
        seed=seed,
    )
    print(json_format.dumps(found.to_json(), indent=2) if json else found)
    return 0
