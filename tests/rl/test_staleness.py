"""Rollouts by an older policy: which one samples, the ratio to it, and what the state carries."""

import functools

import chex
import jax
import numpy as np
import pytest

from gpt_jax.metrics import mean
from gpt_jax.models.heads import axes_of
from gpt_jax.parallel.mesh import MeshConfig, make_mesh
from gpt_jax.rl import actor_critic
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, ppo
from gpt_jax.rl.critic_free import init_state
from gpt_jax.rl.iteration import Inputs, collect, make_iteration
from gpt_jax.rl.rewards import DeviceReward
from gpt_jax.rl.rollout import completion_logprobs
from gpt_jax.rl.staleness import OLDER, behaviour
from gpt_jax.train import state as states
from gpt_jax.train.checkpoint import Checkpoints
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from tests import tiny
from tests.rl import methods

OPTIMIZER = make_optimizer(
    OptimizerConfig(learning_rate=3e-2, weight_decay=0.0), 100, axes_of(methods.MODEL)
)
LENGTH = DeviceReward(lambda _, rollout: rollout.mask_BC.sum(1))
FROZEN = {"reference": methods.params(3), "reward": ()}


@functools.cache
def run(behind, iterations=4):
    """The states before each iteration and after the last, and the metrics."""
    method = methods.algorithm("grpo", staleness=behind, minibatches=1)
    step = make_iteration(method, OPTIMIZER, LENGTH)
    state, before, metrics = init_state(method.config, OPTIMIZER, 0, methods.params()), [], []
    for _ in range(iterations):
        before.append(jax.device_get(state))
        state, more = step(state, Inputs(methods.prompts()), FROZEN)
        metrics.append(mean(jax.device_get(more)))
    return [*before, jax.device_get(state)], metrics


@pytest.mark.parametrize("behind", [1, 2])
def test_the_policy_of_so_many_iterations_ago_samples(behind):
    """Break it: shift the queue before the update instead of after it, or the wrong way round."""
    before, _ = run(behind)
    for t, state in enumerate(before):
        assert sorted(state.extras[OLDER]) == [str(i) for i in range(behind)]
        for i in range(behind):
            older = before[max(0, t - behind + i)].params["policy"]
            chex.assert_trees_all_equal(state.extras[OLDER][str(i)], older)
        oldest = before[max(0, t - behind)].params["policy"]
        chex.assert_trees_all_equal(behaviour(state), oldest)
    assert np.any(before[1].params["policy"]["embed"] != before[2].params["policy"]["embed"])


def test_none_behind_is_what_it_was():
    before, _ = run(0)
    assert OLDER not in before[-1].extras
    chex.assert_trees_all_equal(behaviour(before[-1]), before[-1].params["policy"])


@pytest.mark.parametrize("behind", [0, 1, 2])
def test_the_ratio_is_that_of_the_two_policies(behind):
    """Invariant 3 holds where none is behind; else the first ratio is the exact one: here the mean
    over the tokens of exp(log p - log p_older), taken by hand in float64."""
    before, metrics = run(behind)
    state = before[2]
    sample = jax.jit(functools.partial(collect, methods.GRPO, methods.MODEL, tiny.ENDS))
    rollout = sample(behaviour(state), methods.prompts(), (state.seed, state.step))
    new, old = (
        np.float64(completion_logprobs(methods.MODEL, policy, rollout, 1.0)[0])
        for policy in (state.params["policy"], before[max(0, 2 - behind)].params["policy"])
    )
    mask = np.asarray(rollout.mask_BC) > 0
    expected = np.exp(new - old)[mask].mean()
    assert metrics[2]["val/ratio"] == pytest.approx(expected, rel=1e-5)
    assert metrics[2]["val/sampler_logprob_gap"] < 1e-5
    if behind == 0:
        assert metrics[2]["val/ratio"] == pytest.approx(1, abs=1e-6)
        assert metrics[2]["policy/clipfrac_avg"] == 0
    else:
        assert metrics[2]["policy/approxkl_avg"] > 1e-6


def test_a_checkpoint_holds_the_older_policies(tmp_path):
    """Invariant 6: restored, the next iterations have the same bits."""
    method = methods.algorithm("grpo", staleness=2)
    step = make_iteration(method, OPTIMIZER, LENGTH)
    mesh, axes = make_mesh(MeshConfig(data=1)), axes_of(methods.MODEL)

    def start():
        return init_state(method.config, OPTIMIZER, 0, methods.params())

    def on(state, iterations):
        for _ in range(iterations):
            state, _ = step(state, Inputs(methods.prompts()), FROZEN)
        return state

    with jax.set_mesh(mesh):
        checkpoints = Checkpoints(tmp_path)
        middle = on(states.create(start, mesh=mesh, axes=axes), 3)
        checkpoints.save(3, middle)
        checkpoints.close()
        restored = Checkpoints(tmp_path).restore(3, states.abstract(start, mesh=mesh, axes=axes))
        chex.assert_trees_all_equal(jax.device_get(on(restored, 2)), jax.device_get(on(middle, 2)))


def test_ppo_takes_it_too():
    """Its value model is the newest one; the policy that sampled is the older one."""
    config = PPOConfig(episodes=8, epochs=1, minibatches=1, max_new_tokens=8, staleness=1)
    model = ActorCritic(methods.MODEL, methods.MODEL)
    start = actor_critic.init_state(config, model, OPTIMIZER, 0, methods.params(), methods.params())
    step = make_iteration(ppo(config, model, tiny.ENDS), OPTIMIZER, LENGTH)
    prompts = jax.tree.map(lambda x: x[:8], methods.prompts())
    first, state = jax.device_get(start.params["policy"]), start
    for _ in range(2):
        state, metrics = step(state, Inputs(prompts), FROZEN)
    values = mean(jax.device_get(metrics))
    assert values["val/ratio"] != 1 and values["policy/approxkl_avg"] > 0
    older = jax.device_get(state.extras[OLDER]["0"])
    assert np.any(older["embed"] != first["embed"])
    assert np.any(older["embed"] != np.asarray(state.params["policy"]["embed"]))
