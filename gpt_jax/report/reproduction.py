"""What a reproduction leaves: its numbers, its tables in Markdown and in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich

from gpt_jax.files import write_text
from gpt_jax.report.table import Table, for_terminal, to_markdown

RESULTS, TABLES, FIGURE = "results.json", "results.md", "figure.png"


def write_results(
    folder: str | Path, results: Mapping[str, Any], tables: Sequence[Table], said: Sequence[str]
) -> None:
    """Writes `results.json` and `results.md`, and prints the tables and the sentences.

    Args:
      folder: of the run.
      results: the numbers; with the `command` that made them.
      tables: each with a title and a note.
      said: what they come to, in sentences.
    """
    folder = Path(folder)
    write_text(folder / RESULTS, json.dumps(results, indent=1) + "\n")
    parts = [f"    {results['command']}\n"]
    for table in tables:
        parts += [f"{table.title}\n" * bool(table.title), to_markdown(table), f"{table.note}\n"]
    parts += ["".join(f"- {sentence}\n" for sentence in said)]
    write_text(folder / TABLES, "\n".join(part for part in parts if part.strip()))
    rich.print(for_terminal(tables))
    for sentence in said:
        print(sentence)
    print(f"{folder}/{FIGURE} has the figure, {folder}/{TABLES} the tables")


def compared(
    name: str, other: str, difference: Sequence[float | None], metric: str, digits: int = 3
) -> str:
    """Says whether a paired difference lies outside its interval.

    Args:
      name, other: of what is compared.
      difference: [mean, low, high] of the first less the second.
      metric: in which they differ.
      digits: after the point.
    """
    mean, low, high = difference
    if low is None or high is None:
        return (
            f"{metric}: {name} less {other} is {mean:+.{digits}f} of one seed, which orders nothing"
        )
    interval = f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    if low > 0 or high < 0:
        return f"{metric}: {name} is {'above' if low > 0 else 'below'} {other}, {interval}"
    return f"{metric}: {name} and {other} cannot be told apart, {interval}"
