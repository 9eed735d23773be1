"""One iteration of PPO on a language model: sample, score, estimate advantages, update.

The order and the defaults follow InstructGPT (Ouyang et al. 2022) and Ziegler et al. 2019. With a
model as reward the iteration is one compiled program; a reward on the host splits it in two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from gpt_jax import keys
from gpt_jax.data.batches import Batch, Prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout, generate
from gpt_jax.losses.lm import Loss, Metrics, lm_loss
from gpt_jax.losses.ppo import policy_loss, value_loss
from gpt_jax.models.config import ModelConfig
from gpt_jax.models.heads import init_scorer, scalar_head, token_logprobs
from gpt_jax.models.transformer import forward
from gpt_jax.parallel import distributed
from gpt_jax.rl import kl
from gpt_jax.rl.advantages import gae, whiten
from gpt_jax.rl.rewards import Reward, token_rewards
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.finite import update_if_finite
from gpt_jax.train.state import TrainState, stored


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """The algorithm; the optimizer and the number of iterations are set beside it."""

    episodes: int = 64
    """Completions sampled per iteration, over all devices."""
    epochs: int = 4
    """Passes over the episodes of an iteration."""
    minibatches: int = 4
    """Updates per pass; must divide the episodes."""
    max_new_tokens: int = 40
    """Longest completion, in tokens."""
    temperature: float = 1.0
    """Divides the logits in rollout, reference and update alike; there is no top-k or top-p."""
    kl_controller: Literal["fixed", "adaptive"] = "fixed"
    """A constant coefficient, or one that steers the KL to `kl_target`."""
    kl_coef: float = 0.05
    """The (initial) price of a nat of KL from the SFT model."""
    kl_target: float = 6.0
    """Nats per episode that the adaptive controller steers to."""
    kl_horizon: float = 10_000.0
    """Episodes over which the adaptive controller acts."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """Lambda of generalised advantage estimation."""
    clip: float = 0.2
    """Clip range of the policy ratio."""
    value_clip: float = 0.2
    """Clip range of the value's change."""
    value_coef: float = 0.1
    """Weight of the value loss."""
    value_init: Literal["reward", "zero"] = "reward"
    """The value model starts as the reward model, or as the policy with a head of zeros."""
    missing_stop_score: float | None = -1.0
    """Score of a completion with no stop token; None leaves it to the reward."""
    ptx_coef: float = 0.0
    """Weight of the pretraining loss mixed in (PPO-ptx; InstructGPT took 27.8)."""
    ptx_rows: int = 16
    """Pretraining rows per iteration when `ptx_coef` is not 0."""
    ema_decay: float = 0.0
    """Decay per iteration of an average of the policy, which is then what is saved for use."""

    def __post_init__(self):
        if self.episodes % self.minibatches or (self.ptx_coef and self.ptx_rows % self.minibatches):
            raise UserError(
                f"{self.minibatches} minibatches do not divide {self.episodes} episodes and "
                f"{self.ptx_rows} ptx rows; change ppo.minibatches"
            )


class PPOInputs(NamedTuple):
    """What an iteration takes: prompts, and pretraining rows when ptx is on (else None)."""

    prompts: Prompts
    ptx: Batch | None


class Experience(NamedTuple):
    """A rollout with all that the update needs; everything is fixed while the policy changes."""

    rollout: Rollout
    logprobs_BC: jax.Array
    values_BC: jax.Array
    advantages_BC: jax.Array
    returns_BC: jax.Array


def init_ppo_params(
    config: PPOConfig, model: ModelConfig, policy: dict, scorer: dict | None, key: jax.Array
) -> dict:
    """`{"policy", "value"}`, and `"ema"` if it is averaged. The value model shares nothing."""
    from_reward = config.value_init == "reward" and scorer is not None
    value = scorer if from_reward else init_scorer(model, policy, key, zero=True)
    params = {"policy": policy, "value": value}
    return params | ({"ema": policy} if config.ema_decay else {})


def init_ppo_state(
    config: PPOConfig,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    policy: dict,
    scorer: dict | None,
    key: jax.Array,
) -> TrainState:
    """The state before the first iteration; moments only for what gradients change."""
    params = init_ppo_params(config, model, policy, scorer, key)
    params = jax.tree.map(lambda p: jnp.array(p, jnp.float32), params)
    opt_state = optimizer.init(_learned(params))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=stored(params, opt_state),
        opt_state=opt_state,
        extras={"kl_coef": jnp.asarray(config.kl_coef, jnp.float32)},
    )


def _learned(params: dict) -> dict:
    return {name: params[name] for name in ("policy", "value")}


