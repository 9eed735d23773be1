"""Plots as SVG text: pure functions, numbers in, one `<svg>` element out.

The elements can be put straight into a page or a notebook (`IPython.display.SVG`). They have no
background, and draw text and axes in `currentColor`, so that the page decides on light or dark.
The same numbers give the same bytes.
"""

import functools
import html
import io
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpt_jax.report.stages import Chart, Rows
from gpt_jax.report.style import BLUE, GREEN, GREY, ORANGE, PINK, SLATE
from gpt_jax.report.table import score_name
from gpt_jax.seeds import WIDTH

INK = "#010203"  # stands for the page's text colour until the SVG is written
_WIDE, _SMALL = (4.9, 2.8), (3.7, 2.5)  # inches; two or three to a row on a desk, one on a phone
_CYCLE = (BLUE, ORANGE, GREEN, PINK, SLATE, GREY)
_POINTS = 300  # per line, at most
_COORDINATE = r"(?<![>\d\N{MINUS SIGN}])\d+\.\d{3,}"  # and not a label's number, which follows >
_STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "svg.hashsalt": "gpt_jax",  # the same ids in every run
    "font.size": 9.5,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "path.simplify_threshold": 0.5,
}


def styled(draw: Callable[..., str]) -> Callable[..., str]:
    """Draws in the report's style; matplotlib is imported by the first plot, not by a training."""

    @functools.wraps(draw)
    def with_style(*args, **kwargs) -> str:
        import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return with_style


def result_charts(results: Mapping) -> dict[str, str]:
    """{title: svg} of results.json: the models' scores, and the reward model beside baselines."""
    charts = {}
    models, reward_model = results.get("models", []), results.get("reward_model")
    score = score_name(models)
    if any(model.get(score) for model in models):
        charts[f"{score.capitalize()} score"] = model_scores(models, score)
    if reward_model:
        title = f"Reward model, on {reward_model['pairs']:,} held-out comparisons"
        charts[title] = reward_model_accuracy(reward_model)
    return charts


def stage_charts(rows: Rows, charts: Sequence[Chart]) -> dict[str, str]:
    """{title: svg} of those charts, of a stage's view, that its metrics have a value for."""
    names = set().union(*rows)
    charts = [chart for chart in charts if any(line.metric in names for line in chart.lines)]
    size = _WIDE if len(charts) == 1 else _SMALL
    return {chart.title: curve(rows, chart, size) for chart in charts}


@styled
def curve(rows: Rows, chart: Chart, size: tuple[float, float] = _WIDE) -> str:
    """A chart against the step: the measured line pale, its running mean on top.

    Of many seeds a band shows the 95% interval of the mean, in place of the pale line.

    Args:
        rows: as `read_metrics` gives them; a row may lack a metric, and NaN is left out.
        size: width and height in inches, which set how large the letters look.
    """
    figure, axes = new_figure(size)
    drawn = 0
    for line in chart.lines:
        points = [
            (row["step"], row[line.metric], row.get(line.metric + WIDTH, 0.0))
            for row in rows
            if line.metric in row
        ]
        points = np.array([point for point in points if math.isfinite(point[1])])
        if not len(points):
            continue
        drawn += 1
        x, y, width = _thin(points).T
        if band := any(line.metric + WIDTH in row for row in rows):
            y, width = (y, width) if line.dots else (smooth(y), smooth(width))
            axes.fill_between(x, y - width, y + width, color=line.color, alpha=0.2, linewidth=0)
        if line.dots:
            axes.plot(x, y, "o-", color=line.color, label=line.label, markersize=3.5, linewidth=1.2)
        elif band:
            axes.plot(x, y, color=line.color, label=line.label)
        else:
            axes.plot(x, y, color=line.color, alpha=0.3, linewidth=0.9)
            axes.plot(x, smooth(y), color=line.color, label=line.label)
    low, high = axes.get_ylim()
    if high - low < 1e-4 * abs(high):  # constant: rounding errors are not worth a scale
        axes.set_ylim(sorted((0.9 * low, 1.1 * high)))
    axes.set_xlabel("step")
    axes.set_ylabel(chart.unit)
    axes.margins(x=0.02)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(nbins=6)
    axes.xaxis.get_major_locator().set_params(integer=True)
    if drawn > 1:
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0, 1, 0.1), ncols=drawn, borderpad=0)
    return to_svg(figure, f"{chart.title} against the step")


@styled
def against_setting(
    lines: Mapping[str, Sequence[tuple[Any, Sequence[float | None]]]], setting: str, metric: str
) -> str:
    """A metric against a setting, with 95% intervals where they are known.

    Args:
        lines: by their labels ("" for one alone), (value of the setting, [mean, low, high]) each.
        setting: of numbers over a factor of ten the axis is logarithmic; others are names in a row.
        metric: its name.
    """
    figure, axes = new_figure(_SMALL)
    values = list(dict.fromkeys(x for points in lines.values() for x, _ in points))
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in values)
    if numbers and min(values) > 0 and max(values) >= 10 * min(values):
        axes.set_xscale("log")
    for label, color in zip(lines, itertools.cycle(_CYCLE)):
        points = sorted(lines[label]) if numbers else lines[label]
        x = [x if numbers else values.index(x) for x, _ in points]
        ends = [_ends(interval) or [[0.0], [0.0]] for _, interval in points]
        axes.errorbar(
            x, [interval[0] for _, interval in points],
            yerr=np.array([[low[0], high[0]] for low, high in ends]).T if ends else None,
            fmt="o-", color=color, label=label or None, markersize=4, linewidth=1.4, capsize=3,
        )  # fmt: skip
    axes.set_xticks(values if numbers else range(len(values)), [str(value) for value in values])
    axes.minorticks_off()
    axes.set_xlabel(setting)
    axes.set_ylabel(metric)
    axes.legend(fontsize=8) if any(lines) else None
    return to_svg(figure, f"{metric} against {setting}")


