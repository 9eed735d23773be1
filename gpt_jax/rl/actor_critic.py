"""PPO on a language model: a KL penalty per token, a value model, clipped losses.

The order and the defaults follow InstructGPT (Ouyang et al. 2022) and Ziegler et al. 2019.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax.data.batches import Batch
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.losses.lm import Loss, Metrics, lm_loss
from gpt_jax.losses.policy import policy_loss, value_loss
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import init_scorer, is_scorer
from gpt_jax.ranges import Fraction, NonNegativeFloat, Positive, PositiveFloat, Range
from gpt_jax.rl import kl
from gpt_jax.rl.advantages import gae, whiten
from gpt_jax.rl.iteration import Algorithm, EndIds, RolloutConfig
from gpt_jax.rl.measures import ratio_variance, rollout_metrics
from gpt_jax.rl.rewards import token_rewards
from gpt_jax.rl.rollout import completion_logprobs, completion_values
from gpt_jax.rl.staleness import behaviour, remembering
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True)
class PPOConfig(RolloutConfig):
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    kl_controller: Literal["fixed", "adaptive"] = "fixed"
    """A constant coefficient, or one that steers the KL to `kl_target`."""
    kl_coef: NonNegativeFloat = 0.05
    """The (initial) price of a nat of KL from the SFT model."""
    kl_target: PositiveFloat = 6.0
    """Nats per episode that the adaptive controller steers to."""
    kl_horizon: PositiveFloat = 10_000.0
    """Episodes over which the adaptive controller acts."""
    gamma: Fraction = 1.0
    """Discount per token."""
    lam: Fraction = 0.95
    """Lambda of generalised advantage estimation."""
    clip: PositiveFloat = 0.2
    """Clip range of the policy ratio."""
    value_clip: PositiveFloat = 0.2
    """Clip range of the value's change."""
    value_coef: NonNegativeFloat = 0.1
    """Weight of the value loss."""
    value_init: Literal["reward", "zero"] = "reward"
    """The value model starts as the reward model, or as the policy with a head of zeros."""
    ptx_coef: NonNegativeFloat = 0.0
    """Weight of the pretraining loss mixed in (PPO-ptx; InstructGPT took 27.8)."""
    ptx_rows: Positive = 16
    """Pretraining rows per iteration when `ptx_coef` is not 0."""
    ema_decay: Annotated[float, Range(0.0, 0.999999)] = 0.0
    """Decay per iteration of an average of the policy, which is then what is saved for use."""

    def __post_init__(self):
        super().__post_init__()
        if self.ptx_coef and self.ptx_rows % self.minibatches:
            raise UserError(
                f"{self.minibatches} minibatches do not divide {self.ptx_rows} ptx rows; change "
                "ppo.minibatches or ppo.ptx_rows"
            )


class ActorCritic(NamedTuple):
    """The shapes of the two models that learn; the value model has the reward model's shape where
    it starts as it."""

    policy: Model
    value: Model


class Experience(NamedTuple):
    """A rollout with all that the update needs; everything is fixed while the policy changes."""

    rollout: Rollout
    logprobs_BC: jax.Array
    values_BC: jax.Array
    advantages_BC: jax.Array
    returns_BC: jax.Array


def init_state(
    config: PPOConfig,
    model: ActorCritic,
    optimizer: optax.GradientTransformation,
    seed: int | jax.Array,
    policy: dict,
    value: dict,
) -> TrainState:
    """The state before the first iteration.

    Args:
      config, model, optimizer: as for `ppo`.
      seed: of everything random.
      policy: the finetuned model's parameters.
      value: a scorer, which is copied, or the backbone that a head of zeros is put on.
    """
    if not is_scorer(value):
        value = init_scorer(model.value, value, jax.random.key(0), zero=True)
    # A copy of each: the state is donated, and its origin is still needed.
    learned = jax.tree.map(lambda p: jnp.array(p, jnp.float32), {"policy": policy, "value": value})
    extras = {"kl_coef": jnp.asarray(config.kl_coef, jnp.float32)}
    if config.ema_decay:
        extras["average"] = jax.tree.map(lambda p: jnp.array(p, jnp.float32), policy)
    state = TrainState.create(learned, optimizer, seed, extras)
    return remembering(state, config.staleness)


