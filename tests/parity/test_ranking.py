"""The ranking loss's options against PyTorch's own functions, as TRL's RewardTrainer puts them.

That one has them in a method of its trainer, which needs a model: here its lines are written out,
`-logsigmoid(chosen - rejected - margin)` and the coefficient times the mean of `(chosen +
rejected)^2`. Label smoothing it has not; it is the cross-entropy with a soft label.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.losses.ranking import RankingOptions, pairwise_ranking


def test_margin_centring_and_smoothing():
    torch = pytest.importorskip("torch", reason="the extra parity is not installed")
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    scores, margin = rng.normal(size=(16, 2)) * 3, rng.random(16)
    chosen, rejected = torch.tensor(scores).T
    beyond = chosen - rejected - torch.tensor(margin)
    centre = 0.01 * torch.mean((chosen + rejected) ** 2)
    soft = functional.binary_cross_entropy_with_logits(beyond, torch.full_like(beyond, 0.9))
    expected = {
        RankingOptions(1.0, 0.01, 0.0): -functional.logsigmoid(beyond).mean() + centre,
        RankingOptions(1.0, 0.0, 0.1): soft,
    }
    with jax.enable_x64(True):
        for options, value in expected.items():
            degrees = jnp.stack([jnp.asarray(margin), jnp.zeros(16)], axis=1)
            ranks = jnp.tile(jnp.array([0, 1]), (16, 1))
            total, count, _ = pairwise_ranking(jnp.asarray(scores), ranks, degrees, options)
            assert float(total / count) == pytest.approx(float(value), abs=1e-9)
