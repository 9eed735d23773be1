"""One figure of several panels as a PNG file: what a reproduction shows beside its table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpt_jax.report.style import BLUE, GREEN, GREY, ORANGE, PINK, SLATE

COLORS = (SLATE, ORANGE, BLUE, GREEN, PINK, "#d55e00", "#56b4e9", "#f0e442", "#000000", GREY)
MARKERS = "os^Dv<>PXh"
_STYLE = {
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "legend.frameon": False,
}
Interval = Sequence[float | None]  # [mean, low, high]; the ends may not be known


class Curve(NamedTuple):
    """Points that belong together.

    Attributes:
      label: for the legend; the same label has the same colour in all panels.
      x, y: of every point [mean, low, high]; without any, nothing is drawn.
      joined: whether a line joins them.
      path: further (x, y) on the way to the last point, drawn pale.
    """

    label: str
    x: Sequence[Interval]
    y: Sequence[Interval]
    joined: bool = True
    path: Sequence[Sequence[tuple[float, float]]] = ()


class Panel(NamedTuple):
    """Axes of a figure.

    Attributes:
      title, x, y: what is written there.
      curves: what is drawn.
      log: whether the x axis is logarithmic, which leaves out points at 0.
      names: of the places 0, 1, ... of the y axis, the same in all panels, written at the first.
    """

    title: str
    x: str
    y: str
    curves: Sequence[Curve]
    log: bool = False
    names: Sequence[str] = ()


def draw(path: str | Path, panels: Sequence[Panel], title: str) -> None:
    """Writes the figure, its panels side by side and one legend for all.

    Args:
      path: of the PNG file.
      panels: from left to right.
      title: above them.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = list(dict.fromkeys(curve.label for panel in panels for curve in panel.curves))
    looks = dict(zip(labels, zip(itertools.cycle(COLORS), itertools.cycle(MARKERS))))
    height = max([3.6, *(0.7 + 0.3 * len(panel.names) for panel in panels)])
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.4 * len(panels), height), layout="constrained", dpi=150)
        FigureCanvasAgg(figure)
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            for curve in panel.curves:
                if len(curve.x):
                    _draw_curve(axes, curve, *looks[curve.label])
            if panel.log:
                axes.set_xscale("log")
            else:
                axes.locator_params(axis="x", nbins=5)
            if panel.names:
                blank = [""] * len(panel.names)
                axes.set_yticks(range(len(panel.names)), blank if place else panel.names)
                axes.set_ylim(len(panel.names) - 0.5, -0.5)
                axes.axvline(0.0, color="black", linewidth=0.8)
            axes.set_xlabel(panel.x)
            axes.set_ylabel(panel.y)
            axes.set_title(panel.title, fontsize=9.5, loc="left")
            axes.grid(alpha=0.15)
        handles = {}
        for axes in figure.axes:
            handles |= dict(zip(*axes.get_legend_handles_labels()[::-1]))
        if len(handles) > 1:
            columns = min(len(handles), 2 + 2 * len(panels))
            figure.legend(
                handles.values(), handles.keys(), loc="outside lower center", ncols=columns
            )
        figure.suptitle(title, fontsize=10.5, x=0.01, ha="left", fontweight="bold")
        figure.savefig(path)


def _draw_curve(axes, curve: Curve, color: str, marker: str) -> None:
    for way in curve.path:
        axes.plot(*zip(*way), "-", color=color, alpha=0.3, linewidth=1.0)
    (x, x_ends), (y, y_ends) = _spread(curve.x), _spread(curve.y)
    axes.errorbar(
        x, y, xerr=x_ends, yerr=y_ends, label=curve.label, color=color, marker=marker,
        linestyle="-" if curve.joined else "none", markersize=4.5, linewidth=1.4,
        elinewidth=0.9, capsize=2,
    )  # fmt: skip


def _spread(intervals: Sequence[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Means (N,), and how far each interval reaches down and up (2, N)."""
    rows = [
        [m, m if low is None else low, m if high is None else high] for m, low, high in intervals
    ]
    mean_N, low_N, high_N = np.array(rows, np.float64).T
    return mean_N, np.stack([mean_N - low_N, high_N - mean_N])
