"""A second method on the same rollout and updates is an advantage and a loss, nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.losses.policy import policy_loss
from gpt_jax.metrics import mean
from gpt_jax.rl.iteration import Algorithm, Inputs, RolloutConfig, make_iteration
from gpt_jax.rl.rewards import DeviceReward
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from gpt_jax.train.state import TrainState
from tests import tiny

CONFIG = RolloutConfig(
    episodes=16, epochs=1, minibatches=2, max_new_tokens=10, missing_stop_score=None
)


def group_advantages(model, state, frozen, rollout, scores_B):
    """A score less the mean of its prompt's completions (GRPO, Shao et al. 2024; Liu et al. 2025
    leave out the division by the standard deviation)."""
    del frozen
    together_BB = (rollout.rows_B[:, None] == rollout.rows_B[None]).astype(jnp.float32)
    means_B = together_BB @ scores_B / together_BB.sum(1)
    logprobs_BC, _ = completion_logprobs(model, state.params["policy"], rollout, 1.0)
    advantages_BC = (scores_B - means_B)[:, None] * rollout.mask_BC
    metrics = {"objective/scores": (scores_B.sum(), len(scores_B))}
    return (rollout, logprobs_BC, advantages_BC), metrics


def group_loss(model, learned, batch, key, frozen):
    del key, frozen
    (rollout, old_BC, advantages_BC), _ = batch
    logprobs_BC, _ = completion_logprobs(model, learned["policy"], rollout, 1.0)
    return policy_loss(logprobs_BC, old_BC, advantages_BC, rollout.mask_BC, 0.2)


@pytest.fixture(scope="module")
def iteration():
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-3, weight_decay=0.0), 200, tiny.AXES
    )
    algorithm = Algorithm(
        CONFIG, tiny.MODEL, tiny.ENDS, functools.partial(group_advantages, tiny.MODEL), group_loss
    )

    def wants_token_nine(params, rollout):
        hits = (rollout.completion_BC.ids == 9) * rollout.mask_BC
        return hits.sum(1) / rollout.mask_BC.sum(1)

    step = make_iteration(algorithm, optimizer, DeviceReward(wants_token_nine))
    return lambda: TrainState.create({"policy": tiny.params()}, optimizer), step


def test_a_group_method_learns_a_rule(iteration):
    """Four completions of each of four prompts; their row numbers say which belong together."""
    start, step = iteration
    four = tiny.prompts(np.random.default_rng(0), 4)
    prompts = jax.tree.map(lambda x: np.repeat(x, 4, axis=0), four)
    assert prompts.rows_B.tolist() == np.repeat(np.arange(4), 4).tolist()
    state, scores = start(), []
    for _ in range(60):
        state, metrics = step(state, Inputs(prompts), {"reward": ()})
        values = mean(jax.device_get(metrics))
        scores.append(values["objective/scores"])
    assert np.mean(scores[-5:]) > np.mean(scores[:5]) + 0.3
    assert values["val/ratio"] == pytest.approx(1, abs=0.2)


def test_its_first_minibatch_is_on_policy(iteration):
    """Invariant 3, for any method."""
    start, step = iteration
    one = RolloutConfig(episodes=16, epochs=1, minibatches=1, max_new_tokens=10)
    algorithm = Algorithm(
        one, tiny.MODEL, tiny.ENDS, functools.partial(group_advantages, tiny.MODEL), group_loss
    )
    optimizer = make_optimizer(
        OptimizerConfig(learning_rate=1e-3, weight_decay=0.0), 200, tiny.AXES
    )
    reward = DeviceReward(lambda params, rollout: rollout.mask_BC.sum(1))
    prompts = tiny.prompts(np.random.default_rng(0), 16)
    _, metrics = make_iteration(algorithm, optimizer, reward)(
        start(), Inputs(prompts), {"reward": ()}
    )
    values = mean(jax.device_get(metrics))
    assert values["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert values["policy/approxkl_avg"] == pytest.approx(0, abs=1e-10)
    assert values["policy/clipfrac_avg"] == 0
