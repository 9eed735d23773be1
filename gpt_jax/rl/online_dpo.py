"""Online DPO: of two completions the better one by the reward is the chosen one (Guo et al. 2024).

The loss is DPO's (Rafailov et al. 2023, eq. 7), on pairs that the policy has just sampled.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, NamedTuple

import jax
import jax.numpy as jnp

from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics
from gpt_jax.losses.preference import differences, dpo
from gpt_jax.models.contract import Model
from gpt_jax.ranges import PositiveFloat, Range
from gpt_jax.rl.critic_free import read_rollout
from gpt_jax.rl.groups import GroupConfig, best_of_groups, equal_groups, worst_of_groups
from gpt_jax.rl.iteration import Algorithm, EndIds
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class OnlineDPOConfig(GroupConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    group: Annotated[int, Range(2, 2**31 - 1)] = 2
    """Completions of each prompt, of which the best and the worst are a pair; must divide the
    episodes."""
    beta: PositiveFloat = 0.1
    """How much a nat of log-ratio to the SFT model counts."""

    def __post_init__(self):
        super().__post_init__()
        pairs = self.episodes // self.group
        if pairs % self.minibatches:
            raise UserError(
                f"{self.minibatches} minibatches do not divide {pairs} pairs; change minibatches "
                "or episodes"
            )


class Pairs(NamedTuple):
    """Chosen and rejected completions, one pair a row.

    Attributes:
      chosen, rejected: rollouts of one row for each pair.
      reference_chosen_B, reference_rejected_B: their log-probabilities under the reference.
      weights_B: 1, or 0 where neither is better.
    """

    chosen: Rollout
    rejected: Rollout
    reference_chosen_B: jax.Array
    reference_rejected_B: jax.Array
    weights_B: jax.Array


def online_dpo(config: OnlineDPOConfig, model: Model, ends: EndIds) -> Algorithm:
    """Online DPO as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        functools.partial(online_dpo_loss, config),
    )


def prepare(
    config: OnlineDPOConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Pairs, Metrics]:
    """Turns a scored rollout into pairs; those of equal scores, `val/zero_std_groups`, teach
    nothing."""
    read, metrics = read_rollout(config, model, state, frozen, rollout, scores_B)
    best_G = best_of_groups(scores_B, read.kept_B, config.group)
    worst_G = worst_of_groups(scores_B, read.kept_B, config.group)
    equal_G = equal_groups(scores_B, read.kept_B, config.group)
    reference_B = read.reference_BC.sum(axis=1)
    metrics["val/zero_std_groups"] = (equal_G.sum(), 1.0)
    pairs = Pairs(
        *(jax.tree.map(lambda x, at=at: x[at], rollout) for at in (best_G, worst_G)),
        reference_B[best_G],
        reference_B[worst_G],
        1.0 - equal_G,
    )
    return pairs, metrics


def online_dpo_loss(
    config: OnlineDPOConfig,
    model: Model,
    learned: dict,
    batch: tuple[Pairs, None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """DPO's loss, the mean over pairs with a better completion; where there is none it is 0."""
    del key, frozen
    pairs, _ = batch
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), pairs.chosen, pairs.rejected)
    logprobs_BC, _ = completion_logprobs(model, learned["policy"], both, config.temperature)
    chosen_B, rejected_B = jnp.split(logprobs_BC.sum(axis=1), 2)
    chosen_B -= pairs.reference_chosen_B
    rejected_B -= pairs.reference_rejected_B
    compared = dpo(jnp.stack([chosen_B, rejected_B], axis=1), beta=config.beta)
    losses_B, margins_B = compared.losses_BKK[:, 0, 1], differences(compared.rewards_BK)[:, 0, 1]
    total, count = jnp.sum(pairs.weights_B * losses_B), jnp.sum(pairs.weights_B)
    metrics = {
        "loss": (total, count),
        "accuracy": (jnp.sum(pairs.weights_B * (margins_B > 0)), count),
        "margin": (jnp.sum(pairs.weights_B * margins_B), count),
    }
    return total, jnp.maximum(count, 1.0), metrics
