"""An arena's ratings as a table, and how each of its judges judged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpt_jax.report.table import Table, interval_text, plain


def arena_table(judges: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for every model, in the order of the first judge's ratings.

    Args:
      judges: those of `ratings.json`.
    """
    first = next(iter(judges.values()))["ratings"]
    by = [{one["name"]: one for one in fact["ratings"]} for fact in judges.values()]
    headings = ["model"]
    for judge in judges:
        headings += [f"by {short(judge)} [95%]", "won, %"]
    rows = []
    for name in (one["name"] for one in first):
        rows.append([name])
        for rated in by:
            # A model all of whose games a judge left out has no rating by it.
            one = rated.get(name, {"rating": None})
            interval = one["rating"]
            rows[-1] += (
                [interval_text(interval, digits=0), f"{100 * one['won']:.1f}"]
                if interval
                else ["\N{EN DASH}"] * 2
            )
    return plain(headings, rows, "Arena: ratings on Elo's scale", "ties count as half a win")


def arena_sentence(judge: str, fact: Mapping[str, Any]) -> str:
    """How a judge judged; "" of votes, of which no more is known than what came of them."""
    if "pairs" not in fact:
        return ""
    pairs = fact["pairs"]
    parts = [f"{short(judge)}: {pairs:,} pairs, {fact['ties'] / pairs:.0%} ties"]
    if fact["asked"]:
        parts.append(f"{fact['disagreed'] / pairs:.0%} judged differently in the other order")
        parts.append(f"{fact['unreadable'] / fact['asked']:.0%} of the verdicts unreadable")
    if fact["left_out"]:
        parts.append(f"{fact['left_out']:,} left out, without a verdict")
    if agreed := fact.get("with_the_first"):
        share = interval_text(agreed["agree"], 100, 0, "%")
        pairs = f"{agreed['pairs']:,} pairs that are no tie to either"
        parts.append(f"agrees with the first judge on {share} of the {pairs}")
    return ", ".join(parts)


def short(judge: str) -> str:
    """A judge's name; of a path the last two parts."""
    return judge if "@" in judge else "/".join(Path(judge).parts[-2:])
