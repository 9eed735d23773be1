"""The clipped surrogate and its choices against float64 loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.losses.policy import policy_loss
from gpt_jax.losses.surrogate import Surrogate, surrogate_loss

LIMIT = 9
CHOICES = list(
    itertools.product(
        ("token", "sequence", "geometric"),
        ("tokens", "sequences", "limit"),
        ((0.2, 0.28), (0.01, 0.02)),
    )
)


def arrays(seed=0, rows=6, spread=0.1):
    """Log-probabilities, old ones, advantages of rows, and a mask with one row of none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, LIMIT + 1, rows)
    lengths[1] = 0
    mask = (np.arange(LIMIT) < lengths[:, None]).astype(np.float64)
    old = -rng.exponential(1.0, (rows, LIMIT)) * mask
    new = old + spread * rng.normal(size=(rows, LIMIT)) * mask
    advantages = rng.normal(size=(rows, 1)) * mask
    return new, old, advantages, mask, rng.uniform(0, 0.1, (rows, LIMIT))


def by_hand(how, new, old, advantages, mask, penalties):
    """Row by row and token by token, in float64: loss, mean ratio, share of clipped ratios."""
    losses, ratios, clipped, tokens, low, high = [], [], [], 0, *how.clip
    for b in range(len(mask)):
        n = int(mask[b].sum())
        if not n:
            continue
        log_ratios = [new[b, t] - old[b, t] for t in range(n)]
        if how.ratio == "sequence":
            log_ratios = [sum(log_ratios)]
        if how.ratio == "geometric":
            log_ratios = [sum(log_ratios) / n]
        row = []
        for t in range(n):
            ratio = np.exp(log_ratios[t if len(log_ratios) > 1 else 0])
            plain = advantages[b, t] * ratio
            bounded = advantages[b, t] * min(max(ratio, 1 - low), 1 + high)
            row.append(-min(plain, bounded) + penalties[b, t])
            if t < len(log_ratios):
                ratios.append(ratio)
                clipped.append(bounded < plain)
        tokens += n
        losses.append(sum(row) / {"tokens": 1, "sequences": n, "limit": how.limit}[how.average])
    count = tokens if how.average == "tokens" else len(losses)
    return sum(losses) / count, np.mean(ratios), np.mean(clipped)


@pytest.mark.parametrize(("ratio", "average", "clip"), CHOICES)
def test_every_choice_equals_a_float64_loop(ratio, average, clip):
    """Break any of the exponents, the clip's side, or what is divided by."""
    how, given = Surrogate(ratio, average, clip, LIMIT), arrays()
    total, count, metrics = surrogate_loss(how, *map(jnp.float32, given))
    loss, mean_ratio, share = by_hand(how, *given)
    assert float(total / count) == pytest.approx(loss, rel=1e-6, abs=1e-6)
    sums = {name: float(total) / float(count) for name, (total, count) in metrics.items()}
    assert sums["loss/policy_avg"] == pytest.approx(loss, rel=1e-6, abs=1e-6)
    assert sums["val/ratio"] == pytest.approx(mean_ratio, rel=1e-6)
    assert sums["policy/clipfrac_avg"] == pytest.approx(share, abs=1e-6)


def test_tokens_alike_are_ppo():
    new, old, advantages, mask, _ = map(jnp.float32, arrays(1))
    how = Surrogate("token", "tokens", (0.2, 0.2), LIMIT)
    ours = surrogate_loss(how, new, old, advantages, mask)
    theirs = policy_loss(new, old, advantages, mask, 0.2)
    assert ours[2].keys() == theirs[2].keys()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours, theirs)


@pytest.mark.parametrize("ratio", ["token", "sequence", "geometric"])
def test_all_ratios_begin_with_the_same_gradient(ratio):
    """Where old and new are one policy, the gradient is -A grad log p of every token; but the
    geometric mean shares it among a completion's tokens."""
    _, old, advantages, mask, _ = map(jnp.float32, arrays(2))
    how = Surrogate(ratio, "limit", (0.2, 0.2), 1)
    gradient = jax.grad(lambda new: surrogate_loss(how, new, old, advantages, mask)[0])(old)
    # Of a sequence's ratio every token of the loss has the whole one: "limit" sums them.
    lengths = np.maximum(np.asarray(mask).sum(1, keepdims=True), 1)
    times = {"token": 1, "sequence": lengths, "geometric": 1}[ratio]
    np.testing.assert_allclose(gradient, -np.asarray(advantages) * times, atol=1e-6)


def test_a_wider_completion_changes_nothing():
    """Invariant 1: neither columns of padding nor rows of it count. Break it: let `limit` be the
    width of the mask."""
    given = arrays(3)
    for ratio, average, clip in CHOICES:
        how = Surrogate(ratio, average, clip, LIMIT)
        narrow = surrogate_loss(how, *map(jnp.float32, given))
        wide = [np.pad(x, ((0, 2), (0, 3))) for x in given]
        wide[4] += 1.0  # penalties off the mask
        wide[4][: len(given[4]), :LIMIT] -= 1.0
        padded = surrogate_loss(how, *map(jnp.float32, wide))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6), narrow, padded)
