"""KL divergence from the reference policy: estimators and the controller of its coefficient."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def estimators(logprobs_BC: jax.Array, reference_BC: jax.Array) -> dict[str, jax.Array]:
    """Per-token estimates of KL(policy || reference) from samples of the policy (Schulman 2020).

    With log r = log p_ref - log p:  k1 = -log r (unbiased), k2 = (log r)^2 / 2 (low variance),
    k3 = r - 1 - log r (unbiased and never negative).
    """
    log_ratio_BC = reference_BC - logprobs_BC
    return {
        "k1": -log_ratio_BC,
        "k2": 0.5 * log_ratio_BC**2,
        "k3": jnp.expm1(log_ratio_BC) - log_ratio_BC,
    }


def adapt(
    coef: jax.Array, kl: jax.Array, episodes: int, target: float, horizon: float
) -> jax.Array:
    """The adaptive coefficient of Ziegler et al. 2019, section 2.2.

        error = clip(kl / target - 1, -0.2, 0.2);  coef <- coef (1 + error episodes / horizon)

    `kl` is the mean over episodes of the KL summed over an episode, in nats.
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return coef * (1.0 + error * episodes / horizon)
