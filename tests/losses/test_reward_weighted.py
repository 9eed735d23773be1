"""The reward-weighted loss against a loop in float64, and what its weights do not depend on."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt_jax.losses.reward_weighted import reward_weighted_nll, score_weights


def arrays(seed, b=6, c=5):
    rng = np.random.default_rng(seed)
    scores, logprobs = rng.normal(size=b) * 2, -rng.exponential(size=(b, c))
    mask = (np.arange(c) < rng.integers(0, c + 1, b)[:, None]).astype(np.float64)
    mask[0] = 1
    return scores, logprobs, mask


def in_numpy(scores, logprobs, mask, beta):
    kept = [b for b in range(len(scores)) if mask[b].any()]
    deviation = np.sqrt(np.var(scores[kept]) + 1e-8)
    raw = {b: np.exp(scores[b] / deviation / beta) for b in kept}
    mean = np.mean(list(raw.values()))
    total = sum(-raw[b] / mean * logprobs[b, t] for b, t in zip(*np.nonzero(mask), strict=True))
    return total / mask.sum()


@pytest.mark.parametrize("beta", [0.5, 1.0, 10.0])
def test_the_loss_equals_a_loop_in_float64(beta):
    scores, logprobs, mask = arrays(0)
    with jax.enable_x64(True):
        kept = jnp.asarray(mask.max(axis=1))
        weights = score_weights(jnp.asarray(scores), kept, beta)
        total, count, _ = reward_weighted_nll(jnp.asarray(logprobs), weights, jnp.asarray(mask))
        found = float(total / count)
    # The weights are float32, whatever the scores are.
    assert found == pytest.approx(in_numpy(scores, logprobs, mask, beta), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-1e3, 1e3), st.randoms())
def test_order_padding_and_scale_change_nothing(seed, constant, random):
    """Invariant 1. Break it: let a row without tokens into the mean or the largest."""
    scores, logprobs, mask = (np.float32(x) for x in arrays(seed))

    def loss(scores, logprobs, mask):
        weights = score_weights(scores, mask.max(axis=1), 0.5)
        return reward_weighted_nll(logprobs, weights, mask)

    alone = loss(scores, logprobs, mask)
    order = random.sample(range(len(scores)), len(scores))
    chex.assert_trees_all_close(
        alone, loss(*(x[order] for x in (scores, logprobs, mask))), rtol=1e-4
    )
    wider = [np.pad(x, ((0, 2), (0, 3)), constant_values=v) for x, v in ((logprobs, -9), (mask, 0))]
    padded = loss(np.pad(scores, (0, 2), constant_values=1e6), *wider)
    chex.assert_trees_all_close(alone, padded, rtol=1e-4)
    shifted = score_weights(3 * scores + np.float32(constant), mask.max(axis=1), 0.5)
    chex.assert_trees_all_close(
        shifted, score_weights(scores, mask.max(axis=1), 0.5), rtol=2e-3, atol=2e-3
    )


def test_extremes():
    weights = functools.partial(score_weights, beta=0.1)
    ones = jnp.ones(4)
    np.testing.assert_allclose(weights(jnp.zeros(4), ones), ones)
    for scale in (1e-3, 1, 1e6):
        found = weights(scale * jnp.array([1.0, -1, 0, 1]), ones)
        np.testing.assert_allclose(found, [2, 0, 0, 2], atol=1e-3)
    np.testing.assert_array_equal(weights(jnp.zeros(4), jnp.zeros(4)), np.zeros(4))
    ones_BC = jnp.ones((4, 2))
    gradient = jax.grad(lambda logp: reward_weighted_nll(logp, found, ones_BC)[0])(0 * ones_BC)
    np.testing.assert_allclose(gradient, -found[:, None] * np.ones((4, 2)))
