"""Policy gradients with adapters: what must hold before the first update, and in it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gpt_jax.metrics import mean
from gpt_jax.models.heads import init_scalar_head
from gpt_jax.models.lora import LoraConfig, attached, init_adapters, merge, on_backbone
from gpt_jax.rl import iteration
from gpt_jax.rl.actor_critic import ActorCritic, PPOConfig, init_state, ppo, ppo_loss
from gpt_jax.rl.iteration import Inputs, make_iteration
from gpt_jax.rl.rewards import DeviceReward, HostReward, model_score
from gpt_jax.train.optim import OptimizerConfig, make_optimizer
from tests import tiny

CONFIG = PPOConfig(episodes=8, epochs=2, minibatches=2, max_new_tokens=8, missing_stop_score=None)
MODEL = ActorCritic(tiny.MODEL, tiny.MODEL)
LORA = LoraConfig(rank=4, alpha=8.0)
OPTIMIZER = make_optimizer(
    OptimizerConfig(learning_rate=1e-3, weight_decay=0.0, eps=1e-5), 100, tiny.AXES
)


def adapters_of(seed):
    adapters = init_adapters(LORA, tiny.MODEL, jax.random.key(seed))
    noise = jax.random.key(seed + 100)
    return {"lora": jax.tree.map(lambda x: x + 0.1 * jax.random.normal(noise, x.shape), adapters)}


def frozen_of():
    """The reference is what the policy starts from, and the reward model its own adapters."""
    head = init_scalar_head(jax.random.key(5), tiny.MODEL)
    return {
        "backbone": tiny.params(),
        "lora_scale": jnp.float32(LORA.scale),
        "reference": adapters_of(1),
        "reward": {"backbone": adapters_of(2), "head": head},
    }


def state_of(frozen):
    return init_state(CONFIG, MODEL, OPTIMIZER, 0, adapters_of(1), frozen["reward"])


def prompts_of():
    return tiny.prompts(np.random.default_rng(0), 8, 12)


def test_the_first_minibatch_starts_from_itself():
    """Invariant 3: ratio 1, KL 0, clip fraction 0. Break it: merge the policy for the rollout."""
    frozen = frozen_of()
    state = state_of(frozen)
    algorithm, score = ppo(CONFIG, MODEL, tiny.ENDS), model_score(tiny.MODEL)

    @jax.jit
    def begin(state, frozen, prompts):
        place = (tiny.ENDS, attached(state.params["policy"], frozen), prompts)
        rollout = iteration.collect(CONFIG, tiny.MODEL, *place, (state.seed, state.step))
        scores_B = score(attached(frozen["reward"], frozen), rollout)
        whole_B = score(merge(attached(frozen["reward"], frozen)), rollout)
        return iteration.prepare(algorithm, state, frozen, rollout, scores_B), scores_B, whole_B

    @jax.jit
    def first(state, frozen, experience):
        loss = on_backbone(lambda *given: ppo_loss(CONFIG, *given))
        return loss(MODEL, state.params, (experience, None), None, frozen)[2]

    (experience, metrics), scores_B, whole_B = begin(state, frozen, prompts_of())
    found = mean(metrics)
    assert abs(found["objective/kl"]) < 1e-6 and found["val/sampler_logprob_gap"] < 1e-5
    found = mean(first(state, frozen, experience))
    assert abs(found["val/ratio"] - 1) < 1e-6 and found["policy/clipfrac_avg"] == 0.0
    assert abs(found["policy/approxkl_avg"]) < 1e-10
    assert scores_B.dtype == jnp.float32, "invariant 4"
    np.testing.assert_allclose(scores_B, whole_B, atol=2e-4)


@pytest.mark.slow
def test_host_and_compiled_rewards_make_the_same_update_of_adapters_alone():
    """One program or two; the backbone is in neither state. Break it: leave `attached` out of
    `SplitIteration`."""
    frozen = frozen_of()
    pure = DeviceReward(model_score(tiny.MODEL))
    whole = attached(frozen["reward"], frozen)
    host = HostReward(lambda rollout: np.asarray(pure.scores(whole, rollout)))
    states = []
    for reward in (pure, host):
        step = make_iteration(ppo(CONFIG, MODEL, tiny.ENDS), OPTIMIZER, reward)
        given = (state_of(frozen), Inputs(prompts_of()), frozen)
        shapes = getattr(step, "shapes", lambda *given, step=step: jax.eval_shape(step, *given))
        chex.assert_trees_all_equal_shapes(shapes(*given)[0], given[0])
        states.append(step(*given)[0])
    chex.assert_trees_all_close(states[0].params, states[1].params, atol=3e-5)
    before = state_of(frozen).params
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), states[0].params, before)
    assert all(jax.tree.leaves(moved)) and set(moved["policy"]) == {"lora"}
