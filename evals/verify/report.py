"""Report: validation.json, validation.md and validation.html of a verification."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from evals.plots import Panel, figure_svg, inline
from evals.report import replace_files
from evals.template import environment, render
from evals.verify.check import CLASSES, Check, Verification

# The worst of a bench show it: more overlays help nobody.
PLOTS_OF_A_BENCH = 2
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
HEAD = ("gate", "status", "worst", "limit", "unit", "s", "check")


def write_validation(found: Verification, folder: str | Path) -> Path:
    """Write the three files into `folder`, all or none, and give the page's path.

    Raises `OSError` where they cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "validation.html"
    replace_files(
        {
            folder / "validation.json": json.dumps(found.to_json(), indent=1) + "\n",
            folder / "validation.md": to_markdown(found),
            page: to_html(found),
        }
    )
    return page


def to_markdown(found: Verification) -> str:
    """The table of a verification, as in the terminal."""
    rows = [HEAD, tuple("---" for _ in HEAD), *found.rows()]
    table = [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]
    return "\n".join(["# Validation", "", found.verdict, "", *table]) + "\n"


def to_html(found: Verification) -> str:
    """The page: verdict, a table for each class of gates, overlays of the worst."""
    rows = found.rows()
    return render(
        environment(),
        "validation.html.j2",
        verdict=found.verdict,
        sections=[
            (letter, name, [row for row in rows if row[0].startswith(letter)])
            for letter, name in CLASSES.items()
        ],
        panels=overlays(found.checks),
    )


def overlays(checks: tuple[Check, ...]) -> list[Panel]:
    """Curves of model and simulator, nearest to (or beyond) their limits first."""
    traced = [check for check in checks if check.trace is not None]
    traced.sort(key=lambda c: (c.measured or 0.0) / (c.limit or 1.0), reverse=True)
    seen = Counter[tuple[str, str]]()
    chosen = []
    for check in traced:
        bench = (check.gate, check.name.split(":")[0])
        seen[bench] += 1
        if seen[bench] <= PLOTS_OF_A_BENCH:
            chosen.append(check)
    return [_overlay(i, check) for i, check in enumerate(chosen)]


def _overlay(number: int, check: Check) -> Panel:
    trace = check.trace
    assert trace is not None
    name, title = f"overlay{number}", f"{check.gate} {check.name}"
    with figure_svg(name, 2.4) as (figure, svg):
        axes = figure.subplots()
        for i, (label, values) in enumerate(trace.series):
            color = COLORS[i % len(COLORS)]
            # The first is a line, the others marks on it: agreement stays visible.
            style: dict[str, Any] = (
                {"lw": 2.0}
                if i == 0
                else {"ls": "", "marker": "ox+"[(i - 1) % 3], "ms": 4, "mfc": "none"}
            )
            if len(values) > 60 and i:
                style["markevery"] = len(values) // 40
            axes.plot(trace.x, values, color=color, label=label, **style)
        axes.set_xlabel(trace.x_label)
        axes.set_ylabel(trace.y_label)
        axes.legend(loc="best")
    limit = "" if check.limit is None else f" (limit {check.limit:.3g} {check.unit})"
    measured = "" if check.measured is None else f" by {check.measured:.3g}{limit}"
    caption = f"{check.status}: model and simulator differ{measured}."
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
