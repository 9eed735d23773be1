"""Ranked answers as the reward model reads them, and what there is to say of them in numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from gpt_jax.data.ranking import unequal_pairs

Ranks = Mapping[int, Sequence[int]]  # number of a row -> ranks of its completions, 0 the best


def comparisons_of(rows: Sequence[dict], ranks: Ranks, split: str) -> list[dict]:
    """The rows of a split in which one answer is better than another.

    Args:
      rows: with a `prompt`, `completions`, `stopped` and the `record` that the prompt is from.
      ranks: of those that are ranked.
      split: "train" or "test".
    """
    return [
        {
            "prompt": row["prompt"],
            "completions": row["completions"],
            "stopped": row["stopped"],
            "ranks": list(ranks[number]),
            "record": row["record"],
        }
        for number, row in enumerate(rows)
        if row["split"] == split and number in ranks and len(set(ranks[number])) > 1
    ]


def count(rows: Sequence[dict], ranks: Ranks) -> dict[str, int]:
    """How much there is to learn from.

    Returns:
      `prompts`, `answers`; `unlabeled` prompts; `all_equal` prompts, whose answers are one and the
      same; `all_tied` ones, whose answers differ and share a rank; of the other prompts `pairs` of
      different answers with different ranks, and `ties`, those that share one.
    """
    found = {"prompts": len(rows), "answers": sum(len(row["completions"]) for row in rows)}
    found |= dict.fromkeys(("unlabeled", "all_equal", "all_tied", "pairs", "ties"), 0)
    for number, row in enumerate(rows):
        answers = list(zip(row["completions"], row["stopped"], strict=True))
        if len(set(answers)) == 1:
            found["all_equal"] += 1
        elif number not in ranks:
            found["unlabeled"] += 1
        elif len(set(ranks[number])) == 1:
            found["all_tied"] += 1
        else:
            found["pairs"] += len(unequal_pairs(ranks[number]))
            found["ties"] += sum(
                ranks[number][i] == ranks[number][j] and answers[i] != answers[j]
                for i, j in itertools.combinations(range(len(answers)), 2)
            )
    return found


def agreement(first: Ranks, second: Ranks) -> dict[str, float] | None:
    """How often two labelers agree on the pairs that are no tie to either.

    Returns:
      `ranked_twice` pairs, and `agree`, the share that both rank alike; None if there is none.
    """
    alike = [
        (i, j) in unequal_pairs(first[number])
        for number in sorted(first.keys() & second.keys())
        for i, j in unequal_pairs(second[number])
        if first[number][i] != first[number][j]
    ]
    return {"ranked_twice": len(alike), "agree": sum(alike) / len(alike)} if alike else None
