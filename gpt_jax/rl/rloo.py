"""RLOO: REINFORCE whose baseline is the mean of the other completions (Ahmadian et al. 2024)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Literal

import jax

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics
from gpt_jax.losses.surrogate import Surrogate, surrogate_loss
from gpt_jax.models.contract import Model
from gpt_jax.ranges import NonNegativeFloat, PositiveFloat, Range
from gpt_jax.rl.critic_free import Sampled, read_rollout, remember, sampled
from gpt_jax.rl.groups import GroupConfig, equal_groups, leave_one_out
from gpt_jax.rl.iteration import Algorithm, EndIds
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class RLOOConfig(GroupConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    group: Annotated[int, Range(2, 2**31 - 1)] = 4
    """Completions of each prompt; must divide the episodes."""
    level: Literal["sequence", "token"] = "sequence"
    """What an action is: the whole completion, with one ratio, as in the paper; or each token."""
    clip: PositiveFloat = 0.2
    """Clip range of the ratio, which matters where a rollout is learned from more than once."""
    kl_coef: NonNegativeFloat = 0.05
    """The price of a nat of KL from the SFT model; a completion's is taken off its score."""


def rloo(config: RLOOConfig, model: Model, ends: EndIds) -> Algorithm:
    """RLOO as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        functools.partial(rloo_loss, config),
        remember,
    )


def prepare(
    config: RLOOConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Sampled, Metrics]:
    """Turns a scored rollout into rows to learn from: R - the mean R of the others, where

    R = score - kl_coef * sum_t (log p - log p_ref)        (Ahmadian et al. 2024, eq. 1 and 8)
    """
    read, metrics = read_rollout(config, model, state, frozen, rollout, scores_B)
    returns_B = scores_B - read.kl_coef * read.kl_BC.sum(axis=1)
    equal_G = equal_groups(returns_B, read.kept_B, config.group)
    advantages_B = leave_one_out(returns_B, read.kept_B, config.group)
    metrics["val/zero_std_groups"] = (equal_G.sum(), 1.0)
    return sampled(read, rollout, advantages_B[:, None]), metrics


def rloo_loss(
    config: RLOOConfig,
    model: Model,
    learned: dict,
    batch: tuple[Sampled, None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """-A p(completion) / p_old(completion), clipped, the mean over completions; or the same of
    every token, the mean over tokens."""
    del key, frozen
    rows, _ = batch
    logprobs_BC, _ = completion_logprobs(model, learned["policy"], rows.rollout, config.temperature)
    average = "sequences" if config.level == "sequence" else "tokens"
    clip = (config.clip, config.clip)
    how = Surrogate(config.level, average, clip, config.max_new_tokens)
    return surrogate_loss(
        how, logprobs_BC, rows.logprobs_BC, rows.advantages_BC, rows.rollout.mask_BC
    )
