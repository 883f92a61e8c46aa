"""One page that shows whether the gain is real, and its figures as JSON and CSV.

Results are what `evals.energy.compare` returns (its docstring has the schema) and,
where a run knows them:

    title, provenance {command, commit, version, machine, seeds, wall_s},
    data {name, train_bytes, validation_bytes, test_bytes},
    projection (what `evals.projection.project` returns),
    of a system: seconds, tokens_per_s, learning_rate, run_seeds,
        curve [{tokens, bits_per_byte}], validation [{tokens, bits_per_byte}],
    verify [{name, measured, limit, status, seconds}]

A missing key prints as a dash; a missing section says so in a sentence.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import jinja2

from evals import template
from evals.plots import interval, times
from evals.report_tables import tables
from evals.report_view import at_least, view
from physnn.units import readable


def write_report(results: dict, folder: Path) -> Path:
    """Write `results.json`, its tables as CSV and `report.html` into `folder`.

    Returns the page's path. All are written beside their place and renamed, the page
    last, so none is ever seen half written. The same results give the same bytes. What
    JSON cannot hold (NaN and infinity) becomes null.

    Raises `ValueError` when `results` names no system, `OSError` when writing fails;
    an older report is then still there.
    """
    results = plain(results)
    if not isinstance(results, dict) or not results.get("systems"):
        raise ValueError(
            "Argument `results` must have at least one entry under `systems`, but it"
            " has none; score a model first."
        )
    folder = Path(folder)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    page = render(results)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"results.json": text, **tables(results), "report.html": page}
    replace_files({folder / name: content for name, content in files.items()})
    return folder / "report.html"


def read_results(path: Path) -> dict:
    """The results in `path`, a `results.json` or the folder that holds one.

    Raises `ValueError` with one sentence when it is missing, torn or something else.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    advice = "give a file that `physnn score`, `compare` or `quickstart` wrote."
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no results file {path}; {advice}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {advice}") from None
    if not isinstance(results, dict) or not isinstance(results.get("systems"), list):
        raise ValueError(f"{path} has no list `systems`, so it is no report; {advice}")
    return results


def plain(value: Any) -> Any:
    """Only what JSON holds: numbers of any array library become Python's, NaN null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def replace_files(texts: dict[Path, str]) -> None:
    """Write files beside their places, then rename all: none of them half-written.

    Raises `OSError` that says what to do.
    """
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in texts}
    try:
        for path, text in texts.items():
            with open(beside[path], "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
        for path in texts:
            os.replace(beside[path], path)
    except OSError as error:
        for temporary in beside.values():
            temporary.unlink(missing_ok=True)
        names = " and ".join(path.name for path in texts)
        folder = next(iter(texts)).parent
        raise OSError(
            error.errno,
            f"{names} could not be written into {folder} ({error.strerror}); free or"
            " choose another place and run the same command again",
        ) from error


def render(results: dict) -> str:
    """The page as HTML, complete in itself; `results` as from `read_results`."""
    # What a result leaves out prints as a dash.
    templates = template.environment(jinja2.ChainableUndefined)
    templates.filters |= {
        "energy": lambda value: _quantity(value, "J"),
        "charge": lambda value: _quantity(value, "C"),
        "time": lambda value: _quantity(value, "s"),
        "count": _count,
        "size": lambda value: _quantity(value, "B"),
        "number": _number,
        "percent": _percent,
        "at_least": at_least,
        "span": _span,
        "times": lambda value: times(value) if _is_number(value) else "–",
    }
    return template.render(
        templates,
        "report.html.j2",
        interval=interval,
        tables=[*tables(results)],
        **view(results),
    )


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _quantity(value, unit: str) -> str:
    return readable(float(value), unit) if _is_number(value) else "–"


def _span(value, unit: str = "J") -> str:
    """`12 nJ (8 nJ–20 nJ)`."""
    ends = interval(value)
    if ends is None:
        return "–"
    low, middle, high = (readable(float(v), unit) for v in ends)
    return middle if low == high else f"{middle} ({low}–{high})"


def _count(value) -> str:
    return f"{value:,.0f}" if _is_number(value) else "–"


def _percent(value) -> str:
    return f"{100 * value:.1f} %" if _is_number(value) else "–"


def _number(value) -> str:
    if _is_number(value):
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return str(value) if isinstance(value, str | bool) else "–"
