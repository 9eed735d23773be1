"""The frontier of policies: the true score, and the reward model's, against the distance travelled.

Gao et al. 2023 draw both over the square root of the KL divergence from where the policies began;
where the reward model's score still rises and the true one does not, it is overoptimised.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpt_jax.report.panels import Curve, Panel, draw
from gpt_jax.report.reproduction import FIGURE, write_results
from gpt_jax.report.table import Table, interval_text, plain

Interval = Sequence[float | None]
COLUMNS = {
    "gold": "gold score",
    "reward": "reward model",
    "right": "right (%)",
    "kl": "KL (nats)",
    "entropy": "entropy",
    "length": "tokens",
}
TITLES = {"gold": "Gold score", "reward": "Reward model's score"}


class Point(NamedTuple):
    """A policy.

    Attributes:
      method: its line.
      setting: what sets it apart on that line.
      values: {metric: [mean, low, high]} over seeds.
      path: {metric: mean over seeds} at several steps on the way, the end last.
      tokens: how many were "sampled" and "trained" on for it.
    """

    method: str
    setting: str
    values: Mapping[str, Interval]
    path: Sequence[Mapping[str, float]] = ()
    tokens: Mapping[str, float] = {}


def frontier_table(points: Sequence[Point]) -> Table:
    """A row for every policy."""
    shown = [name for name in COLUMNS if any(name in point.values for point in points)]
    rows = []
    for point in points:
        cells = [f"{point.method} {point.setting}".strip()]
        for name in shown:
            scale = 100 if name == "right" else 1
            digits = 0 if name == "right" else 1 if name == "length" else 2
            known = name in point.values
            cells.append(interval_text(point.values[name], scale, digits) if known else "–")
        for name in ("sampled", "trained"):
            cells.append(f"{point.tokens[name] / 1000:.0f}k" if name in point.tokens else "–")
        rows.append(cells)
    headings = ["policy", *(COLUMNS[name] for name in shown), "sampled", "trained"]
    note = (
        "brackets: 95% interval over seeds (Student's t); KL from SFT, nats per answer, of "
        "best-of-n log n - (n-1)/n; sampled, trained: tokens of answers of one seed's training"
    )
    return plain(headings, rows, "", note)


def frontier_panels(points: Sequence[Point]) -> list[Panel]:
    """Gold and reward model's score over the square root of the KL; pale: the way there."""
    panels = []
    for name, title in TITLES.items():
        lines: dict[str, list[Point]] = {}
        for point in points:
            lines.setdefault(point.method, []).append(point)
        curves = []
        for label, some in lines.items():
            some = sorted(some, key=lambda point: point.values["kl"][0])
            curves.append(
                Curve(
                    label,
                    [root(point.values["kl"]) for point in some],
                    [point.values[name] for point in some],
                    path=[[(_root(at["kl"]), at[name]) for at in p.path] for p in some if p.path],
                )
            )
        panels.append(Panel(title, "square root of KL (nats)", name, curves))
    return panels


def root(interval: Interval) -> list[float | None]:
    """The square root of an interval; of what an estimate has below 0, 0."""
    return [None if value is None else _root(value) for value in interval]


def _root(value: float) -> float:
    return math.sqrt(max(0.0, value))


def publish_frontier(
    folder: str | Path,
    results: Mapping[str, Any],
    points: Sequence[Point],
    said: Sequence[str],
    title: str,
) -> None:
    """Writes the figure, the table and the numbers of a run, and prints them.

    Args:
      folder: of the run.
      results: what `results.json` is to hold.
      points: the policies.
      said: what they come to, in sentences.
      title: of the figure.
    """
    draw(Path(folder) / FIGURE, frontier_panels(points), title)
    write_results(folder, results, [frontier_table(points)], said)
