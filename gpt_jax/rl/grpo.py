"""GRPO: the scores of a prompt's completions are each other's baseline (Shao et al. 2024).

What Dr. GRPO, DAPO and GSPO do otherwise are choices of their own (`GRPOConfig`), and each paper is
a few of them: `dataclasses.replace(config, **DR_GRPO)`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics
from gpt_jax.losses.surrogate import Average, Surrogate, surrogate_loss
from gpt_jax.models.contract import Model
from gpt_jax.ranges import NonNegativeFloat, PositiveFloat, Range
from gpt_jax.rl import kl
from gpt_jax.rl.critic_free import Sampled, read_rollout, remember, sampled
from gpt_jax.rl.groups import GroupConfig, Scale, equal_groups, group_advantages
from gpt_jax.rl.iteration import Algorithm, EndIds
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class GRPOConfig(GroupConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    scale: Scale = "std"
    """What a score less its group's mean is divided by: the group's standard deviation, or none
    (Dr. GRPO)."""
    ratio: Literal["token", "geometric"] = "token"
    """The ratio of each token, or the geometric mean of a completion's (GSPO)."""
    average: Average = "sequences"
    """The loss is a mean over sequences, of which each is the mean of its tokens; over all tokens
    alike (DAPO); or over sequences whose sum is divided by `max_new_tokens`, whatever their length
    (limit; Dr. GRPO)."""
    clip: Annotated[float, Range(0.0, 1.0, open_low=True)] = 0.2
    """How far the ratio may fall below 1."""
    clip_high: PositiveFloat = 0.2
    """How far it may rise above 1 (DAPO: 0.28)."""
    kl_coef: NonNegativeFloat = 0.04
    """The price of a nat of KL from the SFT model."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where it is paid: at every token of the loss (k3), or by the score of the completion (k1)."""


DR_GRPO: dict[str, Any] = {"scale": "none", "average": "limit", "kl_coef": 0.0}
DAPO: dict[str, Any] = {"average": "tokens", "clip_high": 0.28, "kl_coef": 0.0}
GSPO: dict[str, Any] = {"ratio": "geometric", "clip": 3e-4, "clip_high": 4e-4, "kl_coef": 0.0}


def grpo(config: GRPOConfig, model: Model, ends: EndIds) -> Algorithm:
    """GRPO as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        functools.partial(grpo_loss, config),
        remember,
    )


def prepare(
    config: GRPOConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Sampled, Metrics]:
    """Turns a scored rollout into rows to learn from: one advantage for a whole completion.

    The metric `val/zero_std_groups` is the number of groups whose scores are all equal, which
    teach nothing.
    """
    read, metrics = read_rollout(config, model, state, frozen, rollout, scores_B)
    if config.kl_in == "reward":
        scores_B = scores_B - read.kl_coef * read.kl_BC.sum(axis=1)
    equal_G = equal_groups(scores_B, read.kept_B, config.group)
    advantages_B = group_advantages(scores_B, read.kept_B, config.group, config.scale)
    metrics["val/zero_std_groups"] = (equal_G.sum(), 1.0)
    return sampled(read, rollout, advantages_B[:, None]), metrics


def grpo_loss(
    config: GRPOConfig,
    model: Model,
    learned: dict,
    batch: tuple[Sampled, None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """The clipped surrogate and, if it is paid here, the price of the KL (Shao et al. 2024, eq. 3
    and 4)."""
    del key, frozen
    rows, _ = batch
    mask_BC = rows.rollout.mask_BC
    logprobs_BC, _ = completion_logprobs(model, learned["policy"], rows.rollout, config.temperature)
    how = Surrogate(
        config.ratio, config.average, (config.clip, config.clip_high), config.max_new_tokens
    )
    given = (logprobs_BC, rows.logprobs_BC, rows.advantages_BC, mask_BC)
    if config.kl_in == "reward":
        return surrogate_loss(how, *given)
    k3_BC = kl.estimators(logprobs_BC, rows.reference_BC)["k3"]
    total, count, metrics = surrogate_loss(how, *given, rows.kl_coef_B[:, None] * k3_BC)
    return total, count, metrics | {"loss/kl_avg": (jnp.sum(k3_BC * mask_BC), mask_BC.sum())}
