"""Ranks from scores: ties, and noise of which the agreement is known."""

import itertools
import random

import numpy as np
import pytest

from gpt_jax.data.ranking import check_degrees, ranks_of, temperature_of, unequal_pairs
from gpt_jax.errors import UserError


def test_scores_that_look_alike_share_a_rank():
    """A rank reaches as far down from its best score as a labeler cannot see, and no farther."""
    assert ranks_of([0.2, 0.9, 0.9, 0.86, 0.84]) == [2, 0, 0, 0, 1]
    assert ranks_of([0.2, 0.21, 0.22], noticeable=0.015) == [1, 0, 0]
    assert unequal_pairs([1, 0, 0]) == [(1, 0), (2, 0)]


def test_margins_are_of_all_comparisons_or_of_none():
    check_degrees([{}, {}])
    check_degrees([{"degrees": [1.0, 0.0]}, {"degrees": [0.0, 0.0]}])
    for rows, sentence in (
        ([{"degrees": [1.0, 0.0]}, {}, {}], "2 of 3 comparisons have no `margin`"),
        ([{"degrees": [-1.0, 0.0]}], "a `margin` below 0"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_degrees(rows)


@pytest.mark.parametrize("agreement", [0.6, 0.73, 0.9])
def test_two_labelers_agree_as_often_as_asked(agreement):
    """Break it: let the temperature be that of one labeler's errors."""
    rng = np.random.default_rng(0)
    scores = [rng.choice([0.1, 0.12, 0.5, 0.55, 0.8, 1.0], 4).tolist() for _ in range(4000)]
    temperature = temperature_of(scores, agreement)
    alike = []
    for number, row in enumerate(scores):
        a, b = (ranks_of(row, temperature, random.Random(f"{number} {who}")) for who in "ab")
        truth = ranks_of(row)
        for i, j in itertools.combinations(range(4), 2):
            assert (a[i] == a[j]) == (truth[i] == truth[j]), "noise neither makes nor breaks ties"
            if a[i] != a[j]:
                alike.append((a[i] < a[j]) == (b[i] < b[j]))
    assert np.mean(alike) == pytest.approx(agreement, abs=0.015)


def test_no_noise_is_the_truth():
    for agreement in (None, 1.0):
        assert temperature_of([[0.1, 0.5]], agreement) == 0.0
    assert temperature_of([[0.5, 0.5]], 0.7) == 0.0, "there is nothing to agree on"
