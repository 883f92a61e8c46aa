"""The plots of a ratio: what it is made of, and which prices move it."""

import math

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from evals.plot_text import clip
from evals.plots import (
    INK,
    MACHINE_STYLES,
    PHYSICAL_COLORS,
    QUIET,
    Panel,
    figure_svg,
    inline,
    log_energy_axis,
    times,
)
from physnn.units import readable

LOSS, PALE = "#b8b8b8", "#e69f00"


def waterfall(name: str, machine: str, found: dict | None, system: str) -> Panel:
    """One bar a factor, from the opponent's Joules down to the physical model's."""
    title = f"From the transformer on {machine} to {system}"
    if not found or not found.get("steps"):
        reason = f"No waterfall on {machine}: there is no opponent of equal quality."
        return Panel(name, title, reason=reason)
    steps = found["steps"]
    start, end = found["from_J"]["nominal"], found["to_J"]["nominal"]
    labels = [f"transformer on {machine}"]
    labels += [step["name"] for step in steps] + [system]
    labels = [clip(label) for label in labels]
    tone = MACHINE_STYLES.get(machine, (INK, "", ""))[0]
    after = [step["after_J"]["nominal"] for step in steps]
    before = [start, *after[:-1]]
    least = min(end, *after)
    with figure_svg(name, 1.0 + 0.3 * len(labels)) as (figure, svg):
        axes = figure.add_subplot()
        axes.set_xscale("log")
        floor = least / 1.6
        axes.barh(0, start - floor, 0.66, floor, color=tone)
        tags = [(0, start, readable(start, "J"))]
        for i, (high, low) in enumerate(zip(before, after, strict=True), 1):
            gains = low < high
            left, right = min(low, high), max(low, high)
            color = tone if gains else LOSS
            axes.barh(i, right - left, 0.66, left, color=color, alpha=0.55)
            axes.plot([high, high], [i - 1, i], color=QUIET, lw=0.7)
            tags.append((i, right, times(high / low)))
        last = len(labels) - 1
        axes.barh(last, end - floor, 0.66, floor, color=PHYSICAL_COLORS[0])
        tags.append((last, end, readable(end, "J")))
        for y, x, text in tags:
            axes.annotate(
                text,
                (x, y),
                (5, 0),
                textcoords="offset points",
                va="center",
                size=8,
            )
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(last + 0.6, -0.6)
        axes.set_xlim(floor, max(start, *before) * (start / floor) ** 0.16)
        log_energy_axis(axes.xaxis)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.set_xlabel("energy per token [J], log scale")
    bound = "at least " if found.get("relation") == ">=" else ""
    caption = (
        f"Each bar is a bill with one thing changed, in this order; the product of the"
        f" factors is {bound}{times(found['ratio'])}. Gray: it costs more."
    )
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def tornado(name: str, machine: str, rows: list[dict] | None, ratio: dict) -> Panel:
    """The ratio with each price alone at its low and at its high corner."""
    title = f"What moves the ratio on {machine}"
    kept = [row for row in rows or [] if row.get("swing")]
    nominal = ratio.get("nominal")
    if not kept or not nominal:
        reason = f"No tornado on {machine}: there is no ratio for a price to move."
        return Panel(name, title, reason=reason)
    ends = np.asarray(
        [[row[f"ratio_{c}"]["nominal"] for c in ("low", "high")] for row in kept]
    )
    with figure_svg(name, 1.3 + 0.3 * len(kept)) as (figure, svg):
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for i in range(len(kept)):
            for value, color in zip(ends[i], ("#56b4e9", PALE), strict=True):
                left, right = sorted((value, nominal))
                label = None
                if i == 0:
                    label = "price low" if color != PALE else "price high"
                axes.barh(i, right - left, 0.66, left, color=color, label=label)
            for value, side in ((ends[i].min(), -1), (ends[i].max(), 1)):
                axes.annotate(
                    times(value),
                    (value, i),
                    (4 * side, 0),
                    textcoords="offset points",
                    ha="left" if side > 0 else "right",
                    va="center",
                    size=7.5,
                )
        axes.axvline(nominal, color=INK, lw=1)
        names = [clip(f"{row['price']} ({_side(row)})") for row in kept]
        axes.set_yticks(range(len(kept)), names)
        axes.set_ylim(len(kept) - 0.4, -0.6)
        low, high = ends.min(), ends.max()
        room = (high / low) ** 0.2 * 1.05
        axes.set_xlim(low / room, high * room)
        wide = math.log10(high / low) > 1.5
        subs = (1.0,) if wide else (1.0, 2.0, 5.0)
        axes.xaxis.set_major_locator(LogLocator(subs=subs, numticks=8))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: times(float(v))))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        bound = "lower bound of the ratio" if ratio.get("relation") == ">=" else "ratio"
        axes.set_xlabel(f"{bound} [×], log scale")
        figure.legend(loc="outside upper left", ncols=2)
    caption = (
        f"Each price alone at its corners, all others nominal ({times(nominal)}, the"
        " line); on both sides where both use it."
    )
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def _side(row: dict) -> str:
    sides = {"physical": "ours", "opponent": "theirs"}
    return sides.get(str(row["sides"]), "both")
