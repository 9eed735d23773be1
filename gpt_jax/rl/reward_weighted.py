"""Learning from one's own samples by finetuning on them, each weighed by its score.

The simplest thing that a score can be used for (the reward-weighted language modelling of Karpathy
2023, "State of GPT"): no value model, no ratio, no KL penalty; how far it goes from where it began
is measured, not paid for.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics
from gpt_jax.losses.reward_weighted import reward_weighted_nll, score_weights
from gpt_jax.models.contract import Model
from gpt_jax.ranges import Positive, PositiveFloat
from gpt_jax.rl import kl
from gpt_jax.rl.iteration import Algorithm, EndIds, RolloutConfig
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class RewardWeightedConfig(RolloutConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    epochs: Positive = 1
    """Passes over the episodes of an iteration: what is sampled is soon no sample of the policy."""
    beta: PositiveFloat = 1.0
    """How many standard deviations two scores lie apart where the weights of their completions
    differ by a factor of e."""


class Samples(NamedTuple):
    """A rollout, and what the likelihood of each of its completions is worth."""

    rollout: Rollout
    weights_B: jax.Array


def init_state(
    optimizer: optax.GradientTransformation, seed: int | jax.Array, policy: dict, unused: dict
) -> TrainState:
    """The state before the first iteration; there is no value model to start as anything."""
    del unused
    # A copy: the state is donated, and its origin is still needed.
    learned = jax.tree.map(lambda p: jnp.array(p, jnp.float32), {"policy": policy})
    return TrainState.create(learned, optimizer, seed)


def reward_weighted(config: RewardWeightedConfig, model: Model, ends: EndIds) -> Algorithm:
    """The method as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        functools.partial(loss, config),
    )


def prepare(
    config: RewardWeightedConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Samples, Metrics]:
    """Turns scores into weights, and measures the policy."""
    mask_BC = rollout.mask_BC
    policy, reference = (
        completion_logprobs(model, params, rollout, config.temperature)
        for params in (state.params["policy"], frozen["reference"])
    )
    (logprobs_BC, entropy_BC), (reference_BC, _) = policy, reference
    kept_B = mask_BC.max(axis=1)
    weights_B = score_weights(scores_B, kept_B, config.beta)
    episodes, tokens = kept_B.sum(), mask_BC.sum()
    k1_BC = kl.estimators(logprobs_BC, reference_BC)["k1"]
    metrics = {
        "objective/kl": (jnp.sum(k1_BC * mask_BC), episodes),
        "objective/entropy": (-logprobs_BC.sum(), episodes),
        "objective/scores": (scores_B.sum(), episodes),
        "objective/length": (tokens, episodes),
        # How many equally weighed completions would tell as much (Kish 1965).
        "objective/effective_episodes": (
            weights_B.sum() ** 2,
            jnp.maximum(jnp.sum(weights_B**2), 1e-30),
        ),
        "policy/entropy_avg": (entropy_BC.sum(), tokens),
        "val/num_eos_tokens": ((rollout.stopped_B * kept_B).sum(), 1.0),
    }
    return Samples(rollout, weights_B), metrics


def loss(
    config: RewardWeightedConfig,
    model: Model,
    learned: dict,
    batch: tuple[Samples, None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """`reward_weighted_nll` of a minibatch."""
    del key, frozen
    (rollout, weights_B), _ = batch
    logprobs_BC, _ = completion_logprobs(model, learned["policy"], rollout, config.temperature)
    return reward_weighted_nll(logprobs_BC, weights_B, rollout.mask_BC)
