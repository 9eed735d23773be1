"""Intervals cover what they claim to cover, and every comparison is a fair one."""

import numpy as np
import pytest

from gpt_jax.evaluate import statistics
from gpt_jax.evaluate.statistics import best_of_others, mean_interval, paired_difference, win_rate

CLUSTERS, SIZE = 60, 8
IDS = np.repeat(np.arange(CLUSTERS), SIZE)


def _clustered(rng, clusters=CLUSTERS, size=SIZE):
    """Values around 0 of which most of the spread is between the clusters."""
    return np.repeat(rng.normal(size=clusters), size) + 0.5 * rng.normal(size=clusters * size)


def _half(interval):
    return (interval[2] - interval[1]) / 2


def test_without_clusters_it_is_the_plain_bootstrap():
    """Value by value as Efron (1979) has it, in a loop of its own."""
    values = np.random.default_rng(1).exponential(size=37)
    rng = np.random.default_rng(5)
    means = [values[rng.integers(0, 37, 37)].mean() for _ in range(500)]
    expected = [values.mean(), *np.percentile(means, [2.5, 97.5])]
    np.testing.assert_allclose(mean_interval(values, seed=5, resamples=500), expected, rtol=1e-12)


def test_the_width_is_the_cluster_robust_standard_error():
    """Equal clusters: the standard error is that of the clusters' means, in closed form."""
    values = _clustered(np.random.default_rng(2), clusters=400)
    ids = np.repeat(np.arange(400), SIZE)
    means = values.reshape(400, SIZE).mean(axis=1)
    interval = mean_interval(values, ids, resamples=8000)
    assert interval[0] == pytest.approx(values.mean(), abs=1e-12)
    assert _half(interval) == pytest.approx(1.96 * means.std(ddof=1) / 20, rel=0.04)
    assert _half(mean_interval(values)) < 0.5 * _half(interval)


def test_clusters_of_many_sizes_agree_with_the_sandwich():
    """Unequal clusters: Liang and Zeger's (1986) variance of a mean, summed in a loop."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 15, 500)
    ids = np.repeat(np.arange(500), sizes)
    values = rng.normal(size=500)[ids] + rng.normal(size=len(ids))
    error, residuals = 0.0, values - values.mean()
    for cluster in range(500):
        error += residuals[ids == cluster].sum() ** 2
    error = np.sqrt(error) / len(values)
    assert _half(mean_interval(values, ids, resamples=8000)) == pytest.approx(
        1.96 * error, rel=0.04
    )


def test_ninety_five_percent_are_ninety_five_percent():
    """A null simulation. Break it: ignore `clusters_N` in `_by_cluster`."""
    rng = np.random.default_rng(4)
    covered, naive = [], []
    for _ in range(400):
        values = _clustered(rng)
        for found, ids in ((covered, IDS), (naive, None)):
            _, low, high = mean_interval(values, ids, resamples=500)
            found.append(low <= 0 <= high)
    assert 0.92 <= np.mean(covered) <= 0.98
    assert np.mean(naive) < 0.7


def test_a_pair_is_told_apart_where_the_means_are_not():
    """Break it: subtract the two means' intervals in `paired_difference`."""
    rng = np.random.default_rng(5)
    theirs = _clustered(rng)
    ours = theirs + 0.03 + 0.01 * rng.normal(size=len(theirs))
    (_, low, high), (_, other_low, other_high) = (mean_interval(x, IDS) for x in (ours, theirs))
    assert low < other_high and other_low < high
    mean, low, high = paired_difference(ours, theirs, IDS)
    assert 0.02 < low < mean < high < 0.04
    assert mean == pytest.approx(ours.mean() - theirs.mean(), abs=1e-12)


def test_equal_models_are_seldom_told_apart():
    rng = np.random.default_rng(6)
    wrong = 0
    for _ in range(300):
        shared = _clustered(rng)
        ours, theirs = (shared + _clustered(rng) for _ in range(2))
        _, low, high = paired_difference(ours, theirs, IDS, resamples=500)
        wrong += not low <= 0 <= high
    assert wrong / 300 < 0.09


def test_any_hashable_is_a_cluster_and_their_order_is_nothing():
    values = np.random.default_rng(7).normal(size=len(IDS))
    named = [("fact", int(i)) for i in IDS]
    assert mean_interval(values, named) == mean_interval(values, IDS)
    order = np.random.default_rng(8).permutation(len(IDS))
    mean, *ends = mean_interval(values[order], IDS[order])
    expected, *expected_ends = mean_interval(values, IDS)
    assert mean == pytest.approx(expected, abs=1e-12)
    np.testing.assert_allclose(ends, expected_ends, rtol=0.05, atol=0.01)


def test_blocks_of_draws_change_nothing(monkeypatch):
    values = np.random.default_rng(9).normal(size=50)
    whole = mean_interval(values, resamples=300)
    monkeypatch.setattr(statistics, "_BLOCK", 333)
    assert mean_interval(values, resamples=300) == whole


