"""What GRPO, RLOO, REINFORCE++ and online DPO make of a scored rollout, in float64 by hand."""

import jax
import numpy as np
import pytest

from gpt_jax.metrics import mean
from gpt_jax.rl.rollout import completion_logprobs
from tests.rl import methods
from tests.rl.test_groups import by_hand

REFERENCE = methods.params(3)
BETA = 0.1


def prepared(name, **changes):
    """(rows, metrics, kl_BC, mask_BC): with KL in float64."""
    method = methods.algorithm(name, **changes)
    rollout = methods.rollout()
    rows, metrics = method.prepare(methods.unmoved(BETA), {"reference": REFERENCE}, rollout, SCORES)
    new, old = (
        np.float64(completion_logprobs(methods.MODEL, params, rollout, 1.0)[0])
        for params in (methods.params(), REFERENCE)
    )
    return rows, mean(jax.device_get(metrics)), new - old, np.asarray(rollout.mask_BC, np.float64)


SCORES = methods.scores(ties=False)
ALL = np.ones(methods.ROWS, bool)


@pytest.mark.parametrize(
    ("name", "method", "in_reward"),
    [
        ("grpo", "std", False),
        ("dr_grpo", "none", False),
        ("grpo, KL in the reward", "std", True),
        ("rloo", "leave one out", True),
        ("rloo by token", "leave one out", True),
    ],
)
def test_one_advantage_for_a_whole_completion(name, method, in_reward):
    """Break it: leave the KL out of the return, or take that of k3."""
    rows, metrics, kl, mask = prepared(name)
    returns = np.float64(SCORES) - BETA * kl.sum(1) * in_reward
    expected = by_hand(method, returns, ALL, methods.GROUP)[:, None] * mask
    np.testing.assert_allclose(rows.advantages_BC, expected, rtol=2e-5, atol=1e-5)
    assert metrics["objective/kl"] == pytest.approx(kl.sum() / len(kl), rel=1e-5)
    assert metrics["val/zero_std_groups"] == 0


def test_reinforce_whitens_discounted_returns():
    """Hu 2025: the KL is paid at every token, the score at the last; whitened over the batch."""
    rows, _, kl, mask = prepared("reinforce++", gamma=0.9)
    returns = np.zeros_like(kl)
    for b, n in enumerate(mask.sum(1).astype(int)):
        rewards = -BETA * kl[b]
        rewards[n - 1] += SCORES[b]
        for t in range(n):
            returns[b, t] = sum(0.9 ** (s - t) * rewards[s] for s in range(t, n))
    chosen = returns[mask > 0]
    expected = (returns - chosen.mean()) / np.sqrt(chosen.var() + 1e-8) * mask
    np.testing.assert_allclose(rows.advantages_BC, expected, rtol=1e-4, atol=2e-5)


def test_pairs_are_the_best_and_the_worst():
    rows, *_ = prepared("online dpo")
    by_group = SCORES.reshape(-1, methods.GROUP)
    places = methods.GROUP * np.arange(len(by_group))
    completions = np.asarray(methods.rollout().completion_BC.ids)
    for side, at in ((rows.chosen, by_group.argmax(1)), (rows.rejected, by_group.argmin(1))):
        np.testing.assert_array_equal(side.completion_BC.ids, completions[places + at])
    assert np.all(np.asarray(rows.weights_B) == 1)
