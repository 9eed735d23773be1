"""Ratings are the most likely ones, as a slow and independent computation finds them."""

import json
import math

import numpy as np
import pytest

from gpt_jax.errors import UserError
from gpt_jax.evaluate.elo import Game, ratings, read_votes, strengths


def by_minorization(wins, steps=20_000):
    """Zermelo's fixed point (1929) in float64: p_i = wins_i / sum_j n_ij / (p_i + p_j)."""
    n = len(wins)
    p = [1.0] * n
    for _ in range(steps):
        p = [
            sum(wins[i])
            / sum((wins[i][j] + wins[j][i]) / (p[i] + p[j]) for j in range(n) if j != i)
            for i in range(n)
        ]
        mean = math.exp(sum(map(math.log, p)) / n)
        p = [one / mean for one in p]
    return [math.log(one) for one in p]


def drawn(truth, prompts, seed):
    rng, games = np.random.default_rng(seed), []
    for prompt in range(prompts):
        for i in range(len(truth)):
            for j in range(i):
                wins = rng.random() < 1 / (1 + 10 ** ((truth[j] - truth[i]) / 400))
                games.append(Game(f"m{i}", f"m{j}", float(wins), prompt))
    return games


@pytest.mark.parametrize("seed", range(3))
def test_strengths_are_those_of_an_independent_computation(seed):
    """Break it: leave the ties out, or one half of the curvature."""
    rng = np.random.default_rng(seed)
    wins = rng.integers(0, 9, (4, 4)) + 0.5
    np.fill_diagonal(wins, 0.0)
    np.testing.assert_allclose(strengths(wins), by_minorization(wins.tolist()), atol=1e-7)


def test_strong_models_against_weak_ones_do_not_overshoot():
    """Far from its top Newton's method alone would leap away."""
    wins = np.array([[0, 9999, 1.0], [1, 0, 1], [1, 9999, 0.0]])
    np.testing.assert_allclose(strengths(wins), by_minorization(wins.tolist(), 200_000), atol=1e-5)


def test_two_models_have_the_ratio_of_their_wins():
    games = [Game("a", "b", 1.0, i) for i in range(3)] + [Game("b", "a", 1.0, 3)]
    a, b = ratings(games)
    assert (a.name, a.games, a.won) == ("a", 4, 0.75)
    assert a.rating[0] - b.rating[0] == pytest.approx(400 * math.log10(3))
    assert a.rating[0] + b.rating[0] == pytest.approx(2000)


def test_ties_are_half_a_win_for_each():
    games = [Game("a", "b", 0.5, i) for i in range(5)]
    assert [one.rating[0] for one in ratings(games)] == [1000.0, 1000.0]


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 3 models in 100 arenas, 95% intervals; break it: give the ends of a 50% interval."""
    truth, held = (1100.0, 1000.0, 900.0), []
    for seed in range(100):
        found = {r.name: r.rating for r in ratings(drawn(truth, 60, seed), seed, draws=100)}
        held += [found[f"m{i}"][1] <= t <= found[f"m{i}"][2] for i, t in enumerate(truth)]
    assert 0.9 <= np.mean(held) <= 0.98


def test_the_order_of_games_and_of_names_changes_nothing():
    games = drawn((1050.0, 950.0), 20, 0)
    swapped = [Game(g.second, g.first, 1 - g.score, g.about) for g in reversed(games)]
    assert [r.rating[0] for r in ratings(games)] == pytest.approx(
        [r.rating[0] for r in ratings(swapped)]
    )


def test_one_prompt_gives_no_interval():
    games = [Game("a", "b", 1.0, 0), Game("b", "a", 1.0, 0)]
    assert ratings(games)[0].rating[1:] == [None, None]


@pytest.mark.parametrize(
    "games",
    [
        [],
        [Game("a", "b", 1.0, 0)],
        [Game("a", "b", 0.5, 0), Game("c", "d", 0.5, 0)],
        [Game("a", "a", 0.5, 0)],
        [Game("a", "b", math.nan, 0)],
    ],
)
def test_what_has_no_rating_is_said(games):
    with pytest.raises(UserError):
        ratings(games)


def test_votes_of_the_page_are_games(tmp_path):
    path = tmp_path / "comparisons.jsonl"
    vote = {"prompt": [], "chosen": "x", "rejected": "y", "chosen_model": "a"}
    rows = [vote | {"rejected_model": "b"}, vote | {"rejected_model": "a"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_votes(path) == [Game("a", "b", 1.0, "[]")]
    for broken in (json.dumps(vote), "{", "3", "null"):
        path.write_text(broken + "\n")
        with pytest.raises(UserError, match="comparisons.jsonl:1"):
            read_votes(path)
    with pytest.raises(UserError, match="no such file"):
        read_votes(tmp_path / "nowhere")


def test_a_vote_is_a_line_of_the_file_whatever_the_answers_say(tmp_path):
    """Break it: `str.splitlines`, which ends a line at U+2028, too, or text that is no UTF-8."""
    path = tmp_path / "votes"
    vote = {"prompt": "a\u2028b\x85c", "chosen_model": "a", "rejected_model": "b"}
    line = json.dumps(vote, ensure_ascii=False)
    path.write_text(f"\ufeff{line}\n\n{line}", encoding="utf-8")
    assert [game.first for game in read_votes(path)] == ["a", "a"]
    for broken in (b'{"prompt": "\xf3"}', b"[" * 100_000, b'{"a": 1, "a": 2}'):
        path.write_bytes(line.encode() + b"\n" + broken)
        with pytest.raises(UserError, match="votes:2"):
            read_votes(path)
