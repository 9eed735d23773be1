"""How well a reward model ranks what people ranked, beside what needs no model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from gpt_jax.data import baselines, pipeline
from gpt_jax.data.batches import Comparisons, pad_rows
from gpt_jax.data.left_out import LeftOut
from gpt_jax.data.packing import pad_comparisons, without_empty
from gpt_jax.evaluate.statistics import mean_interval
from gpt_jax.losses.ranking import pairs_of, score_comparisons
from gpt_jax.models.contract import Model
from gpt_jax.parallel import distributed, rules
from gpt_jax.rl.scoring import trained_length
from gpt_jax.train.checkpoint import load_model_files
from gpt_jax.train.origin import load_params


def ranking_accuracies(
    model: Model, scorer: dict, rows: Comparisons, mesh: Mesh, batch_size: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """1.0, 0.5 (equal scores) or 0.0 for every comparison of `rows`, and the row that it is of.

    Returns:
      float64 and int, (pairs,) each.
    """
    batch_size += -batch_size % rules.shards(mesh, "batch")
    rows = pad_rows(rows, batch_size)
    scores_of = jax.jit(functools.partial(score_comparisons, model))
    batches = pipeline.in_order(rows, batch_size, mesh)
    scores_NK = np.concatenate(distributed.fetch([scores_of(scorer, batch) for batch in batches]))
    ranks_NK = rows.ranks_BK
    n, i, j = np.nonzero(pairs_of(ranks_NK))
    return np.sign(scores_NK[n, i] - scores_NK[n, j]) / 2.0 + 0.5, n


def judge_reward_model(
    folder: Path,
    train: list[dict],
    test: list[dict],
    cluster: Callable[[dict], Hashable],
    mesh: Mesh,
) -> dict:
    """Held-out accuracy, with an interval by what is asked about, and that of two baselines.

    Args:
      folder: of the reward stage.
      train: the comparisons it learned from.
      test: held-out ones.
      cluster: `row -> id` of what a comparison is about, as a task's.
      mesh: where to put it.

    Returns:
      `accuracy` [mean, low, high], `pairs`, and the accuracy of choosing the longer answer and of a
      bag of words on the same pairs.
    """
    model, tokenizer = load_model_files(folder)
    longest = trained_length(folder) or model.context_length
    # What does not fit was counted by the reward model's stage.
    padded = pad_comparisons(test, tokenizer, longest, LeftOut())
    padded, numbers = without_empty(padded, "held-out comparisons", longest)
    test = [test[n] for n in numbers]
    correct_P, rows_P = ranking_accuracies(model, load_params(folder, mesh), padded, mesh)
    return {
        "accuracy": mean_interval(correct_P, [cluster(test[row]) for row in rows_P]),
        "pairs": len(correct_P),
        "longer_answer_baseline": baselines.longer_answer(test),
        "bag_of_words_baseline": baselines.bag_of_words(train, test),
    }
