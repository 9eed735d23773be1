"""The pairwise ranking loss of the reward model (Ouyang et al. 2022, eq. 1)."""

from __future__ import annotations

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


def mean_over_pairs(losses_BKK: jax.Array, pairs_BKK: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(numerator, denominator) of the mean over prompts of the mean loss of their pairs."""
    pairs_B = pairs_BKK.sum((1, 2)).astype(jnp.float32)
    sums_B = jnp.where(pairs_BKK, losses_BKK, 0.0).sum((1, 2))
    numerator = jnp.sum(sums_B / jnp.maximum(pairs_B, 1))
    return numerator, jnp.sum(pairs_B > 0).astype(jnp.float32)


def pairwise_ranking(scores_BK: jax.Array, ranks_BK: jax.Array) -> Loss:
    """-log sigmoid(r_better - r_worse), a prompt's comparisons weighing 1 together.

    All K(K-1)/2 comparisons of a prompt are one batch element: seen in one gradient they do not
    make the model overfit a completion that occurs in many of them (Ouyang et al. 2022, 3.5).
    Ties and empty slots (rank -1) are no comparison.

    Args:
      scores_BK: float32 scores.
      ranks_BK: int32, 0 is best, -1 an empty slot.

    Returns:
      numerator: sum over prompts of the mean loss of its comparisons.
      denominator: number of prompts that have a comparison.
      metrics: `accuracy` and `margin` per comparison, `mean_reward` per completion.
    """
    present_BK, pairs_BKK = ranks_BK >= 0, pairs_of(ranks_BK)
    margin_BKK = scores_BK[:, :, None] - scores_BK[:, None, :]
    numerator, denominator = mean_over_pairs(jax.nn.softplus(-margin_BKK), pairs_BKK)
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
) -> Loss:
    """`pairwise_ranking` of a scorer (`{"backbone", "head"}` parameters) on a batch."""
    del key, frozen  # no dropout in a reward model, and nothing beside it
    return pairwise_ranking(score_comparisons(model, learned, batch), batch.ranks_BK)
