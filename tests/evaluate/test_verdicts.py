"""Shares, gains and rankings by verdict are those of naive loops."""

import itertools

import numpy as np
import pytest

from gpt_jax.evaluate.statistics import mean_interval
from gpt_jax.evaluate.verdicts import ranked_pairs, shares, shares_by_kind, style_and_substance
from gpt_jax.tasks.task import VERDICTS

A, B, N = 3, 4, 40


def draw(seed, answers):
    """Scores, of which many are equal, and verdicts that they go with."""
    rng = np.random.default_rng(seed)
    verdicts = rng.choice(VERDICTS, (answers, N))
    return rng.integers(0, 4, (answers, N)) / 10 + 0.5 * (verdicts == "right"), verdicts


def test_shares_add_up_and_have_intervals_by_cluster():
    _, verdicts = draw(0, A)
    clusters = [n // 4 for n in range(N)]
    found = shares(verdicts, clusters)
    assert found["right"][0] + found["unknown"] + found["wrong"] == pytest.approx(1)
    assert found["right"] == mean_interval((verdicts == "right").mean(0), clusters)
    assert found["right"] != shares(verdicts, None)["right"]


def test_shares_by_kind_are_those_of_its_prompts_alone():
    """Break it: take the clusters of all prompts for those of a kind."""
    _, verdicts = draw(1, A)
    kinds = ["sum"] * 10 + ["fact"] * 25 + [None] * 5
    clusters = [n // 5 for n in range(N)]
    found = shares_by_kind(verdicts, clusters, kinds)
    assert list(found) == ["fact", "sum"]  # and no kind is none
    assert found["sum"] == {"prompts": 10, **shares(verdicts[:, :10], clusters[:10])}
    assert found["fact"] == {"prompts": 25, **shares(verdicts[:, 10:35], clusters[10:35])}
    assert shares_by_kind(verdicts, None, kinds)["sum"]["prompts"] == 10


def test_style_and_substance_are_the_loop_over_all_pairs():
    (ours, our_verdicts), (theirs, their_verdicts) = draw(2, A), draw(3, B)
    style, substance = style_and_substance(ours, theirs, our_verdicts, their_verdicts)
    for n in range(N):
        gains = {True: 0.0, False: 0.0}
        for a, b in itertools.product(range(A), range(B)):
            gains[our_verdicts[a, n] == their_verdicts[b, n]] += ours[a, n] - theirs[b, n]
        assert style[n] == pytest.approx(gains[True] / (A * B), abs=1e-11)
        assert substance[n] == pytest.approx(gains[False] / (A * B), abs=1e-11)
    np.testing.assert_allclose(style + substance, ours.mean(0) - theirs.mean(0), atol=1e-11)


def test_style_alone_and_substance_alone():
    scores, verdicts = draw(4, A)
    right = np.full((A, N), "right")
    style, substance = style_and_substance(scores + 0.2, scores, right, right)
    np.testing.assert_allclose(style, 0.2)
    assert not substance.any()
    style, substance = style_and_substance(scores, scores - 0.2, right, np.full((A, N), "wrong"))
    np.testing.assert_allclose(substance, 0.2)
    assert not style.any()
    # A model against itself: what cancels is 0, to the last digit.
    assert not np.any(style_and_substance(scores, scores, verdicts, verdicts))


def test_ranked_pairs_are_the_loop_over_all_pairs():
    """Break it: let pairs of equal scores count, or pairs of which one answer does not."""
    rng = np.random.default_rng(5)
    scores, _ = draw(5, B)
    rewards = rng.integers(0, 3, (B, N))
    counts = rng.random((B, N)) < 0.7
    expected = []
    for n in range(N):
        for a, b in itertools.combinations(range(B), 2):
            if scores[a, n] != scores[b, n] and counts[a, n] and counts[b, n]:
                good, bad = (a, b) if scores[a, n] > scores[b, n] else (b, a)
                ahead = rewards[good, n] - rewards[bad, n]
                expected.append((n, 1.0 if ahead > 0 else 0.0 if ahead < 0 else 0.5))
    correct, prompts = ranked_pairs(rewards, scores, counts)
    assert sorted(zip(prompts.tolist(), correct.tolist())) == sorted(expected)
    assert {value for _, value in expected} == {0.0, 0.5, 1.0}


def test_one_answer_makes_no_pair():
    correct, prompts = ranked_pairs([[1.0, 2.0]], [[0.0, 1.0]])
    assert correct.shape == prompts.shape == (0,)
