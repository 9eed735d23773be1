"""Rejection sampling: what is kept, what is learned of it, and who samples."""

import chex
import jax
import numpy as np
import pytest

from gpt_jax.data.batches import Batch
from gpt_jax.losses.lm import lm_loss
from gpt_jax.metrics import mean
from gpt_jax.models.heads import axes_of
from gpt_jax.rl.iteration import Inputs, make_iteration
from gpt_jax.rl.rejection import init_state
from gpt_jax.rl.rewards import DeviceReward
from gpt_jax.rl.staleness import behaviour
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from tests.rl import methods

OPTIMIZER = make_optimizer(
    OptimizerConfig(learning_rate=3e-2, weight_decay=0.0), 100, axes_of(methods.MODEL)
)
FROZEN = {"reference": methods.params(), "reward": ()}


def prepared(scores, **changes):
    method = methods.algorithm("rejection", **changes)
    rows, metrics = method.prepare(
        methods.unmoved(0.0), FROZEN, methods.rollout(), np.float32(scores)
    )
    return method, rows, mean(jax.device_get(metrics))


def test_the_best_of_each_group_is_learned_like_a_demonstration():
    """Rows 2, 4, 11 and 15; their prompts have weight 0, and the loss is that of finetuning."""
    scores = [0, 1, 5, 2, 9, 9, 9, 9, -3, -2, -4, -1, 0, 0, 0, 0.5]
    method, rows, metrics = prepared(scores)
    rollout, best = methods.rollout(), np.array([2, 4, 11, 15])
    np.testing.assert_array_equal(rows.tokens_BT.ids, np.asarray(rollout.tokens_BT.ids)[best])
    np.testing.assert_array_equal(rows.weights_BT, np.asarray(rollout.mask_BT)[best])
    assert not np.any(np.asarray(rows.weights_BT)[:, : rollout.prompt_BP.ids.shape[1]])
    assert metrics["objective/kept_scores"] == pytest.approx(13.5 / 4)
    assert metrics["objective/scores"] == pytest.approx(sum(scores) / 16)
    assert metrics["val/kept_groups"] == 4 and metrics["val/zero_std_groups"] == 1
    ours = method.loss(methods.MODEL, {"policy": methods.params()}, (rows, None))
    theirs = lm_loss(methods.MODEL, methods.params(), Batch(*rows))
    assert float(ours[0]) == float(theirs[0]) and float(ours[1]) == float(theirs[1])


def test_what_is_not_good_enough_is_left_out():
    """A verifier's best of 0 is a wrong answer. Where all are, nothing is learned."""
    scores = [0, 1, 0, 0, *[0] * 8, 0, 0, 1, 1]
    _, rows, metrics = prepared(scores, at_least=1.0)
    assert np.asarray(rows.weights_BT).any(axis=1).tolist() == [True, False, False, True]
    assert metrics["val/kept_groups"] == 2 and metrics["objective/kept_scores"] == 1
    method, rows, _ = prepared([0] * 16, at_least=1.0)
    loss = method.loss(methods.MODEL, {"policy": methods.params()}, (rows, None))
    assert float(loss[0]) == 0 and float(loss[1]) == 1


@pytest.mark.parametrize("length", [1, 2])
def test_the_policy_at_the_start_of_a_round_samples(length):
    """Break it: refresh the sampler one iteration too late."""
    method = methods.algorithm("rejection", round_length=length)
    step = make_iteration(method, OPTIMIZER, DeviceReward(lambda _, r: r.mask_BC.sum(1)))
    state, policies = init_state(method.config, OPTIMIZER, 0, methods.params()), []
    for t in range(5):
        policies.append(jax.device_get(state.params["policy"]))
        start_of_round = policies[t - t % length]
        chex.assert_trees_all_equal(jax.device_get(behaviour(state)), start_of_round)
        state, _ = step(state, Inputs(methods.prompts()), FROZEN)
    assert np.any(policies[0]["embed"] != policies[1]["embed"])
