"""Finetuning on the best of one's own samples: no ratio, no advantage, the language-model loss.

Of each group of completions the one with the best score is kept, and learned like a demonstration.
A `round_length` of all iterations is rejection-sampling finetuning (Touvron et al. 2023, 3.2.3), of
1 RAFT (Dong et al. 2023), and between them expert iteration (Anthony et al. 2017).
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from gpt_jax.data.batches import Batch
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics, lm_loss
from gpt_jax.models.contract import Model
from gpt_jax.ranges import Positive, Range
from gpt_jax.rl import critic_free, staleness
from gpt_jax.rl.critic_free import read_rollout
from gpt_jax.rl.groups import GroupConfig, best_of_groups, equal_groups
from gpt_jax.rl.iteration import Algorithm, EndIds
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class RejectionConfig(GroupConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    round_length: Positive = 1
    """Iterations of a round, in which the same policy samples; the next round's is the newest."""
    at_least: Annotated[float, Range()] | None = None
    """A group's best completion is left out if its score is less: 1 keeps what a verifier accepts,
    and nothing else."""

    def __post_init__(self):
        super().__post_init__()
        groups = self.episodes // self.group
        if groups % self.minibatches:
            raise UserError(
                f"{self.minibatches} minibatches do not divide {groups} kept completions, one of "
                "each group; change minibatches or episodes"
            )
        if self.staleness:
            raise UserError(
                "staleness is not for rejection sampling, whose policies sample for a whole "
                "round; give round_length"
            )


def rejection(config: RejectionConfig, model: Model, ends: EndIds) -> Algorithm:
    """Rejection sampling as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        rejection_loss,
        functools.partial(remember, config),
    )


def init_state(
    config: RejectionConfig,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    policy: dict,
    scorer: dict | None = None,
) -> TrainState:
    """The state before the first iteration; see `critic_free.init_state`."""
    state = critic_free.init_state(config, optimizer, seed, policy, scorer)
    if config.round_length == 1:
        return state
    extras = state.extras | {"iterations": jnp.zeros((), jnp.int32)}
    return staleness.remembering(dataclasses.replace(state, extras=extras), 1)


def prepare(
    config: RejectionConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Batch, Metrics]:
    """Turns a scored rollout into rows to learn from: the best completion of each group.

    Metrics: `objective/kept_scores` is their mean score, `val/kept_groups` their number.
    """
    read, metrics = read_rollout(config, model, state, frozen, rollout, scores_B)
    best_G = best_of_groups(scores_B, read.kept_B, config.group)
    scores_G, kept_G = scores_B[best_G], read.kept_B[best_G]
    if config.at_least is not None:
        kept_G *= scores_G >= config.at_least
    tokens_BT, mask_BT = jax.tree.map(lambda x: x[best_G], (rollout.tokens_BT, rollout.mask_BT))
    equal_G = equal_groups(scores_B, read.kept_B, config.group)
    metrics |= {
        "objective/kept_scores": (jnp.sum(scores_G * kept_G), kept_G.sum()),
        "val/kept_groups": (kept_G.sum(), 1.0),
        "val/zero_std_groups": (equal_G.sum(), 1.0),
    }
    return Batch(tokens_BT, mask_BT * kept_G[:, None]), metrics


def rejection_loss(
    model: Model,
    learned: dict,
    batch: tuple[Batch, None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """The loss of supervised finetuning, at temperature 1. Where nothing was kept it is 0."""
    rows, _ = batch
    total, count, _ = lm_loss(model, learned["policy"], rows, key, frozen)
    return total, jnp.maximum(count, 1.0), {"loss": (total, count)}


def remember(config: RejectionConfig, extras: dict, params: dict, metrics: Metrics) -> dict:
    """The policy that samples next: at the end of a round the newest."""
    del metrics
    if config.round_length == 1:
        return extras
    iterations = extras["iterations"] + 1
    ends = iterations % config.round_length == 0
    sampler = jax.tree.map(
        lambda new, old: jnp.where(ends, new, old), params["policy"], extras[staleness.OLDER]["0"]
    )
    return extras | {"iterations": iterations, staleness.OLDER: {"0": sampler}}
