"""Best-of-n as a policy: of n answers the one that a reward likes best (Stiennon et al. 2020).

It needs no training, and moves log n - (n-1)/n nats from the model that answers, at most.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_prompt_records
from gpt_jax.errors import UserError
from gpt_jax.evaluate import answers
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Complete, Completion, Prompt, TextModel
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.rl.rewards import Reward
from gpt_jax.text.chat import Message

# judge(prompts, completions) -> scores, one for each pair; one that is not finite never wins.
Judge = Callable[[Sequence[Prompt], Sequence[Completion]], Sequence[float]]


class BestOf(NamedTuple):
    """Stands where a TextModel is asked, in `evaluate_task` or a prompting strategy.

    Attributes:
      ask: gives the answers that are chosen from.
      judge: scores them.
      n: how many there are to choose from.
    """

    ask: Complete
    judge: Judge
    n: int

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling = Sampling()
    ) -> list[Completion]:
        """`sampling.n` completions of every prompt, each the best of n of its own.

        Of equal scores the first wins, and so it does where none is finite.

        Raises:
          UserError: if n is less than 1, or the judge does not give one score for each answer.
        """
        if self.n < 1:
            raise UserError(f"best-of-{self.n} has nothing to choose from; give n at least 1")
        drawn = self.ask(prompts, dataclasses.replace(sampling, n=self.n * sampling.n))
        asked = [prompt for prompt in prompts for _ in range(self.n * sampling.n)]
        scores = np.asarray(self.judge(asked, drawn), np.float64)
        if scores.shape != (len(drawn),):
            raise UserError(
                f"the judge gave scores of shape {scores.shape} for {len(drawn)} answers; it must "
                "give one for each"
            )
        scores = np.where(np.isfinite(scores), scores, -np.inf).reshape(-1, self.n)
        best = scores.argmax(axis=1) + self.n * np.arange(len(scores))
        return [drawn[i] for i in best.tolist()]


def reward_judge(reward: Reward, model: TextModel, max_new_tokens: int) -> Judge:
    """A reward on the answers of a model that is asked in turns.

    Args:
      reward: reads the model's tokens; its `rows_B` are the places of the prompts asked.
      model: whose answers they are.
      max_new_tokens: of an answer, as it was sampled.
    """

    def judge(prompts: Sequence[Prompt], completions: Sequence[Completion]) -> np.ndarray:
        records = [{"prompt": _messages(prompt)} for prompt in prompts]
        room = model.config.context_length - max_new_tokens
        padded = pad_prompt_records(records, model.tokenizer, room, LeftOut())
        rollout = answers.behind(padded, completions, model.tokenizer, max_new_tokens)
        return answers.score(rollout, reward, mesh)

    mesh = model.mesh or make_mesh(MeshConfig(data=1))
    return judge


def _messages(prompt: Prompt) -> Sequence[Message]:
    return [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
