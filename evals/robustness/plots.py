"""The plots of a suite as inline SVG: the same bytes for the same numbers."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator, PercentFormatter

from evals.plot_text import clip
from evals.plots import CAUSE_COLORS, INK, QUIET, Panel, figure_svg, inline

OWN, RANDOM, WORST = "#0072b2", "#8a8a8a", "#d55e00"
LOST = "bits lost to the design"


def panels(results: dict[str, Any]) -> list[Panel]:
    """Every plot, or the sentence that says why there is none."""
    by_study = lambda name: [r for r in results["studies"] if r["study"] == name]
    design = results["design"]["median"]
    curves = lambda name, title, x, caption: _curves(
        by_study(name), design, name=f"plot-{name}", title=title, x=x, caption=caption
    )
    refused = results["refused"]
    drawn = [
        one_factor(by_study("one_factor"), design, results),
        monte_carlo(by_study("monte_carlo"), design),
        operating(by_study("operating"), design),
        curves("faults", "Faults", "share of devices", "Each kind alone."),
        curves(
            "ageing", "Ageing", "years under stress", "All else as in the environment."
        ),
        converters(results.get("converters"), design),
        worst_case(results.get("worst_case")),
        yields(results.get("yields"), results["unit"]),
        ranking(results.get("ranking"), results["unit"]),
    ]
    table = lambda panel: panel.name.removeprefix("plot-").replace("-", "_")
    reason = lambda panel: f"Left out: {refused[table(panel)]}."
    return [
        replace(panel, reason=reason(panel)) if table(panel) in refused else panel
        for panel in drawn
    ]


def _drawn(
    name: str, title: str, caption: str, height_in: float, draw: Callable
) -> Panel:
    with figure_svg(name, height_in) as (figure, svg):
        draw(figure)
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def _none(name: str, title: str) -> Panel:
    return Panel(name, title, reason="The suite has no such study.")


def _lost(row: dict, design: float) -> tuple[float, float, float]:
    return tuple(row[key] / design - 1 for key in ("low", "median", "high"))  # type: ignore[return-value]


def _percent(axis) -> None:
    axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))


def _plain(axis) -> None:
    # Names may hold a dollar sign, so powers of ten are not set as formulas either.
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _span(axes, xs, spans, color, label=None) -> None:
    low, middle, high = np.asarray(spans).T
    axes.plot(xs, middle, "o-", ms=3.5, color=color, label=label)
    axes.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)


def one_factor(rows: list[dict], design: float, results: dict) -> Panel:
    """A small plot for each amount; the dashed line is the environment."""
    name, title = "plot-one-factor", "One factor at a time"
    if not rows:
        return _none(name, title)
    series = list(dict.fromkeys(row["series"] for row in rows))
    default = {each["name"]: each["value"] for each in results["sources"]}
    others = results["suite"]["one_factor"]["others"]

    def draw(figure):
        tall = -(-len(series) // 3)
        grid = figure.subplots(tall, 3, squeeze=False).ravel()
        for axes, amount in zip(grid, series, strict=False):
            own = sorted((r for r in rows if r["series"] == amount), key=_x)
            spans = [_lost(row, design) for row in own]
            _span(axes, [row["x"] for row in own], spans, OWN)
            at = default.get(amount)
            if isinstance(at, int | float) and at > 0:
                axes.axvline(at, color=QUIET, lw=0.8, ls="--")
            axes.set_xscale("log")
            _plain(axes.xaxis)
            # A log axis of less than a decade has one tick of its own, or none.
            axes.set_xticks(sorted({own[0]["x"], own[-1]["x"]}))
            axes.axhline(0.0, color=INK, lw=0.6)
            _percent(axes.yaxis)
            axes.yaxis.set_major_locator(MaxNLocator(3))
            axes.tick_params(labelsize=6.5)
            axes.set_title(f"{amount}\n[{own[0]['unit']}]", size=7)
        for axes in grid[len(series) :]:
            axes.set_axis_off()
        figure.supylabel(LOST, size=8)

    all_else = "at none" if others == "ideal" else "as in the environment"
    caption = (
        f"Each amount from a share of its value in the environment to several times it,"
        f" all others {all_else}. Line: median of the chips; band: all of them; dashed:"
        " the environment."
    )
    return _drawn(name, title, caption, 0.6 + 1.25 * -(-len(series) // 3), draw)


def _x(row: dict) -> float:
    return row["x"]


def monte_carlo(rows: list[dict], design: float) -> Panel:
    """Every chip at every multiple of the noise."""
    name, title = "plot-monte-carlo", "All factors at once"
    if not rows:
        return _none(name, title)

    def draw(figure):
        axes = figure.add_subplot()
        for i, row in enumerate(rows):
            lost = np.asarray(row["bits"]) / design - 1
            across = i + np.linspace(-0.3, 0.3, len(lost)) if len(lost) > 1 else [i]
            axes.plot(across, lost, "o", ms=3.5, color=OWN, alpha=0.6, mew=0)
            axes.hlines(np.median(lost), i - 0.38, i + 0.38, color=WORST)
        axes.axhline(0.0, color=INK, lw=0.6)
        axes.set_xticks(range(len(rows)), [f"{row['x']:g}×" for row in rows])
        axes.set_xlabel("noise over the environment")
        axes.set_ylabel(LOST)
        _percent(axes.yaxis)

    caption = "A dot is a chip in the whole environment; line: the median."
    return _drawn(name, title, caption, 3.0, draw)


def operating(rows: list[dict], design: float) -> Panel:
    """Corners against temperatures, a map for every supply."""
    name, title = "plot-operating", "Corners, temperature, supply"
    if not rows:
        return _none(name, title)
    split = lambda row: row["series"].split(", ")
    unique = lambda values: list(dict.fromkeys(values))
    corners = unique(split(row)[0] for row in rows)
    supplies = unique(split(row)[1] for row in rows)
    kelvin = sorted({row["x"] for row in rows})
    lost = {(*split(row), row["x"]): row["median"] / design - 1 for row in rows}
    top = max(max(lost.values()), 1e-9)

    def draw(figure):
        grid = figure.subplots(1, len(supplies), squeeze=False, sharey=True)[0]
        for axes, supply in zip(grid, supplies, strict=True):
            values = [[lost[c, supply, k] for k in kelvin] for c in corners]
            axes.imshow(values, cmap="Oranges", vmin=0.0, vmax=top, aspect="auto")
            for i, line in enumerate(values):
                for j, value in enumerate(line):
                    tone = "white" if value > 0.6 * top else INK
                    axes.text(
                        j,
                        i,
                        f"{value:.1%}",
                        ha="center",
                        va="center",
                        size=7,
                        color=tone,
                    )
            axes.set_xticks(range(len(kelvin)), [f"{k:.0f} K" for k in kelvin], size=7)
            axes.set_yticks(range(len(corners)), corners)
            axes.set_title(supply, size=8)
            axes.grid(visible=False)

    caption = "Median loss of the chips at each point, all else as in the environment."
    return _drawn(name, title, caption, 0.8 + 0.35 * len(corners), draw)


def _curves(rows, design, *, name, title, x, caption) -> Panel:
    if not rows:
        return _none(name, title)
    series = list(dict.fromkeys(row["series"] for row in rows))

    def draw(figure):
        axes = figure.add_subplot()
        for color, each in zip(CAUSE_COLORS, series, strict=False):
            own = sorted((r for r in rows if r["series"] == each), key=_x)
            spans = [_lost(row, design) for row in own]
            label = each if len(series) > 1 else None
            _span(axes, [row["x"] for row in own], spans, color, label)
        positive = [row["x"] for row in rows if row["x"] > 0]
        if any(row["x"] == 0 for row in rows):
            axes.set_xscale("symlog", linthresh=min(positive, default=1.0))
        else:
            axes.set_xscale("log")
        _plain(axes.xaxis)
        axes.axhline(0.0, color=INK, lw=0.6)
        axes.set_xlabel(x)
        axes.set_ylabel(LOST)
        _percent(axes.yaxis)
        if len(series) > 1:
            axes.legend()

    caption = f"{caption} Line: median of the chips; band: all of them."
    return _drawn(name, title, caption, 2.8, draw)


def converters(found: dict | None, design: float) -> Panel:
    """Loss by bits of the converters."""
    name, title = "plot-converters", "Converter resolution"
    if not found or not found["rows"]:
        why = (found or {}).get("why")
        return (
            Panel(name, title, reason=f"Left out: {why}.")
            if why
            else _none(name, title)
        )
    rows = sorted(found["rows"], key=lambda row: row["bits_of"])

    def draw(figure):
        axes = figure.add_subplot()
        bits = [row["bits_of"] for row in rows]
        axes.plot(bits, [row["bits"] / design - 1 for row in rows], "o-", color=OWN)
        axes.axvline(found["own"], color=QUIET, lw=0.8, ls="--")
        axes.axhline(0.0, color=INK, lw=0.6)
        axes.set_xticks(bits)
        axes.set_xlabel("bits of DACs and ADCs")
        axes.set_ylabel(LOST)
        _percent(axes.yaxis)

    caption = "All else ideal, the model not trained again; dashed: as it was trained."
    return _drawn(name, title, caption, 2.6, draw)


def worst_case(found: dict | None) -> Panel:
    """Random chips, and what the gradient finds at the same distance."""
    name, title = "plot-worst-case", "Worst case"
    if not found:
        return _none(name, title)

    def draw(figure):
        left, right = figure.subplots(1, 2)
        histogram, worst = found["random"]["histogram"], found["random"]["worst"]
        left.stairs(histogram["counts"], histogram["edges"], fill=True, color=RANDOM)
        left.axvline(found["design"], color=INK, lw=1, label="design")
        left.axvline(worst, color=RANDOM, lw=1, ls="--", label="worst random")
        left.set_yscale("log")
        _plain(left.yaxis)
        left.set_xlabel("bits, random chips")
        left.set_ylabel("chips")
        left.legend(loc="upper right")
        xs = [each["sigmas"] for each in found["shifts"]]
        right.plot(xs, [e["bits"] for e in found["shifts"]], "o-", ms=3.5, color=WORST)
        right.axhline(worst, color=RANDOM, lw=1, ls="--", label="worst random")
        right.axhline(found["worst"], color=WORST, lw=1, ls=":", label="worst found")
        right.set_yscale("log")
        right.yaxis.set_major_locator(MaxNLocator(5))
        _plain(right.yaxis)
        right.set_xlabel("shift along the gradient [σ]")
        right.set_ylabel("bits")
        right.legend()

    caption = (
        f"Left: {found['n_random']:,} random chips. Right: one of them, shifted along"
        " one direction at the same distance from the design; dotted: gradient ascent"
        f" within |z| ≤ {found['bound']['radius']:.3g}, every device within"
        f" {found['bound']['sigmas']:g} σ."
    )
    return _drawn(name, title, caption, 2.8, draw)


def yields(found: dict | None, unit: str) -> Panel:
    """The share of chips below any quality, before and after calibration."""
    name, title = "plot-yields", "Yield"
    if not found:
        return _none(name, title)

    def draw(figure):
        axes = figure.add_subplot()
        for when, color in (("before", WORST), ("after", OWN)):
            if f"bits_{when}" in found:
                bits = np.sort(found[f"bits_{when}"])
                shares = np.arange(1, len(bits) + 1) / len(bits)
                axes.step(bits, shares, color=color, label=f"{when} calibration")
        if found["bar_bits"] is not None:
            axes.axvline(found["bar_bits"], color=INK, lw=1, ls="--", label="bar")
        axes.set_xlabel(f"{unit}, whole environment")
        axes.set_ylabel("share of chips at most there")
        _percent(axes.yaxis)
        axes.legend()

    caption = "Each step is a chip; yield is the height at the bar."
    return _drawn(name, title, caption, 2.8, draw)


def ranking(found: dict | None, unit: str) -> Panel:
    """The banks that spend most, as drawn and enlarged."""
    name, title = "plot-ranking", "Which bank spends the quality"
    if not found:
        return _none(name, title)
    rows = found["rows"][:12]

    def draw(figure):
        axes = figure.add_subplot()
        ys = np.arange(len(rows))
        errors = [row["lost_error"] or 0.0 for row in rows]
        lost = [row["lost"] for row in rows]
        axes.barh(ys - 0.18, lost, 0.34, xerr=errors, color=WORST, label="as drawn")
        larger = [row["lost_enlarged"] for row in rows]
        axes.barh(ys + 0.18, larger, 0.34, color=OWN, label=f"{found['area']:g}× area")
        axes.set_yticks(ys, [clip(row["bank"], 34) for row in rows], size=7)
        axes.invert_yaxis()
        axes.axvline(0.0, color=INK, lw=0.6)
        axes.set_xlabel(f"{unit} lost by mismatch of this bank alone")
        axes.legend(loc="lower right")

    caption = "Mean over chips, bars: its standard error."
    return _drawn(name, title, caption, 1.0 + 0.28 * len(rows), draw)
