"""A task: one object that serves finetuning, evaluation and reward alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple, get_args

from gpt_jax.text.chat import Message

Verdict = Literal["right", "unknown", "wrong"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


class Task(NamedTuple):
    """Rows, what is asked of each, and how good an answer is.

    Attributes:
      name: for people.
      rows: `split -> rows`, of "train" or "test".
      prompt: `row -> messages`, which end with the user's.
      score: `(row, text, stopped) -> float`: how good an answer is, given as its text and whether
        the model ended it by itself. It is a rule as `rl.rewards.record_reward` takes one. None:
        the task has no judge of its own.
      verdict: `(row, text) -> Verdict`: whether it is right. "unknown": it says that it does not
        know, where that is not the right answer. Where no answer is known, saying so is right.
        None: the task cannot tell.
      kind: `row -> name` of the kind of question that it asks, or None; for tables.
      cluster: `row -> id` of what the row is about. Rows of one id are right or wrong together, so
        that it is ids, not rows, that an interval resamples. None: every row is independent.
    """

    name: str
    rows: Callable[[str], list[dict]]
    prompt: Callable[[dict], Sequence[Message]]
    score: Callable[[dict, str, bool], float] | None
    verdict: Callable[[dict, str], Verdict] | None = None
    kind: Callable[[dict], str | None] | None = None
    cluster: Callable[[dict], Hashable] | None = None


def opening(row: dict) -> str:
    """The first thing that the user of a row says: prompts with one opening are about one thing."""
    return next(turn["content"] for turn in row["prompt"] if turn["role"] == "user")
