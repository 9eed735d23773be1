"""Advantages of groups against float64 loops, and what makes a group."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.data.pipeline import make_batch_at
from gpt_jax.errors import UserError
from gpt_jax.rl import groups
from gpt_jax.rl.groups import GroupConfig, GroupedPrompts
from tests import tiny


def by_hand(method, scores, kept, size):
    """Group by group and row by row, in float64."""
    found = np.zeros(len(scores))
    for start in range(0, len(scores), size):
        rows = [b for b in range(start, start + size) if kept[b]]
        values = np.array([scores[b] for b in rows], np.float64)
        if len(rows) < 2 or values.max() == values.min():
            continue
        for i, b in enumerate(rows):
            if method == "leave one out":
                found[b] = values[i] - np.delete(values, i).mean()
            else:
                found[b] = values[i] - values.mean()
                if method == "std":
                    found[b] /= values.std(ddof=1) + 1e-4
    return found


def ours(method, scores, kept, size):
    arrays = jnp.float32(scores), jnp.float32(kept)
    if method == "leave one out":
        return groups.leave_one_out(*arrays, size)
    return groups.group_advantages(*arrays, size, method)


METHODS = ("std", "none", "leave one out")


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([2, 3, 4, 8]), st.floats(0, 0.6))
def test_advantages_equal_a_float64_loop(method, seed, size, dropped):
    """Any size, any rows dropped, groups of equal scores among them."""
    rng = np.random.default_rng(seed)
    scores = np.float32(rng.normal(size=(6, size)))
    scores[2] = 0.1  # whose float32 mean need not be it
    scores, kept = scores.reshape(-1), rng.random(6 * size) >= dropped
    expected = by_hand(method, scores, kept, size)
    np.testing.assert_allclose(ours(method, scores, kept, size), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_of_a_group_is_0_and_what_is_dropped_says_nothing(method):
    """Break it: leave the mask out of a mean."""
    scores = np.random.default_rng(0).normal(size=16)
    kept = np.arange(16) % 5 > 0
    one = ours(method, scores, kept, 4)
    other = ours(method, np.where(kept, scores, 100.0), kept, 4)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(np.reshape(one, (4, 4)).sum(1), 0, atol=1e-5)
    assert not np.any(np.asarray(one)[~kept])


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_have_no_advantage(method):
    """Exactly none, though the mean of eight times 0.1 is not 0.1 in float32."""
    scores = jnp.float32([0.1] * 8 + [0.1] * 7 + [0.2])
    found = np.asarray(ours(method, scores, jnp.ones(16), 8))
    assert not found[:8].any() and found[8:].all()
    assert groups.equal_groups(scores, jnp.ones(16), 8).tolist() == [True, False]
    one_left = jnp.arange(16) % 8 == 0
    assert groups.equal_groups(scores, one_left, 8).tolist() == [True, True]
    assert not np.any(ours(method, scores, one_left, 8))
    assert groups.equal_groups(scores, jnp.zeros(16), 8).all()


def test_the_best_and_the_worst_of_a_group():
    scores = jnp.float32([3, 9, 9, 1, 5, 5, 5, 5, 2, 7, 0, 4])
    kept = jnp.float32([1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0])
    assert groups.best_of_groups(scores, kept, 4).tolist() == [1, 4, 8]
    assert groups.worst_of_groups(scores, kept, 4).tolist() == [3, 7, 11]
    kept = jnp.float32([0, 0, 1, 0, 0, 1, 1, 0, 1, 0, 1, 1])
    assert groups.best_of_groups(scores, kept, 4).tolist() == [2, 5, 11]
    assert groups.worst_of_groups(scores, kept, 4).tolist() == [2, 6, 10]


def test_groups_are_consecutive_rows_that_lead_back_to_the_record():
    """On one process and on four alike. Break it: tile the prompts instead of repeating them."""
    prompts = tiny.prompts(np.random.default_rng(0), 20)
    whole = GroupedPrompts(make_batch_at(prompts, 8, 3), 4)
    parts = [GroupedPrompts(make_batch_at(prompts, 8, 3, (i, 4)), 4) for i in range(4)]
    for step in range(4):
        rows = whole(step).rows_B
        np.testing.assert_array_equal(rows, prompts.rows_B[whole.numbers(step)])
        np.testing.assert_array_equal(rows, np.repeat(rows[::4], 4))
        assert len(set(rows[::4].tolist())) >= 4
        np.testing.assert_array_equal(whole(step).tokens_BP.ids, prompts.tokens_BP.ids[rows])
        np.testing.assert_array_equal(rows, np.concatenate([p(step).rows_B for p in parts]))


def test_groups_that_do_not_divide():
    with pytest.raises(UserError, match="10 episodes do not divide into groups of 4"):
        GroupConfig(episodes=10, minibatches=1, group=4)
    with pytest.raises(UserError, match="at least 2"):
        GroupConfig(group=1)
