"""The plots of a report as inline SVG: the same bytes for the same numbers."""

import io
import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from evals.frontier import frontier
from evals.plot_text import shown_name
from physnn.units import readable

# Okabe & Ito 2008, "Color universal design": told apart by every kind of color vision.
# Physical models are warm, transformers blue to green from small to large, counts gray.
PHYSICAL_COLORS = ("#d55e00", "#a0522d", "#cc79a7")
TRANSFORMER_COLORS = ("#56b4e9", "#0072b2", "#009e73", "#003f5c", "#2f7d6b", "#6a8fb5")
COUNTS_COLORS = ("#6b6b6b", "#9a9a9a")
MACHINE_STYLES = {
    "G": ("#0072b2", "o", "-"),
    "A": ("#009e73", "s", "--"),
    "R": ("#7b4ea3", "^", "-."),
}
CAUSE_COLORS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#8a7f2e",
    "#b8b8b8",
)
INK, QUIET = "#1a1a1a", "#5a5a5a"
# Narrow enough that 9 pt stays readable on a page of 500 px.
WIDTH_IN = 5.6

Span = tuple[float, float, float]  # low, nominal or median, high


@dataclass(frozen=True)
class Panel:
    """One plot, or the sentence that says why there is none."""

    name: str
    title: str
    caption: str = ""
    svg: str = ""
    reason: str = ""


def colors(systems: list[dict]) -> dict[str, str]:
    """The color of each system by name, the same in every plot and table."""
    palettes = {"physical": PHYSICAL_COLORS, "counts": COUNTS_COLORS}
    seen: dict[str, int] = {}
    chosen = {}
    for system in systems:
        kind = system.get("kind", "transformer")
        palette = palettes.get(kind, TRANSFORMER_COLORS)
        chosen[system["name"]] = palette[seen.get(kind, 0) % len(palette)]
        seen[kind] = seen.get(kind, 0) + 1
    return chosen


@contextmanager
def figure_svg(name: str, height_in: float) -> Iterator[tuple[Figure, list[str]]]:
    """A figure and the list that holds its SVG after the block."""
    rc: dict[Any, Any] = {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.size": 9,
        "font.family": "sans-serif",
        "text.parse_math": False,
        "text.color": INK,
        "axes.edgecolor": QUIET,
        "axes.labelcolor": INK,
        "xtick.color": QUIET,
        "ytick.color": QUIET,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.7,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }
    svg: list[str] = []
    with matplotlib.rc_context(rc), warnings.catch_warnings():
        # The browser has the glyphs of a name that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        yield figure, svg
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(buffer, metadata=nothing)
        svg.append(buffer.getvalue())


def inline(svg: str, name: str, title: str, description: str) -> str:
    """SVG for the middle of a page: own ids, no prolog, a title that is read aloud."""
    svg = svg[svg.index("<svg") :]
    start, body = svg.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', start)
    assert box is not None
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
    return (
        f'<svg viewBox="{box[1]}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{escape(title)}</title>'
        f'<desc id="{name}-d">{escape(description)}</desc>{body}'
    )


def _tag(axes, text: str, at, offset_points, *, ha="center", **style) -> None:
    axes.annotate(text, at, offset_points, "data", "offset points", ha=ha, **style)


def _finite(*values: Any) -> bool:
    return all(isinstance(v, int | float) and math.isfinite(v) for v in values)


def interval(value: Any) -> Span | None:
    """Low, nominal (or median) and high of a result, or None where they are absent."""
    if not isinstance(value, dict):
        return None
    middle: Any = value.get("nominal", value.get("median"))
    low: Any = value.get("low", middle)
    high: Any = value.get("high", middle)
    return (low, middle, high) if _finite(low, middle, high) else None


def _points(rows: list[dict] | None) -> tuple[np.ndarray, np.ndarray]:
    kept = [
        (row["tokens"], row["bits_per_byte"])
        for row in rows or []
        if _finite(row.get("tokens"), row.get("bits_per_byte"))
    ]
    tokens, bits = zip(*kept, strict=True) if kept else ((), ())
    return np.asarray(tokens, float), np.asarray(bits, float)


def share_of(part: float, whole: float) -> str:
    """`65 %`, and `< 1 %` for what is there but small."""
    share = part / whole if whole else 0.0
    return "< 1 %" if 0 < share < 0.01 else f"{share:.0%}".replace("%", " %")


def smooth(values: np.ndarray) -> np.ndarray:
    """Centered moving mean over a fortieth of the points, where all of them are there.

    So it is shorter at both ends than `values`.
    """
    width = 2 * (len(values) // 80) + 1
    return np.convolve(values, np.full(width, 1 / width), mode="valid")


def log_energy_axis(axis) -> None:
    """Ticks of a logarithmic axis of Joules, with their prefixes."""
    low, high = axis.get_view_interval()
    wide = high / max(low, 1e-300) > 300
    axis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 3.0), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(
        FuncFormatter(lambda value, _: readable(float(value), "J"))
    )


