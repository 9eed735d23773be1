"""Best-of-n as a policy: of n answers the one that a reward likes best (Stiennon et al. 2020).

It needs no training, and moves log n - (n-1)/n nats from the model that answers, at most.
"""

from __future__ import annotations

import dataclasses
import math
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


def expected_best(values_AN: np.ndarray, rewards_AN: np.ndarray, n: int) -> np.ndarray:
    """The value of best-of-n, the mean over all choices of n of A answers, float64 (N,).

    With the values sorted by their rewards, the lowest first, and i counted from 1,

        sum_i C(i - 1, n - 1) / C(A, n) v_i

    which is the unbiased estimate of Nakano et al. 2021 (appendix I): the i-th is the best of those
    choices whose others all come before it.

    Args:
      values_AN: what is averaged, of A answers to each of N prompts.
      rewards_AN: what chooses.
      n: from 1 to A.

    Raises:
      UserError: if there are fewer than n answers.
    """
    values_AN, count = np.asarray(values_AN, np.float64), len(values_AN)
    if not 1 <= n <= count:
        raise UserError(f"best-of-{n} of {count} answers is not known; draw more, or choose n less")
    order_AN = np.argsort(rewards_AN, axis=0, kind="stable")
    chosen_A = np.array([math.comb(i, n - 1) for i in range(count)], object) / math.comb(count, n)
    return chosen_A.astype(np.float64) @ np.take_along_axis(values_AN, order_AN, axis=0)


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
