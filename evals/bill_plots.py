"""The plots of a bill: where the Joules go, and what limits the gain now."""

import re

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from evals.plot_text import clip
from evals.plots import (
    CAUSE_COLORS,
    INK,
    MACHINE_STYLES,
    QUIET,
    Panel,
    Span,
    figure_svg,
    inline,
    interval,
    share_of,
    times,
)
from physnn.energy.prices import OVERHEAD
from physnn.units import readable

MAX_ROWS = 12


def by_line(bill: dict) -> dict[str, Span]:
    """Energy of each line of a bill [J], low, nominal, high; the largest first."""
    return _sums(bill, lambda row: str(row.get("line", "unnamed")))


def by_part(bill: dict) -> dict[str, Span]:
    """Energy of each group of like parts [J]; the largest first."""
    return _sums(bill, _group)


def _sums(bill: dict, name_of) -> dict[str, Span]:
    sums: dict[str, np.ndarray] = {}
    for row in bill.get("rows") or []:
        energy = interval(row.get("energy_J"))
        if energy:
            name = name_of(row)
            sums[name] = sums.get(name, np.zeros(3)) + np.asarray(energy)
    ordered = sorted(sums.items(), key=lambda item: -item[1][1])
    return {
        name: (float(low), float(nominal), float(high))
        for name, (low, nominal, high) in ordered
    }


def _group(row: dict) -> str:
    """`mixer0.input.amplifiers` and `mixer3.gate` both belong to `mixer`."""
    first = str(row.get("part") or "").split(".")[0]
    rest = "power delivery" if row.get("event") == OVERHEAD else "whole model"
    return re.sub(r"[\s_]*\d+$", "", first) or rest


def _cause(row: dict) -> str:
    """The last name of an analog part's path; for digital events, the line."""
    path = str(row.get("part") or "").split(".")
    charges = ("supply_charge_C", "amplifier_charge_C", "clock_charge_C")
    analog = row.get("event") in charges and len(path) > 1
    return path[-1] if analog else str(row.get("line", "unnamed"))


def _energy_axis(axes, top_J: float) -> None:
    axes.set_xlim(0, top_J * 1.22)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: readable(float(value), "J"))
    )
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.set_xlabel("energy per token [J]")


