"""The embedded world as a task: its prompts, and the ground truth about every answer."""

from __future__ import annotations

from collections.abc import Hashable

from gpt_jax.data.config import DataConfig
from gpt_jax.data.microworld import gold_score, make_world
from gpt_jax.tasks.task import Task


def rows(split: str) -> list[dict]:
    """The prompts of a split; those of `test` ask for what no training text says."""
    return DataConfig().read("prompts", split)  # which remembers what it has read


def asked(row: dict) -> str:
    """The question of a row, which is its last turn."""
    return row["prompt"][-1]["content"]


def score(row: dict, text: str, stopped: bool) -> float:
    """The gold score, in [0, 1]: correct, brief, polite, and ended by itself."""
    return gold_score(asked(row), text, stopped)


def correct(row: dict, text: str) -> bool:
    """Whether an answer states what is true, and nothing else of its kind."""
    return make_world().is_correct(asked(row), text)


def cluster(row: dict) -> Hashable:
    """The fact, sum or small talk that is asked for, whatever the words."""
    return make_world().question(asked(row)).about


MICROWORLD = Task("microworld", rows, lambda row: row["prompt"], score, correct, cluster)
