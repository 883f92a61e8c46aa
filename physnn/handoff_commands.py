"""Commands of the hand-off to a tape-out team; `physnn.commands` lists them."""

import json as json_format
from pathlib import Path
from typing import Annotated

import tyro

Folder = Annotated[Path, tyro.conf.Positional]


def export(run: Folder, out: Path) -> int:
    """Write the hand-off package of a physical run: parameters, cells, test benches.

    Args:
        run: A run folder.
        out: The folder to write; an older export there is replaced.
    """
    from evals.handoff import export_run

    print(export_run(run, out))
    return 0


def verify(
    folder: Folder,
    gates: str = "",
    slow: bool = False,
    pdk: Path | None = None,
    liberty: Path | None = None,
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
        timeout_s=timeout_s,
    )
    page = write_validation(found, out or folder / "reports")
    if json:
        print(json_format.dumps(found.to_json(), indent=2))
    else:
        print(f"{found}\n\nReport: {page}")
    return 0 if found.passed else 1
