"""What verdicts tell of answers beside their scores, in plain NumPy.

A score sums up how good an answer is, so a model that learned to be brief and polite can gain as
much as one that learned what is true. Verdicts (`gpt_jax.tasks.task.Verdict`) keep the two apart.
"""

from __future__ import annotations

import collections
from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from gpt_jax.evaluate.statistics import mean_interval


def shares(verdicts_AN: np.ndarray, clusters_N: Sequence[Hashable] | None) -> dict:
    """How many answers are right, [mean, low, high] by cluster, and how many unknown and wrong."""
    return {
        "right": mean_interval((verdicts_AN == "right").mean(0), clusters_N),
        "unknown": float((verdicts_AN == "unknown").mean()),
        "wrong": float((verdicts_AN == "wrong").mean()),
    }


def shares_by_kind(
    verdicts_AN: np.ndarray,
    clusters_N: Sequence[Hashable] | None,
    kinds_N: Sequence[str | None],
) -> dict[str, dict]:
    """`shares` of each kind of question, with its number of prompts; the most frequent one first.

    Args:
      verdicts_AN: of A answers to each of N prompts.
      clusters_N: as for `mean_interval`.
      kinds_N: the kind of each prompt; None is no kind.
    """
    found = {}
    for kind, number in collections.Counter(kinds_N).most_common():
        if kind is not None:
            of_kind = [n for n, other in enumerate(kinds_N) if other == kind]
            clusters = clusters_N and [clusters_N[n] for n in of_kind]
            found[kind] = {"prompts": number, **shares(verdicts_AN[:, of_kind], clusters)}
    return found


def style_and_substance(
    ours_AN: ArrayLike, theirs_BN: ArrayLike, verdicts_AN: np.ndarray, verdicts_BN: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Where a difference in score comes from, prompt by prompt.

    Every answer meets every one of the other model to the same prompt. What sets apart the scores
    of two answers with one verdict is style, of two with different verdicts substance.

    Args:
      ours_AN, theirs_BN: the scores of A and of B answers to each of N prompts.
      verdicts_AN, verdicts_BN: their verdicts.

    Returns:
      (style_N, substance_N), which add up to `ours_AN.mean(0) - theirs_BN.mean(0)`.
    """
    gains_ABN = np.asarray(ours_AN, np.float64)[:, None] - np.asarray(theirs_BN, np.float64)[None]
    alike_ABN = verdicts_AN[:, None] == verdicts_BN[None]
    style_N = np.where(alike_ABN, gains_ABN, 0.0).mean((0, 1))
    substance_N = np.where(alike_ABN, 0.0, gains_ABN).mean((0, 1))
    # Gains that cancel leave the last digit of a sum, which is no gain.
    return style_N.round(12), substance_N.round(12)


def ranked_pairs(
    rewards_AN: ArrayLike, scores_AN: ArrayLike, counts_AN: ArrayLike = True
) -> tuple[np.ndarray, np.ndarray]:
    """Whether rewards rank the answers to one prompt as their scores do.

    Args:
      rewards_AN: what ranks A answers to each of N prompts.
      scores_AN: how good they are; of a pair of equal ones nothing is asked.
      counts_AN: which answers take part; it broadcasts to (A, N).

    Returns:
      1.0, 0.5 (equal rewards) or 0.0 for every pair, and the prompt that it belongs to; float64
      and int, (pairs,) each.
    """
    rewards_AN, scores_AN = np.asarray(rewards_AN, np.float64), np.asarray(scores_AN, np.float64)
    counts_AN = np.broadcast_to(np.asarray(counts_AN, bool), scores_AN.shape)
    a, b = np.triu_indices(len(scores_AN), 1)
    better_PN = np.sign(scores_AN[a] - scores_AN[b]) * (counts_AN[a] & counts_AN[b])
    liked_PN = np.sign(rewards_AN[a] - rewards_AN[b])
    pair, prompt = np.nonzero(better_PN)
    return (better_PN * liked_PN / 2.0 + 0.5)[pair, prompt], prompt
