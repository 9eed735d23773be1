"""How well an index finds: whether a question's passage is among the first, and at which place."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from gpt_jax.evaluate.statistics import Interval, mean_interval, paired_difference

Find = Callable[[str, int], list[tuple[float, int]]]  # (question, k) -> (score, number), best first

DEPTH = 50  # chunks that are looked at


def places(
    find: Find, questions: Sequence[str], wanted: Sequence[int], passage_of: Sequence[int]
) -> np.ndarray:
    """At which place every question's passage is found.

    Args:
      find: of an index of chunks.
      questions: that are asked.
      wanted: the number of each one's passage.
      passage_of: the number of the passage that a chunk is a part of.

    Returns:
      int: 1 for the best passage, 2 for the next; a passage stands where the best of its chunks
      does. 0 where none of the first `DEPTH` chunks is of it.
    """
    found = []
    for question, passage in zip(questions, wanted, strict=True):
        passages = dict.fromkeys(passage_of[number] for _, number in find(question, DEPTH))
        ranked = list(passages)
        found.append(ranked.index(passage) + 1 if passage in passages else 0)
    return np.array(found)


def scores(places_Q: np.ndarray) -> dict[str, np.ndarray]:
    """What each question counts for in every measure.

    Recall at k is 1 for a passage among the first k. The reciprocal rank (Voorhees 1999) is
    1 / place, and 0 beyond the tenth.
    """
    there_Q = places_Q > 0
    return {
        "recall@1": np.float64(places_Q == 1),
        "recall@5": np.float64(there_Q & (places_Q <= 5)),
        "mrr@10": np.where(there_Q & (places_Q <= 10), 1 / np.maximum(places_Q, 1), 0.0),
    }


def measured(places_Q: np.ndarray, clusters_Q: Sequence[Hashable]) -> dict[str, Interval]:
    """Every measure with its 95% interval; questions of one cluster are right or wrong together."""
    return {name: mean_interval(each, clusters_Q) for name, each in scores(places_Q).items()}


def compared(
    ours_Q: np.ndarray, theirs_Q: np.ndarray, clusters_Q: Sequence[Hashable]
) -> dict[str, Interval]:
    """By how much our places are better than theirs, at the same questions."""
    ours, theirs = scores(ours_Q), scores(theirs_Q)
    return {name: paired_difference(ours[name], theirs[name], clusters_Q) for name in ours}


def shared(find: Find, exact: Find, questions: Sequence[str], k: int = 10) -> Interval:
    """Which share of the k nearest that an exact index finds an approximate one finds, too."""
    shares = []
    for question in questions:
        right = {number for _, number in exact(question, k)}
        shares.append(len(right & {number for _, number in find(question, k)}) / len(right))
    return mean_interval(shares)
