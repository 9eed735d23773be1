"""The table of models, and how tables are shown in the terminal and in a README.

The page shows the same cells (`gpt_jax.report.page`).
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Group
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
        return number_text(self.scale * value, self.digits) + self.unit

    def value(self, model: Mapping) -> float | None:
        """The model's value as a number."""
        value = model.get(self.field)
        return value[0] if isinstance(value, Sequence) else value


class Table(NamedTuple):
    """Cells as text, the first of each row being its name.

    Attributes:
      best: `best[row][column]` marks the best value of its column.
      title: what it is about; the table of models needs none.
      note: how to read it.
    """

    headings: list[str]
    rows: list[list[str]]
    best: list[list[bool]]
    title: str = ""
    note: str = ""


COLUMNS = (
    Column("gold score", "gold", best=True),
    Column("reward", "reward", best=True),
    Column("win rate", "win_rate_vs_sft", scale=100, digits=0, unit="%", best=True),
    Column("right", "right", scale=100, digits=0, unit="%", best=True),
    Column("unknown", "unknown", scale=100, digits=0, unit="%"),
    Column("wrong", "wrong", scale=100, digits=0, unit="%"),
    Column("KL (nats)", "kl_from_sft"),
    Column("tokens", "length", digits=1, wide=True),
    Column("entropy", "entropy", wide=True),
)
NOTE = (
    "brackets: 95% interval; bold: best; win rate against SFT, a tie half; unknown: says that it "
    "does not know; KL from SFT per answer"
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
    if digits is None:
        digits = digits_of(interval, scale)
    mean, *ends = (None if part is None else number_text(scale * part, digits) for part in interval)
    return mean + unit + ("" if None in ends else f" [{', '.join(ends)}]")


def digits_of(interval: Sequence[float | None], scale: float = 1.0) -> int:
    """How many digits after the point it takes to tell the ends of an interval apart."""
    _, low, high = interval
    width = 0.0 if None in (low, high) else scale * (high - low)
    return min(max(2, 1 - math.floor(math.log10(width))), 6) if 0 < width < math.inf else 2


def models_table(results: Mapping, columns: Sequence[Column] = COLUMNS) -> Table:
    """The models of results.json. A column that no model has a value for is left out.

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
            best[row][place] = column.best and len(set(known)) > 1 and value == max(known)
    headings = ["model", *(column.heading for column in columns)]
    many = f" over {results['seeds']} seeds" if "seeds" in results else ""
    return Table(headings, rows, best, note=NOTE.replace("95% interval", f"95% interval{many}"))


def plain(headings: list[str], rows: list[list[str]], title: str, note: str = "") -> Table:
    """A table without a best value."""
    return Table(headings, rows, [[False] * len(headings) for _ in rows], title, note)


def for_terminal(tables: Sequence[Table]) -> Group:
    """Tables one below the other, for `rich.print`; the best value of a column is bold."""
    return Group(*(part for table in tables for part in _for_terminal(table)))


def _for_terminal(table: Table) -> list[RichTable | Text]:
    rich_table = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for place, heading in enumerate(table.headings):
        rich_table.add_column(heading, justify="right" if place else "left")
    for cells, marks in zip(table.rows, table.best, strict=True):
        styles = ("bold green" if mark else "" for mark in marks)
        rich_table.add_row(*(Text(c, style=s) for c, s in zip(cells, styles, strict=True)))
    title = [Text(f"\n{table.title}", style="bold")] if table.title else []
    note = [Text(table.note, style="dim italic")] if table.note else []
    return [*title, rich_table, *note]


def to_markdown(table: Table) -> str:
    """One table for a README, without title and note; the best value of a column is bold."""
    lines = [table.headings, ["---", *["---:"] * (len(table.headings) - 1)]]
    for cells, marks in zip(table.rows, table.best, strict=True):
        lines.append([f"**{c}**" if mark else c for c, mark in zip(cells, marks, strict=True)])
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def number_text(value: float, digits: int) -> str:
    """Writes a number; one that rounds to 0 has no sign."""
    return f"{round(value, digits) + 0.0:.{digits}f}"  # -0.0 becomes 0.0
