"""Judging against generating: one model's answers, right or wrong, and what ranks them.

"State of GPT" (Karpathy 2023) gives as a reason why RLHF works that it is easier to tell the better
of two answers than to write a good one. Both are measured here on the same answers.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from gpt_jax.evaluate.best_of import expected_best
from gpt_jax.evaluate.statistics import mean_interval
from gpt_jax.evaluate.verdicts import ranked_pairs


def judging(
    right_AN: ArrayLike,
    judges: Mapping[str, ArrayLike],
    counts: Sequence[int],
    clusters_N: Sequence[Hashable] | None,
) -> dict[str, Any]:
    """How often a model is right, how well it is judged, and what choosing gains.

    Args:
      right_AN: whether each of A answers to each of N prompts is right.
      judges: {name: scores_AN}; a perfect one is added.
      counts: the n of best-of-n.
      clusters_N: what each prompt is about, as for `mean_interval`.

    Returns:
      generator: the share of right answers, [mean, low, high] by cluster.
      pairs: how many pairs of a right and a wrong answer to one prompt there are.
      judges: {name: [mean, low, high]} of these pairs ranked right; None without a pair.
      best_of: {name: {n: [mean, low, high]}}, the share of right answers among those chosen.
      gain: the same less the generator's share, paired by prompt.
    """
    right_AN = np.asarray(right_AN, bool)
    scores = {name: np.asarray(one, np.float64) for name, one in judges.items()}
    scores["perfect"] = right_AN.astype(np.float64)
    share_N = right_AN.mean(axis=0)
    found: dict[str, Any] = {"generator": mean_interval(share_N, clusters_N)}
    found |= {"judges": {}, "best_of": {}, "gain": {}}
    for name, scores_AN in scores.items():
        correct_P, prompts_P = ranked_pairs(scores_AN, right_AN)
        ids = prompts_P if clusters_N is None else [clusters_N[n] for n in prompts_P]
        found["pairs"] = len(correct_P)
        found["judges"][name] = mean_interval(correct_P, ids) if len(correct_P) else None
        chosen = {n: expected_best(right_AN, scores_AN, n) for n in counts}
        found["best_of"][name] = {n: mean_interval(one, clusters_N) for n, one in chosen.items()}
        found["gain"][name] = {
            n: mean_interval(one - share_N, clusters_N) for n, one in chosen.items()
        }
    return found
