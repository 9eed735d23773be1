"""The clipped PPO losses (Schulman et al. 2017), per token and under a mask."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.losses.lm import Loss


def policy_loss(
    logprobs_BC: jax.Array,
    old_logprobs_BC: jax.Array,
    advantages_BC: jax.Array,
    mask_BC: jax.Array,
    clip: float,
) -> Loss:
    """max(-A r, -A clip(r, 1 - clip, 1 + clip)), r = exp(log p - log p_old) (eq. 7).

    Metrics: `policy/approxkl_avg` is 0.5 (log r)^2, `policy/clipfrac_avg` the share of tokens
    at which the clipped branch is the active one, `val/ratio` the mean ratio and `val/ratio_sq`
    its second moment (from which the variance is formed once, globally).
    """
    log_ratio_BC = (logprobs_BC - old_logprobs_BC) * mask_BC
    ratio_BC = jnp.exp(log_ratio_BC)
    plain_BC = -advantages_BC * ratio_BC
    clipped_BC = -advantages_BC * jnp.clip(ratio_BC, 1 - clip, 1 + clip)
    total = jnp.sum(mask_BC * jnp.maximum(plain_BC, clipped_BC))
    count = jnp.sum(mask_BC)
    metrics = {
        "loss/policy_avg": (total, count),
        "policy/approxkl_avg": (0.5 * jnp.sum(log_ratio_BC**2), count),
        "policy/clipfrac_avg": (jnp.sum(mask_BC * (clipped_BC > plain_BC)), count),
        "val/ratio": (jnp.sum(mask_BC * ratio_BC), count),
        "val/ratio_sq": (jnp.sum(mask_BC * ratio_BC**2), count),
    }
    return total, count, metrics


def value_loss(
    values_BC: jax.Array,
    old_values_BC: jax.Array,
    returns_BC: jax.Array,
    mask_BC: jax.Array,
    clip: float,
) -> Loss:
    """0.5 max((V - R)^2, (V_old + clip(V - V_old, -clip, clip) - R)^2)."""
    clipped_BC = old_values_BC + jnp.clip(values_BC - old_values_BC, -clip, clip)
    plain_sq_BC = (values_BC - returns_BC) ** 2
    clipped_sq_BC = (clipped_BC - returns_BC) ** 2
    total = 0.5 * jnp.sum(mask_BC * jnp.maximum(plain_sq_BC, clipped_sq_BC))
    count = jnp.sum(mask_BC)
    metrics = {
        "loss/value_avg": (total, count),
        "val/clipfrac_avg": (jnp.sum(mask_BC * (clipped_sq_BC > plain_sq_BC)), count),
    }
    return total, count, metrics