def _hidden_before_completion(model: ModelConfig, params: dict, rollout: Rollout) -> jax.Array:
    """Hidden states (B, C, D) from which each completion token, in turn, is predicted."""
    hidden_BTD, _ = forward(
        model, params, rollout.tokens_BT, rollout.positions_BT, rollout.segment_ids_BT
    )
    c = rollout.mask_BC.shape[1]
    return hidden_BTD[:, -c - 1 : -1]


def completion_logprobs(
    model: ModelConfig, params: dict, rollout: Rollout, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Log-probability and entropy of every sampled token, float32 (B, C), 0 off the mask.

    The one function that rollout statistics, reference and update all use, so that in the first
    minibatch of the first epoch the ratio is exactly 1.
    """
    hidden_BCD = _hidden_before_completion(model, params, rollout)
    targets_BC = rollout.tokens_BT[:, -rollout.mask_BC.shape[1] :]
    logprobs_BC, entropy_BC = token_logprobs(model, params, hidden_BCD, targets_BC, temperature)
    return logprobs_BC * rollout.mask_BC, entropy_BC * rollout.mask_BC


def completion_values(model: ModelConfig, value: dict, rollout: Rollout) -> jax.Array:
    """V(state before each sampled token), float32 (B, C), 0 off the mask."""
    hidden_BCD = _hidden_before_completion(model, value["backbone"], rollout)
    return scalar_head(value["head"], hidden_BCD) * rollout.mask_BC


def prepare(
    config: PPOConfig,
    model: ModelConfig,
    params: dict,
    reference: dict,
    kl_coef: jax.Array,
    rollout: Rollout,
    scores_B: jax.Array,
) -> tuple[Experience, Metrics]:
    """Turns a scored rollout into experience: per-token rewards, advantages, returns."""
    mask_BC = rollout.mask_BC
    logprobs_BC, entropy_BC = completion_logprobs(
        model, params["policy"], rollout, config.temperature
    )
    reference_BC, _ = completion_logprobs(model, reference, rollout, config.temperature)
    values_BC = completion_values(model, params["value"], rollout)
    if config.missing_stop_score is not None:
        scores_B = jnp.where(rollout.stopped_B, scores_B, config.missing_stop_score)

    estimates = kl.estimators(logprobs_BC, reference_BC)
    rewards_BC = token_rewards(scores_B, estimates["k1"], mask_BC, kl_coef)
    advantages_BC, returns_BC = gae(rewards_BC, values_BC, mask_BC, config.gamma, config.lam)
    experience = Experience(
        rollout, logprobs_BC, values_BC, whiten(advantages_BC, mask_BC), returns_BC
    )

    episodes = jnp.asarray(mask_BC.shape[0], jnp.float32)
    tokens = mask_BC.sum()
    kl_sum = jnp.sum(estimates["k1"] * mask_BC)
    metrics = {
        "objective/kl": (kl_sum, episodes),
        "objective/kl_coef": (kl_coef, 1.0),
        "objective/entropy": (-logprobs_BC.sum(), episodes),
        "objective/non_score_reward": (-kl_coef * kl_sum, episodes),
        "objective/rlhf_reward": (rewards_BC.sum(), episodes),
        "objective/scores": (scores_B.sum(), episodes),
        "objective/length": (tokens, episodes),
        "policy/entropy_avg": (entropy_BC.sum(), tokens),
        "val/num_eos_tokens": (rollout.stopped_B.sum(), 1.0),
        # Cached decoding against the full forward; large values mean a mismatched sampler.
        "val/sampler_logprob_gap": (
            jnp.sum(jnp.abs(logprobs_BC - rollout.logprobs_BC) * mask_BC),
            tokens,
        ),
    } | {f"kl/{name}": (jnp.sum(x * mask_BC), tokens) for name, x in estimates.items()}
    return experience, metrics


def ppo_loss(
    config: PPOConfig, model: ModelConfig, params: dict, experience: Experience, ptx: Batch | None
) -> Loss:
    """Policy loss + value_coef * value loss (+ ptx_coef * language-model loss) of a minibatch."""
    rollout = experience.rollout
    logprobs_BC, _ = completion_logprobs(model, params["policy"], rollout, config.temperature)
    values_BC = completion_values(model, params["value"], rollout)
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
        nll, nll_count, _ = lm_loss(model, params["policy"], ptx)
        total += config.ptx_coef * count * nll / nll_count
        metrics["loss/ptx_avg"] = (nll, nll_count)
    return total, count, metrics


def update(
    config: PPOConfig,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    params: dict,
    opt_state: Any,
    experience: Experience,
    ptx: Batch | None,
    key: jax.Array,
) -> tuple[dict, Any, Metrics]:
    """All epochs of minibatch updates on one experience."""

    def objective(learned, minibatch):
        total, count, metrics = ppo_loss(config, model, learned, *minibatch)
        return total / count, metrics

    def one_update(carry, minibatch):
        learned, opt_state = carry
        (loss, metrics), grads = jax.value_and_grad(objective, has_aux=True)(learned, minibatch)
        learned, opt_state, more = update_if_finite(optimizer, loss, grads, learned, opt_state)
        return (learned, opt_state), metrics | more

    def one_epoch(carry, key):
        def shuffle(x):
            # Rows are dealt out so that every minibatch draws from every device's share.
            x = jax.random.permutation(key, x, axis=0)
            return x.reshape(-1, config.minibatches, *x.shape[1:]).swapaxes(0, 1)

        return jax.lax.scan(one_update, carry, jax.tree.map(shuffle, (experience, ptx)))

    (learned, opt_state), metrics = jax.lax.scan(
        one_epoch, (_learned(params), opt_state), jax.random.split(key, config.epochs)
    )
    return params | learned, opt_state, jax.tree.map(jnp.sum, metrics)


def learn(
    config: PPOConfig,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    seed: int,
    state: TrainState,
    reference: dict,
    rollout: Rollout,
    scores_B: jax.Array,
    ptx: Batch | None,
) -> tuple[TrainState, Metrics]:
    """Everything after sampling and scoring: advantages, all updates, the KL coefficient."""
    kl_coef = state.extras["kl_coef"]
    experience, metrics = prepare(
        config, model, state.params, reference, kl_coef, rollout, scores_B
    )
    params, opt_state, update_metrics = update(
        config,
        model,
        optimizer,
        state.params,
        state.opt_state,
        experience,
        ptx,
        keys.derive(seed, state.step, "ppo/minibatches"),
    )
    ratio_sq, count = update_metrics.pop("val/ratio_sq")
    ratio_sum, _ = update_metrics["val/ratio"]
    metrics |= update_metrics
    metrics["val/ratio_var"] = (ratio_sq - ratio_sum**2 / count, count)
    metrics["episode"] = ((state.step + 1) * config.episodes, 1)
    metrics["tokens"] = (rollout.mask_BC.sum(), 1)
    if config.kl_controller == "adaptive":
        kl_sum, episodes = metrics["objective/kl"]
        adapted = kl.adapt(
            kl_coef, kl_sum / episodes, config.episodes, config.kl_target, config.kl_horizon
        )
        kl_coef = jnp.where(jnp.isfinite(adapted), adapted, kl_coef)
    if config.ema_decay:
        params["ema"] = optax.incremental_update(
            params["policy"], params["ema"], 1.0 - config.ema_decay
        )
    state = TrainState(state.step + 1, params, opt_state, {"kl_coef": kl_coef})
    return state, metrics


def collect(
    config: PPOConfig,
    model: ModelConfig,
    seed: int,
    policy: dict,
    step: jax.Array,
    prompts: Prompts,
) -> Rollout:
    """The policy's completions of the prompts of iteration `step`."""
    return generate(
        model,
        policy,
        prompts,
        keys.derive(seed, step, "ppo/rollout"),
        max_new_tokens=config.max_new_tokens,
        stop_id=Tokenizer.eos_id,
        pad_id=Tokenizer.pad_id,
        temperature=config.temperature,
    )


def iterate(
    config: PPOConfig,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    seed: int,
    state: TrainState,
    reference: dict,
    reward: Reward,
    inputs: PPOInputs,
) -> tuple[TrainState, Metrics]:
    """A whole iteration; the reward is pure (a `jax.tree_util.Partial`, see `rl.rewards`)."""
    rollout = collect(config, model, seed, state.params["policy"], state.step, inputs.prompts)
    scores_B = reward(rollout)
    return learn(config, model, optimizer, seed, state, reference, rollout, scores_B, inputs.ptx)


def make_ppo_iteration(
    config: PPOConfig,
    model: ModelConfig,
    optimizer: optax.GradientTransformation,
    *,
    reward: Reward,
    reference: dict,
    seed: int,
) -> Callable[[TrainState, PPOInputs], tuple[TrainState, Metrics]]:
    """Returns `iteration(state, inputs) -> (state, metrics)`; the state is donated.

    A pure reward is traced into one program with the rest.
    """
    if isinstance(reward, jax.tree_util.Partial):
        whole = jax.jit(
            functools.partial(iterate, config, model, optimizer, seed), donate_argnums=0
        )
        return lambda state, inputs: whole(state, reference, reward, inputs)

    sample = jax.jit(functools.partial(collect, config, model, seed))
    learn_from = jax.jit(functools.partial(learn, config, model, optimizer, seed), donate_argnums=0)

    def split_iteration(state: TrainState, inputs: PPOInputs) -> tuple[TrainState, Metrics]:
        rollout = sample(state.params["policy"], state.step, inputs.prompts)
        # On many hosts every process scores all rows: a host reward has no idea of a mesh.
        scores_B = np.asarray(reward(distributed.fetch(rollout)), np.float32)
        return learn_from(state, reference, rollout, scores_B, inputs.ptx)

    return split_iteration
