"""The results table, one set of columns for the terminal, the README and the page."""

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
    digits: int = 2
    unit: str = ""
    best: bool = False  # the largest value is the best one, and is marked

    def cell(self, model: Mapping) -> str:
        value = model.get(self.field)
        if value is None:
            return _MISSING
        if isinstance(value, Sequence):
            mean, low, high = (self._number(part) for part in value)
            return f"{mean}{self.unit} [{low}, {high}]"
        return self._number(value) + self.unit

    def _number(self, value: float) -> str:
        rounded = round(self.scale * value, self.digits) + 0.0  # -0.0 becomes 0.0
        return f"{rounded:.{self.digits}f}"

    def value(self, model: Mapping) -> float | None:
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
    Column("wins vs SFT", "win_rate_vs_sft", scale=100, digits=0, unit="%", best=True),
    Column("correct", "correct", scale=100, digits=0, unit="%", best=True),
    Column("KL (nats)", "kl_from_sft"),
    Column("tokens", "length", digits=1),
    Column("entropy", "entropy"),
)


def score_name(models: Sequence[Mapping]) -> str:
    """What the models are judged by: "gold" where the truth is known, else "reward"."""
    return "gold" if any(model.get("gold") for model in models) else "reward"


def table(results: Mapping) -> Table:
    """results.json -> cells. A column that no model has a value for is left out.

    The reward model's own score is shown only where no gold score is known: it is what PPO
    maximises, and so a poor judge of PPO.
    """
    models = results.get("models", [])
    hidden = "reward" if score_name(models) == "gold" else "gold"
    columns = [
        column
        for column in COLUMNS
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
    headings, rows, best = table(results)
    rich_table = RichTable(
        box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0),
        caption="brackets: 95% interval; bold: best; KL from SFT per answer, entropy per token",
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
