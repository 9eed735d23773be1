"""What the answers of several models to the same prompts come to, in plain NumPy.

Every number has the interval that `statistics` gives it, resampled by what the prompts are about.
The answers to one prompt are averaged before anything is resampled.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from gpt_jax.evaluate.statistics import Interval, mean_interval, paired_difference
from gpt_jax.evaluate.task import Performance
from gpt_jax.evaluate.verdicts import ranked_pairs, shares, shares_by_kind, style_and_substance
from gpt_jax.tasks.task import Task


class Topics(NamedTuple):
    """What the N prompts are about.

    Attributes:
      clusters_N: as for `mean_interval`.
      kinds_N: the kind of question of each, or None.
    """

    clusters_N: Sequence[Hashable] | None
    kinds_N: Sequence[str | None]


class Judged(NamedTuple):
    """The answers of one model, with all that is known of them.

    Attributes:
      performance: the answers, with what the task says of them.
      rewards_AN: what the reward model says.
      kl: from the finetuned model, in nats per answer, if known.
      entropy: in nats per token, if known.
    """

    performance: Performance
    rewards_AN: np.ndarray
    kl: float | None = None
    entropy: float | None = None

    @property
    def scores_AN(self) -> np.ndarray:
        """The task's scores; the reward model's where the task has none."""
        scores_AN = self.performance.scores_AN
        return self.rewards_AN if scores_AN is None else scores_AN


def topics_of(task: Task, rows: Sequence[dict]) -> Topics:
    """What the rows of a task are about."""
    return Topics(
        [task.cluster(row) for row in rows] if task.cluster else None,
        [task.kind(row) if task.kind else None for row in rows],
    )


def by_itself(one: Judged, topics: Topics) -> dict:
    """What a report shows of one model, whatever the others are.

    Returns:
      gold and reward, [mean, low, high] each; right, unknown, wrong and by_kind, if the task has
      verdicts; kl_from_sft, length (tokens of an answer) and entropy.
    """
    gold_AN, verdicts_AN = one.performance.scores_AN, one.performance.verdicts_AN
    clusters_N = topics.clusters_N
    found = {
        "gold": None if gold_AN is None else mean_interval(gold_AN.mean(0), clusters_N),
        "reward": mean_interval(one.rewards_AN.mean(0), clusters_N),
    }
    if verdicts_AN is not None:
        found |= shares(verdicts_AN, clusters_N)
        found["by_kind"] = shares_by_kind(verdicts_AN, *topics)
    return found | {
        "kl_from_sft": one.kl,
        "length": float(one.performance.lengths_AN.mean()),
        "entropy": one.entropy,
    }


def against(
    ours: Judged, theirs: Judged, clusters_N: Sequence[Hashable] | None
) -> dict[str, Interval]:
    """How one model's answers differ from another's to the same prompts, [mean, low, high] each.

    Returns:
      difference: of their scores. And where the task has verdicts:
      style, substance: its two parts.
      right_difference: of their shares of right answers.
    """
    mean, mean_theirs = ours.scores_AN.mean(0), theirs.scores_AN.mean(0)
    found = {"difference": paired_difference(mean, mean_theirs, clusters_N)}
    verdicts = [one.performance.verdicts_AN for one in (ours, theirs)]
    if verdicts[0] is not None:
        parts = style_and_substance(ours.scores_AN, theirs.scores_AN, *verdicts)
        right = [(verdicts_AN == "right").mean(0) for verdicts_AN in verdicts]
        found["style"], found["substance"] = (mean_interval(part, clusters_N) for part in parts)
        found["right_difference"] = paired_difference(*right, clusters_N)
    return found


def judge_rewards(one: Judged, clusters_N: Sequence[Hashable] | None) -> dict:
    """Whether the reward model tells the better of two answers of a model to one prompt.

    Returns:
      `accuracy` [mean, low, high] on all `pairs` of answers with different scores, and
      `right_over_wrong` on the `right_over_wrong_pairs` of a right answer and a wrong one, both
      ended by themselves; None where there is no such pair. {} if the task has no score.
    """
    scores_AN, verdicts_AN = one.performance.scores_AN, one.performance.verdicts_AN
    if scores_AN is None:
        return {}
    asked = {"accuracy": ranked_pairs(one.rewards_AN, scores_AN)}
    if verdicts_AN is not None:
        decided_AN = one.performance.stopped_AN & (verdicts_AN != "unknown")
        right_AN = verdicts_AN == "right"
        asked["right_over_wrong"] = ranked_pairs(one.rewards_AN, right_AN, decided_AN)
    found = {}
    for name, (correct_P, prompts_P) in asked.items():
        ids = prompts_P if clusters_N is None else [clusters_N[n] for n in prompts_P]
        pairs = "pairs" if name == "accuracy" else f"{name}_pairs"
        found[name] = mean_interval(correct_P, ids) if len(correct_P) else None
        found[pairs] = len(correct_P)
    return found
