"""What a folder of many seeds holds, and the statistics over seeds."""

import math

import numpy as np
import pytest
import scipy.stats

from gpt_jax import seeds
from gpt_jax.errors import UserError


@pytest.mark.parametrize("n", [2, 3, 8, 30])
def test_the_interval_is_students(n):
    values = np.random.default_rng(n).normal(3.0, 2.0, n)
    mean, width = seeds.mean_and_width(values)
    low, high = scipy.stats.t.interval(0.95, n - 1, np.mean(values), scipy.stats.sem(values))
    np.testing.assert_allclose([mean - width, mean + width], [low, high], rtol=1e-12)
    assert seeds.interval(values) == [mean, mean - width, mean + width]


def test_what_cannot_be_known_is_not_made_up():
    mean, width = seeds.mean_and_width([2.0])
    assert mean == 2.0 and math.isnan(width) and seeds.interval([2.0]) == [2.0, None, None]
    assert all(map(math.isnan, seeds.mean_and_width([1.0, math.nan])))
    assert seeds.mean_and_width([1.0, math.inf])[0] == math.inf
    assert seeds.mean_and_width([5.0, 5.0]) == (5.0, 0.0)


def test_rows_of_seeds_are_joined_step_by_step():
    """Training and evaluation share a step; what one seed alone has written stays with it."""
    ours = [{"step": 1, "loss": 1.0}, {"step": 1, "eval/loss": 4.0}, {"step": 2, "loss": 2.0}]
    theirs = [{"step": 1, "loss": 3.0, "more": 0.0}, {"step": 1, "eval/loss": 4.0}]
    first, second = seeds.merge([ours, theirs])
    assert first["step"] == 1 and first["loss"] == 2.0 and "more" not in first
    assert first["loss/ci95"] == pytest.approx(12.7062 * math.sqrt(2) / math.sqrt(2), rel=1e-4)
    assert second == {"step": 1, "eval/loss": 4.0, "eval/loss/ci95": 0.0}
    row = seeds.together({"loss": np.array([1.0, 3.0]), "lr": 0.1})
    assert row["lr"] == 0.1 and row["lr/ci95"] == 0.0 and row["loss"] == 2.0
    assert seeds.of_seed({"loss": np.array([1.0, 3.0]), "lr": 0.1}, 1) == {"loss": 3.0, "lr": 0.1}


def test_a_seed_that_is_not_there_is_named(tmp_path):
    for seed in (0, 1, 2, 10):
        seeds.folder_of(tmp_path, seed).mkdir(parents=True)
    assert seeds.seeds_in(tmp_path) == [0, 1, 2, 10]
    assert seeds.one_of(tmp_path, 10) == tmp_path / "seeds" / "10"
    with pytest.raises(UserError, match=r"has the seeds 0, 1, 2, 10, and not 3.*seeds/0"):
        seeds.one_of(tmp_path, 3)
    with pytest.raises(UserError, match=r"holds the models of the seeds.*seeds/0"):
        seeds.refuse_many(tmp_path)
    seeds.refuse_many(tmp_path / "seeds" / "0")
    assert seeds.in_words([4, 5, 6]) == "4 to 6"
