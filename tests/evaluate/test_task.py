"""Evaluate these models on this task: every model the same prompts, every answer its judge."""

import numpy as np
import pytest

from gpt_jax.evaluate.task import evaluate_task, judge
from gpt_jax.generate.sampling import Sampling
from gpt_jax.generate.text import Completion
from gpt_jax.tasks.task import Task

ROWS = [{"q": "a", "answer": 2}, {"q": "bb", "answer": 4}, {"q": "ccc", "answer": 7}]
LENGTHS = Task(
    "lengths",
    rows=lambda split: ROWS,
    prompt=lambda row: [{"role": "user", "content": row["q"]}],
    score=lambda row, text, stopped: len(text) - row["answer"] + 0.5 * stopped,
    verdict=lambda row, text: "right" if len(text) == row["answer"] else "wrong",
)


class Doubler:
    """Answers with twice the question, the second time once more."""

    def complete(self, prompts, sampling):
        texts = [p[-1]["content"] * (2 + a) for p in prompts for a in range(sampling.n)]
        reasons = ("stop", "length")
        return [
            Completion(text, [5] * len(text), [0.0] * len(text), reasons[i % 2], 3)
            for i, text in enumerate(texts)
        ]


def test_answers_are_judged_row_by_row():
    found = evaluate_task({"double": Doubler()}, LENGTHS, Sampling(n=2), LENGTHS.rows("test"))
    one = found["double"]
    assert one.texts_AN == [["aa", "bbbb", "cccccc"], ["aaa", "bbbbbb", "ccccccccc"]]
    np.testing.assert_array_equal(one.scores_AN, [[0.5, 0.5, -0.5], [1.0, 2.0, 2.0]])
    np.testing.assert_array_equal(one.verdicts_AN, [["right", "right", "wrong"], ["wrong"] * 3])
    np.testing.assert_array_equal(one.lengths_AN, [[2, 4, 6], [3, 6, 9]])


def test_a_task_without_a_judge_has_no_scores():
    silent = LENGTHS._replace(score=None, verdict=None)
    found = evaluate_task({"double": Doubler()}, silent, Sampling(), ROWS)["double"]
    assert found.scores_AN is None and found.verdicts_AN is None


def test_every_row_needs_its_answer():
    with pytest.raises(ValueError):
        judge(LENGTHS, ROWS, [Doubler().complete([LENGTHS.prompt(ROWS[0])], Sampling())])
