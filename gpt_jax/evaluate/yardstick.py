"""What a policy has come to on held-out prompts, measured while it learns.

A reward model is a proxy, and a policy that climbs it far enough leaves what it stands for (Gao et
al. 2023, "Scaling Laws for Reward Model Overoptimization"). So both are measured on the same
answers: the task's own (gold) score and the reward model's, beside the KL divergence that they were
bought with.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data.config import DataConfig
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.data.subset import sample_rows
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.evaluate.best_of import expected_best
from gpt_jax.evaluate.policies import fitting_rows
from gpt_jax.evaluate.task import Performance, evaluate_task
from gpt_jax.generate.sampler import Rollout
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import TextModel
from gpt_jax.models.contract import Params
from gpt_jax.ranges import Positive, PositiveFloat, check_ranges
from gpt_jax.rl.rewards import Reward, model_reward
from gpt_jax.tasks.prompts import task_of
from gpt_jax.tasks.task import Task
from gpt_jax.train.origin import load_model_files, load_params
from gpt_jax.train.served import open_run
from gpt_jax.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """On what policies are measured."""

    prompts: Positive = 200
    """Held-out prompts, the same for all."""
    answers: Positive = 2
    """Answers to each."""
    max_new_tokens: Positive = 36
    """Longest answer, in tokens."""
    temperature: PositiveFloat = 1.0
    """At which they are drawn."""

    def __post_init__(self):
        check_ranges(self)


class Yardstick(NamedTuple):
    """`yardstick(state, frozen)`, for `Stage.evaluate`.

    Attributes:
      task: with a score of its own.
      rows: held-out ones.
      finetuned: the model that all policies come from, on a mesh.
      reward: the reward model's.
      sampling: how answers are drawn. The same prompt and seed give every policy the same draws.
    """

    task: Task
    rows: Sequence[dict]
    finetuned: TextModel
    reward: Reward
    sampling: Sampling

    def __call__(self, state: TrainState, frozen: dict) -> dict[str, float]:
        """What `of` says of a stage's policy."""
        del frozen
        return self.of(policy_of(state))

    def look(self, state: TrainState, frozen: dict) -> None:
        """Traces the sampling on shapes, so that what cannot work ends here."""
        del frozen
        prompts = [self.task.prompt(row) for row in self.rows]
        self.finetuned._replace(params=policy_of(state)).look(prompts, self.sampling)

    def with_seed(self, seed: int) -> Yardstick:
        """The same prompts with other draws."""
        return self._replace(sampling=dataclasses.replace(self.sampling, seed=seed))

    def of(self, params: Params) -> dict[str, float]:
        """Means over all answers of a policy of the finetuned model's shape.

        Returns:
          gold: the task's score.
          reward: the reward model's.
          right, unknown, wrong: shares of the verdicts, where the task has them.
          kl: from the finetuned model, nats per answer (k1).
          entropy: nats per token.
          length: tokens of an answer.
        """
        found = self.ask(params)
        rollout, model = self.rollout(found), self.finetuned
        how = (self.sampling.temperature, model.mesh)
        moved = answers.divergence(model.config, params, model.params, rollout, *how)
        means = {
            "gold": float(found.scores_AN.mean()),
            "reward": float(answers.score(rollout, self.reward, model.mesh).mean()),
            "length": float(found.lengths_AN.mean()),
        }
        if found.verdicts_AN is not None:
            for verdict in ("right", "unknown", "wrong"):
                means[verdict] = float((found.verdicts_AN == verdict).mean())
        return means | moved

    def best_of(self, most: int, counts: Sequence[int]) -> dict[int, dict[str, float]]:
        """What best-of-n of the finetuned model comes to, of `most` answers to each prompt.

        Returns:
          {n: the fields of `of`, without the entropy}; `kl` is log n - (n-1)/n, which is the most
          that it can be.
        """
        more = self._replace(sampling=dataclasses.replace(self.sampling, n=most))
        found = more.ask(self.finetuned.params)
        scores = answers.score(more.rollout(found), self.reward, self.finetuned.mesh)
        rewards_AN = np.asarray(scores).reshape(found.scores_AN.shape)
        values = {"gold": found.scores_AN, "reward": rewards_AN, "length": found.lengths_AN}
        if found.verdicts_AN is not None:
            values["right"] = found.verdicts_AN == "right"
        return {
            n: {name: float(expected_best(v, rewards_AN, n).mean()) for name, v in values.items()}
            | {"kl": float(np.log(n) - (n - 1) / n)}
            for n in counts
        }

    def ask(self, params: Params) -> Performance:
        """The answers of a policy, judged by the task."""
        asked = {"policy": self.finetuned._replace(params=params)}
        return evaluate_task(asked, self.task, self.sampling, self.rows)["policy"]

    def rollout(self, found: Performance) -> Rollout:
        """All answers behind their prompts, one group after the other."""
        model, new = self.finetuned, self.sampling.max_new_tokens
        records = [{"prompt": self.task.prompt(row)} for row in self.rows]
        room = model.config.context_length - new
        prompts = pad_prompt_records(records, model.tokenizer, room, LeftOut())
        groups = [answers.behind(prompts, g, model.tokenizer, new) for g in found.completions_AN]
        return jax.tree.map(lambda *xs: np.concatenate(xs), *groups)


def policy_of(state: TrainState) -> Params:
    """The policy that a state will be served as: of an online method, of one without samples, or
    the average of the former's."""
    params = state.params
    return state.extras.get("average", params.get("policy", params))


def open_yardstick(
    finetuned: str, reward: str, data: DataConfig, measure: Measure, mesh: Mesh
) -> Yardstick:
    """The yardstick of what comes from one finetuned model.

    Args:
      finetuned: the folder of that model.
      reward: of a reward model that reads its tokens.
      data: whose held-out prompts are asked.
      measure: how many, and how.
      mesh: where the models lie.

    Raises:
      UserError: if a model is not there, no prompt fits, or nobody knows how good an answer is.
    """
    task = task_of(data)
    if task.score is None:
        raise UserError(
            f"{data.test_prompts or data.prompts} has no score of its own, and a reward model's "
            "would be that which is climbed; leave --data.prompts out, for the microworld's"
        )
    model = open_run(finetuned, mesh=mesh)
    scorer = model_reward(load_model_files(reward).model, load_params(reward, mesh))
    left_out = LeftOut()
    room = model.config.context_length - measure.max_new_tokens
    rows = fitting_rows(task, model.tokenizer, room, left_out)
    for sentence in left_out.sentences():
        print(sentence, flush=True)
    sampling = Sampling(
        max_new_tokens=measure.max_new_tokens, temperature=measure.temperature, n=measure.answers
    )
    return Yardstick(task, sample_rows(rows, measure.prompts, 0), model, scorer, sampling)
