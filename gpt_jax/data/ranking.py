"""Scores as a labeler sees them: ranks with ties, and with the mistakes that people make."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import numpy as np

from gpt_jax.errors import UserError

NOTICEABLE = 0.05  # of the microworld's gold scores: less is two words more or fewer


def ranks_of(
    scores: Sequence[float],
    temperature: float = 0.0,
    rng: random.Random | None = None,
    noticeable: float = NOTICEABLE,
) -> list[int]:
    """Ranks from 0, the best; scores that a labeler cannot tell apart share one.

    A labeler errs as in the Bradley-Terry model: a ranking is drawn from the Plackett-Luce
    distribution over the scores (add Gumbel noise to score / temperature, sort), so that of two
    answers the better one ranks higher with probability sigmoid(difference / temperature).

    Args:
      scores: one of each answer.
      temperature: of the noise; 0 is none.
      rng: of the noise, where there is any.
      noticeable: scores that lie closer together than this look alike.
    """
    levels = _levels(scores, noticeable)
    heights = {level: level for level in sorted(set(levels), reverse=True)}
    if temperature > 0:
        heights = {
            level: level / temperature - math.log(-math.log(rng.random())) for level in heights
        }
    order = sorted(heights, key=heights.get, reverse=True)
    return [order.index(level) for level in levels]


def temperature_of(
    scores: Sequence[Sequence[float]], agreement: float | None, noticeable: float = NOTICEABLE
) -> float:
    """The temperature at which two labelers, each with noise of its own, agree so often.

    That is the mean of p^2 + (1 - p)^2 over all pairs that can be told apart, where p is the
    probability of ranking the pair rightly.

    Args:
      scores: of the answers to each prompt.
      agreement: in (0.5, 1]; 1, or None, is no noise.
      noticeable: as for `ranks_of`.
    """
    levels = (_levels(row, noticeable) for row in scores)
    pairs = (pair for row in levels for pair in itertools.combinations(row, 2))
    gaps = [abs(a - b) for a, b in pairs if a != b]
    if agreement in (None, 1.0) or not gaps:
        return 0.0
    low, high = 1e-4, 1e4
    for _ in range(40):
        middle = math.sqrt(low * high)
        right = 1 / (1 + np.exp(-np.minimum(np.array(gaps) / middle, 700)))
        agreed = np.mean(right**2 + (1 - right) ** 2)
        low, high = (middle, high) if agreed > agreement else (low, middle)
    return middle


def unequal_pairs(ranks: Sequence[int]) -> list[tuple[int, int]]:
    """(better, worse) numbers of all pairs of answers that are no tie."""
    return [(i, j) for i, j in itertools.permutations(range(len(ranks)), 2) if ranks[i] < ranks[j]]


def check_degrees(rows: Sequence[dict]) -> None:
    """Sees that comparisons say by how much one answer is better either all or not at all.

    Raises:
      UserError: if only some of them do, or the better answer is said to be worse.
    """
    graded = [row["degrees"] for row in rows if "degrees" in row]
    if 0 < len(graded) < len(rows):
        raise UserError(
            f"{len(rows) - len(graded):,} of {len(rows):,} comparisons have no `margin`, but the "
            "others have; give it to all or to none, or leave --reward.margin out"
        )
    if any(better < worse for better, worse in graded):
        raise UserError(
            "a comparison has a `margin` below 0; swap its replies, or leave --reward.margin out"
        )


def _levels(scores: Sequence[float], noticeable: float) -> list[float]:
    """Of each score the best one among those that it cannot be told apart from."""
    heads: list[float] = []
    for score in sorted(set(scores), reverse=True):
        if not heads or heads[-1] - score >= noticeable:
            heads.append(score)
    return [min(head for head in heads if head >= score) for score in scores]
