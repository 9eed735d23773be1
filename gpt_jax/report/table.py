"""The results table, one set of columns for the terminal, the README and the page."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

_MISSING = "\N{EN DASH}"


class Column(NamedTuple):
    """A column of results: its heading, the field of a model it shows, and how."""

    heading: str
    field: str
    scale: float = 1.0
    digits: int | None = 2  # None: as many as an interval needs
    unit: str = ""
    best: bool = False  # the largest value is the best one, and is marked
    wide: bool = False  # left out of the terminal, whose lines have 80 characters

    def cell(self, model: Mapping) -> str:
        """The model's value as text, with its interval if it has one."""
        value = model.get(self.field)
        if value is None:
            return _MISSING
        if isinstance(value, Sequence):
            return interval_text(value, self.scale, self.digits, self.unit)
        return _number(self.scale * value, self.digits) + self.unit

    def value(self, model: Mapping) -> float | None:
        """The model's value as a number."""
        value = model.get(self.field)
        return value[0] if isinstance(value, Sequence) else value


class Table(NamedTuple):
    """Cells as text; `best[row][column]` marks the best value of its column."""

    headings: list[str]
    rows: list[list[str]]
    best: list[list[bool]]


COLUMNS = (
    Column("gold score", "gold", best=True),
    Column("reward", "reward", best=True),
    Column("difference from SFT", "difference_vs_sft", digits=None, wide=True),
    Column("win rate", "win_rate_vs_sft", scale=100, digits=0, unit="%", best=True),
    Column("ties", "ties_vs_sft", scale=100, digits=0, unit="%", wide=True),
    Column("correct", "correct", scale=100, digits=0, unit="%", best=True),
    Column("KL (nats)", "kl_from_sft"),
    Column("tokens", "length", digits=1),
    Column("entropy", "entropy"),
)


def score_name(models: Sequence[Mapping]) -> str:
    """What the models are judged by: "gold" where the truth is known, else "reward"."""
    return "gold" if any(model.get("gold") for model in models) else "reward"


def interval_text(
    interval: Sequence[float | None], scale: float = 1.0, digits: int | None = None, unit: str = ""
) -> str:
    """Writes [mean, low, high] as "1.00 [0.90, 1.10]", and as "1.00" where the ends are not known.

    Args:
      digits: after the point; None: two, and more where the interval is narrow.
    """
    mean, low, high = (None if part is None else scale * part for part in interval)
    known = low is not None and high is not None
    if digits is None:
        width = high - low if known else 0.0
        digits = min(max(2, 1 - math.floor(math.log10(width))), 6) if 0 < width < math.inf else 2
    ends = f" [{_number(low, digits)}, {_number(high, digits)}]" if known else ""
    return _number(mean, digits) + unit + ends


def table(results: Mapping, columns: Sequence[Column] = COLUMNS) -> Table:
    """results.json -> cells. A column that no model has a value for is left out.

    The reward model's own score is shown only where no gold score is known: it is what PPO
    maximises, and so a poor judge of PPO.
    """
    models = results.get("models", [])
    hidden = "reward" if score_name(models) == "gold" else "gold"
    columns = [
        column
        for column in columns
        if column.field != hidden and any(model.get(column.field) is not None for model in models)
    ]
    rows = [[model["name"], *(column.cell(model) for column in columns)] for model in models]
    best = [[False] * (len(columns) + 1) for _ in models]
    for place, column in enumerate(columns, start=1):
        values = [column.value(model) for model in models]
        known = [value for value in values if value is not None]
        for row, value in enumerate(values):
            best[row][place] = column.best and len(known) > 1 and value == max(known)
    return Table(["model", *(column.heading for column in columns)], rows, best)


def results_table(results: Mapping) -> RichTable:
    """The table for the terminal: `rich.print(results_table(results))`."""
    headings, rows, best = table(results, [column for column in COLUMNS if not column.wide])
    rich_table = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
        caption="brackets: 95% interval; bold: best; win rate against SFT, a tie half; KL from SFT "
        "per answer, entropy per token",
    )  # fmt: skip
    for place, heading in enumerate(headings):
        rich_table.add_column(heading, justify="right" if place else "left")
    for cells, marks in zip(rows, best, strict=True):
        styles = ("bold green" if mark else "" for mark in marks)
        rich_table.add_row(*(Text(c, style=s) for c, s in zip(cells, styles, strict=True)))
    return rich_table


def markdown_table(results: Mapping) -> str:
    """The table for a README; the best value of a column is bold."""
    headings, rows, best = table(results)
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)]]
    for cells, marks in zip(rows, best, strict=True):
        lines.append([f"**{c}**" if mark else c for c, mark in zip(cells, marks, strict=True)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _number(value: float, digits: int) -> str:
    return f"{round(value, digits) + 0.0:.{digits}f}"  # -0.0 becomes 0.0
