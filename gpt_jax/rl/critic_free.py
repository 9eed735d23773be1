"""What methods without a value model have in common: GRPO, RLOO, REINFORCE++ and the like."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Metrics
from gpt_jax.models.contract import Model
from gpt_jax.rl import kl
from gpt_jax.rl.iteration import RolloutConfig
from gpt_jax.rl.measures import ratio_variance, rollout_metrics
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.rl.staleness import behaviour, remembering
from gpt_jax.train.state import TrainState


class Sampled(NamedTuple):
    """A rollout with all that the update needs; everything is fixed while the policy changes.

    Attributes:
      rollout: what was sampled.
      logprobs_BC: of its tokens, by the policy that sampled.
      reference_BC: by the reference.
      advantages_BC: of every token; 0 off the mask.
      kl_coef_B: the price of a nat of KL in the loss, the same in every row.
    """

    rollout: Rollout
    logprobs_BC: jax.Array
    reference_BC: jax.Array
    advantages_BC: jax.Array
    kl_coef_B: jax.Array


class Read(NamedTuple):
    """What policy and reference say of a rollout.

    Attributes:
      logprobs_BC, reference_BC: of its tokens, float32, 0 off the mask.
      kl_BC: their difference, which estimates the KL (k1).
      kl_coef: the price of a nat of it, scalar.
      kept_B: 1 for rows with a token.
    """

    logprobs_BC: jax.Array
    reference_BC: jax.Array
    kl_BC: jax.Array
    kl_coef: jax.Array
    kept_B: jax.Array


def init_state(
    config: RolloutConfig,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    policy: dict,
    scorer: dict | None = None,
) -> TrainState:
    """The state before the first iteration.

    Args:
      config: of the method; its `kl_coef`, if it has one, is kept in the state.
      optimizer: of the policy.
      seed: of everything random.
      policy: the finetuned model's parameters.
      scorer: not used; what a value model would start from.
    """
    del scorer
    # A copy of each: the state is donated, and its origin is still needed.
    learned = {"policy": jax.tree.map(lambda p: jnp.array(p, jnp.float32), policy)}
    extras = {"kl_coef": jnp.asarray(getattr(config, "kl_coef", 0.0), jnp.float32)}
    return remembering(TrainState.create(learned, optimizer, seed, extras), config.staleness)


def read_rollout(
    config: RolloutConfig,
    model: Model,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Read, Metrics]:
    """What every `prepare` begins with: log-probabilities, and the metrics of the rollout."""
    logprobs_BC, entropy_BC = completion_logprobs(
        model, behaviour(state), rollout, config.temperature
    )
    reference_BC, _ = completion_logprobs(model, frozen["reference"], rollout, config.temperature)
    estimates, kl_coef = kl.estimators(logprobs_BC, reference_BC), state.extras["kl_coef"]
    metrics = rollout_metrics(rollout, scores_B, (logprobs_BC, entropy_BC), estimates, kl_coef)
    kept_B = rollout.mask_BC.max(axis=1)
    return Read(logprobs_BC, reference_BC, estimates["k1"], kl_coef, kept_B), metrics


def sampled(read: Read, rollout: Rollout, advantages_BC: jax.Array) -> Sampled:
    """The rows to learn from.

    Args:
      read: of the rollout.
      rollout: with its rows that do not count as padding.
      advantages_BC: (B, C), or (B, 1): the same for all tokens of a completion.
    """
    return Sampled(
        rollout,
        read.logprobs_BC,
        read.reference_BC,
        advantages_BC * rollout.mask_BC,
        jnp.broadcast_to(read.kl_coef, read.kept_B.shape),
    )


def remember(extras: dict, params: dict, metrics: Metrics) -> dict:
    """What the state carries on; also forms `ratio_variance`."""
    del params
    ratio_variance(metrics)
    return extras