def test_constants_and_single_clusters():
    """Equal values are certain; one cluster says nothing about another."""
    assert mean_interval(np.full(30, 0.9), np.arange(30) % 7) == [pytest.approx(0.9)] * 3
    mean, low, high = mean_interval(np.full(30, 0.9), np.arange(30) % 7)
    assert low <= mean <= high
    assert mean_interval([1.0, 2.0], ["one", "one"]) == [1.5, None, None]
    assert mean_interval([1.0]) == [1.0, None, None]


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: mean_interval([]), "no value"),
        (lambda: mean_interval([1.0, 2.0], ["a"]), "1 cluster ids for 2 values"),
        (lambda: paired_difference([1.0, 2.0], [1.0]), "equal shapes"),
    ],
)
def test_what_cannot_be_computed_is_said(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_win_rate_equals_counting():
    rng = np.random.default_rng(10)
    ours, theirs = rng.integers(0, 4, (3, 40)), rng.integers(0, 4, (5, 40))
    counts = {1: 0, 0: 0, -1: 0}
    for n in range(40):
        for a in ours[:, n]:
            for b in theirs[:, n]:
                counts[int(np.sign(a - b))] += 1
    wins, ties, losses, rate = win_rate(ours, theirs)
    assert [wins, ties, losses] == pytest.approx([counts[i] / 600 for i in (1, 0, -1)], abs=1e-12)
    assert wins + ties + losses == pytest.approx(1, abs=1e-12)
    assert rate[0] == pytest.approx(wins + ties / 2, abs=1e-12)
    assert rate[1] < rate[0] < rate[2]
    swapped = win_rate(theirs, ours)
    assert swapped.wins == pytest.approx(losses) and swapped.losses == pytest.approx(wins)


def test_win_rate_intervals_are_by_cluster():
    rng = np.random.default_rng(11)
    better = np.repeat(rng.random(CLUSTERS) < 0.6, SIZE)[None] + 0.0
    half = np.full_like(better, 0.5)
    plain, by_cluster = win_rate(better, half), win_rate(better, half, IDS)
    assert plain.win_rate[0] == pytest.approx(by_cluster.win_rate[0], abs=1e-12)
    assert _half(by_cluster.win_rate) == pytest.approx(SIZE**0.5 * _half(plain.win_rate), rel=0.15)


def test_an_answer_does_not_meet_itself():
    """Three of four answers are compared, prompts without a comparison left out."""
    scores = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]])
    others = ~np.eye(4, dtype=bool)[:, :, None]
    assert win_rate(scores, scores).ties == 0.625
    wins, ties, losses, _ = win_rate(scores, scores, meets_ABN=others)
    assert (wins, ties, losses) == (0.25, 0.5, 0.25)
    first_only = others & np.array([True, False])
    wins, ties, losses, rate = win_rate(scores, scores, ["a", "b"], meets_ABN=first_only)
    assert (wins, ties, losses) == (0.5, 0.0, 0.5) and rate == [0.5, None, None]
    assert win_rate(scores[:1], scores[:1], meets_ABN=False) is None


@pytest.mark.parametrize("n", [1, 2, 4, 8])
def test_best_of_n_wins_as_often_as_it_should(n):
    """Under a perfect judge n of n+1 times; among its own candidates it would seem to win always.

    Break it: leave out `meets_ABN`, or choose from all.
    """
    scores = np.random.default_rng(12).normal(size=(n + 1, 200))
    picks = best_of_others(scores)
    assert (picks != np.arange(n + 1)[:, None]).all()
    ours = np.take_along_axis(scores, picks, axis=0)
    found = win_rate(ours, scores, meets_ABN=np.eye(n + 1)[:, :, None])
    assert found.wins == pytest.approx(n / (n + 1)) and found.ties == 0.0
    if n > 1:
        best = scores[:n].max(axis=0, keepdims=True)
        own = win_rate(best, scores[:n], meets_ABN=best[:, None] != scores[None, :n])
        assert own.wins == 1.0


def test_best_of_others_agrees_with_fresh_draws():
    """A judge that only half agrees: the same rate as against answers drawn apart.

    The candidates that were not chosen are worse opponents than fresh ones, by 8 points here.
    """
    rng = np.random.default_rng(13)
    quality = rng.normal(size=(9, 20_000))
    judge = quality + rng.normal(size=quality.shape)
    rotated = win_rate(
        np.take_along_axis(quality[:5], best_of_others(judge[:5]), axis=0),
        quality[:5],
        meets_ABN=np.eye(5)[:, :, None],
    )
    best = np.take_along_axis(quality[:4], judge[:4].argmax(axis=0)[None], axis=0)
    fresh = win_rate(best, quality[4:])
    assert rotated.win_rate[0] == pytest.approx(fresh.win_rate[0], abs=0.01)
    passed_over = win_rate(best, quality[:4], meets_ABN=best[:, None] != quality[None, :4])
    assert rotated.win_rate[0] < passed_over.win_rate[0] - 0.06


def test_a_score_that_is_not_a_number_is_not_a_loss():
    found = win_rate([[1.0, np.nan]], [[0.0, 0.0]])
    assert np.isnan([found.wins, found.ties, found.losses, *found.win_rate]).all()
