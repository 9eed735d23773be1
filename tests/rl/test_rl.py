"""Advantages, KL and rewards against float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from gpt_jax.rl import kl
from gpt_jax.rl.advantages import gae, whiten
from gpt_jax.rl.rewards import token_rewards


def arrays(seed=0, shape=(5, 9)):
    rng = np.random.default_rng(seed)
    rewards, values = rng.normal(size=(2, *shape))
    lengths = rng.integers(1, shape[1] + 1, shape[0])
    lengths[0] = shape[1]
    return rewards, values, (np.arange(shape[1]) < lengths[:, None]).astype(np.float64)


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.99, 0.0)])
def test_gae_equals_a_naive_loop(gamma, lam):
    """Invariant 9. Break the reverse scan or `values_BC * mask_BC` in `gae` to see it fail."""
    rewards, values, mask = arrays()
    advantages, returns = gae(*(jnp.float32(x) for x in (rewards, values, mask)), gamma, lam)
    for b in range(len(mask)):
        n = int(mask[b].sum())
        for t in range(n):
            # The definition: discounted sum of the remaining TD errors.
            expected = sum(
                (gamma * lam) ** (s - t)
                * (rewards[b, s] + gamma * (values[b, s + 1] if s + 1 < n else 0) - values[b, s])
                for s in range(t, n)
            )
            assert advantages[b, t] == pytest.approx(expected, rel=2e-5, abs=2e-6)
            assert returns[b, t] == pytest.approx(expected + values[b, t], rel=2e-5, abs=2e-6)
        assert not advantages[b, n:].any()


def test_with_gamma_and_lambda_one_returns_are_rewards_to_go():
    rewards, values, mask = arrays(1)
    _, returns = gae(*(jnp.float32(x) for x in (rewards, values, mask)), 1.0, 1.0)
    to_go = np.cumsum((rewards * mask)[:, ::-1], axis=1)[:, ::-1]
    np.testing.assert_allclose(np.asarray(returns) * mask, to_go * mask, atol=1e-5)


def test_whitening_is_under_the_mask_and_returns_are_not_whitened():
    """Invariant 9. Break `* mask_BC` in `whiten`, or whiten what `gae` returns."""
    rewards, values, mask = arrays(2)
    advantages, returns = gae(*(jnp.float32(x) for x in (rewards + 3, values, mask)), 1.0, 0.95)
    white = np.asarray(whiten(advantages, jnp.float32(mask)))
    chosen = white[mask > 0].astype(np.float64)
    assert chosen.mean() == pytest.approx(0, abs=1e-6)
    assert chosen.std() == pytest.approx(1, abs=1e-4)
    assert not white[mask == 0].any()
    noisy = whiten(advantages + 100 * (1 - mask), jnp.float32(mask))
    np.testing.assert_allclose(noisy, white, atol=1e-5)
    assert abs(np.asarray(returns)[mask > 0].mean()) > 1


def test_kl_estimators_agree_with_the_exact_divergence():
    """k1 and k3 are unbiased: over many samples of p both approach KL(p || q)."""
    rng = np.random.default_rng(0)
    log_p, log_q = (scipy.special.log_softmax(rng.normal(size=6) * s) for s in (0.5, 0.6))
    exact = float(np.sum(np.exp(log_p) * (log_p - log_q)))
    samples = rng.choice(6, size=200_000, p=np.exp(log_p))
    estimates = kl.estimators(jnp.float32(log_p[samples]), jnp.float32(log_q[samples]))
    for name in ("k1", "k3"):
        x = np.asarray(estimates[name], np.float64)
        assert x.mean() == pytest.approx(exact, abs=5 * x.std() / np.sqrt(len(x)))
    np.testing.assert_allclose(
        estimates["k2"], 0.5 * (log_p[samples] - log_q[samples]) ** 2, atol=1e-5
    )
    assert (estimates["k3"] >= 0).all()
    # k3 has the lower variance; that is what it is for.
    assert np.std(estimates["k3"]) < np.std(estimates["k1"])


@pytest.mark.parametrize(
    ("observed", "error"), [(6.0, 0.0), (6.6, 0.1), (60.0, 0.2), (0.0, -0.2), (5.4, -0.1)]
)
def test_adaptive_controller(observed, error):
    """Target 6, horizon 10,000, error clipped to 0.2 (Ziegler et al. 2019, 2.2)."""
    after = kl.adapt(jnp.float32(0.05), jnp.float32(observed), 64, target=6.0, horizon=10_000.0)
    assert float(after) == pytest.approx(0.05 * (1 + error * 64 / 10_000), rel=1e-6)


def test_the_score_lands_on_the_last_real_token_as_float32():
    """Invariants 4 and 8: a reward of 0.7 stays 0.7. Break `at_last_BC`, or cast to int."""
    mask = jnp.array([[1.0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]])
    kl_BC = jnp.array([[0.5, -0.25, 1, 9], [2, 9, 9, 9], [0, 0, 0, 0]])
    scores = jnp.array([0.7, -0.3, 1e-3])
    rewards = token_rewards(scores, kl_BC, mask, jnp.float32(0.1))
    expected = [
        [-0.05, 0.025, 0.7 - 0.1, 0],
        [-0.3 - 0.2, 0, 0, 0],
        [0, 0, 0, 1e-3],
    ]
    assert rewards.dtype == jnp.float32
    np.testing.assert_allclose(rewards, expected, rtol=1e-6)
