"""Which reward scores the completions of a run: a trained model's, or anything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import axes_of, reads_likelihood, scorer_shapes
from gpt_jax.models.lora import ON_REWARD, LoraConfig, adapted_shapes, rescaled, zero_adapters
from gpt_jax.parallel import distributed
from gpt_jax.rl.rewards import (
    DeviceReward,
    HostReward,
    Reward,
    Rule,
    model_score,
    record_reward,
    retokenized_reward,
)
from gpt_jax.train import checkpoint
from gpt_jax.train import state as states
from gpt_jax.train.adapters import read_adapter_file
from gpt_jax.train.checkpoint import ModelFiles, param_shapes_in
from gpt_jax.train.origin import is_foreign, load_model_files, load_params
from gpt_jax.train.tuning import Tuned, shares_backbone


class Scoring(NamedTuple):
    """How completions are scored.

    Attributes:
      reward: what scores them.
      scorer: the shape of the reward model in `reward_from`, whose parameters the reward is given
        when the stage starts; None if the reward is anything else.
      longest: the most tokens of a prompt with a completion that it was trained on, if known.
      likelihood: whether the reward model reads likelihoods (`heads.score_completions`).
      lora: of its adapters, where it is a head and adapters on the policy's own backbone; None:
        it has weights of its own.
    """

    reward: Reward
    scorer: Model | None = None
    longest: int | None = None
    likelihood: bool = False
    lora: LoraConfig | None = None

    @property
    def models(self) -> tuple[Model, ...]:
        """The reward model, if there is one."""
        return () if self.scorer is None else (self.scorer,)

    def shapes(self) -> Any:
        """Of the reward's parameters, as ShapeDtypeStructs."""
        if self.scorer is not None:
            whole = scorer_shapes(self.scorer, self.likelihood)
            return adapted_shapes(self.lora, self.scorer, whole) if self.lora else whole
        params = self.reward.params if isinstance(self.reward, DeviceReward) else ()
        return jax.eval_shape(lambda: params)


def model_scoring(model: Model, longest: int | None = None, likelihood: bool = False) -> Scoring:
    """A reward model of this shape, with the policy's tokenizer."""
    return Scoring(DeviceReward(model_score(model)), model, longest, likelihood)


def of_adapters(scoring: Scoring, config: Tuned) -> Scoring:
    """The same scoring, by adapters on the policy's backbone if the reward model is that.

    Args:
      scoring: by any reward.
      config: of the stage; its `reward_from` holds the reward model.
    """
    if scoring.scorer is None or scoring.lora or not config.lora.rank:
        return scoring
    if shares_backbone(config.reward_from, config.init_from):
        return scoring._replace(lora=read_adapter_file(config.reward_from).lora)
    distributed.say(
        f"the reward model in {config.reward_from} is no adapter on the policy's backbone: its "
        "weights are held beside these, and the value model is an adapter on them"
    )
    return scoring


def load_scorer(scoring: Scoring, config: Tuned, mesh: Mesh) -> Any:
    """The reward's parameters, over the mesh; of adapters on the policy's backbone these alone."""
    if scoring.scorer is None:
        return scoring.reward.params if isinstance(scoring.reward, DeviceReward) else ()
    if scoring.lora is None:
        return load_params(config.reward_from, mesh)
    if not shares_backbone(config.reward_from, config.init_from):
        raise UserError(
            f"{config.reward_from} holds no adapters on what {config.init_from} stands on; train "
            "the reward model from it, with --lora.rank"
        )
    adapters = checkpoint.load_params(config.reward_from, mesh, axes=axes_of(scoring.scorer))
    return rescaled(adapters, scoring.lora.scale, config.lora.scale)


def value_start(scoring: Scoring, config: Tuned, scorer: dict, mesh: Mesh | None = None) -> dict:
    """What a value model starts from that starts as the reward model.

    Args:
      scoring, config: of the stage.
      scorer: the reward model's parameters.
      mesh: over which they lie; None: they are shapes.

    Returns:
      These, be they weights or adapters; or, where only adapters are learned, but not by the reward
      model, new ones on its weights, with its head.
    """
    if not config.lora.rank or scoring.lora:
        return scorer
    zeros = functools.partial(zero_adapters, config.lora, scoring.scorer)
    if mesh is None:
        adapters = jax.eval_shape(zeros)
    else:
        adapters = states.create(zeros, mesh=mesh, axes=axes_of(scoring.scorer))
    return {"backbone": {ON_REWARD: adapters}, "head": scorer["head"]}


def trained_length(folder: str | Path) -> int | None:
    """The most tokens that the reward model in a folder was trained on, if `data.json` says it."""
    path = Path(folder) / "data.json"
    if not path.is_file():
        return None
    mend = "remove it, if the reward model is to read whatever fits its context"
    longest = files.read_json(path, mend).get("longest")
    if not isinstance(longest, int | None):
        raise UserError(f"{path}: longest is {longest!r}, but must be a number of tokens; {mend}")
    return longest


def trained_scoring(
    folder: str, start: ModelFiles, records: Sequence[dict], retokenize: bool
) -> Scoring:
    """The reward model in a folder.

    Args:
      folder: of the reward stage, or a model from elsewhere.
      start: the policy's shape and tokenizer.
      records: of all prompts, by their row numbers.
      retokenize: whether a reward model with another tokenizer is given the text.

    Raises:
      UserError: if it has another tokenizer, and that is not allowed for.
    """
    likelihood = not is_foreign(folder) and reads_likelihood(param_shapes_in(folder))
    judge = load_model_files(folder, functools.partial(scorer_shapes, likelihood=likelihood))
    if judge.tokenizer == start.tokenizer:
        return model_scoring(judge.model, trained_length(folder), likelihood)
    if not retokenize:
        raise UserError(
            f"{folder} has another tokenizer than the policy; train the reward model from the "
            "policy's run, or give --reward.retokenize to let it read text"
        )
    return Scoring(retokenized_reward(judge, load_params(folder), records, start.tokenizer))


def own_scoring(
    reward: Reward | Callable[[Rollout], Sequence[float]] | None,
    rule: Rule | None,
    start: ModelFiles,
    records: Sequence[dict],
) -> Scoring:
    """A reward of one's own: a Reward, a function of rollouts, or a rule on records and text."""
    if rule is not None:
        return Scoring(record_reward(rule, records, start.tokenizer))
    if isinstance(reward, DeviceReward | HostReward):
        return Scoring(reward)
    return Scoring(HostReward(reward, getattr(reward, "__name__", repr(reward))))
