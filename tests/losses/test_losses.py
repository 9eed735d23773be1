"""Losses against an independent float64 NumPy computation."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.losses.lm import lm_loss, next_tokens, weighted_nll
from gpt_jax.losses.policy import policy_loss, value_loss
from gpt_jax.losses.ranking import pairwise_ranking
from tests import tiny


def mean(pair):
    return float(pair[0]) / float(pair[1])


def test_weighted_nll_is_a_ratio_of_sums():
    rng = np.random.default_rng(0)
    logprobs, weights = -rng.exponential(size=(3, 5)), rng.integers(0, 2, (3, 5))
    total, count, metrics = weighted_nll(jnp.float32(logprobs), jnp.float32(weights))
    expected = sum(-lp for lp, w in zip(logprobs.flat, weights.flat, strict=True) if w)
    assert float(total) == pytest.approx(expected, rel=1e-6)
    assert float(count) == weights.sum()
    assert mean(metrics["loss"]) == pytest.approx(expected / weights.sum(), rel=1e-6)


def test_lm_loss_is_the_nll_of_the_next_tokens():
    """The sum with gradients from the forward pass against the per-token op, scaled by 3."""
    batch = tiny.padded(tiny.random_rows(np.random.default_rng(3), 3), 20)

    def fused(params):
        return 3 * lm_loss(tiny.MODEL, params, batch)[0]

    def per_token(params):
        logprobs, _, weights = next_tokens(tiny.MODEL, params, batch)
        return 3 * weighted_nll(logprobs, weights)[0]

    both = (jax.jit(jax.value_and_grad(loss))(tiny.params()) for loss in (fused, per_token))
    chex.assert_trees_all_close(*both, rtol=1e-4, atol=1e-4)


def ranking_in_numpy(scores, ranks):
    """A loop over prompts and pairs in float64."""
    losses, hits, margins = [], [], []
    for s, r in zip(scores.astype(np.float64), ranks, strict=True):
        pairs = [(i, j) for i in range(len(r)) for j in range(len(r)) if 0 <= r[i] < r[j]]
        if pairs:
            losses.append(np.mean([np.log1p(np.exp(-(s[i] - s[j]))) for i, j in pairs]))
        hits += [1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0 for i, j in pairs]
        margins += [s[i] - s[j] for i, j in pairs]
    return np.mean(losses), np.mean(hits), np.mean(margins)


def test_pairwise_ranking_equals_a_loop_over_pairs():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(6, 4)).astype(np.float32)
    ranks = np.array(
        [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0], [1, 0, -1, -1], [0, -1, -1, -1], [3, 2, 0, 0]]
    )
    scores[1, 0] = scores[1, 2]
    total, count, metrics = pairwise_ranking(jnp.asarray(scores), jnp.asarray(ranks))
    loss, accuracy, margin = ranking_in_numpy(scores, ranks)
    assert float(total / count) == pytest.approx(loss, rel=1e-6)
    assert float(count) == 4
    assert mean(metrics["accuracy"]) == pytest.approx(accuracy)
    assert mean(metrics["margin"]) == pytest.approx(margin, rel=1e-5)
    assert mean(metrics["mean_reward"]) == pytest.approx(scores[ranks >= 0].mean(), rel=1e-5)


def test_empty_slots_change_no_ranking_number():
    """Invariant 1: break `present_BK` and the padding slots join the comparisons."""
    rng = np.random.default_rng(2)
    scores, ranks = rng.normal(size=(3, 3)).astype(np.float32), np.array([[0, 1, 2]] * 3)
    alone = pairwise_ranking(scores, ranks)
    padded = pairwise_ranking(
        np.pad(scores, ((0, 2), (0, 2)), constant_values=9.0),
        np.pad(ranks, ((0, 2), (0, 2)), constant_values=-1),
    )
    chex.assert_trees_all_close(alone, padded, rtol=1e-6)


def test_extreme_margins_stay_finite():
    total, _, _ = pairwise_ranking(jnp.array([[-1e4, 1e4]]), jnp.array([[0, 1]]))
    gradient = jax.grad(lambda s: pairwise_ranking(s, jnp.array([[0, 1]]))[0])(
        jnp.array([[-1e4, 1e4]])
    )
    assert float(total) == pytest.approx(2e4)
    assert np.isfinite(gradient).all()


def ppo_arrays(seed=0, shape=(4, 7)):
    rng = np.random.default_rng(seed)
    new, old, advantages, values, old_values, returns = rng.normal(size=(6, *shape))
    lengths = rng.integers(1, shape[1] + 1, shape[0])
    mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.float64)
    return new * 0.3 - 1, old * 0.3 - 1, advantages, values, old_values, returns, mask


def policy_in_numpy(new, old, advantages, mask, clip):
    losses, clipped, ratios = [], 0, []
    for b, t in zip(*np.nonzero(mask), strict=True):
        ratio = np.exp(new[b, t] - old[b, t])
        plain = -advantages[b, t] * ratio
        bounded = -advantages[b, t] * min(max(ratio, 1 - clip), 1 + clip)
        losses.append(max(plain, bounded))
        clipped += bounded > plain
        ratios.append(ratio)
    return np.mean(losses), clipped / len(losses), np.mean(ratios)


def test_policy_loss_equals_a_loop_in_float64():
    new, old, advantages, *_, mask = ppo_arrays()
    f32 = [jnp.float32(x) for x in (new, old, advantages, mask)]
    total, count, metrics = policy_loss(*f32, 0.2)
    loss, clipfrac, ratio = policy_in_numpy(new, old, advantages, mask, 0.2)
    assert float(total / count) == pytest.approx(loss, rel=1e-5)
    assert mean(metrics["policy/clipfrac_avg"]) == pytest.approx(clipfrac)
    assert mean(metrics["val/ratio"]) == pytest.approx(ratio, rel=1e-5)
    approxkl = 0.5 * ((new - old) ** 2 * mask).sum() / mask.sum()
    assert mean(metrics["policy/approxkl_avg"]) == pytest.approx(approxkl, rel=1e-5)


def test_clipped_tokens_have_no_gradient():
    """Where the ratio left the range in the direction the advantage rewards, nothing pulls on."""
    ones = jnp.ones((1, 2))
    old = jnp.zeros((1, 2))
    new = jnp.log(jnp.array([[1.5, 0.5]]))
    grad = jax.grad(lambda x, a: policy_loss(x, old, a, ones, 0.2)[0])
    np.testing.assert_array_equal(grad(new, jnp.array([[1.0, -1.0]])), [[0, 0]])
    assert (grad(new, jnp.array([[-1.0, 1.0]])) != 0).all()


def test_value_loss_equals_a_loop_in_float64():
    *_, values, old_values, returns, mask = ppo_arrays()
    total, count, metrics = value_loss(
        *(jnp.float32(x) for x in (values, old_values, returns, mask)), 0.2
    )
    losses = []
    for b, t in zip(*np.nonzero(mask), strict=True):
        moved = min(max(values[b, t] - old_values[b, t], -0.2), 0.2)
        near = old_values[b, t] + moved
        losses.append(0.5 * max((values[b, t] - returns[b, t]) ** 2, (near - returns[b, t]) ** 2))
    assert float(total / count) == pytest.approx(np.mean(losses), rel=1e-5)
    assert 0 < mean(metrics["val/clipfrac_avg"]) < 1


def test_masked_tokens_change_no_ppo_number():
    """Invariant 1: break the `mask_BC *` in either loss."""
    new, old, advantages, values, old_values, returns, mask = (jnp.float32(x) for x in ppo_arrays())
    noise = (1 - mask) * 7.0
    for loss, arrays in (
        (policy_loss, (new, old, advantages)),
        (value_loss, (values, old_values, returns)),
    ):
        clean = loss(*arrays, mask, 0.2)
        noisy = loss(*(x + noise * (i + 1) for i, x in enumerate(arrays)), mask, 0.2)
        chex.assert_trees_all_close(clean, noisy, rtol=1e-6)
