"""How the true score moves with the distance from where a policy began, in plain NumPy.

Gao et al. 2023, "Scaling Laws for Reward Model Overoptimization": with d the square root of the KL
divergence and R the gain in score over the policy at d = 0,

    best-of-n:               R(d) = d (a - b d)
    reinforcement learning:  R(d) = d (a - b log d)
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Kind = Literal["best-of-n", "rl"]


class Fit(NamedTuple):
    """The least-squares fit of one of the two forms.

    Attributes:
      a, b: see the top of this file.
      r_squared: 1 less the share of the points' variance that is left.
      peak: the d at which it is largest, if the form has one.
    """

    a: float
    b: float
    r_squared: float
    peak: float | None


def fit(kind: Kind, kls_P: ArrayLike, gains_P: ArrayLike) -> Fit | None:
    """Fits the form of a kind of optimization.

    Args:
      kind: which one.
      kls_P: nats; points at 0 or below, which an estimate may have, are left out.
      gains_P: in score, over the policy at 0.

    Returns:
      the fit; None of fewer than three points, as of a policy that has not moved.
    """
    kls_P, gains_P = np.asarray(kls_P, np.float64), np.asarray(gains_P, np.float64)
    d_P, y_P = np.sqrt(kls_P[kls_P > 0]), gains_P[kls_P > 0]
    if len(d_P) < 3:
        return None
    bend_P = d_P if kind == "best-of-n" else np.log(d_P)
    columns = np.stack([d_P, -d_P * bend_P], axis=1)
    (a, b), *_ = np.linalg.lstsq(columns, y_P, rcond=None)
    left, whole = np.sum((y_P - columns @ [a, b]) ** 2), np.sum((y_P - y_P.mean()) ** 2)
    peak = None
    if b > 0:
        peak = float(a / (2 * b)) if kind == "best-of-n" else math.exp(min(a / b - 1, 700.0))
    return Fit(float(a), float(b), float(1 - left / whole) if whole > 0 else math.nan, peak)


def best_of_kl(rewards_AN: ArrayLike, logprobs_AN: ArrayLike, n: int) -> float:
    """The KL divergence of best-of-n from the model that answers, in nats, estimated.

    An answer y of probability p whose reward beats a share F of the others is what best-of-n gives
    with probability ((F + p)^n - F^n), so that

        KL = E_best-of-n[log(((F + p)^n - F^n) / p)] <= log n - (n-1)/n

    with equality where every answer has next to no probability (Beirami et al. 2024). F is that of
    the A answers drawn, and the mean over best-of-n that over them, weighed by the ratio.

    Args:
      rewards_AN: of A answers to each of N prompts; equal answers have equal rewards.
      logprobs_AN: log p of each whole answer.
      n: of best-of-n.
    """
    rewards_AN = np.asarray(rewards_AN, np.float64)
    p_AN = np.exp(np.asarray(logprobs_AN, np.float64))
    less_AN = (rewards_AN[:, None] > rewards_AN[None]).mean(axis=1)
    less_AN = np.minimum(less_AN, 1 - p_AN)
    # ((F + p)^n - F^n) / p, a sum of n terms that does not cancel
    ratio_AN = sum((less_AN + p_AN) ** k * less_AN ** (n - 1 - k) for k in range(n))
    weights_AN = ratio_AN / ratio_AN.sum(axis=0)
    return float((weights_AN * np.log(np.maximum(ratio_AN, 1e-300))).sum(axis=0).mean())
