"""What is measured of every rollout and of every update, whatever the method."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Metrics


def rollout_metrics(
    rollout: Rollout,
    scores_B: jax.Array,
    read: tuple[jax.Array, jax.Array],
    estimates: dict[str, jax.Array],
    kl_coef: jax.Array,
) -> Metrics:
    """The `objective/...` and `kl/...` metrics; rows without a token count for nothing.

    Args:
      rollout: whose scores are final.
      scores_B: 0 where a row does not count.
      read: (logprobs_BC, entropy_BC) of the policy that sampled.
      estimates: `kl.estimators` of its divergence from the reference, (B, C) each.
      kl_coef: the price of a nat of it.
    """
    logprobs_BC, entropy_BC = read
    mask_BC = rollout.mask_BC
    kept_B = mask_BC.max(axis=1)
    episodes, tokens = kept_B.sum(), mask_BC.sum()
    kl_sum = jnp.sum(estimates["k1"] * mask_BC)
    return {
        "objective/kl": (kl_sum, episodes),
        "objective/kl_coef": (kl_coef, 1.0),
        "objective/entropy": (-logprobs_BC.sum(), episodes),
        "objective/non_score_reward": (-kl_coef * kl_sum, episodes),
        "objective/rlhf_reward": (scores_B.sum() - kl_coef * kl_sum, episodes),
        "objective/scores": (scores_B.sum(), episodes),
        "objective/length": (tokens, episodes),
        "policy/entropy_avg": (entropy_BC.sum(), tokens),
        "val/num_eos_tokens": ((rollout.stopped_B * kept_B).sum(), 1.0),
        # Cached decoding against the full forward; large values mean a mismatched sampler.
        "val/sampler_logprob_gap": (
            jnp.sum(jnp.abs(logprobs_BC - rollout.logprobs_BC) * mask_BC),
            tokens,
        ),
    } | {f"kl/{name}": (jnp.sum(x * mask_BC), tokens) for name, x in estimates.items()}


def ratio_variance(metrics: Metrics) -> None:
    """Turns the second moment of the ratio, summed over all minibatches, into its variance."""
    ratio_sq, count = metrics.pop("val/ratio_sq")
    ratio_sum, _ = metrics["val/ratio"]
    metrics["val/ratio_var"] = (ratio_sq - ratio_sum**2 / count, count)
