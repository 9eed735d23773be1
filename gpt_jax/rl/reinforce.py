"""REINFORCE++: PPO's clipped loss on whitened returns, with no value model (Hu 2025)."""

from __future__ import annotations

import dataclasses
import functools

import jax

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics
from gpt_jax.losses.policy import policy_loss
from gpt_jax.models.contract import Model
from gpt_jax.ranges import Fraction, NonNegativeFloat, PositiveFloat
from gpt_jax.rl.advantages import gae, whiten
from gpt_jax.rl.critic_free import Sampled, read_rollout, remember, sampled
from gpt_jax.rl.iteration import Algorithm, EndIds, RolloutConfig
from gpt_jax.rl.rewards import token_rewards
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class ReinforceConfig(RolloutConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    gamma: Fraction = 1.0
    """Discount per token."""
    clip: PositiveFloat = 0.2
    """Clip range of the policy ratio."""
    kl_coef: NonNegativeFloat = 0.05
    """The price of a nat of KL from the SFT model, paid at every token."""


def reinforce(config: ReinforceConfig, model: Model, ends: EndIds) -> Algorithm:
    """REINFORCE++ as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        functools.partial(reinforce_loss, config),
        remember,
    )


def prepare(
    config: ReinforceConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Sampled, Metrics]:
    """Turns a scored rollout into rows to learn from (Hu 2025, eq. 5 to 8):

    r_t = [t is the last] score - kl_coef (log p_t - log p_ref,t)
    A_t = sum_{s >= t} gamma^(s - t) r_s, whitened over all tokens of the batch
    """
    read, metrics = read_rollout(config, model, state, frozen, rollout, scores_B)
    mask_BC = rollout.mask_BC
    rewards_BC = token_rewards(scores_B, read.kl_BC, mask_BC, read.kl_coef)
    # With values of 0 and lambda = 1 the advantages are the discounted sums.
    returns_BC, _ = gae(rewards_BC, 0.0 * mask_BC, mask_BC, config.gamma, 1.0)
    return sampled(read, rollout, whiten(returns_BC, mask_BC)), metrics


def reinforce_loss(
    config: ReinforceConfig,
    model: Model,
    learned: dict,
    batch: tuple[Sampled, None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """PPO's loss of the policy, the mean over tokens."""
    del key, frozen
    rows, _ = batch
    logprobs_BC, _ = completion_logprobs(model, learned["policy"], rows.rollout, config.temperature)
    return policy_loss(
        logprobs_BC, rows.logprobs_BC, rows.advantages_BC, rows.rollout.mask_BC, config.clip
    )
