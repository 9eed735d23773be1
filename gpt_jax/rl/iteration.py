"""One iteration of learning from one's own samples: sample, score, prepare, update.

What distinguishes PPO from GRPO or RLOO is an `Algorithm`: how a scored rollout becomes rows to
learn from (its advantages), and the loss on them. With a reward on the device the iteration is one
compiled program; a reward on the host splits it in two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from gpt_jax import keys
from gpt_jax.data.batches import Batch, Prompts
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout, generate
from gpt_jax.losses.lm import Metrics
from gpt_jax.models.contract import Model
from gpt_jax.models.lora import attached
from gpt_jax.parallel.offload import to_device
from gpt_jax.ranges import NonNegative, Positive, PositiveFloat, Range, check_ranges
from gpt_jax.rl.rewards import Reward
from gpt_jax.rl.rollout import drop_rows
from gpt_jax.rl.staleness import behaviour, shifted
from gpt_jax.rl.update import Passes, update
from gpt_jax.rl.weighted import Weighted, host_scores, on_device, traced_scores
from gpt_jax.text.tokenizer import Tokenizer
from gpt_jax.train.finite import Learner
from gpt_jax.train.state import TrainState
from gpt_jax.train.step import LossFn, Step


@dataclasses.dataclass(frozen=True)
class RolloutConfig:
    """What every online method needs; optimizer and number of iterations stand beside it."""

    episodes: Positive = 64
    """Completions sampled per iteration, over all devices."""
    epochs: Positive = 4
    """Passes over the episodes of an iteration."""
    minibatches: Positive = 4
    """Updates per pass; must divide the episodes."""
    max_new_tokens: Positive = 40
    """Longest completion, in tokens."""
    temperature: PositiveFloat = 1.0
    """Divides the logits in rollout, reference and update alike; there is no top-k or top-p."""
    missing_stop_score: Annotated[float, Range(None, 0.0)] | None = -1.0
    """What a completion with no stop token gets, counted from its own score or from the mean of the
    batch, whichever is lower, so that going on never pays; None leaves it to the reward."""
    staleness: NonNegative | None = None
    """Iterations by which the policy that samples is behind the one that learns. The ratio is of
    these two; in the first minibatch it is 1 only where this is 0. None: 0."""

    def __post_init__(self):
        check_ranges(self)
        if self.episodes % self.minibatches:
            raise UserError(
                f"{self.minibatches} minibatches do not divide {self.episodes} episodes; "
                "change minibatches or episodes"
            )

    @property
    def passes(self) -> Passes:
        """How often each rollout is learned from."""
        return Passes(self.epochs, self.minibatches)


class Inputs(NamedTuple):
    """What an iteration takes: prompts, and pretraining rows if they are mixed in (else None)."""

    prompts: Prompts
    ptx: Batch | None = None


class EndIds(NamedTuple):
    """The ids of a tokenizer that sampling must know: they are static in its program.

    Attributes:
      stop_ids: each ends a completion.
      pad_id: fills rows.
    """

    stop_ids: tuple[int, ...]
    pad_id: int


def ends_of(tokenizer: Tokenizer) -> EndIds:
    """What sampling must know of a tokenizer."""
    return EndIds(tokenizer.stop_ids, tokenizer.pad_id)


class Algorithm(NamedTuple):
    """A method of learning from scored rollouts.

    Attributes:
      config: what it samples, and how often it learns from it.
      model: the policy's shape.
      ends: of its tokenizer.
      prepare: `(state, frozen, rollout, scores_B) -> (rows, metrics)`: a tree of arrays with one
        row per episode, fixed while the policy changes.
      loss: `loss(model, learned, (rows, ptx), key, frozen)`, as every loss.
      remember: `(extras, params, metrics) -> extras`: what the state carries on besides.
    """

    config: RolloutConfig
    model: Model
    ends: EndIds
    prepare: Callable[[TrainState, dict, Rollout, jax.Array], tuple[Any, Metrics]]
    loss: LossFn
    remember: Callable[[dict, dict, Metrics], dict] = lambda extras, params, metrics: extras


def collect(
    config: RolloutConfig,
    model: Model,
    ends: EndIds,
    policy: dict,
    prompts: Prompts,
    place: tuple[jax.Array, jax.Array],
) -> Rollout:
    """The policy's completions of the prompts of an iteration; its place is (seed, step)."""
    return generate(
        model,
        policy,
        prompts,
        keys.derive(*place, "ppo/rollout"),
        max_new_tokens=config.max_new_tokens,
        stop_ids=ends.stop_ids,
        pad_id=ends.pad_id,
        temperature=config.temperature,
    )


def final_scores(
    config: RolloutConfig, rollout: Rollout, scores_B: jax.Array
) -> tuple[Rollout, jax.Array]:
    """Leaves out rows whose score is not finite, and lowers those that did not stop.

    A score that is not finite would be in every whitened advantage.
    """
    kept_B = jnp.isfinite(scores_B)
    scores_B = jnp.where(kept_B, scores_B, 0.0).astype(jnp.float32)
    if config.missing_stop_score is not None:
        mean = scores_B.sum() / jnp.maximum(kept_B.sum(), 1)
        lowered_B = jnp.minimum(scores_B, mean) + config.missing_stop_score
        scores_B = jnp.where(rollout.stopped_B, scores_B, lowered_B)
    return drop_rows(rollout, kept_B), jnp.where(kept_B, scores_B, 0.0)


