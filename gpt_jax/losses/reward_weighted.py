"""The reward-weighted language-model loss: likelier what scored well, as plain finetuning."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.losses.lm import Loss


def score_weights(scores_B: jax.Array, kept_B: jax.Array, beta: float) -> jax.Array:
    """exp(score / beta) over its mean, float32 (B,): what a completion's likelihood is worth.

    The distribution q(y) ~ p(y) exp(r(y) / beta) is the best one for E[r] - beta KL(q || p);
    fitting it by maximum likelihood to samples of p weighs each by this (Peters & Schaal 2007, eq.
    8; Peng et al. 2019, eq. 9). Dividing by the mean makes the weights blind to a constant in the
    scores, and none larger than B, so that nothing need be clipped.

    Args:
      scores_B: float32 scores.
      kept_B: 1 where a row counts, else 0; it then weighs nothing.
      beta: how far two scores lie apart whose weights differ by e. A large one weighs all alike, a
        small one learns from the best alone.
    """
    logits_B = jnp.where(kept_B > 0, scores_B.astype(jnp.float32) / beta, -jnp.inf)
    # Without any row left the largest is -inf, and -inf less itself no number.
    largest = jnp.where(jnp.any(kept_B > 0), jnp.max(logits_B), 0.0)
    raw_B = jnp.exp(logits_B - largest)
    return raw_B * jnp.sum(kept_B) / jnp.maximum(jnp.sum(raw_B), 1e-30)


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
