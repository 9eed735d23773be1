"""Evaluate these models on this task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion, TextModel
from gpt_jax.tasks.task import Task


class Performance(NamedTuple):
    """What one model made of a task: A answers to each of N prompts.

    Attributes:
      completions_AN: the answers, `completions_AN[a][n]`.
      scores_AN: the task's scores, float64; None if it has none.
      verdicts_AN: the task's verdicts, strings; None if it has none.
    """

    completions_AN: list[list[Completion]]
    scores_AN: np.ndarray | None
    verdicts_AN: np.ndarray | None

    @property
    def texts_AN(self) -> list[list[str]]:
        """The answers as text."""
        return [[completion.text for completion in group] for group in self.completions_AN]

    @property
    def stopped_AN(self) -> np.ndarray:
        """Which answers the model ended by itself; bool."""
        return np.array([[completion.stopped for completion in c] for c in self.completions_AN])

    @property
    def lengths_AN(self) -> np.ndarray:
        """Tokens of every answer, its stop token included; int."""
        return np.array([[len(c.tokens) for c in group] for group in self.completions_AN])


def evaluate_task(
    models: Mapping[str, TextModel], task: Task, sampling: Sampling, rows: Sequence[dict]
) -> dict[str, Performance]:
    """Asks every model the same prompts, and judges what it answers.

    Args:
      models: by name.
      task: what is asked, and how good an answer is.
      sampling: how the answers are drawn, and how many to each prompt.
      rows: of the task.
    """
    prompts = [task.prompt(row) for row in rows]

    def of(model: TextModel) -> Performance:
        found = model.complete(prompts, sampling)
        return judge(task, rows, [found[a :: sampling.n] for a in range(sampling.n)])

    return {name: of(model) for name, model in models.items()}


def judge(task: Task, rows: Sequence[dict], completions_AN: list[list[Completion]]) -> Performance:
    """What the task says of answers to its rows."""

    def each(function, *attributes: str) -> np.ndarray | None:
        """`function(row, ...)` of every answer, which the attributes describe."""
        if function is None:
            return None
        return np.array(
            [
                [
                    function(row, *(getattr(completion, name) for name in attributes))
                    for row, completion in zip(rows, group, strict=True)
                ]
                for group in completions_AN
            ]
        )

    scores_AN = each(task.score, "text", "stopped")
    if scores_AN is not None:
        scores_AN = scores_AN.astype(np.float64)
    return Performance(completions_AN, scores_AN, each(task.verdict, "text"))