@styled
def model_scores(models: Sequence[Mapping], score: str) -> str:
    """Every model's mean with its 95% interval.

    Args:
        models: results.json's models; those without the score are left out.
        score: "gold" or "reward".
    """
    models = [model for model in models if model.get(score)]
    figure, axes = new_figure((_WIDE[0], 0.75 + 0.42 * len(models)))
    for place, model in enumerate(models):
        value = model[score][0]
        color = model_color(model["name"])
        axes.errorbar(
            value, place, xerr=_ends(model[score]),
            fmt="o", color=color, markersize=7, elinewidth=2.2, capsize=4, capthick=2.2,
        )  # fmt: skip
        axes.annotate(
            _signed(value), (value, place), (0, 7), textcoords="offset points", ha="center",
            weight="bold", fontsize=9,
        )  # fmt: skip
    axes.set_yticks(range(len(models)), [model["name"] for model in models])
    axes.set_ylim(len(models) - 0.5, -0.75)
    axes.margins(x=0.1)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"{score} score, mean and 95% interval")
    return to_svg(figure, f"{score} score of every model with its 95% interval")


@styled
def reward_model_accuracy(reward_model: Mapping) -> str:
    """Held-out accuracy of the reward model with its 95% interval, beside what is easy to get."""
    accuracy = reward_model["accuracy"][0]
    bars = [("reward model", accuracy, BLUE)]
    for name, key in (("bag of words", "bag_of_words"), ("longer answer", "longer_answer")):
        value = reward_model.get(f"{key}_baseline")
        if value is not None:
            bars.append((name, value, SLATE))
    names, values, colors = zip(*bars, strict=True)
    figure, axes = new_figure((_WIDE[0], 0.85 + 0.38 * len(bars)))
    axes.barh(names, values, height=0.6, color=colors)
    axes.errorbar(
        accuracy, 0, xerr=_ends(reward_model["accuracy"]), color=INK, capsize=3, elinewidth=1
    )
    for place, value in enumerate(values):
        axes.annotate(
            f"{value:.3f}", (0, place), (6, 0), textcoords="offset points", va="center",
            color="white", weight="bold",
        )  # fmt: skip
    axes.axvline(0.5, color=INK, linewidth=0.9, linestyle=(0, (3, 2)), alpha=0.7)
    axes.annotate(
        "coin toss", (0.5, -0.55), (3, 0), textcoords="offset points", fontsize=8, alpha=0.8
    )
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.set_ylim(len(bars) - 0.5, -0.8)
    axes.grid(False, axis="y")
    axes.set_xlabel("held-out pairs ranked right (fraction)")
    return to_svg(figure, "Accuracy of the reward model beside its baselines")


def gallery(charts: Mapping[str, str]) -> str:
    """{title: svg} -> HTML that shows them side by side, for a notebook."""
    figures = (
        f'<figure style="margin: 0; flex: 1 1 300px; max-width: 460px">'
        f"<figcaption><b>{html.escape(title)}</b></figcaption>{svg}</figure>"
        for title, svg in charts.items()
    )
    return f'<div style="display: flex; flex-wrap: wrap; gap: 24px">{"".join(figures)}</div>'


def model_color(name: str) -> str:
    """One colour per model, on every chart and in every table."""
    colors = {"base": GREY, "SFT": BLUE, "PPO": GREEN}
    return ORANGE if name.startswith("best-of-") else colors.get(name, PINK)


def smooth(values: np.ndarray, span: float = 0.06) -> np.ndarray:
    """Centred running mean over `span` of the points, narrower near the ends so as not to bend."""
    n = len(values)
    half = [min(int(span * n / 2), i, n - 1 - i) for i in range(n)]
    return np.array([values[i - h : i + h + 1].mean() for i, h in enumerate(half)])


def _thin(points: np.ndarray) -> np.ndarray:
    """[N, 3] -> at most _POINTS rows, each the mean of its neighbours, which keeps files small."""
    if len(points) <= _POINTS:
        return points
    return np.stack([part.mean(axis=0) for part in np.array_split(points, _POINTS)])


def _ends(interval: Sequence[float | None]) -> list[list[float]] | None:
    """How far an interval reaches to both sides of its mean; None where that is not known."""
    mean, low, high = interval
    return None if low is None or high is None else [[mean - low], [high - mean]]


def _signed(value: float) -> str:
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def new_figure(size: tuple[float, float]):
    """An empty figure and its axes."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    # Not through pyplot: no global state, no window system, nothing to close.
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasSVG(figure)
    return figure, figure.subplots()


def to_svg(figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)  # not unique among a page's plots
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    svg = re.sub(_COORDINATE, lambda number: f"{float(number.group()):.2f}", svg)
    svg = svg.replace(INK, "currentColor")
    width = float(re.search(r'<svg[^>]* width="([0-9.]+)pt"', svg).group(1))
    svg = re.sub(r' (width|height)="[0-9.]+pt"', "", svg, count=2)
    label = html.escape(title)
    shape = f'role="img" aria-label="{label}" '
    shape += f'style="width: 100%; max-width: {1.7 * width:.0f}px; stroke-linejoin: round"'
    return svg.replace("<svg", f"<svg {shape}", 1).strip()
