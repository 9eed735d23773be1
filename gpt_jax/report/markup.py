"""Pieces of a report's page: numbers and text in, escaped HTML out."""

import json
from collections.abc import Mapping, Sequence
from html import escape

from gpt_jax.report.plots import model_color
from gpt_jax.report.style import CSS
from gpt_jax.report.table import Table


def document(title: str, header: str, main: str) -> str:
    """A whole page: its title as text, what stands below it and the rest as HTML."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
{header}
</header>
<main>
{main}
</main>
<footer>Made by gpt_jax from the files of the run folder.</footer>
</body>
</html>
"""


def note(text: str) -> str:
    """A remark in a box."""
    return f'<p class="note">{escape(text)}</p>'


def figure(title: str, svg: str) -> str:
    """A chart under its title."""
    return f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>"


def model(name: str) -> str:
    """The name of a model, with its colour."""
    return f'<span class="dot" style="background: {model_color(name)}"></span>{escape(name)}'


def cells(name: str, of: Table, models: Sequence[str] = ()) -> str:
    """A report's table; the names of models have their colour."""

    def text(cell: str) -> str:
        return model(cell) if cell in models else escape(cell)

    body = []
    for row_cells, marks in zip(of.rows, of.best, strict=True):
        row = [f"<td>{text(row_cells[0])}</td>"]
        for heading, cell, mark in list(zip(of.headings, row_cells, marks, strict=True))[1:]:
            value, bracket, interval = escape(cell).partition(" [")
            small = f" <small>[{interval}</small>" if bracket else ""
            row.append(
                f'<td data-label="{escape(heading)}"{" class=best" * mark}>'
                f'<span class="value">{value}{small}</span></td>'
            )
        body.append(f"<tr>{''.join(row)}</tr>")
    return table(name, [text(heading) for heading in of.headings], body)


def table(name: str, headings: Sequence[str], body: Sequence[str]) -> str:
    """A table of rows that are HTML already."""
    head = "".join(f'<th scope="col">{heading}</th>' for heading in headings)
    return (
        f'<table class="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table>"
    )


def configuration(config: Mapping) -> str:
    """What config.json holds, to be unfolded."""
    if not config:
        return note("config.json is not there.")
    text = escape(json.dumps(config, indent=2, ensure_ascii=False))
    return f"<details><summary>Configuration</summary><pre>{text}</pre></details>"
