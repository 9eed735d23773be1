"""The clipped surrogate of methods without a value model, with the choices in which they differ.

                     ratio       average     clip
GRPO                 token       sequences   0.2, 0.2     Shao et al. 2024, eq. 3
Dr. GRPO             token       limit       0.2, 0.2     Liu et al. 2025, section 3.2
DAPO                 token       tokens      0.2, 0.28    Yu et al. 2025, eq. 8
GSPO                 geometric   sequences   3e-4, 4e-4   Zheng et al. 2025, eq. 5 to 7
RLOO                 sequence    sequences   0.2, 0.2     Ahmadian et al. 2024, section 3.2
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.losses.lm import Loss

Ratio = Literal["token", "sequence", "geometric"]
Average = Literal["tokens", "sequences", "limit"]


class Surrogate(NamedTuple):
    """Which of the surrogates.

    Attributes:
      ratio: of what the new probability is divided by the old one: of each "token"; of the whole
        completion, which is their product ("sequence"); or the geometric mean of the ratios of a
        completion's tokens ("geometric").
      average: over what the loss is a mean: all "tokens" alike; "sequences", each of which is the
        mean of its tokens, so that those of a long one count for less; or "sequences" of which
        each is the sum of its tokens over the same number, the `limit`.
      clip: how far the ratio may fall below 1, and rise above it, and still be learned from.
      limit: the most tokens of a completion.
    """

    ratio: Ratio
    average: Average
    clip: tuple[float, float]
    limit: int


def surrogate_loss(
    how: Surrogate,
    logprobs_BC: jax.Array,
    old_logprobs_BC: jax.Array,
    advantages_BC: jax.Array,
    mask_BC: jax.Array,
    penalties_BC: jax.Array | float = 0.0,
) -> Loss:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) + penalty, averaged as `how` says.

    With the ratio of each token and the mean over tokens it is `policy_loss`, which is PPO's.

    Args:
      how: the choices.
      logprobs_BC: of the policy that learns, 0 off the mask.
      old_logprobs_BC: of the policy that sampled.
      advantages_BC: of every token; one ratio for a whole completion needs one advantage for it,
        and so all columns alike.
      mask_BC: 1 on sampled tokens. A row without any counts for nothing.
      penalties_BC: added to the loss of every token, as GRPO's KL is.

    Returns:
      The sum and the count of the loss, and `policy_loss`'s metrics; `policy/clipfrac_avg` and
      the ratio's are means over ratios, be they of tokens or of completions.
    """
    lengths_B1 = jnp.sum(mask_BC, axis=1, keepdims=True)
    kept_B1 = (lengths_B1 > 0).astype(jnp.float32)
    log_ratio_BC = (logprobs_BC - old_logprobs_BC) * mask_BC
    units_BC = mask_BC  # of what a ratio is taken: (B, C), or (B, 1)
    if how.ratio != "token":
        log_ratio_BC = jnp.sum(log_ratio_BC, axis=1, keepdims=True)
        units_BC = kept_B1
    if how.ratio == "geometric":
        log_ratio_BC = log_ratio_BC / jnp.maximum(lengths_B1, 1.0)
    ratio_BC = jnp.exp(log_ratio_BC)
    low, high = how.clip
    plain_BC = -advantages_BC * ratio_BC
    clipped_BC = -advantages_BC * jnp.clip(ratio_BC, 1 - low, 1 + high)
    losses_BC = (jnp.maximum(plain_BC, clipped_BC) + penalties_BC) * mask_BC

    if how.average == "tokens":
        total, count = jnp.sum(losses_BC), jnp.sum(mask_BC)
    else:
        by_B1 = how.limit if how.average == "limit" else jnp.maximum(lengths_B1, 1.0)
        total, count = jnp.sum(losses_BC / by_B1), jnp.sum(kept_B1)

    # Where all columns are one ratio, they are clipped alike: the first, which a kept row has.
    is_clipped_BC = (clipped_BC > plain_BC)[:, : units_BC.shape[1]]
    units = jnp.sum(units_BC)
    metrics = {
        "loss/policy_avg": (total, count),
        "policy/approxkl_avg": (0.5 * jnp.sum(units_BC * log_ratio_BC**2), units),
        "policy/clipfrac_avg": (jnp.sum(units_BC * is_clipped_BC), units),
        "val/ratio": (jnp.sum(units_BC * ratio_BC), units),
        "val/ratio_sq": (jnp.sum(units_BC * ratio_BC**2), units),
    }
    return total, count, metrics
