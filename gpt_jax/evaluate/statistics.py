"""How sure a number is: means, differences and win rates with 95% intervals, in plain NumPy.

What is resampled is what is independent. Several phrasings of a question, or several pairs of
answers to it, are right or wrong together; counted as if they were independent they make an
interval that is far too narrow. So each function takes `clusters_N`, one id per value, and draws
whole clusters: the cluster bootstrap (Efron 1979; Davison & Hinkley 1997, 3.8; for evaluations of
language models Miller 2024, "Adding Error Bars to Evals"). With fewer than some twenty clusters
such an interval is still somewhat too narrow; with one there is none.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Interval = list[float | None]  # [mean, low, high]; None where one cluster cannot tell
_BLOCK = 2**22  # draws in memory at a time


def mean_interval(
    values_N: ArrayLike,
    clusters_N: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """The mean of all values, with its 95% percentile interval by the cluster bootstrap.

    Args:
      values_N: numbers; computed in float64.
      clusters_N: the id of what each value is about; None: every value is independent.
      seed: of the resampling.
      resamples: how many times as many clusters as there are are drawn, with replacement.

    Returns:
      [mean, low, high]; low and high are None if all values belong to one cluster.

    Raises:
      ValueError: if there is no value, or not one cluster id for each.
    """
    sums_G, counts_G = _by_cluster(np.asarray(values_N, np.float64), clusters_N)
    mean, g = float(sums_G.sum() / counts_G.sum()), len(sums_G)
    if g == 1:
        return [mean, None, None]
    rng, means = np.random.default_rng(seed), []
    block = max(1, _BLOCK // g)
    for done in range(0, resamples, block):
        draws_RG = rng.integers(0, g, (min(block, resamples - done), g))
        means.append(sums_G[draws_RG].sum(axis=1) / counts_G[draws_RG].sum(axis=1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    # Equal values have one mean, whatever the rounding of their sums.
    return [mean, min(float(low), mean), max(float(high), mean)]


def paired_difference(
    ours_N: ArrayLike,
    theirs_N: ArrayLike,
    clusters_N: Sequence[Hashable] | None = None,
    *,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """The mean of `ours - theirs`, prompt by prompt, with its 95% interval.

    Two models that answer the same prompts find the same ones hard. That cancels in the
    difference, and not in the intervals of the two means: these may overlap while one model is
    better beyond doubt.

    Args:
      ours_N, theirs_N: scores at the same prompts in the same order (of several answers, their
        mean).
      clusters_N, seed, resamples: as for `mean_interval`.

    Returns:
      [mean, low, high]; the two differ if the interval excludes 0.
    """
    ours_N, theirs_N = np.asarray(ours_N, np.float64), np.asarray(theirs_N, np.float64)
    if ours_N.shape != theirs_N.shape:
        raise ValueError(f"pairs need equal shapes, not {ours_N.shape} and {theirs_N.shape}")
    return mean_interval(ours_N - theirs_N, clusters_N, seed=seed, resamples=resamples)


class WinRate(NamedTuple):
    """How often one model's answer is better than another's to the same prompt.

    Attributes:
      wins, ties, losses: their shares; together 1.
      win_rate: [mean, low, high] of the wins and half of the ties.
    """

    wins: float
    ties: float
    losses: float
    win_rate: Interval


def win_rate(
    ours_AN: ArrayLike,
    theirs_BN: ArrayLike,
    clusters_N: Sequence[Hashable] | None = None,
    *,
    meets_ABN: ArrayLike = True,
    seed: int = 0,
    resamples: int = 2000,
) -> WinRate | None:
    """Every answer of `ours` against every one of `theirs` to the same prompt; prompts weigh alike.

    Args:
      ours_AN, theirs_BN: scores of A and of B answers to each of N prompts; a score that is NaN
        makes the result NaN.
      clusters_N, seed, resamples: as for `mean_interval`.
      meets_ABN: which of the comparisons count, of any shape that broadcasts to (A, B, N). An
        answer must not meet itself, which is a tie that says nothing, nor one that it was chosen
        over, which it has beaten before; see `best_of_others`.

    Returns:
      the shares; None if no comparison counts.
    """
    ours_AN, theirs_BN = np.asarray(ours_AN, np.float64), np.asarray(theirs_BN, np.float64)
    signs_ABN = np.sign(ours_AN[:, None] - theirs_BN[None])
    meets_ABN = np.broadcast_to(np.asarray(meets_ABN, bool), signs_ABN.shape)
    met_N = meets_ABN.sum(axis=(0, 1))
    kept = met_N > 0
    if not kept.any():
        return None

    def share_N(outcome: int) -> np.ndarray:
        hits_ABN = (signs_ABN == outcome) + 0.0 * signs_ABN  # NaN stays NaN
        return hits_ABN.sum(axis=(0, 1), where=meets_ABN)[kept] / met_N[kept]

    wins_N, ties_N, losses_N = share_N(1), share_N(0), share_N(-1)
    if clusters_N is not None:
        clusters_N = [cluster for cluster, keep in zip(clusters_N, kept, strict=True) if keep]
    interval = mean_interval(wins_N + 0.5 * ties_N, clusters_N, seed=seed, resamples=resamples)
    return WinRate(float(wins_N.mean()), float(ties_N.mean()), float(losses_N.mean()), interval)


def best_of_others(scores_AN: ArrayLike) -> np.ndarray:
    """For every answer the best of the others: best-of-(A-1), A times, each with an opponent.

    The answer left out is a fresh one to the best of the others, so that meeting it, and only it
    (`meets_ABN=np.eye(A)[:, :, None]`), estimates the win rate of best-of-(A-1) without bias: under
    a perfect judge (A-1)/A. Against the candidates that it was chosen from, best-of-n would win
    always.

    Args:
      scores_AN: what chooses, finite, for A >= 2 answers to each of N prompts; of equals the first.

    Returns:
      int (A, N): `[a, n]` is the index of the best answer to prompt n other than a.
    """
    scores_AN = np.asarray(scores_AN, np.float64)
    itself_AA1 = np.eye(len(scores_AN), dtype=bool)[:, :, None]
    return np.where(itself_AA1, -np.inf, scores_AN[None]).argmax(axis=1)


def _by_cluster(
    values_N: np.ndarray, clusters_N: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The sum and the number of the values of every cluster, in order of appearance."""
    if not len(values_N):
        raise ValueError("there is no value to take a mean of")
    if clusters_N is None:
        return values_N, np.ones(len(values_N))
    numbers: dict[Hashable, int] = {}
    index_N = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters_N]
    if len(index_N) != len(values_N):
        raise ValueError(f"{len(index_N)} cluster ids for {len(values_N)} values")
    return np.bincount(index_N, values_N), np.bincount(index_N).astype(np.float64)