def ppo(config: PPOConfig, model: ActorCritic, ends: EndIds) -> Algorithm:
    """PPO as an `Algorithm`, for a policy with a tokenizer that has these `ends`."""
    return Algorithm(
        config,
        model,
        ends,
        functools.partial(prepare, config, model),
        functools.partial(ppo_loss, config),
        functools.partial(remember, config),
    )


def prepare(
    config: PPOConfig,
    model: ActorCritic,
    state: TrainState,
    frozen: dict,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Experience, Metrics]:
    """Turns a scored rollout into experience: per-token rewards, advantages, returns."""
    mask_BC, kl_coef = rollout.mask_BC, state.extras["kl_coef"]
    logprobs_BC, entropy_BC = completion_logprobs(
        model.policy, behaviour(state), rollout, config.temperature
    )
    reference_BC, _ = completion_logprobs(
        model.policy, frozen["reference"], rollout, config.temperature
    )
    values_BC = completion_values(model.value, state.params["value"], rollout)

    estimates = kl.estimators(logprobs_BC, reference_BC)
    rewards_BC = token_rewards(scores_B, estimates["k1"], mask_BC, kl_coef)
    advantages_BC, returns_BC = gae(rewards_BC, values_BC, mask_BC, config.gamma, config.lam)
    experience = Experience(
        rollout, logprobs_BC, values_BC, whiten(advantages_BC, mask_BC), returns_BC
    )

    read = (logprobs_BC, entropy_BC)
    metrics = rollout_metrics(rollout, scores_B, read, estimates, kl_coef)
    return experience, metrics


def ppo_loss(
    config: PPOConfig,
    model: ActorCritic,
    learned: dict,
    batch: tuple[Experience, Batch | None],
    key: jax.Array | None = None,
    frozen: dict | None = None,
) -> Loss:
    """Policy loss + value_coef * value loss (+ ptx_coef * language-model loss) of a minibatch."""
    del key, frozen
    experience, ptx = batch
    rollout = experience.rollout
    logprobs_BC, _ = completion_logprobs(
        model.policy, learned["policy"], rollout, config.temperature
    )
    values_BC = completion_values(model.value, learned["value"], rollout)
    policy, count, metrics = policy_loss(
        logprobs_BC,
        experience.logprobs_BC,
        experience.advantages_BC,
        rollout.mask_BC,
        config.clip,
    )
    value, _, value_metrics = value_loss(
        values_BC, experience.values_BC, experience.returns_BC, rollout.mask_BC, config.value_clip
    )
    total = policy + config.value_coef * value
    metrics |= value_metrics
    if ptx is not None:
        nll, nll_count, _ = lm_loss(model.policy, learned["policy"], ptx)
        total += config.ptx_coef * count * nll / nll_count
        metrics["loss/ptx_avg"] = (nll, nll_count)
    return total, count, metrics


def remember(config: PPOConfig, extras: dict, params: dict, metrics: Metrics) -> dict:
    """The KL coefficient and the averaged policy after an iteration."""
    ratio_variance(metrics)
    extras = dict(extras)
    if config.kl_controller == "adaptive":
        kl_sum, episodes = metrics["objective/kl"]
        coef = extras["kl_coef"]
        adapted = kl.adapt(
            coef, kl_sum / episodes, config.episodes, config.kl_target, config.kl_horizon
        )
        extras["kl_coef"] = jnp.where(jnp.isfinite(adapted), adapted, coef)
    if config.ema_decay:
        extras["average"] = optax.incremental_update(
            params["policy"], extras["average"], 1.0 - config.ema_decay
        )
    return extras
