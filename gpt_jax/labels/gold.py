"""The labeler that knows the truth: a task's score, seen as well or as badly as people see."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from gpt_jax.data.ranking import ranks_of, temperature_of
from gpt_jax.data.subset import sample_rows

SECOND = 0.2  # of the prompts are ranked by a second labeler, too


def gold_ranks(
    rows: Sequence[dict],
    score: Callable[[dict, str, bool], float],
    agreement: float | None,
    noticeable: float,
    seed: int,
) -> list[dict[int, list[int]]]:
    """The ranks that two labelers give, each with noise of its own.

    Args:
      rows: with a `prompt`, `completions` and `stopped`.
      score: of a row, a text, and whether it stopped by itself.
      agreement: how often two labelers agree on a pair (see `ranking.temperature_of`).
      noticeable: scores that lie closer together than this are a tie.
      seed: of the noise; the draw is named by the prompt.

    Returns:
      {number of the row: ranks of its completions} of the first, who ranks all of them, and of the
      second, who ranks some.
    """
    scores = [
        [
            score(row, text, stopped)
            for text, stopped in zip(row["completions"], row["stopped"], strict=True)
        ]
        for row in rows
    ]
    temperature = temperature_of(scores, agreement, noticeable)

    def ranks(labeler: str, number: int) -> list[int]:
        name = json.dumps([seed, labeler, rows[number]["prompt"]])
        return ranks_of(scores[number], temperature, random.Random(name), noticeable)

    numbers = [{"number": number, "prompt": row["prompt"]} for number, row in enumerate(rows)]
    some = sample_rows(numbers, max(1, round(SECOND * len(rows))), seed)
    return [
        {number: ranks("first", number) for number in range(len(rows))},
        {one["number"]: ranks("second", one["number"]) for one in some},
    ]
