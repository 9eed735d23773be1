"""Retrieval's table: how often every index finds the passage that answers, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import rich

from gpt_jax import files
from gpt_jax.report.table import Table, for_terminal, interval_text, plain, to_markdown

MEASURES = ("recall@1", "recall@5", "mrr@10")


def write(folder: Path, results: Mapping) -> None:
    """Writes `results.json` and `retrieval.md`, and prints the table.

    Args:
      folder: of the run.
      results: of experiments.prompting.retrieval.
    """
    files.write_text(folder / "results.json", json.dumps(results, indent=2) + "\n")
    files.write_text(folder / "retrieval.md", markdown(results))
    rich.print(for_terminal([indexes(results)]))
    for sentence in sentences(results):
        print(sentence)


def indexes(results: Mapping) -> Table:
    """A row for every index."""
    rows = [
        [
            one["name"],
            *(interval_text(one[name], 100, 1) for name in MEASURES),
            f"{1000 * one['seconds_a_question']:.2f}",
        ]
        for one in results["indexes"]
    ]
    headings = ["index", *(f"{name}, % [95%]" for name in MEASURES), "ms a search"]
    return plain(headings, rows, "Retrieval", "a search is without the vector of its question")


def sentences(results: Mapping) -> list[str]:
    """What each index is worth beside words, how near the graphs are, and how fast vectors are."""
    said = [
        f"{one['name']} over bm25, recall@1: {interval_text(one['over_bm25']['recall@1'], 100, 1)} "
        "points"
        for one in results["indexes"]
        if "over_bm25" in one
    ]
    for one in results["embedders"]:
        same = interval_text(one["graph_finds"], 100, 1)
        said.append(f"{one['name']}: the graph finds {same}% of the 10 nearest")
        if one["texts_per_second"] is not None:
            said.append(
                f"{one['name']}: {one['texts_per_second']:,.1f} texts a second "
                f"({one['tokens_per_text']:.0f} tokens each)"
            )
        if one["cut"]:
            said.append(
                f"{one['name']}: {one['cut']:,} of {one['texts']:,} texts are longer than "
                f"{one['longest']} tokens, of which it reads the beginning"
            )
    return said


def markdown(results: Mapping) -> str:
    """Command, counts, table and sentences."""
    left = results["left_out"]
    empty = f"; {left:,} rows without a passage are left out" if left else ""
    lines = "".join(f"- {sentence}\n" for sentence in sentences(results))
    return (
        f"`{results['command']}`\n\n"
        f"{results['questions']:,} questions, each with one of {results['passages']:,} passages "
        f"({results['chunks']:,} chunks){empty}.\n\n{to_markdown(indexes(results))}\n{lines}"
    )
