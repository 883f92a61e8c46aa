"""The page of a suite: its sentences, plots and tables in one HTML file."""

from typing import Any

from evals.robustness.plots import panels
from evals.robustness.summary import amount, of_worst_case, of_yield, said, share
from evals.template import environment, render
from physnn.units import readable


def write_page(results: dict[str, Any]) -> str:
    """The page as HTML, complete in itself; the same results give the same bytes."""
    design = results["design"]["median"]
    return render(
        environment(),
        "robustness.html.j2",
        panels=panels(results),
        amount=amount,
        share=share,
        said=lambda row: said(row, design),
        lost=lambda row: f"{100 * (row['median'] / design - 1):+.2f} %",
        worst=of_worst_case(results),
        yields=of_yield(results),
        headline=headline(results),
        energy=lambda joule: "–" if joule is None else readable(joule, "J"),
        r=results,
    )


def headline(results: dict[str, Any]) -> str:
    """The two numbers that matter most, as far as they were asked for."""
    design, unit = results["design"]["median"], results["unit"]
    said_of = [f"{design:.4f} {unit} without noise"]
    for row in results["studies"]:
        if row["study"] == "monte_carlo":
            lost = 100 * (row["median"] / design - 1)
            said_of.append(f"{lost:+.2f} % in {row['x']:g}× the environment")
    text = "; ".join(said_of) + "."
    found = results.get("yields")
    if found:
        text += f" Yield: {share(found['before'])}"
        if "after" in found:
            text += f", after calibration {share(found['after'])}"
        text += "."
    return text
