"""The pairwise ranking loss of the reward model (Ouyang et al. 2022, eq. 1), and its options."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.data.batches import Comparisons
from gpt_jax.losses.lm import Loss
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import score_completions


def pairs_of(ranks_BK: jax.Array) -> jax.Array:
    """pairs_BKK bool, [b, i, j]: whether completion i ranks above j; of NumPy arrays one too."""
    present_BK = ranks_BK >= 0
    better_BKK = ranks_BK[:, :, None] < ranks_BK[:, None, :]
    return better_BKK & present_BK[:, :, None] & present_BK[:, None, :]


class RankingOptions(NamedTuple):
    """What may be added to the loss; each is 0 for none.

    Attributes:
      margin: the scores of a comparison shall lie further apart the clearer the preference: by
        margin x degree (Touvron et al. 2023, eq. 2). The degree is the record's own, or how many
        ranks lie between the two.
      centring: weight of (r_better + r_worse)^2, which ties the scores to 0 (Eisenstein et al.
        2023, section 2.1).
      smoothing: the probability that a label is taken to be wrong (Wang et al. 2024, eq. 9; the
        conservative DPO of Mitchell 2023).
    """

    margin: float = 0.0
    centring: float = 0.0
    smoothing: float = 0.0


def mean_over_pairs(losses_BKK: jax.Array, pairs_BKK: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(numerator, denominator) of the mean over prompts of the mean loss of their pairs."""
    pairs_B = pairs_BKK.sum((1, 2)).astype(jnp.float32)
    sums_B = jnp.where(pairs_BKK, losses_BKK, 0.0).sum((1, 2))
    numerator = jnp.sum(sums_B / jnp.maximum(pairs_B, 1))
    return numerator, jnp.sum(pairs_B > 0).astype(jnp.float32)


def pairwise_ranking(
    scores_BK: jax.Array,
    ranks_BK: jax.Array,
    degrees_BK: jax.Array | None = None,
    options: RankingOptions = RankingOptions(),
) -> Loss:
    """-log sigmoid(r_better - r_worse), a prompt's comparisons weighing 1 together.

    All K(K-1)/2 comparisons of a prompt are one batch element: seen in one gradient they do not
    make the model overfit a completion that occurs in many of them (Ouyang et al. 2022, 3.5).
    Ties and empty slots (rank -1) are no comparison. With all options the loss of a comparison with
    d = r_better - r_worse is

        -(1 - smoothing) log sigmoid(d - margin degree) - smoothing log sigmoid(margin degree - d)
        + centring (r_better + r_worse)^2

    Args:
      scores_BK: float32 scores.
      ranks_BK: int32, 0 is best, -1 an empty slot.
      degrees_BK: float32, how good each is said to be: the degree of a preference is the
        difference. None: it is that of the ranks.
      options: see `RankingOptions`.

    Returns:
      numerator: sum over prompts of the mean loss of its comparisons.
      denominator: number of prompts that have a comparison.
      metrics: `accuracy` and `margin` per comparison, `mean_reward` per completion.
    """
    present_BK, pairs_BKK = ranks_BK >= 0, pairs_of(ranks_BK)
    margin_BKK = scores_BK[:, :, None] - scores_BK[:, None, :]
    degrees_BK = -ranks_BK if degrees_BK is None else degrees_BK
    degree_BKK = degrees_BK[:, :, None] - degrees_BK[:, None, :]
    beyond_BKK = margin_BKK - options.margin * degree_BKK
    nll_BKK = (1 - options.smoothing) * jax.nn.softplus(-beyond_BKK)
    nll_BKK += options.smoothing * jax.nn.softplus(beyond_BKK)
    nll_BKK += options.centring * (scores_BK[:, :, None] + scores_BK[:, None, :]) ** 2
    numerator, denominator = mean_over_pairs(nll_BKK, pairs_BKK)
    pairs = pairs_BKK.sum()
    # An exact tie in score is half right, as in any two-way choice.
    hits = (margin_BKK > 0) + 0.5 * (margin_BKK == 0)
    metrics = {
        "loss": (numerator, denominator),
        "accuracy": (jnp.sum(jnp.where(pairs_BKK, hits, 0.0)), pairs),
        "margin": (jnp.sum(jnp.where(pairs_BKK, margin_BKK, 0.0)), pairs),
        "mean_reward": (jnp.sum(jnp.where(present_BK, scores_BK, 0.0)), present_BK.sum()),
    }
    return numerator, denominator, metrics


def score_comparisons(model: Model, scorer: dict, batch: Comparisons) -> jax.Array:
    """Scores of every completion, float32 (B, K), in one forward pass over B*K rows."""
    b, k, t = batch.tokens_BKT.ids.shape
    tokens_MT, weights_MT = jax.tree.map(
        lambda x: jnp.reshape(x, (b * k, t)), (batch.tokens_BKT, batch.weights_BKT)
    )
    return score_completions(model, scorer, tokens_MT, weights_MT).reshape(b, k)


def ranking_loss(
    model: Model,
    learned: dict,
    batch: Comparisons,
    key: jax.Array | None = None,
    frozen: dict | None = None,
    *,
    options: RankingOptions = RankingOptions(),
) -> Loss:
    """`pairwise_ranking` of a scorer (`{"backbone", "head"}` parameters) on a batch."""
    del key, frozen  # no dropout in a reward model, and nothing beside it
    scores_BK = score_comparisons(model, learned, batch)
    return pairwise_ranking(scores_BK, batch.ranks_BK, batch.degrees_BK, options)
