"""The plot of a sweep: bits per byte against Joules, a curve for each setting."""

from typing import Any

from matplotlib.ticker import FuncFormatter, NullFormatter

from evals.plot_text import clip
from evals.plots import PHYSICAL_COLORS, TRANSFORMER_COLORS, figure_svg
from physnn.units import readable

HEIGHT_IN = 3.4


def sweep_svg(results: dict[str, Any]) -> str:
    """The curves of a sweep as SVG; the control, the last setting, in gray hues.

    Points on a curve's frontier are joined. A bar is the interval over seeds or chips.
    """
    settings = results["settings"]
    with figure_svg("plot-sweep", HEIGHT_IN) as (figure, svg):
        axes = figure.add_subplot()
        for i, setting in enumerate(settings):
            control = i == len(settings) - 1 and i > 0
            palette = TRANSFORMER_COLORS if control else PHYSICAL_COLORS
            color = palette[i % len(palette)]
            own = [p for p in results["points"] if p["setting"] == setting]
            own.sort(key=lambda p: p["energy_J"]["nominal"])
            joined = [p for p in own if p["on_frontier"]]
            at = lambda points: (
                [p["energy_J"]["nominal"] for p in points],
                [p["quality"]["median"] for p in points],
            )
            axes.plot(*at(joined), color=color, marker="", label=clip(setting))
            xs, ys = at(own)
            low = [p["quality"]["median"] - p["quality"]["low"] for p in own]
            high = [p["quality"]["high"] - p["quality"]["median"] for p in own]
            axes.errorbar(xs, ys, yerr=[low, high], fmt="o", ms=4, color=color)
            for x, y, point in zip(xs, ys, own, strict=True):
                axes.annotate(
                    clip(str(point["value"]), 12),
                    (x, y),
                    (4, 5),
                    textcoords="offset points",
                    color=color,
                    size=7.5,
                )
        axes.set_xscale("log")
        shown = FuncFormatter(lambda value, _: readable(float(value), "J"))
        axes.xaxis.set_major_formatter(shown)
        energies = [p["energy_J"]["nominal"] for p in results["points"]]
        narrow = max(energies) < 10 * min(energies)
        axes.xaxis.set_minor_formatter(shown if narrow else NullFormatter())
        axes.tick_params(axis="x", which="minor", labelsize=7.5)
        axes.set_xlabel(f"modeled energy per token on {results['prices']} [J]")
        axes.set_ylabel(f"bits per byte ({results['split']})")
        axes.legend(loc="upper right")
    return svg[0]
