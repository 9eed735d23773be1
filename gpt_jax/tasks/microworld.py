"""The embedded world as a task: its prompts, and the ground truth about every answer."""

from __future__ import annotations

from collections.abc import Hashable

from gpt_jax.data.config import DataConfig
from gpt_jax.data.microworld import gold_score, make_world
from gpt_jax.tasks.task import Task, Verdict
from gpt_jax.text.chat import Message


def rows(split: str) -> list[dict]:
    """The prompts of a split; those of `test` ask for what no training text says."""
    return DataConfig().read("prompts", split)  # which remembers what it has read


def asked(row: dict) -> str:
    """The question of a row, which is its last turn."""
    return row["prompt"][-1]["content"]


def score(row: dict, text: str, stopped: bool) -> float:
    """The gold score, in [0, 1]: correct, brief, polite, and ended by itself."""
    return gold_score(asked(row), text, stopped)


def verdict(row: dict, text: str) -> Verdict:
    """Whether an answer states what is true, says that it does not know, or neither."""
    return make_world().verdict(asked(row), text)


def kind(row: dict) -> str:
    """A fact, two facts in a row, a sum, what a note says, or small talk."""
    return make_world().question(asked(row)).kind


def cluster(row: dict) -> Hashable:
    """The fact, sum or small talk that is asked for, whatever the words."""
    return make_world().question(asked(row)).about


def prompt(row: dict) -> list[Message]:
    """The turns of a row, which end with the question."""
    return row["prompt"]


MICROWORLD = Task("microworld", rows, prompt, score, verdict, kind, cluster)
