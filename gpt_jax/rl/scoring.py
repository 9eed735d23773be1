"""Which reward scores the completions of a run: a trained model's, or anything else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gpt_jax import files
from gpt_jax.errors import UserError
from gpt_jax.generate.sampler import Rollout
from gpt_jax.models.contract import Model
from gpt_jax.models.heads import reads_likelihood, scorer_shapes
from gpt_jax.rl.rewards import (
    DeviceReward,
    HostReward,
    Reward,
    Rule,
    model_score,
    record_reward,
    retokenized_reward,
)
from gpt_jax.train.checkpoint import ModelFiles, param_shapes_in
from gpt_jax.train.origin import is_foreign, load_model_files, load_params


class Scoring(NamedTuple):
    """How completions are scored.

    Attributes:
      reward: what scores them.
      scorer: the shape of the reward model in `reward_from`, whose parameters the reward is given
        when the stage starts; None if the reward is anything else.
      longest: the most tokens of a prompt with a completion that it was trained on, if known.
      likelihood: whether the reward model reads likelihoods (`heads.score_completions`).
    """

    reward: Reward
    scorer: Model | None = None
    longest: int | None = None
    likelihood: bool = False

    @property
    def models(self) -> tuple[Model, ...]:
        """The reward model, if there is one."""
        return () if self.scorer is None else (self.scorer,)

    def shapes(self) -> Any:
        """Of the reward's parameters, as ShapeDtypeStructs."""
        if self.scorer is not None:
            return scorer_shapes(self.scorer, self.likelihood)
        params = self.reward.params if isinstance(self.reward, DeviceReward) else ()
        return jax.eval_shape(lambda: params)


def model_scoring(model: Model, longest: int | None = None, likelihood: bool = False) -> Scoring:
    """A reward model of this shape, with the policy's tokenizer."""
    return Scoring(DeviceReward(model_score(model)), model, longest, likelihood)


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