def learn(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    inputs: tuple[Rollout, jax.Array, Batch | None],
    frozen: dict,
) -> tuple[TrainState, Metrics]:
    """Everything after sampling and scoring: what to learn from, and all updates.

    Args:
      algorithm, optimizer: what learns.
      state: before the iteration.
      inputs: the rollout, its scores float32 (B,), and the pretraining rows or None.
      frozen: parameters that get no gradient.
    """
    rollout, scores_B, ptx = inputs
    config = algorithm.config
    dropped = jnp.sum(~jnp.isfinite(scores_B))
    rollout, scores_B = final_scores(config, rollout, scores_B)
    rows, metrics = prepare(algorithm, state, frozen, rollout, scores_B)
    learner, update_metrics = update(
        optimizer,
        config.passes,
        Learner(state.params, state.opt_state),
        (rows, ptx),
        frozen,
        keys.derive(state.seed, state.step, "ppo/minibatches"),
        model=algorithm.model,
        loss=algorithm.loss,
    )
    metrics |= update_metrics
    metrics["val/dropped_rows"] = (dropped, 1)
    metrics["episode"] = ((state.step + 1) * config.episodes, 1)
    metrics["tokens"] = (rollout.mask_BC.sum(), 1)
    extras = shifted(state.extras, state.params["policy"], config.staleness)
    extras = algorithm.remember(extras, learner.params, metrics)
    state = dataclasses.replace(state, step=state.step + 1, extras=extras, **learner._asdict())
    return state, metrics


def prepare(
    algorithm: Algorithm, state: TrainState, frozen: dict, rollout: Rollout, scores_B: jax.Array
) -> tuple[Any, Metrics]:
    """The method's rows and metrics; it sees whole parameters, also where adapters are learned."""
    params, extras = attached(state.params, frozen), attached(state.extras, frozen)
    whole = dataclasses.replace(state, params=params, extras=extras)
    return algorithm.prepare(whole, attached(frozen, frozen), rollout, scores_B)


def iterate(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    score: Callable[[Any, Rollout], tuple[jax.Array, Metrics]],
    state: TrainState,
    inputs: Inputs,
    frozen: dict,
) -> tuple[TrainState, Metrics]:
    """A whole iteration with a reward on the device; `frozen["reward"]` holds its parameters."""
    policy, place = attached(behaviour(state), frozen), (state.seed, state.step)
    rollout = collect(
        algorithm.config, policy_shape(algorithm), algorithm.ends, policy, inputs.prompts, place
    )
    scores_B, terms = score(attached(frozen["reward"], frozen), rollout)
    state, metrics = learn(algorithm, optimizer, state, (rollout, scores_B, inputs.ptx), frozen)
    return state, metrics | terms


def policy_shape(algorithm: Algorithm) -> Model:
    """The shape of the model that samples."""
    return getattr(algorithm.model, "policy", algorithm.model)


def make_iteration(
    algorithm: Algorithm,
    optimizer: optax.GradientTransformation,
    reward: Reward | Weighted,
    offloaded: bool = False,
) -> Step:
    """Returns `iteration(state, inputs, frozen) -> (state, metrics)`; the state is donated.

    Args:
      algorithm, optimizer: what learns.
      reward: one on the device is traced into one program with the rest.
      offloaded: whether the frozen parameters wait in the host's memory.
    """
    fetched = to_device if offloaded else lambda frozen: frozen

    def whole(state: TrainState, inputs: Inputs, frozen: dict):
        score = functools.partial(traced_scores, reward)
        return iterate(algorithm, optimizer, score, state, inputs, fetched(frozen))

    def learn_from(state: TrainState, scored: tuple, frozen: dict):
        return learn(algorithm, optimizer, state, scored, fetched(frozen))

    if on_device(reward):
        return jax.jit(whole, donate_argnums=0)
    sample = jax.jit(
        functools.partial(collect, algorithm.config, policy_shape(algorithm), algorithm.ends)
    )
    score = host_scores(reward, fetched)
    return SplitIteration(sample, score, jax.jit(learn_from, donate_argnums=0))


class SplitIteration(NamedTuple):
    """An iteration whose reward is asked on the host, between two programs.

    Attributes:
      sample: jitted, `(policy, prompts, (seed, step)) -> rollout`.
      score: `(frozen, rollout) -> (scores_B, metrics)`, partly in Python.
      learn: jitted, `(state, (rollout, scores, ptx), frozen) -> (state, metrics)`.
    """

    sample: Callable[..., Rollout]
    score: Callable[[dict, Rollout], tuple[Any, Metrics]]
    learn: Step

    def __call__(
        self, state: TrainState, inputs: Inputs, frozen: dict
    ) -> tuple[TrainState, Metrics]:
        policy = attached(behaviour(state), frozen)
        rollout = self.sample(policy, inputs.prompts, (state.seed, state.step))
        scores_B, terms = self.score(frozen, rollout)
        state, metrics = self.learn(state, (rollout, scores_B, inputs.ptx), frozen)
        return state, metrics | terms

    def shapes(self, state: TrainState, inputs: Inputs, frozen: dict) -> tuple[TrainState, Metrics]:
        """What a call gives, as shapes; the reward is not asked."""
        policy = jax.eval_shape(attached, behaviour(state), frozen)
        asked = (policy, inputs.prompts, (state.seed, state.step))
        rollout = jax.eval_shape(self.sample, *asked)
        scores_B = jax.ShapeDtypeStruct(rollout.stopped_B.shape, jnp.float32)
        return jax.eval_shape(self.learn, state, (rollout, scores_B, inputs.ptx), frozen)
