"""What changing one thing at a time costs: a table and a figure of paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax.report.panels import Curve, Panel, draw
from gpt_jax.report.reproduction import FIGURE, write_results
from gpt_jax.report.table import Table, interval_text, plain

TITLES = {"gold": "gold score", "reward": "reward model's score", "kl": "KL from SFT (nats)"}


def publish_details(folder: str | Path, results: Mapping[str, Any], seeds: int) -> None:
    """Writes the figure, the tables and the numbers of a run, and prints them.

    Args:
      folder: of the run.
      results: with the `values` and `differences` of every detail, and what is `said` of them.
      seeds: how many there were.
    """
    draw(Path(folder) / FIGURE, panels(results["differences"]), f"Less the default, {seeds} seeds")
    write_results(folder, results, [details_table(results)], results["said"])


def panels(differences: Mapping[str, Mapping[str, Any]]) -> list[Panel]:
    """A panel for each metric, a row for each detail."""
    rows = [[place, None, None] for place in range(len(differences))]
    return [
        Panel(
            title,
            "less the default",
            "",
            [Curve("paired", [one[metric] for one in differences.values()], rows, joined=False)],
            names=list(differences),
        )
        for metric, title in TITLES.items()
    ]


def details_table(results: Mapping[str, Any]) -> Table:
    """Values, and how far they are from the default's."""
    rows = []
    for name, values in results["values"].items():
        cells = [name]
        for metric in TITLES:
            cells.append(interval_text(values[metric], digits=2))
            less = results["differences"].get(name)
            cells.append(interval_text(less[metric], digits=3) if less else "–")
        rows.append(cells)
    headings = ["detail"]
    for title in TITLES.values():
        headings += [title, "less the default"]
    note = "brackets: 95% interval over seeds (Student's t), of differences that of pairs of a seed"
    return plain(headings, rows, "", note)