def bill_lines(bill: dict | None, color: str) -> Panel:
    """One bar per line of the bill, with the interval of its price."""
    name, title = "plot-bill-lines", "Physical model, by line of the bill"
    sums = by_line(bill or {})
    sums = {line: energy for line, energy in sums.items() if energy[2] > 0}
    if not sums:
        reason = "No bill by line: the physical model has no bill with a price above 0."
        return Panel(name, title, reason=reason)
    total = sum(energy[1] for energy in sums.values()) or 1.0
    shown = list(sums.items())[:MAX_ROWS]
    rest = list(sums.values())[MAX_ROWS:]
    if rest:
        label = f"{len(rest)} smaller lines"
        shown.append((label, tuple(np.sum(rest, axis=0))))
    with figure_svg(name, 1.0 + 0.3 * len(shown)) as (figure, svg):
        axes = figure.add_subplot()
        low, middle, high = np.asarray([energy for _, energy in shown]).T
        y = np.arange(len(shown))
        whiskers = [middle - low, high - middle]
        error = dict(ecolor=QUIET, lw=1, capsize=2)
        axes.barh(y, middle, 0.66, color=color, xerr=whiskers, error_kw=error)
        for i, value in enumerate(middle):
            text = f"{readable(float(value), 'J')}, {share_of(value, total)}"
            axes.annotate(
                text,
                (high[i], y[i]),
                (5, 0),
                textcoords="offset points",
                va="center",
                size=8,
            )
        axes.set_yticks(y, [clip(line, 30) for line, _ in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        _energy_axis(axes, 1.1 * high.max())
    caption = (
        "Bars: nominal price; whiskers: low to high; percent of the nominal total."
    )
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def bill_parts(bill: dict | None) -> Panel:
    """One bar per group of parts, stacked by what draws the energy."""
    name, title = "plot-bill-parts", "Physical model, by part and cause"
    parts = {p: e for p, e in by_part(bill or {}).items() if e[1] > 0}
    if not parts:
        reason = "No bill by part: the physical model has no bill with a price above 0."
        return Panel(name, title, reason=reason)
    rows = (bill or {})["rows"]
    causes = list(_sums({"rows": rows}, _cause))
    kept = causes[: len(CAUSE_COLORS) - 1]
    shown = list(parts)[:MAX_ROWS]
    stack = {cause: np.zeros(len(shown)) for cause in (*kept, "other")}
    for row in rows:
        energy, part = interval(row.get("energy_J")), _group(row)
        if energy and part in shown:
            cause = _cause(row)
            stack[cause if cause in kept else "other"][shown.index(part)] += energy[1]
    height = 1.3 + 0.34 * len(shown) + 0.17 * ((len(kept) + 2) // 3)
    with figure_svg(name, height) as (figure, svg):
        axes = figure.add_subplot()
        left, y = np.zeros(len(shown)), np.arange(len(shown))
        # "other" is always gray, whatever the number of causes before it.
        tones = dict(zip(kept, CAUSE_COLORS, strict=False)) | {
            "other": CAUSE_COLORS[-1]
        }
        handles, labels = [], []
        for cause, energies in stack.items():
            if energies.any():
                bars = axes.barh(y, energies, 0.66, left, color=tones[cause])
                left += energies
                handles.append(bars)
                labels.append(clip(cause, 24))
        total = sum(energy[1] for energy in parts.values())
        for i, part in enumerate(shown):
            value = parts[part][1]
            axes.annotate(
                f"{readable(float(value), 'J')}, {share_of(value, total)}",
                (left[i], y[i]),
                (5, 0),
                textcoords="offset points",
                va="center",
                size=8,
            )
        axes.set_yticks(y, [clip(part, 30) for part in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)
        _energy_axis(axes, left.max())
        figure.legend(handles, labels, loc="outside upper left", ncols=3)
    caption = (
        "Like parts of all blocks together; colors: what draws the energy; nominal."
    )
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def amdahl(rows: list[dict] | None) -> Panel:
    """Share of each line, and the gain if it were free."""
    name, title = "plot-amdahl", "What limits the gain now"
    kept = [row for row in rows or [] if interval({"nominal": row.get("share")})]
    kept = sorted(kept, key=lambda row: -row["share"])[:MAX_ROWS]
    if not kept:
        reason = "No Amdahl view: the comparison of this run did not compute one."
        return Panel(name, title, reason=reason)
    with figure_svg(name, 1.0 + 0.3 * len(kept)) as (figure, svg):
        axes = figure.add_subplot()
        share = np.asarray([row["share"] for row in kept])
        y = np.arange(len(kept))
        # The limiting line stands out; the rest is context.
        tones = [MACHINE_STYLES["G"][0]] + ["#9db8cc"] * (len(kept) - 1)
        axes.barh(y, share, 0.66, color=tones)
        for i, row in enumerate(kept):
            gain = row.get("gain_if_free")
            text = share_of(row["share"], 1.0)
            if gain is not None:
                text += f"; if free: {times(gain)} less energy"
            axes.annotate(
                text,
                (share[i], y[i]),
                (5, 0),
                textcoords="offset points",
                va="center",
                size=8,
            )
        axes.set_yticks(y, [clip(str(row.get("line")), 30) for row in kept])
        axes.set_ylim(len(kept) - 0.4, -0.6)
        axes.set_xlim(0, max(share.max() * 1.75, 0.1))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlabel("share of the physical model's energy per token [%]")
    caption = "The best that removing one line alone can do (Amdahl's law)."
    return Panel(name, title, caption, inline(svg[0], name, title, caption))