def learning_curves(systems: list[dict]) -> Panel:
    """Bits per byte against tokens: training smoothed, validation as points."""
    name, title = "plot-curves", "Learning curves"
    color = colors(systems)
    drawn = []
    for system in systems:
        curve, points = _points(system.get("curve")), _points(system.get("validation"))
        if len(curve[0]) > 1 or len(points[0]):
            drawn.append((system["name"], curve, points))
    if not drawn:
        reason = "No learning curve: no system of this run recorded its training loss."
        return Panel(name, title, reason=reason)
    with figure_svg(name, 3.7) as (figure, svg):
        axes = figure.add_subplot()
        floor, top, end = math.inf, 0.0, 0.0
        for label, (tokens, bits), (at, score) in drawn:
            if len(bits) > 1:
                line = smooth(bits)
                first = (len(bits) - len(line)) // 2
                keep = np.unique(np.linspace(0, len(line) - 1, 300).astype(int))
                axes.plot(
                    tokens[first + keep] / 1e6,
                    line[keep],
                    color=color[label],
                    label=shown_name(label),
                )
                early = min(len(line) - 1, len(line) // 8)
                floor, top = min(floor, line.min()), max(top, line[early])
                end = max(end, tokens[-1])
            if len(score):
                name_here = shown_name(label) if len(bits) < 2 else None
                axes.scatter(
                    at / 1e6,
                    score,
                    color=color[label],
                    zorder=3,
                    label=name_here,
                    s=20,
                    edgecolor="white",
                    linewidth=0.6,
                )
                floor, end = min(floor, score.min()), max(end, at[-1])
                top = max(top, score[-1])
        margin = 0.06 * (top - floor) + 0.01
        axes.set_ylim(floor - margin, top + margin)
        axes.set_xlim(0, 1.02 * end / 1e6)
        axes.set_xlabel("training tokens [million]")
        axes.set_ylabel("bits per byte (lower is better)")
        axes.legend()
    caption = "Lines: training loss, moving mean. Points: validation text."
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def quality_against_energy(
    ladders: dict[str, list[tuple[dict, Span, Span]]],
    points: list[tuple[dict, Span, Span]],
    ratios: dict[str, dict],
    systems: list[dict],
) -> Panel:
    """Bits per byte against Joules per token.

    `ladders`: machine -> transformers, `points`: all other systems, the physical model
    first; each with its intervals of bits per byte and of J per token.
    """
    name, title = "plot-energy", "Quality against energy"
    if not ladders and not points:
        reason = "No plot of quality against energy: no system has both score and bill."
        return Panel(name, title, reason=reason)
    color = colors(systems)
    with figure_svg(name, 4.0) as (figure, svg):
        axes = figure.add_subplot()
        axes.set_xscale("log")
        for i, (machine, rungs) in enumerate(ladders.items()):
            kept = frontier([q[1] for _, q, _ in rungs], [e[1] for *_, e in rungs])
            beaten = [rung for k, rung in enumerate(rungs) if k not in kept]
            rungs = [rungs[k] for k in kept]
            bits = np.asarray([quality[1] for _, quality, _ in rungs])
            low, middle, high = np.asarray([energy for _, _, energy in rungs]).T
            tone, marker, dash = MACHINE_STYLES.get(machine, (INK, "D", ":"))
            axes.fill_betweenx(bits, low, high, color=tone, alpha=0.13, linewidth=0)
            if len(rungs) == 1:
                axes.hlines(bits, low, high, color=tone, alpha=0.4)
            axes.plot(
                middle,
                bits,
                dash,
                marker=marker,
                ms=4.5,
                color=tone,
                label=shown_name(f"transformers on {machine}"),
            )
            for _, quality, energy in (*rungs, *beaten):
                axes.vlines(energy[1], quality[0], quality[2], color=tone, lw=1)
            for _, quality, energy in beaten:
                axes.plot(energy[1], quality[1], marker, ms=4.5, mec=tone, mfc="white")
            for system, quality, energy in (*rungs, *beaten) if i == 0 else ():
                size = readable(float(system.get("parameters") or 0), "").strip()
                at = (energy[1], quality[1])
                _tag(axes, size, at, (7, 1), ha="left", color=tone, size=7.5)
        for system, quality, energy in points:
            tone = color[system["name"]]
            axes.errorbar(
                energy[1],
                quality[1],
                xerr=[[energy[1] - energy[0]], [energy[2] - energy[1]]],
                yerr=[[quality[1] - quality[0]], [quality[2] - quality[1]]],
                fmt="D",
                ms=6.5,
                color=tone,
                capsize=3,
                zorder=4,
            )
            at, where = (energy[1], quality[1]), (0, 12)
            _tag(axes, shown_name(system["name"]), at, where, weight="bold", color=tone)
        if points:
            _ratio_arrow(axes, *points[0][1:], ratios)
        figure.legend(loc="outside upper left", ncols=3)
        axes.margins(x=0.09, y=0.16)
        # Room below the lowest point for the labels of the arrow.
        bottom, top = axes.get_ylim()
        axes.set_ylim(bottom - 0.25 * (top - bottom), top)
        log_energy_axis(axes.xaxis)
        axes.set_xlabel("energy per token [J], log scale (left is better)")
        axes.set_ylabel("bits per byte (lower is better)")
    caption = (
        "Transformer ladder priced on each machine; line: its frontier, hollow: beaten"
        " by another rung; bands and bars: low to high prices; vertical bars: spread"
        " over seeds or chips. Arrow: equal quality."
    )
    return Panel(name, title, caption, inline(svg[0], name, title, caption))


def _ratio_arrow(axes, quality: Span, energy: Span, ratios: dict[str, dict]) -> None:
    """From the physical model along equal quality to what each opponent would spend."""
    bits, own_J = quality[1], energy[1]
    targets = []
    for machine, ratio in ratios.items():
        opponent, value = interval(ratio.get("opponent_J")), interval(ratio)
        if opponent and value and opponent[1] > 0:
            bound = "≥ " if ratio.get("relation") == ">=" else ""
            targets.append((opponent[1], machine, f"{bound}{times(value[1])}"))
    if not targets:
        return
    far_J = max((abs(math.log(t[0] / own_J)), t[0]) for t in targets)[1]
    axes.annotate(
        "",
        (far_J, bits),
        (own_J, bits),
        arrowprops=dict(arrowstyle="->", color=INK, lw=1.1, shrinkA=6, shrinkB=0),
    )
    # One label a row, so that machines close in price do not cover each other.
    for row, (opponent_J, machine, value) in enumerate(sorted(targets)):
        tone = MACHINE_STYLES.get(machine, (INK, "", ""))[0]
        where = (0, -14 - 15 * row)
        line = dict(arrowstyle="-", color=tone, lw=0.8, shrinkA=0, shrinkB=0)
        text = f"{machine}: {value}"
        style: dict[str, Any] = {"weight": "bold", "color": tone, "va": "top"}
        box = dict(facecolor="white", edgecolor="none", alpha=0.85, pad=1)
        _tag(axes, text, (opponent_J, bits), where, arrowprops=line, bbox=box, **style)


def times(value: float) -> str:
    """A factor to three digits: `1,230×`, `18.2×`, `0.83×`."""
    if not _finite(value):
        return "unknown"
    return f"{float(f'{value:.3g}'):,.12g}×"


def chips(systems: list[dict]) -> Panel:
    """Bits per byte of every fabricated chip."""
    name, title = "plot-chips", "Chip to chip"
    rows = []
    for system in systems:
        seeds = system.get("seeds") or [system.get("quality") or {}]
        for k, quality in enumerate(seeds):
            values = [v for v in quality.get("values") or [] if _finite(v)]
            which = f", seed {k + 1} of {len(seeds)}" if len(seeds) > 1 else ""
            if len(values) > 1:
                row = (system["name"], which, np.asarray(values), interval(quality))
                rows.append(row)
    if not rows:
        reason = "No chip-to-chip plot: no system was scored on more than one chip."
        return Panel(name, title, reason=reason)
    color = colors(systems)
    height = 1.2 + sum(0.5 + 0.11 * len(values) for _, _, values, _ in rows)
    with figure_svg(name, height) as (figure, svg):
        axes = figure.add_subplot()
        for row, (label, which, values, span) in enumerate(rows):
            y = row + np.linspace(-0.3, 0.3, len(values))
            if span:
                box: dict[str, Any] = {"color": color[label], "linewidth": 0}
                axes.fill_between(
                    [span[0], span[2]], row - 0.42, row + 0.42, alpha=0.13, **box
                )
                axes.plot([span[1]] * 2, [row - 0.42, row + 0.42], color=color[label])
                text = f"{shown_name(label)}{which}: median {span[1]:.3f}"
                at = (span[1], row - 0.42)
                _tag(axes, text, at, (0, 3), va="bottom", size=8)
            axes.scatter(values, y, s=26, color=color[label], edgecolor="white", lw=0.6)
            for i in (0, len(values) - 1):
                style: dict[str, Any] = {"va": "center", "size": 7.5, "color": QUIET}
                _tag(
                    axes, f"chip {i + 1}", (values[i], y[i]), (6, 0), ha="left", **style
                )
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(rows) - 0.45, -0.65)
        axes.margins(x=0.14)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axes.ticklabel_format(axis="x", useOffset=False)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("bits per byte, noise on (lower is better)")
    caption = "A dot is one fabricated chip; line: median; band: interval."
    return Panel(name, title, caption, inline(svg[0], name, title, caption))
