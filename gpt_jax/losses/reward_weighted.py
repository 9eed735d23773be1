"""The reward-weighted language-model loss: likelier what scored well, as plain finetuning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.losses.lm import Loss


def score_weights(scores_B: jax.Array, kept_B: jax.Array, beta: float) -> jax.Array:
    """exp(z / beta) over its mean, float32 (B,): what a completion's likelihood is worth.

    z is the score in standard deviations from the mean of those that count. The distribution q(y) ~
    p(y) exp(r(y) / b) is the best one for E[r] - b KL(q || p); fitting it by maximum likelihood to
    samples of p weighs each by this, b being beta deviations (Peters & Schaal 2007, eq. 8;
    Peng et al. 2019, eq. 9). So one beta fits rewards of any scale. Dividing by the mean makes no
    weight larger than B, so that nothing need be clipped.

    Args:
      scores_B: float32 scores.
      kept_B: 1 where a row counts, else 0; it then weighs nothing.
      beta: a large one weighs all alike, a small one learns from the best alone.
    """
    scores_B, count = scores_B.astype(jnp.float32), jnp.maximum(jnp.sum(kept_B), 1)
    mean = jnp.sum(scores_B * kept_B) / count
    variance = jnp.sum(kept_B * (scores_B - mean) ** 2) / count
    z_B = (scores_B - mean) * jax.lax.rsqrt(variance + 1e-8)
    largest = jnp.max(jnp.where(kept_B > 0, z_B, -jnp.inf), initial=-1e30)
    raw_B = jnp.where(kept_B > 0, jnp.exp((z_B - largest) / beta), 0.0)
    return raw_B * count / jnp.maximum(jnp.sum(raw_B), 1e-30)


def reward_weighted_nll(logprobs_BC: jax.Array, weights_B: jax.Array, mask_BC: jax.Array) -> Loss:
    """-sum(w_b log p) over the number of tokens, all float32.

    Args:
      logprobs_BC: log-probability of every token of a completion.
      weights_B: of `score_weights`.
      mask_BC: 1 on tokens that count.

    Returns:
      The sum, the number of tokens, and the metrics `loss` and, without weights, `loss/nll_avg`.
    """
    nll_BC = -logprobs_BC * mask_BC
    total, count = jnp.sum(weights_B[:, None] * nll_BC), jnp.sum(mask_BC)
    return total, count, {"loss": (total, count), "loss/nll_avg": (jnp.sum(nll_BC), count)}
