"""The gold labelers, and what is counted of their ranks."""

import numpy as np
import pytest

from gpt_jax.labels.comparisons import agreement, comparisons_of, count
from gpt_jax.labels.gold import gold_ranks
from tests.labels.rows import row

VALUE = {"awful": 0.1, "poor": 0.4, "good": 0.7, "good too": 0.72, "best": 1.0}


def score(row, text, stopped):
    return VALUE[text] - (not stopped) * 0.1


def rows(n):
    rng = np.random.default_rng(0)
    return [row(i, *rng.choice(list(VALUE), 4).tolist()) for i in range(n)]


@pytest.mark.parametrize("asked", [0.6, 0.73, 1.0])
def test_two_labelers_agree_as_often_as_asked(asked):
    """Break it: give both labelers the same noise."""
    first, second = gold_ranks(rows(4000), score, asked, noticeable=0.05, seed=0)
    assert len(first) == 4000 and len(second) == 800
    found = agreement(first, second)
    assert found["ranked_twice"] > 2000
    assert found["agree"] == pytest.approx(asked, abs=0.03)


def test_noise_is_named_by_the_prompt_and_the_seed():
    some = rows(300)
    first, _ = gold_ranks(some, score, 0.7, 0.05, seed=0)
    backwards, _ = gold_ranks(some[::-1], score, 0.7, 0.05, seed=0)
    assert [first[n] for n in range(300)] == [backwards[299 - n] for n in range(300)]
    assert gold_ranks(some, score, 0.7, 0.05, seed=1)[0] != first


def test_without_noise_the_ranks_are_the_truth():
    some = [
        row(0, "good", "best", "good too", "awful"),
        row(1, "good", "good", stopped=[False, True]),
    ]
    first, second = gold_ranks(some, score, None, noticeable=0.05, seed=0)
    assert first == {0: [1, 0, 1, 2], 1: [1, 0]} and second.items() <= first.items()
    finer, _ = gold_ranks(some, score, None, noticeable=0.01, seed=0)
    assert finer[0] == [2, 0, 1, 3]


def test_what_teaches_nothing_is_counted():
    some = [
        row(0, "good", "best", "good too", "best"),  # 4 pairs, a tie, and a pair of equals
        row(1, "best", "best"),  # all equal
        row(2, "good", "good too"),  # all tied
        row(3, "good", "best"),  # not labeled
        row(4, "poor", "best", split="test"),
    ]
    ranks = {0: [1, 0, 1, 0], 1: [0, 0], 2: [0, 0], 4: [1, 0]}
    assert count(some, ranks) == {
        "prompts": 5,
        "answers": 12,
        "unlabeled": 1,
        "all_equal": 1,
        "all_tied": 1,
        "pairs": 5,
        "ties": 1,
    }
    (train,), (test,) = (comparisons_of(some, ranks, split) for split in ("train", "test"))
    assert train["ranks"] == [1, 0, 1, 0] and train["record"] == some[0]["record"]
    assert test["completions"] == ["poor", "best"]


def test_agreement_is_over_pairs_that_are_no_tie_to_either():
    first, second = {0: [0, 1, 2], 1: [0, 1]}, {0: [0, 2, 1], 2: [0, 1]}
    assert agreement(first, second) == {"ranked_twice": 3, "agree": 2 / 3}
    assert agreement(first, {0: [0, 0, 1]}) == {"ranked_twice": 2, "agree": 1.0}
    assert agreement(first, {0: [0, 0, 0]}) is None
