"""Stages in which the policy is all that learns: what the experiments of GRPO and the like share.

No value model is held, learned or planned for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import optax
from jax.sharding import Mesh

from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import axes_of
from gpt_jax.models.quantized import quantized_axes
from gpt_jax.rl import critic_free
from gpt_jax.rl.groups import GroupConfig
from gpt_jax.rl.iteration import Algorithm, EndIds, ends_of, make_iteration
from gpt_jax.rl.rewards import Reward, Rule
from gpt_jax.rl.scoring import Scoring, own_scoring
from gpt_jax.rl.stage import OnlineConfig, OnlineRecipe, online_stage
from gpt_jax.train.checkpoint import ModelFiles
from gpt_jax.train.launch import run_stage
from gpt_jax.train.optim import make_optimizer
from gpt_jax.train.origin import start_of
from gpt_jax.train.stage import Functions, Stage
from gpt_jax.train.state import TrainState

MakeAlgorithm = Callable[[OnlineRecipe, Model, EndIds], Algorithm]


class PolicyMethod(NamedTuple):
    """A method without a value model.

    Attributes:
      make: `(recipe, model, ends) -> Algorithm`.
      init: `(recipe, optimizer, seed, policy, scorer) -> TrainState`.
    """

    make: MakeAlgorithm
    init: Callable[..., TrainState] = critic_free.init_state


def policy_optimizer(
    recipe: OnlineRecipe, model: Model, steps: int
) -> optax.GradientTransformation:
    """The optimizer of the policy, over all updates of the run."""
    return make_optimizer(recipe.optimizer, steps * recipe.passes.updates, axes_of(model))


def policy_functions(
    recipe: OnlineRecipe,
    method: PolicyMethod,
    model: Model,
    ends: EndIds,
    scoring: Scoring,
    steps: int,
) -> Functions:
    """The stage's functions; `init(seed, policy, scorer)` is the method's."""
    optimizer = policy_optimizer(recipe, model, steps)
    algorithm = method.make(recipe, model, ends)
    return Functions(
        functools.partial(method.init, recipe, optimizer),
        make_iteration(algorithm, optimizer, scoring.reward, recipe.offload_frozen),
        quantized_axes(axes_of(model, *scoring.models)),
    )


def policy_stage(
    config: OnlineConfig,
    recipe: OnlineRecipe,
    method: PolicyMethod,
    start: ModelFiles,
    scoring: Scoring,
    mesh: Mesh,
) -> Stage:
    """The stage of a method without a value model; see `online_stage`."""
    ends = ends_of(start.tokenizer)
    return online_stage(
        config,
        recipe,
        start,
        scoring,
        mesh,
        functions=functools.partial(policy_functions, recipe, method, start.model, ends, scoring),
        group=recipe.group if isinstance(recipe, GroupConfig) else 1,
    )


def run_policy_stage(
    name: str,
    config: OnlineConfig,
    method: PolicyMethod,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None = None,
    rule: Rule | None = None,
) -> None:
    """Runs the stage against the reward of its configuration, or against something else.

    Args:
      name: of the stage, and of its recipe in the configuration.
      config: of the experiment.
      method: what learns.
      reward: a Reward, or a Python function of a rollout of NumPy arrays.
      rule: a function of the record that a prompt was made from, the completion's text and whether
        it stopped by itself.
    """

    def stage(config: OnlineConfig, mesh: Mesh) -> Stage:
        start = start_of(config)
        scoring = scoring_of(config, start, reward, rule)
        return policy_stage(config, getattr(config, name), method, start, scoring, mesh)

    run_stage(name, config, stage)


def scoring_of(
    config: OnlineConfig,
    start: ModelFiles,
    reward: Reward | Callable[[Rollout], Sequence[float]] | None,
    rule: Rule | None,
) -> Scoring:
    """How completions are scored; see `run_policy_stage`.

    Raises:
      UserError: if the policy to go on from is not of the finetuned model's shape.
    """
    config.check_policy(start)
    if reward or rule:
        return own_scoring(reward, rule, start, config.data.read("prompts", "train"))
    return config.scoring(start)
