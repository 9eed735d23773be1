"""The page of a sweep: one table, and one figure with a small chart for each metric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import rich

from gpt_jax.files import read_json, write_text
from gpt_jax.metrics import read_metrics
from gpt_jax.report import markup, plots
from gpt_jax.report.stages import summary, view_of
from gpt_jax.report.table import Table, for_terminal, interval_text, plain, to_markdown

FILE = "sweep.json"
IN_TERMINAL = 4  # metrics, beside the settings
OF_MODELS = ("gold", "reward", "right", "wrong", "kl_from_sft", "length")  # of results.json
Interval = Sequence[float | None]


class Swept(NamedTuple):
    """What is known of one point.

    Attributes:
      settings: {name: value}.
      values: {metric: [mean, low, high]}; without many seeds low and high are None.
      failed: why there is nothing, or None.
    """

    settings: dict[str, Any]
    values: dict[str, Interval]
    failed: str | None = None


def read_sweep(folder: str | Path) -> list[Swept]:
    """The points of a sweep, from its `sweep.json` and the files of their folders.

    Raises:
      UserError: naming a file that is damaged.
    """
    points = read_json(Path(folder) / FILE, "run the same command again")["points"]
    return [
        Swept(point["settings"], values_of(Path(folder) / point["name"]), point["failed"])
        for point in points
    ]


def values_of(folder: Path) -> dict[str, Interval]:
    """What a run has come to: {metric: [mean, low, high]}; {} if it has not begun.

    Of a whole run it is what `results.json` says of the last policy, of a stage the metrics that
    its report draws, of the training ones the mean of the last 20th of the steps.
    """
    if (folder / "results.json").is_file():
        models = read_json(folder / "results.json", "run the same command again")["models"]
        found = {name: models[-1].get(name) for name in OF_MODELS}
        return {
            name: value if isinstance(value, list) else [value, None, None]
            for name, value in found.items()
            if value is not None
        }
    rows = read_metrics(folder)
    if not rows:
        return {}
    config = read_json(folder / "config.json", "run the same command again")
    return summary(view_of(folder.name, config, rows), rows)


def sweep_table(points: Sequence[Swept], most: int | None = None) -> Table:
    """A row for every point: its settings, and what it came to.

    Args:
      points: of a sweep.
      most: metrics, if not all.
    """
    settings = list(dict.fromkeys(key for point in points for key in point.settings))
    metrics = list(dict.fromkeys(name for point in points for name in point.values))[:most]
    rows = [
        [str(point.settings.get(key, "")) for key in settings]
        + [_cell(point, metric, first=metric == metrics[0]) for metric in metrics]
        for point in points
    ]
    short = [key.rpartition(".")[2] for key in settings]
    headings = [last if short.count(last) == 1 else key for key, last in zip(settings, short)]
    return plain(headings + metrics, rows, "", "mean [95% interval over seeds], where there are")


def _cell(point: Swept, metric: str, first: bool) -> str:
    if metric in point.values:
        return interval_text(point.values[metric])
    return "failed" if first and point.failed else "\N{EN DASH}"


def charts(points: Sequence[Swept]) -> dict[str, str]:
    """{metric: svg}, against the first setting, a line for each combination of the others."""
    done = [point for point in points if point.values]
    metrics = list(dict.fromkeys(name for point in done for name in point.values))
    across, *others = list(points[0].settings)
    groups: dict[str, list[Swept]] = {}
    for point in done:
        label = ", ".join(f"{key.rpartition('.')[2]} {point.settings[key]}" for key in others)
        groups.setdefault(label, []).append(point)
    found = {}
    for metric in metrics:
        lines = {
            label: [(p.settings[across], p.values[metric]) for p in group if metric in p.values]
            for label, group in groups.items()
        }
        found[metric] = plots.against_setting(lines, across, metric)
    return found


def publish_sweep(folder: Path) -> None:
    """Writes `sweep.md` and `report.html` of a sweep, and prints its table."""
    points = read_sweep(folder)
    table = sweep_table(points)
    write_text(folder / "sweep.md", to_markdown(table))
    write_text(folder / "report.html", _page(folder, points, table))
    rich.print(for_terminal([sweep_table(points, IN_TERMINAL)]))
    print(f"{folder}/report.html has the figure, {folder}/sweep.md all columns")


def _page(folder: Path, points: Sequence[Swept], table: Table) -> str:
    config = read_json(folder / "config.json", "run the same command again")
    many = config.get("seeds", 1)
    failed = {p.failed: p.settings for p in points if p.failed}
    figures = "".join(markup.figure(title, svg) for title, svg in charts(points).items())
    keys = ", ".join(points[0].settings)
    facts = f"{len(points)} points"
    facts += f", {many} seeds each; intervals are 95% over seeds (Student's t)" * (many > 1)
    notes = "".join(markup.note(f"{_in_words(s)} failed: {why}") for why, s in failed.items())
    return markup.document(
        f"gpt_jax sweep {folder.resolve().name}",
        f'<p class="verdict">{escape(keys)}</p><p class="soft">{escape(facts)}.</p>',
        f"<h2>Results</h2>{markup.cells('counts', table)}{notes}"
        f'<h2>Figure</h2><div class="charts">{figures}</div>{markup.configuration(config)}',
    )


def _in_words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())
