"""What is read off a rollout by models: log-probabilities, entropies and values of its tokens."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.contract import Model, forward
from gpt_jax.models.heads import scalar_head, token_logprobs


def hidden_before_completion(model: Model, params: dict, rollout: Rollout) -> jax.Array:
    """Hidden states (B, C, D) from which each completion token, in turn, is predicted."""
    hidden_BTD, _ = forward(model, params, rollout.tokens_BT)
    c = rollout.completion_BC.ids.shape[1]
    return hidden_BTD[:, -c - 1 : -1]


def completion_logprobs(
    model: Model, params: dict, rollout: Rollout, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of every sampled token, float32 (B, C), 0 off the mask.

    The one function that rollout statistics, reference and update all use, so that in the first
    minibatch of the first epoch the ratio is 1. (In float32 to the last digit. A bfloat16 model
    gives another rounding to a minibatch than to the whole rollout, and its ratio is 0.9999.)
    """
    hidden_BCD = hidden_before_completion(model, params, rollout)
    logprobs_BC, entropy_BC = token_logprobs(
        model, params, hidden_BCD, rollout.completion_BC.ids, temperature
    )
    return logprobs_BC * rollout.mask_BC, entropy_BC * rollout.mask_BC


def completion_values(model: Model, value: dict, rollout: Rollout) -> jax.Array:
    """V(state before each sampled token), float32 (B, C), 0 off the mask."""
    hidden_BCD = hidden_before_completion(model, value["backbone"], rollout)
    return scalar_head(value["head"], hidden_BCD) * rollout.mask_BC


def drop_rows(rollout: Rollout, kept_B: jax.Array) -> Rollout:
    """The rollout with the completions of some rows as padding, which counts for nothing."""
    completion_BC = rollout.completion_BC
    segment_ids_BC = completion_BC.segment_ids * kept_B[:, None].astype(jnp.int32)
    return rollout._replace(completion_BC=completion_BC._replace(segment_ids=segment_ids_BC))
